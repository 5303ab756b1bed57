"""Read, override, compare and write configurations: those that come with the package, and files that extend others."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cellcode.config.config import Config, MachineConfig
from cellcode.config.yaml_text import parse_yaml, read_text
from cellcode.errors import InputError, UsageError

MAX_SHOWN = 10  # mistakes of one file
FOLDER = Path(__file__).parents[1] / "configs"


def shipped() -> dict[str, str]:
    """Return the names of the configurations that come with the package, each with one line that describes it."""
    files = sorted(FOLDER.glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in files}


def find(name: Path | str, folder: Path = Path()) -> Path:
    """Return the file of a path relative to `folder`, or of the name of a shipped configuration such as `demo`."""
    path = folder / name
    own = FOLDER / f"{name}.yaml"
    return own if not path.is_file() and own.parent == FOLDER and own.is_file() else path


def read(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML mapping over the file that it `extends`: its own keys win, block by block; lists are replaced.

    Args:
        extending: the files that led to this one, the first first.

    Raises:
        InputError: a file does not exist, is not a YAML mapping or extends itself; the sentence names the whole chain.
    """
    chain = (*extending, path)
    where = ", extended by ".join(map(str, reversed(chain)))
    if path.resolve() in [each.resolve() for each in extending]:
        raise InputError(f"{where}: a configuration cannot extend itself")
    try:
        values = parse_yaml(read_text(path))
    except OSError as error:
        hint = f"; shipped configurations: {', '.join(shipped())}" if not path.suffix else ""
        raise InputError(f"{where}: the configuration cannot be read ({error.strerror}){hint}") from None
    except ValueError as error:
        raise InputError(f"{where} is not valid YAML: {error}") from None
    if not isinstance(values := {} if values is None else values, dict):
        raise InputError(f"{where} must hold a mapping of configuration keys, not a {type(values).__name__}")
    base = values.pop("extends", None)
    if not isinstance(base, str | None):
        kind = type(base).__name__
        raise InputError(f"{where}: extends takes one file or one of {', '.join(shipped())}, not a {kind}")
    return merged(read(find(base, path.parent), chain) if base is not None else {}, values)


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested mappings in which values of `own` replace those of `base`; an empty block changes nothing."""
    values = dict(base)
    for key, value in own.items():
        block = values.get(key)
        if isinstance(value, dict):
            values[key] = merged(block if isinstance(block, dict) else {}, value)
        elif value is not None or not isinstance(block, dict):
            values[key] = value
    return values


RENAMED = {
    "training.accumulation": "training.gradient_accumulation",
    "training.gradient_norm": "training.max_grad_norm",
    "training.ema": "training.ema_decay",
    "training.tempering": "training.sampling_exponent",
    "training.alike_places": "training.hard_group_size",
    "training.device": "machine.device",
    "training.precision": "machine.precision",
    "stream.threads": "machine.threads",
}


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of saved values under today's keys."""
    values = merged({}, values)
    for old, new in RENAMED.items():
        (block, key), (new_block, new_key) = old.split("."), new.split(".")
        if isinstance(values.get(block), dict) and key in values[block]:
            values.setdefault(new_block, {})[new_key] = values[block].pop(key)
    return values


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
        wrong = error.errors(include_input=False)
        more = [f"and {len(wrong) - MAX_SHOWN} more"] if len(wrong) > MAX_SHOWN else []
        raise UsageError(f"{source}: " + "; ".join([*map(_explain, wrong[:MAX_SHOWN]), *more])) from None


def load_saved(path: Path) -> Config:
    """Read the configuration of a run or database; see `parse_saved`, and `load` for what is raised."""
    return parse_saved(read(path), str(path))


def parse_saved(values: Mapping[str, Any], source: str) -> Config:
    """Validate what was saved, perhaps by an earlier version; machine settings in it are ignored."""
    return parse({key: value for key, value in translated(values).items() if key != "machine"}, source)


def resolve(config: Config | Path | str, overrides: Iterable[str] = (), machine: MachineConfig | None = None) -> Config:
    """Return the configuration of what a recipe step is given: of a file or shipped, with overrides and machine settings."""
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
        values[last] = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"--set {override}: {text!r} is not a YAML value ({error})") from None


def _explain(item: Any) -> str:
    dotted = ".".join(map(str, item["loc"]))[:200]
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
