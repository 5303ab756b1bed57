"""The first part of a build: every shard of the plan encoded into a folder of its own, here or on a cluster."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

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

logger = logging.getLogger(__name__)
Shards = Iterable[tuple[Ids, Path]]  # cells, and the folder that they are encoded into
# A shard's folder, and what of the imagery it lacks for now, in which case there is no folder.
Encoded = Iterator[tuple[Path, str | None]]
Encoder = Callable[[Shards], Encoded]
PLAN = "plan.json"  # in the folder of an unfinished build


def here(run: Run, source: AerialSource | None, reuse: Reuse | None) -> Encoder:
    """Return a function that encodes shards in this process, one after the other."""

    def encoder(shards: Shards) -> Encoded:
        for ids, folder in shards:
            yield folder, shard_files.write_whole(run, source, ids, folder, reuse)

    return encoder


def on_cluster(run: Run, aerial: AerialSource | Path | str | None, reuse: Reuse | None, address: str) -> Encoder:
    """Return a function that encodes shards on a Ray cluster.

    Raises:
        UsageError: the imagery is an open source, which the nodes cannot open again.
    """
    if not isinstance(aerial, Path | str | None):
        raise UsageError("a build on a cluster opens the imagery on every node: give its path, not an open source")
    if aerial is not None and Path(aerial).exists():
        aerial = Path(aerial).resolve()  # workers run in other folders; an address stays as it is
    inputs = cluster_tasks.Inputs(
        str(run.folder.resolve()),
        configuration.dump(run.config, machine=True),
        str(aerial) if aerial is not None else None,
        str(reuse.database.folder.resolve()) if reuse is not None else None,
        (os.getcwd(), *plugins.allowed()),
    )

    def encoder(shards: Shards) -> Encoded:
        calls = ((inputs, ids, str(folder)) for ids, folder in shards)
        for (_, _, folder), lacks in over_ranges(cluster_tasks.encode, calls, address):
            yield Path(folder), lacks

    return encoder


def encode(
    run: Run, source: AerialSource | None, plan: Plan, working: Path, reuse: Reuse | None, encoder: Encoder
) -> tuple[list[Path], dict[str, float]]:
    """Write the shards that are not there yet; return all of them in order, and their counts.

    Raises:
        InputError: imagery of some shards cannot be fetched now, or no cell has a code.
    """
    _discard_other_build(working, run, source, plan, reuse)
    folders = [working / token for token in s2.tokens(plan.shards)]
    done = {folder for folder in folders if folder.is_dir()}
    if done:
        logger.info("resuming: %d of %d shards are there", len(done), len(folders))
    left = ((plan.cells(shard), to) for shard, to in zip(plan.shards, folders, strict=True) if to not in done)
    lacking: list[str] = []
    with Meter("encoding cells", plan.total) as meter:
        for folder in folders:
            if folder in done:
                _advance(meter, folder)
        for folder, lacks in encoder(left):
            if lacks is None:
                _advance(meter, folder)
            else:
                lacking.append(lacks)
    if lacking:
        raise InputError(
            f"{lacking[-1]}; without them {len(lacking)} of {len(folders)} shards are not finished: build "
            f"again to fetch them, the others are kept in {working}"
        )
    counts = _counts(folders, reuse)
    if not counts["cells"]:
        shutil.rmtree(working)
        share = run.config.build.min_imagery_share
        raise InputError(f"no tile of the region has at least {share:.0%} imagery; lower build.min_imagery_share")
    return folders, counts | {"left_out": plan.asked - counts["cells"]}


def _discard_other_build(working: Path, run: Run, source: AerialSource | None, plan: Plan, reuse: Reuse | None) -> None:
    """Remove shards that a build of something else left, and write down what this build is of."""
    identity: dict[str, Any] = {
        "run": run.identity,
        "aerial_encoder": shard_files.encoder_digest(run),
        "imagery": source.identity if source is not None else None,
        "plan": plan.digest,
        "build": run.config.build.model_dump(mode="json"),
        "reuse": reuse.database.identity if reuse is not None else None,
    }
    if (working / PLAN).is_file() and read_json(working / PLAN) != identity:
        logger.info("%s is of another build, this one starts from the beginning", working)
        for folder in working.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
    write_json(working / PLAN, identity)


def _advance(meter: Meter, folder: Path) -> None:
    counted = read_json(folder / COUNTS)
    meter.note(folder.name)
    meter.advance(int(counted["cells"] + counted["left_out"]))


def _counts(folders: list[Path], reuse: Reuse | None) -> dict[str, float]:
    """Return sums over the shards, and the largest error of any; reused tiles have that of their database."""
    counted = [read_json(folder / COUNTS) for folder in folders]
    sums = {name: sum(each[name] for each in counted) for name in ("encoded", "reused", "cells")}
    earlier = reuse.database.manifest["codes"]["aerial_error"] if reuse is not None else 0.0
    aerial = max([earlier, *(each["aerial_error"] for each in counted)])
    return sums | {"aerial_error": aerial, "prototype_error": max(each["prototype_error"] for each in counted)}
