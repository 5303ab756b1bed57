"""Imagery known by name, from presets.yaml, and providers whose terms forbid downloads."""

import difflib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import yaml

from cellcode.aerial.tiles.grid import Box
from cellcode.aerial.tiles.service import Facts
from cellcode.errors import UsageError
from cellcode.http import Client, Politeness

_SWITCH = re.compile(r"\{switch:([^{}]+)\}")
_PLACE = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Preset:
    """A service that is known by name; see presets.yaml for its fields."""

    name: str
    title: str
    source: str
    bounds: Box
    max_zoom: int
    licence: str
    attribution: str
    bulk: str
    requests_per_s: float
    met: bool
    date: str | None = None

    @property
    def facts(self) -> Facts:
        """What takes precedence over what the service says of itself."""
        return Facts(0, self.max_zoom, self.bounds, self.attribution, self.licence, self.date)

    def client(self) -> Client:
        """A client that keeps to the provider's rate."""
        return Client(Politeness(requests_per_s=self.requests_per_s))


@dataclass(frozen=True)
class Forbidden:
    """A provider whose terms forbid to download and keep its imagery."""

    provider: str
    names: list[str]
    hosts: list[str]
    reason: str

    def refusal(self) -> UsageError:
        """Return the error of asking for it."""
        return UsageError(
            f"imagery of {self.provider} may not be downloaded: {self.reason}; `cellcode presets` lists open imagery"
        )


def presets() -> list[Preset]:
    """Return all presets, in the order of the file."""
    return list(_read()[0])


def find(name: str) -> Preset:
    """Return the preset of a name. UsageError: there is none (the nearest is named), or its provider forbids it."""
    known, forbidden = _read()
    wanted = name.lower().replace(" ", "-").replace("_", "-")
    for preset in known:
        if preset.name == wanted:
            return preset
    for each in forbidden:
        if wanted in each.names:
            raise each.refusal()
    near = difflib.get_close_matches(wanted, [preset.name for preset in known], n=1, cutoff=0.0)
    raise UsageError(
        f"aerial source {name} is neither a file nor a preset; the nearest preset is {near[0]}, see `cellcode presets`"
    )


def refuse_forbidden(address: str) -> None:
    """Raise UsageError if an address, which may be a template, leads to a provider who forbids it."""
    for host in _hosts(address):
        for each in _read()[1]:
            if f".{host}".endswith(tuple(f".{known}" for known in each.hosts)):
                raise each.refusal()


def _hosts(address: str) -> Iterator[str]:
    """Every host that an address or template may lead to, with `x` for parts that are unknown yet."""
    switches = [names.split(",") for names in _SWITCH.findall(address)]
    for number in range(max(map(len, switches), default=1)):
        chosen = address
        for names in switches:
            chosen = _SWITCH.sub(names[number % len(names)], chosen, count=1)
        yield (urlsplit(_PLACE.sub("x", chosen)).hostname or "").lower()


@functools.cache
def _read() -> tuple[tuple[Preset, ...], tuple[Forbidden, ...]]:
    values: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("presets.yaml").read_text(encoding="utf-8"))
    known = tuple(Preset(**{**each, "bounds": tuple(each["bounds"])}) for each in values["presets"])
    return known, tuple(Forbidden(**each) for each in values["forbidden"])
