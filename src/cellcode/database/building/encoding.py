"""The first part of a build: every shard of the plan encoded into a folder of its own, here or on a cluster."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from cellcode import config as configuration
from cellcode import plugins
from cellcode.aerial import AerialSource
from cellcode.database.building import cluster_tasks
from cellcode.database.building import shards as shard_files
from cellcode.database.building.plan import Plan
from cellcode.database.building.shards import COUNTS, Reuse
from cellcode.distributed.ray_tasks import over_ranges
from cellcode.errors import InputError, UsageError
from cellcode.files import read_json, write_json
from cellcode.geography import s2
from cellcode.progress import Meter
from cellcode.runs import Run
from cellcode.types import Ids

Shards = Iterable[tuple[Ids, Path]]  # cells, and the folder that they are encoded into
Encoded = tuple[
    Path, str | None
]  # a shard's folder; what of the imagery it lacks for now, in which case it is not there
Encoder = Callable[[Shards], Iterator[Encoded]]
PLAN = "plan.json"  # in the folder of an unfinished build


def here(run: Run, source: AerialSource | None, reuse: Reuse | None) -> Encoder:
    """Return what encodes shards in this process, one after the other."""
    return partial(_one_by_one, run, source, reuse)


def on_cluster(run: Run, aerial: AerialSource | Path | str | None, reuse: Reuse | None, address: str) -> Encoder:
    """Return what encodes shards on a Ray cluster.

    Raises:
        UsageError: the imagery is an open source, which the nodes cannot open again.
    """
    return partial(_on_cluster, _ingredients(run, aerial, reuse), address)


def encode(
    run: Run, source: AerialSource | None, plan: Plan, working: Path, reuse: Reuse | None, encoder: Encoder
) -> tuple[list[Path], dict[str, float]]:
    """Write the shards that are not there yet; return all of them in order, and their counts."""
    identity = {
        "run": run.identity,
        "aerial_encoder": shard_files.encoder_digest(run),
        "imagery": source.identity if source is not None else None,
        "plan": plan.digest,
        "build": run.config.build.model_dump(mode="json"),
        "reuse": reuse.database.identity if reuse is not None else None,
    }
    if (working / PLAN).is_file() and read_json(working / PLAN) != identity:
        print(f"{working} is of another build, it starts anew", file=sys.stderr)
        for folder in working.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
    write_json(working / PLAN, identity)
    folders = [working / token for token in s2.tokens(plan.shards)]
    done = [folder for folder in folders if folder.is_dir()]
    if done:
        print(f"continuing: {len(done)} of {len(folders)} shards are there", file=sys.stderr)
    left = [(shard, folder) for shard, folder in zip(plan.shards, folders, strict=True) if folder not in set(done)]
    total: dict[str, float] = {"encoded": 0, "reused": 0, "cells": 0}
    unfinished, lacking = 0, ""
    errors = {
        "aerial_error": reuse.database.manifest["codes"]["aerial_error"] if reuse else 0.0,
        "prototype_error": 0.0,
    }
    with Meter("encoding cells", plan.total) as meter:
        finished = ((folder, None) for folder in done)
        for folder, lacks in chain(finished, encoder((plan.cells(shard), folder) for shard, folder in left)):
            if lacks is not None:
                unfinished, lacking = unfinished + 1, lacks
                continue
            counted = read_json(folder / COUNTS)
            total = {name: total[name] + counted[name] for name in total}
            errors = {name: max(errors[name], counted[name]) for name in errors}
            meter.note(folder.name)
            meter.advance(int(counted["cells"] + counted["left_out"]))
    if unfinished:
        raise InputError(
            f"{lacking}; without them {unfinished} of {len(folders)} shards are not finished: build "
            f"again to fetch them, the others are kept in {working}"
        )
    if not total["cells"]:
        shutil.rmtree(working)
        share = run.config.build.min_imagery_share
        raise InputError(f"no tile of the region has at least {share:.0%} imagery; lower build.min_imagery_share")
    return folders, total | errors | {"left_out": plan.asked - total["cells"]}


def _one_by_one(run: Run, source: AerialSource | None, reuse: Reuse | None, shards: Shards) -> Iterator[Encoded]:
    for ids, folder in shards:
        yield folder, shard_files.write_whole(run, source, ids, folder, reuse)


def _on_cluster(ingredients: cluster_tasks.Ingredients, address: str, shards: Shards) -> Iterator[Encoded]:
    calls = ((ingredients, ids, str(folder)) for ids, folder in shards)
    for (_, _, folder), lacks in over_ranges(cluster_tasks.encode, calls, address):
        yield Path(folder), lacks


def _ingredients(run: Run, aerial: AerialSource | Path | str | None, reuse: Reuse | None) -> cluster_tasks.Ingredients:
    if not isinstance(aerial, Path | str | None):
        raise UsageError("a build on a cluster opens the imagery on every node: give its path, not an open source")
    return cluster_tasks.Ingredients(
        str(run.folder.resolve()),
        configuration.dump(run.config, machine=True),
        _anywhere(aerial) if aerial is not None else None,
        str(reuse.database.folder.resolve()) if reuse is not None else None,
        (os.getcwd(), *plugins.allowed()),
    )


def _anywhere(aerial: Path | str) -> str:
    """Return a path that a worker in another folder can open; an address stays as it is."""
    return str(Path(aerial).resolve()) if Path(aerial).exists() else str(aerial)
