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
        return Facts(
            max_zoom=self.max_zoom,
            bounds=self.bounds,
            attribution=self.attribution,
            licence=self.licence,
            date=self.date,
        )

    def client(self) -> Client:
        """A client that keeps to the provider's rate."""
        return Client(Politeness(requests_per_s=self.requests_per_s))


@dataclass(frozen=True)
class Forbidden:
    """A provider whose terms forbid to download and keep its imagery."""

    provider: str
    names: tuple[str, ...]
    hosts: tuple[str, ...]
    reason: str

    def owns(self, host: str) -> bool:
        """Return True if a host is the provider's."""
        return any(host == known or host.endswith(f".{known}") for known in self.hosts)


def presets() -> list[Preset]:
    """Return all presets, in the order of the file."""
    return list(_read()[0])


def find(name: str) -> Preset:
    """Return the preset of a name.

    Raises:
        UsageError: there is none of this name (the nearest is named), or the provider forbids it (the reason is given).
    """
    known, forbidden = _read()
    wanted = name.lower().replace(" ", "-").replace("_", "-")
    for preset in known:
        if preset.name == wanted:
            return preset
    for each in forbidden:
        if wanted in each.names:
            raise UsageError(_refusal(each))
    near = difflib.get_close_matches(wanted, [preset.name for preset in known], n=1, cutoff=0.0)
    raise UsageError(
        f"aerial source {name} is neither a file nor a preset; the nearest preset is {near[0]}, see `cellcode presets`"
    )


def refuse_forbidden(address: str) -> None:
    """Raise UsageError if an address, which may be a template, leads to a provider who forbids it."""
    for host in _hosts(address):
        for each in _read()[1]:
            if each.owns(host):
                raise UsageError(_refusal(each))


def _hosts(address: str) -> Iterator[str]:
    """Every host that an address or template may lead to, with `x` for parts that are unknown yet."""
    switches = [names.split(",") for names in _SWITCH.findall(address)]
    for number in range(max(map(len, switches), default=1)):
        chosen = address
        for names in switches:
            chosen = _SWITCH.sub(names[number % len(names)], chosen, count=1)
        yield (urlsplit(_PLACE.sub("x", chosen)).hostname or "").lower()


def _refusal(forbidden: Forbidden) -> str:
    return f"imagery of {forbidden.provider} may not be downloaded: {forbidden.reason}; `cellcode presets` lists open imagery"


@functools.cache
def _read() -> tuple[tuple[Preset, ...], tuple[Forbidden, ...]]:
    values: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("presets.yaml").read_text(encoding="utf-8"))
    known = tuple(Preset(**{**each, "bounds": tuple(each["bounds"])}) for each in values["presets"])
    forbidden = tuple(
        Forbidden(each["provider"], tuple(each["names"]), tuple(each["hosts"]), each["reason"])
        for each in values["forbidden"]
    )
    return known, forbidden
