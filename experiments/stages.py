"""Stages of a long experiment: each a function, an identity and a folder.

A stage's identity is all that its result depends on: its arguments (among them the digests of the configuration and the
versions of world and survey), the identities of the stages it needs, and the version of cellcode. A result of another
identity, or whose inputs have been made anew by other code since, is never read: it is stale and made again. A digest of the
code is kept with each result, so that a run reports what other code made; whoever changes what a stage does raises its
`version`.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import cellcode
from cellcode.errors import CellcodeError, UsageError
from cellcode.files import read_json

RESULT, STARTED, LOG = "result.json", "started.json", "log.txt"


@dataclass(frozen=True)
class Stage:
    """A piece of work.

    Attributes:
        name: of its folder.
        work: called with the stage's folder, the folders of `needs` by name, and `arguments`; returns what result.json keeps.
        arguments: JSON-like keyword arguments of `work`.
        needs: stages that come first.
        version: raised when `work` changes what it does.
        alone: it uses all cores itself, so nothing runs beside it.
        cost: a guess of its seconds; long stages start first.
    """

    name: str
    work: Callable[..., dict[str, Any]]
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: tuple[Stage, ...] = ()
    version: int = 1
    alone: bool = False
    cost: float = 20.0

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the result depends on."""
        return {
            **{f"argument {name}": json.loads(json.dumps(value)) for name, value in self.arguments.items()},
            **{f"needed stage {need.name}": need.key for need in self.needs},
            "version of the stage": self.version,
            "version of cellcode": cellcode.__version__,
        }

    @cached_property
    def key(self) -> str:
        """Hex digest of name and identity."""
        return _digest([self.name, self.identity])


@dataclass(frozen=True)
class Done:
    """A finished stage.

    Attributes:
        folder: what it left.
        values: what its work returned.
        seconds: how long it took, over all attempts.
        cpu_seconds: what it computed, over all attempts and threads.
        source: digest of the code that made it.
    """

    folder: Path
    values: dict[str, Any]
    seconds: float
    cpu_seconds: float
    source: str


def finished(stage: Stage, out: Path) -> Done | None:
    """Return the result of a stage if it has its identity and was made of the inputs that are there."""
    kept = read(out / stage.name / RESULT)
    if kept.get("key") != stage.key or kept.get("inputs") != inputs(stage, out):
        return None
    return Done(out / stage.name, kept["values"], kept["seconds"], kept["cpu_seconds"], kept["source"])


def inputs(stage: Stage, out: Path) -> dict[str, str]:
    """Return which result of each needed stage is there, by identity and code."""
    kept = {need.name: read(out / need.name / RESULT) for need in stage.needs}
    return {name: f"{each.get('key')} {each.get('source')}" for name, each in kept.items()}


def state(stage: Stage, out: Path) -> tuple[str, str]:
    """Return "done", "stale", "interrupted" or "to do", and for a stale stage why."""
    kept = read(out / stage.name / RESULT)
    if finished(stage, out) is not None:
        return "done", "" if kept["source"] == source_digest() else "by other code"
    if not kept:
        same = read(out / stage.name / STARTED).get("key") == stage.key
        return ("interrupted" if same else "to do"), ""
    then, now = kept.get("identity"), stage.identity
    if not isinstance(then, dict):
        return "stale", "made by an earlier version of the experiments"
    changed = [
        _change(name, then.get(name), now.get(name)) for name in {**then, **now} if then.get(name) != now.get(name)
    ]
    anew = [name for name, made in inputs(stage, out).items() if kept.get("inputs", {}).get(name) != made]
    return "stale", "; ".join(changed) or f"{', '.join(anew)} was made anew"


def _change(name: str, then: Any, now: Any) -> str:
    """Say what changed; digests only that they did."""
    if name.startswith("needed stage") or "digest" in name or "settings" in name or len(f"{then}{now}") > 60:
        return f"{name} changed"
    return f"{name} was {then}, is {now}"


def select(stages: Mapping[str, Stage], patterns: Sequence[str]) -> list[Stage]:
    """Return the stages that are named, or whose names begin with or match (`*`, `?`) one of the patterns.

    Raises:
        UsageError: a pattern selects nothing; the sentence has the nearest names.
    """
    chosen: dict[str, Stage] = {}
    for pattern in patterns:
        glob = pattern if set(pattern) & set("*?[") else f"{pattern}*"
        names = [pattern] if pattern in stages else fnmatch.filter(stages, glob)
        if not names:
            near = difflib.get_close_matches(pattern, stages, n=3, cutoff=0.0)
            raise UsageError(f"no stage is called {pattern!r}; the nearest names: {', '.join(near)}")
        chosen |= {name: stages[name] for name in names}
    return list(chosen.values())


def with_needs(stages: Sequence[Stage]) -> dict[str, Stage]:
    """Return the stages and all that they need by name, in an order in which they can be made."""
    found: dict[str, Stage] = {}
    for stage in stages:
        for each in (*with_needs(stage.needs).values(), stage):
            if found.setdefault(each.name, each).key != each.key:
                raise ValueError(f"two stages are called {each.name}")
    return found


@functools.cache
def source_digest() -> str:
    """Return a digest of the code of the package and of the experiments, and of the versions of torch and numpy."""
    folders = Path(cellcode.__file__).parent, Path(__file__).parent
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    versions = f"{torch.__version__} {np.__version__}".encode()
    return hashlib.sha256(b"".join(path.read_bytes() for path in files) + versions).hexdigest()[:16]


def code_digest(module: ModuleType) -> str:
    """Return a digest of what a module's code does: comments and layout do not count."""
    return _digest(ast.dump(ast.parse(inspect.getsource(module))))


def read(path: Path) -> dict[str, Any]:
    """Return a stage's file; nothing where it is missing or damaged, which is as good as not made."""
    try:
        kept = read_json(path)
    except CellcodeError:
        return {}
    return kept if isinstance(kept, dict) else {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
