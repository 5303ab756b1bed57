"""From a run and imagery to a cell-code database: tiles encoded, fused with prototypes, calibrated, written.

The build is a stream over shards, S2 cells of up to 4 ** `build.shard_depth` cells. Finished shards wait in a folder beside the
database until all of them are there; an interrupted build, started again, uses them and ends with the same bytes.
"""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cellcode import config as configuration
from cellcode.aerial import AerialSource, open_source
from cellcode.aerial.missing import summary
from cellcode.config import MachineConfig
from cellcode.database.building import shards
from cellcode.database.building.encoding import encode, here, on_cluster
from cellcode.database.building.plan import choose
from cellcode.database.building.shards import Reuse
from cellcode.database.building.write import write
from cellcode.database.calibration.out_of_region import embed_out_of_region
from cellcode.database.store.database import Database
from cellcode.database.store.layout import refuse_to_overwrite
from cellcode.files import locked, replace_folder
from cellcode.geography import Region
from cellcode.photos import PhotoTable
from cellcode.runs import Run

logger = logging.getLogger(__name__)
LOCK, FINISHED = "lock", "database"  # in the folder of an unfinished build


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
        region: cells with their centre inside; None: the imagery's footprint, or without imagery the cells with
            training photos. Cells with neither enough imagery nor a prototype are left out.
        out: the folder to write; a database that is there already is replaced.
        reuse: an earlier database; tiles whose pixels have not changed since are not encoded again. It may be the one
            at `out`.
        out_of_region: photos (of any split) that were not taken in the region, or the folder of their table; with them
            answers have the probability that a photo was taken in the region.
        overrides: `build.key=value`, in place of the run's `config.build`.
        cluster: Ray cluster that encodes the shards (see `ray_tasks.over_ranges`); run, imagery and `out` have the same
            paths on all its nodes. Rounding may differ from one machine's.
        machine: device and precision; None: chosen by what the machine has.

    Returns:
        The database, open.

    Raises:
        InputError: run, imagery and region leave nothing to build, `out` holds something else, or too few out-of-region
            photos can be read, or the machine has no such device. Raised before any work.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    config = configuration.overridden(run.config, overrides, "build")
    run = replace(run, config=configuration.resolve(config, machine=machine))
    out = Path(out).resolve()
    refuse_to_overwrite(out)
    source = open_source(aerial) if aerial is not None else None
    earlier = _reusable(run, reuse)
    plan = choose(run, source, Region.of(region))
    if source is None and run.aerial is not None:
        logger.info("no aerial imagery given: the codes are made of prototypes alone")
    others = embed_out_of_region(run, out_of_region, plan) if out_of_region is not None else None
    working = out.with_name(f".{out.name}.building")
    working.mkdir(parents=True, exist_ok=True)
    encoder = here(run, source, earlier) if cluster is None else on_cluster(run, aerial, earlier, cluster)
    with locked(working / LOCK):
        folders, counts = encode(run, source, plan, working, earlier, encoder)
        masked = shards.masked(folders)
        shutil.rmtree(working / FINISHED, ignore_errors=True)  # of a build that was killed while it wrote
        (working / FINISHED).mkdir()
        write(run, source, folders, counts, others, working / FINISHED)
        replace_folder(working / FINISHED, out)
        shutil.rmtree(working)
    database = Database.open(out)
    if masked:
        logger.warning("masked in the imagery: %s", summary(masked))
    logger.info(_result(database, counts))
    return database


def _result(database: Database, counts: dict[str, float]) -> str:
    cells = database.manifest["cells"]
    return (
        f"{cells['total']} cells ({cells['both']} with both terms, {cells['aerial_only']} with imagery only, "
        f"{cells['prototype_only']} with a prototype only; {cells['left_out']} left out); {counts['encoded']:.0f} tiles "
        f"encoded, {counts['reused']:.0f} reused; {database.bytes / 1e6:.2f} MB of codes; database {database.identity} in "
        f"{database.folder}"
    )


def _reusable(run: Run, reuse: Database | Path | str | None) -> Reuse | None:
    """Open the earlier database, if its tiles were embedded by the same encoder."""
    if reuse is None:
        return None
    earlier = Database.of(reuse)
    if earlier.manifest["aerial_encoder"] != shards.encoder_digest(run) or earlier.level != run.config.levels.cell:
        logger.warning(
            f"{earlier.folder} was built with another aerial encoder or level, on another kind of device or by an earlier "
            "version: nothing is reused, every tile is encoded"
        )
        return None
    return Reuse(earlier)
