"""No module of the package imports itself by way of others, not even within a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cellcode.aerial

FOLDER = Path(cellcode.aerial.__file__).parent
PACKAGE = cellcode.aerial.__name__


def _modules(folder: Path) -> dict[str, Path]:
    """Return the modules of a package by their full names."""
    files = sorted(folder.rglob("*.py"))
    parts = {path: path.relative_to(folder).with_suffix("").parts for path in files}
    return {".".join((PACKAGE, *(part for part in parts[path] if part != "__init__"))): path for path in files}


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, at its top or in functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            below = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
            yield from below or {node.module}


def check(folder: Path) -> None:
    """Raise CycleError if the modules of a package import each other in a circle."""
    modules = _modules(folder)
    assert len(modules) > 20
    TopologicalSorter({name: set(_imports(path, modules)) for name, path in modules.items()}).prepare()


def test_modules_import_each_other_in_one_direction() -> None:
    check(FOLDER)


def test_an_import_within_a_function_counts(tmp_path: Path) -> None:
    copy = tmp_path / "aerial"
    for path in _modules(FOLDER).values():
        target = copy / path.relative_to(FOLDER)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    with (copy / "multi.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef late() -> None:\n    from cellcode.aerial.open import open_source\n")
    with pytest.raises(CycleError):
        check(copy)
