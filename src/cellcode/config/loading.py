"""Read, override, compare and write configurations."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cellcode.config.config import Config
from cellcode.errors import InputError, UsageError


def load(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply `a.b=c` overrides.

    Raises:
        InputError: the file does not exist or is not a YAML mapping.
        UsageError: a key is unknown (the nearest known one is named) or a value is out of its range.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the configuration cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a mapping of configuration keys, not a {type(values).__name__}")
    for override in overrides:
        _apply_override(values, override)
    return parse(values, str(path))


def parse(values: Mapping[str, Any], source: str = "configuration") -> Config:
    """Validate a mapping; `source` is named in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{source}: " + "; ".join(_explain(item) for item in error.errors())) from None


def overridden(config: Config, overrides: Iterable[str], section: str) -> Config:
    """Apply `a.b=c` overrides of one section to a configuration.

    Raises:
        UsageError: a key is unknown or of another section, or a value is out of its range.
    """
    values = config.model_dump(mode="json")
    for override in overrides:
        if not override.startswith(f"{section}."):
            raise UsageError(f"--set {override}: only keys of {section} can be changed here, the rest is the run's")
        _apply_override(values, override)
    return parse(values, "--set")


def dump(config: Config) -> str:
    """Return the complete configuration as YAML; `parse` of it gives an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differences(old: Config, new: Config) -> list[str]:
    """Name what differs between two configurations, as `key: old -> new`."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    keys = dict.fromkeys([*before, *after])  # options of plug-ins may be in one only
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
    near = difflib.get_close_matches(dotted, _known_keys(Config), n=1, cutoff=0.0)
    return f"unknown key {dotted}; the nearest known key is {near[0]}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
