"""Writes docs/configuration.md from the models: `python tools/configuration_page.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cellcode.config import Config, shipped
from cellcode.config.loading import RENAMED

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
HEAD = """\
<!-- Written by `python tools/configuration_page.py` from the models in src/cellcode/config; do not edit. -->

# Configuration

A configuration is a YAML file. Every key has a default; an unknown key is an error that names the nearest known one.

    cellcode config list                      # the shipped configurations
    cellcode config show town                 # a complete one, as YAML
    cellcode config check my.yaml             # exit status 0 if it is valid
    cellcode train my.yaml --photos ... --set training.epochs=5 --set "evaluation.radii_m=[5, 10]"

`extends` takes a file (relative to the file that names it) or a shipped configuration. Keys of the file replace those of the
base, block by block; lists are replaced as a whole:

    extends: town
    name: my-town
    training: {epochs: 20}

A run and a database keep the complete configuration that they were made with, without the block `machine`: a run trained on a
GPU is built on any machine. `--device` and `--precision` of `train`, `build`, `grow`, `evaluate`, `locate`, `serve` and `plan`
set it.
"""


def page() -> str:
    """Return the page."""
    lines = [HEAD, "## Shipped configurations\n", "| name | |", "|---|---|"]
    lines += [f"| `{name}` | {line} |" for name, line in shipped().items()]
    lines += ["\n## Keys\n", *_table(_values(Config))]
    named: dict[type[BaseModel], str] = {}
    for name, model in _blocks(Config):
        lines += [f"\n### {name}\n"]
        if model in named:
            lines += [f"The keys of `{named[model]}`."]
        else:
            lines += [*_paragraphs(model), "", *_table(_values(model), f"{name}.")]
        named.setdefault(model, name)
    lines += [
        "\n## Renamed keys\n",
        "The old names are refused in files and in `--set`; runs and databases that hold them open.",
    ]
    lines += ["\n| old | new |", "|---|---|", *(f"| `{old}` | `{new}` |" for old, new in RENAMED.items())]
    return "\n".join(lines) + "\n"


def _blocks(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        block: Any = field.annotation
        if _is_block(block):
            yield prefix + name, block
            yield from _blocks(block, f"{prefix}{name}.")


def _values(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {name: field for name, field in model.model_fields.items() if not _is_block(field.annotation)}


def _is_block(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _paragraphs(model: type[BaseModel]) -> list[str]:
    return [line.strip() for line in (model.__doc__ or "").strip().splitlines()]


def _table(fields: dict[str, FieldInfo], prefix: str = "") -> list[str]:
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in fields.items():
        kind, limits = _type(field.annotation, field.metadata)
        text = "; ".join(filter(None, [field.description, limits]))
        lines.append(f"| `{prefix}{name}` | {kind} | `{_default(field.default)}` | {text} |")
    return lines


def _type(annotation: Any, metadata: list[Any]) -> tuple[str, str]:
    """Return the name of a type, and the range that goes with it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if arguments and hasattr(annotation, "__metadata__"):
        inner = list(annotation.__metadata__)
        return _type(arguments[0], [*metadata, *(each for field in inner for each in getattr(field, "metadata", []))])
    if origin is tuple:
        kind, limits = _type(arguments[0], metadata)
        return f"list of {kind}s", f"each {limits}" if limits else ""
    if type(None) in arguments:
        others = [_type(each, metadata) for each in arguments if each is not type(None)]
        return " or ".join([*(kind for kind, _ in others), "null"]), "; ".join(
            filter(None, (text for _, text in others))
        )
    if arguments and all(isinstance(each, str) for each in arguments):
        return ", ".join(f"`{each}`" for each in arguments), ""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{word} {getattr(each, sign):g}" for each in metadata for sign, word in signs.items() if hasattr(each, sign)
    ]
    names = {float: "number", int: "integer", bool: "true or false", str: "text", dict: "mapping"}
    return names[origin or annotation], ", ".join(bounds)


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
