"""What differs between two databases, in lines for people."""

from typing import Any

import numpy as np

from cellcode import config as configuration
from cellcode.database.store.database import Database

BLOCK = 65536
Lines = list[tuple[str, str]]


def describe(one: Database, other: Database) -> Lines:
    """Return a line for everything that differs, first whether answers do."""
    lines: Lines = [("identity", f"{one.identity} -> {other.identity}")]
    if one.identity == other.identity:
        lines = [("identity", f"{one.identity}: exact searches of both answer alike")]
    for name in ("run", "levels", "dim", "codes", "imagery", "calibration", "search", "licences", "attributions"):
        lines += _changed(name, one.manifest[name], other.manifest[name])
    lines += [("configuration", text) for text in configuration.differences(one.config, other.config)]
    return lines + _cells(one, other)


def _changed(name: str, before: Any, after: Any) -> Lines:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in before | after if before.get(key) != after.get(key)]
        return [(f"{name}.{key}", f"{before.get(key)} -> {after.get(key)}") for key in keys]
    return [(name, f"{before} -> {after}")] if before != after else []


def _cells(one: Database, other: Database) -> Lines:
    """Count cells in one of them only, and the common ones whose codes differ."""
    both, rows, other_rows = np.intersect1d(one.ids, other.ids, assume_unique=True, return_indices=True)
    lines = [("cells", f"{len(both)} in both, {len(one.ids) - len(both)} gone, {len(other.ids) - len(both)} new")]
    if one.code_set.dim != other.code_set.dim or not len(both):
        return lines
    changed, largest = 0, 0.0
    for first in range(0, len(both), BLOCK):
        part = slice(first, first + BLOCK)
        before, after = (
            codes[chosen[part]].astype(np.float32) for codes, chosen in ((one.codes, rows), (other.codes, other_rows))
        )
        apart = np.linalg.norm(before - after, axis=1)
        changed, largest = changed + int((apart > 0).sum()), max(largest, float(apart.max()))
    lines.append(("codes", f"{changed} of {len(both)} differ, by at most {largest:.3g}"))
    return lines
