"""From a run and imagery to a cell-code database: tiles encoded, fused with prototypes, calibrated, written.

The build is a stream over shards, S2 cells of up to 4 ** `build.shard_depth` cells. Finished shards wait in a folder beside the
database until all of them are there; an interrupted build, started again, uses them and ends with the same bytes.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from cellcode import config as configuration
from cellcode.aerial import AerialSource, open_source
from cellcode.aerial.missing import Missing, summary
from cellcode.config import MachineConfig
from cellcode.database.building import cluster_tasks, shards
from cellcode.database.building.embedding import embed_out_of_region
from cellcode.database.building.plan import Plan, choose
from cellcode.database.building.shards import COUNTS, Reuse
from cellcode.database.building.write import write
from cellcode.database.store.database import Database
from cellcode.database.store.layout import refuse_to_overwrite
from cellcode.distributed.ray_tasks import over_ranges
from cellcode.errors import InputError, UsageError
from cellcode.files import locked, read_json, remove_folder, replace_folder, write_json
from cellcode.geography import Region, s2
from cellcode.photos import PhotoTable
from cellcode.progress import Meter
from cellcode.runs import Run
from cellcode.types import Ids

logger = logging.getLogger(__name__)
PLAN, FINISHED = "plan.json", "database"  # in the folder of an unfinished build
# A shard's folder, and what of the imagery it lacks for now, in which case there is no folder.
Encoded = Iterator[tuple[Path, str | None]]


def build(
    run: Run | Path | str,
    aerial: AerialSource | Path | str | None = None,
    region: Region | Path | str | None = None,
    *,
    out: Path | str,
    reuse: Database | Path | str | None = None,
    out_of_region: PhotoTable | Path | str | None = None,
    overrides: Iterable[str] = (),
    cluster: str | None = None,
    machine: MachineConfig | None = None,
) -> Database:
    """Build a database.

    Args:
        run: a trained run or its folder; its `config.build` has the settings.
        aerial: imagery for the run's aerial encoder; None: prototypes only.
        region: cells with their centre inside; None: the imagery's footprint, or without imagery the cells with training
            photos. Cells with neither enough imagery nor a prototype are left out.
        out: the folder to write; a database that is there already is replaced.
        reuse: an earlier database, perhaps the one at `out`; tiles with the same pixels are not encoded again.
        out_of_region: photos (of any split) that were not taken in the region: answers then have `in_region`.
        overrides: `build.key=value`, in place of the run's `config.build`.
        cluster: Ray cluster that encodes the shards (see `ray_tasks.over_ranges`); run, imagery and `out` have the same
            paths on all its nodes. Rounding may differ from one machine's.
        machine: device and precision; None: chosen by what the machine has.

    InputError: run, imagery and region leave nothing to build, `out` holds something else, or too few out-of-region photos
    can be read, or the machine has no such device. It is raised before any work.
    """
    run = Run.of(run)
    config = configuration.overridden(run.config, overrides, "build")
    run, out = replace(run, config=configuration.resolve(config, machine=machine)), Path(out).resolve()
    refuse_to_overwrite(out)
    source = open_source(aerial) if aerial is not None else None
    earlier = _reusable(run, reuse)
    plan = choose(run, source, Region.of(region))
    if source is None and run.aerial is not None:
        logger.info("no aerial imagery given: the codes are made of prototypes alone")
    others = embed_out_of_region(run, out_of_region, plan) if out_of_region is not None else None
    working = out.with_name(f".{out.name}.building")
    inputs = _inputs(run, aerial, earlier) if cluster is not None else None
    encoder = partial(_encoded, run, source, earlier, inputs, cluster)
    with locked(out):
        working.mkdir(parents=True, exist_ok=True)
        folders, counts = _encode(run, source, plan, working, out, earlier, encoder)
        masked = shards.masked(folders)
        remove_folder(working / FINISHED)  # of a build that was killed while it wrote
        (working / FINISHED).mkdir()
        write(run, source, folders, counts, others, working / FINISHED)
        replace_folder(working / FINISHED, out)
        remove_folder(working, out)
    return _opened(out, counts, masked)


def _opened(out: Path, counts: dict[str, float], masked: Counter[Missing]) -> Database:
    database = Database.open(out)
    if masked:
        logger.warning("masked in the imagery: %s", summary(masked))
    cells = database.manifest["cells"]
    logger.info(
        f"{cells['total']} cells ({cells['both']} with both terms, {cells['aerial_only']} with imagery only, "
        f"{cells['prototype_only']} with a prototype only; {cells['left_out']} left out); {counts['encoded']:.0f} tiles "
        f"encoded, {counts['reused']:.0f} reused; {database.bytes / 1e6:.2f} MB of codes; database {database.identity} in "
        f"{database.folder}"
    )
    return database


def _reusable(run: Run, reuse: Database | Path | str | None) -> Reuse | None:
    """Open the earlier database, if its tiles were embedded by the same encoder."""
    if reuse is None:
        return None
    earlier = Database.of(reuse)
    earlier.verify()
    if earlier.manifest["aerial_encoder"] != shards.encoder_digest(run) or earlier.level != run.config.levels.cell:
        logger.warning(
            f"{earlier.folder} was built with another aerial encoder or level, on another kind of device or by an earlier "
            "version: nothing is reused, every tile is encoded"
        )
        return None
    return Reuse(earlier)


def _inputs(run: Run, aerial: AerialSource | Path | str | None, reuse: Reuse | None) -> cluster_tasks.Inputs:
    """Return what the nodes of a cluster open again."""
    if not isinstance(aerial, Path | str | None):
        raise UsageError("a build on a cluster opens the imagery on every node: give its path, not an open source")
    if aerial is not None and Path(aerial).exists():
        aerial = Path(aerial).resolve()  # workers run in other folders; an address stays as it is
    earlier = str(reuse.database.folder.resolve()) if reuse is not None else None
    return cluster_tasks.Inputs.of(run, str(aerial) if aerial is not None else None, earlier)


def _encoded(
    run: Run,
    source: AerialSource | None,
    reuse: Reuse | None,
    inputs: cluster_tasks.Inputs | None,
    cluster: str | None,
    wanted: Iterable[tuple[Ids, Path]],
) -> Encoded:
    """Encode shards, cells and folders, in this process one after the other, or on a Ray cluster."""
    if cluster is None:
        yield from ((to, shards.write_whole(run, source, ids, to, reuse)) for ids, to in wanted)
    else:
        calls = ((inputs, ids, str(to)) for ids, to in wanted)
        for (_, _, folder), lacks in over_ranges(cluster_tasks.encode, calls, cluster):
            yield Path(folder), lacks


def _encode(
    run: Run,
    source: AerialSource | None,
    plan: Plan,
    working: Path,
    out: Path,
    reuse: Reuse | None,
    encoder: Callable[[Iterable[tuple[Ids, Path]]], Encoded],
) -> tuple[list[Path], dict[str, float]]:
    """Write the shards that are not there yet; return all of them in order, and their counts."""
    _discard_other_build(working, run, source, plan, reuse)
    folders = [working / token for token in s2.tokens(plan.shards)]
    done = {folder for folder in folders if shards.is_whole(folder)}
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
    gives_nothing = source is not None and run.aerial is not None and not counts["encoded"] + counts["reused"]
    if gives_nothing or not counts["cells"]:
        masked = summary(shards.masked(folders))
        remove_folder(working, out)
        share = f"at least {run.config.build.min_imagery_share:.0%} imagery{f' ({masked})' if masked else ''}"
        raise InputError(
            f"no tile of the region has {share}; lower build.min_imagery_share, check the imagery or build without it"
        )
    return folders, counts | {"left_out": plan.asked - counts["cells"]}


def _discard_other_build(working: Path, run: Run, source: AerialSource | None, plan: Plan, reuse: Reuse | None) -> None:
    """Remove shards that a build of something else left, and write down what this build is of."""
    identity = {
        "run": run.identity,
        "aerial_encoder": shards.encoder_digest(run),
        "imagery": source.identity if source is not None else None,
        "plan": plan.digest,
        "build": run.config.build.model_dump(mode="json"),
        "reuse": reuse.database.identity if reuse is not None else None,
    }
    same = False
    with suppress(InputError):  # there is none, or it is damaged
        same = read_json(working / PLAN) == identity
    if not same and any(working.iterdir()):
        logger.info("%s is of another build, this one starts from the beginning", working)
        for folder in filter(Path.is_dir, working.iterdir()):
            remove_folder(folder)
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
