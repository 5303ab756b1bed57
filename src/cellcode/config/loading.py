"""Read, override, compare and write configurations."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cellcode.config.config import Config
from cellcode.config.renamed import RENAMED, translated
from cellcode.config.shipped import find, read
from cellcode.config.training import MachineConfig
from cellcode.errors import UsageError


def load(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, or a shipped configuration by its name, and apply `a.b=c` overrides.

    Raises:
        InputError: the file, or one that it extends, does not exist or is not a YAML mapping.
        UsageError: a key is unknown (the nearest known one is named) or a value is out of its range.
    """
    path = find(path)
    values = read(path)
    for override in overrides:
        _apply_override(values, override)
    return parse(values, str(path))


def parse(values: Mapping[str, Any], source: str = "configuration") -> Config:
    """Validate a mapping; `source` is named in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{source}: " + "; ".join(_explain(item) for item in error.errors())) from None


def load_saved(path: Path) -> Config:
    """Read the configuration of a run or database; see `parse_saved`.

    Raises:
        InputError: the file does not exist or is not a YAML mapping.
        UsageError: a key is unknown, or a value is out of its range.
    """
    return parse_saved(read(path), str(path))


def parse_saved(values: Mapping[str, Any], source: str) -> Config:
    """Validate what was saved, perhaps by an earlier version; machine settings in it are ignored."""
    return parse({key: value for key, value in translated(values).items() if key != "machine"}, source)


def resolve(config: Config | Path | str, overrides: Iterable[str] = (), machine: MachineConfig | None = None) -> Config:
    """Return the configuration of what a recipe step is given.

    Args:
        config: a configuration, the path of a file, or the name of a shipped one.
        overrides: `a.b=c`, applied last.
        machine: machine settings in place of the configuration's; None: those.
    """
    made = overridden(config, overrides) if isinstance(config, Config) else load(config, overrides)
    return made if machine is None else made.model_copy(update={"machine": machine})


def overridden(config: Config, overrides: Iterable[str], section: str | None = None) -> Config:
    """Apply `a.b=c` overrides to a configuration, of all sections or of one.

    Raises:
        UsageError: a key is unknown or of another section, or a value is out of its range.
    """
    values = config.model_dump(mode="json")
    for override in overrides:
        if section is not None and not override.startswith(f"{section}."):
            raise UsageError(f"--set {override}: only keys of {section} can be changed here, the rest is the run's")
        _apply_override(values, override)
    return parse(values, "--set")


def dump(config: Config, *, machine: bool = False) -> str:
    """Return the complete configuration as YAML, without the machine settings unless asked for."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude=None if machine else {"machine"}), sort_keys=False)


def differences(old: Config, new: Config) -> list[str]:
    """Name what differs between two configurations, as `key: old -> new`; machine settings do not count."""
    before, after = (_flatten(each.model_dump(mode="json", exclude={"machine"})) for each in (old, new))
    keys = dict.fromkeys([*before, *after])
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"--set {override}: expected key=value, for example --set training.epochs=5")
    *parents, last = key.strip().split(".")
    for depth, name in enumerate(parents):
        if values.get(name) is None:  # also a section that the file leaves empty
            values[name] = {}
        values = values[name]
        if not isinstance(values, dict):
            raise UsageError(f"--set {override}: {'.'.join(parents[: depth + 1])} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: {text!r} is not a YAML value") from None


def _explain(item: Any) -> str:
    location: tuple[str | int, ...] = item["loc"]
    dotted = ".".join(str(part) for part in location)
    if item["type"] != "extra_forbidden":
        return f"{dotted or 'configuration'}: {item['msg']}"
    if dotted in RENAMED:
        return f"{dotted} is now {RENAMED[dotted]}"
    near = difflib.get_close_matches(dotted, _known_keys(Config), n=1, cutoff=0.0)
    return f"unknown key {dotted}; the nearest known key is {near[0]}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
