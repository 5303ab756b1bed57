"""Configuration files: those that come with the package, and files that extend others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cellcode.errors import InputError

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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"; shipped configurations: {', '.join(shipped())}" if not path.suffix else ""
        raise InputError(f"{where}: the configuration cannot be read ({error.strerror}){hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is not valid YAML: {str(error).splitlines()[0]}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold a mapping of configuration keys, not a {type(values).__name__}")
    base = values.pop("extends", None)
    if not isinstance(base, str | None):
        raise InputError(
            f"{where}: extends takes one file or one of {', '.join(shipped())}, not a {type(base).__name__}"
        )
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
