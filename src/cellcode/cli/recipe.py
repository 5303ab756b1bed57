"""Commands of the recipe: plan, train, build, evaluate, and the demo that runs all of it."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from cellcode.cli import common

if TYPE_CHECKING:
    from cellcode.config import Config
    from cellcode.database import Database
    from cellcode.geography import Region
    from cellcode.photos import PhotoTable
    from cellcode.planning import Photos

logger = logging.getLogger(__name__)


def plan(
    region: Annotated[str, Option(help=common.REGION_FORMS)],
    config: Annotated[Path, Option(help="A YAML configuration, or the name of a shipped one.")] = Path("town"),
    photos: Annotated[
        str | None, Option(help="A photo table, or panoramax:... or mapillary:..., whose listing is requested.")
    ] = None,
    photos_count: Annotated[
        int | None, Option(help="Instead of --photos: approximate number of photos; makes no request.")
    ] = None,
    aerial: common.Aerial = None,
    no_aerial: Annotated[bool, Option("--no-aerial", help="Without imagery: prototypes only.")] = False,
    mbit_per_s: Annotated[float, Option(help="Download rate.", min=0.001)] = 50.0,
    processes: Annotated[
        int | None, Option(help="Estimate a training on this many devices: memory, network and time per step.", min=1)
    ] = None,
    tflops: Annotated[
        float,
        Option(help="With --processes: sustained TFLOP/s per device, about a third of its data sheet.", min=0.001),
    ] = 100.0,
    gbit_per_s: Annotated[
        float, Option(help="With --processes: link rate of a device to the others.", min=0.001)
    ] = 100.0,
    overrides: common.Overrides = None,
    as_json: common.AsJson = False,
    device: common.Device = None,
    precision: common.Precision = None,
) -> None:
    """Estimate what a region takes before anything is fetched: cells, photos, imagery, bytes and time on this machine.

    Without --aerial, a service of map tiles is assumed.
    """
    import json

    from cellcode import config as configuration
    from cellcode import planning
    from cellcode.aerial.tiles.presets import presets
    from cellcode.errors import UsageError
    from cellcode.geography import Region
    from cellcode.http import Politeness

    if (photos is None) == (photos_count is None):
        raise UsageError("give --photos or --photos-count, one of them")
    if aerial is not None and no_aerial:
        raise UsageError("give --aerial or --no-aerial, not both")
    where, settings = Region.parse(region), configuration.load(config, overrides or ())
    settings = configuration.resolve(settings, machine=common.machine(device, precision, settings.machine))
    pace = next((preset.requests_per_s for preset in presets() if preset.name == aerial), Politeness.requests_per_s)
    plan = planning.make(
        where, settings, _photos(photos, photos_count, where, settings), aerial, with_imagery=not no_aerial,
        mbit_per_s=mbit_per_s, tiles_per_s=pace, processes=processes, device=planning.Device(tflops, gbit_per_s),
    )  # fmt: skip
    print(json.dumps(plan.to_json()) if as_json else plan.table())


def _photos(spec: str | None, count: int | None, region: Region, config: Config) -> Photos:
    from cellcode.photos.sources.registry import PHOTO_SOURCES
    from cellcode.planning import Photos

    if count is not None:
        return Photos.of_count(count)
    assert spec is not None  # the command requires one of them
    if PHOTO_SOURCES.knows(spec) or PHOTO_SOURCES.is_plugin(spec):
        return Photos.of_service(spec, region)
    return Photos.of_table(spec, region, config)


def train(
    config: Annotated[
        Path, Argument(help="A YAML configuration, or the name of a shipped one (`cellcode config list`).")
    ],
    photos: Annotated[
        str,
        Option(
            help="Photo table, or packed photos: their folder, a folder of several such folders, or an address such as "
            "s3://BUCKET/SHARDS."
        ),
    ],
    out: Annotated[Path, Option(help="Folder for the run.")],
    aerial: common.Aerial = None,
    overrides: common.Overrides = None,
    resume: Annotated[bool, Option("--resume", help="Continue from the checkpoint in --out.")] = False,
    device: common.Device = None,
    precision: common.Precision = None,
) -> None:
    """Train the encoders and the prototypes; without imagery, prototypes only."""
    from cellcode import config as configuration
    from cellcode.distributed import torchrun
    from cellcode.training import train

    settings = configuration.load(config, overrides or ())
    resume = resume or torchrun.restarts() > 0  # what is done is not thrown away
    train(settings, photos, aerial, out=out, resume=resume, machine=common.machine(device, precision, settings.machine))
    if os.environ.get("RANK", "0") == "0":  # of several processes, one prints
        print(out)


def build(
    run: Annotated[Path, Argument(help="A trained run.")],
    out: Annotated[Path, Option(help="Folder for the database.")],
    aerial: common.Aerial = None,
    region: common.Region = None,
    reuse: Annotated[
        Path | None, Option(help="An earlier database: tiles that have not changed since are not encoded again.")
    ] = None,
    out_of_region: common.OutOfRegion = None,
    elsewhere: Annotated[Path | None, Option(hidden=True)] = None,
    cluster: Annotated[
        str | None,
        Option(
            help="Encode on a Ray cluster: its address, auto for the one of this machine, local for all its cores. Paths "
            "must be the same on every node. Needs the extra ray."
        ),
    ] = None,
    overrides: common.Overrides = None,
    device: common.Device = None,
    precision: common.Precision = None,
) -> None:
    """Build a cell-code database from a run and imagery; an interrupted build resumes when run again.

    Without imagery the codes are made of prototypes alone. With out-of-region photos, answers state how probable it is that a
    photo was taken in the region. --set takes keys of the block build.
    """
    from cellcode.database import build
    from cellcode.errors import UsageError

    if elsewhere is not None:
        raise UsageError("--elsewhere is now --out-of-region")
    build(
        run, aerial, region, out=out, reuse=reuse, out_of_region=out_of_region, overrides=overrides or (),
        cluster=cluster, machine=common.machine(device, precision),
    )  # fmt: skip
    print(out)


def evaluate(
    database: common.Cells,
    photos: Annotated[Path, Argument(help="A photo table.")],
    out: Annotated[Path, Option(help="Folder for report.json, report.html, predictions.parquet and figures.")],
    split: Annotated[str, Option(help="Split to test.")] = "test",
    aerial: common.Aerial = None,
    out_of_region: common.OutOfRegion = None,
    cluster: common.Cluster = None,
    device: common.Device = None,
    precision: common.Precision = None,
) -> None:
    """Measure recall, error and confidence beside baselines on the same photos.

    Imagery is shown beside photos in the report. Out-of-region photos should be refused; the report has how many are.
    """
    from cellcode.evaluation.evaluate import evaluate

    report = evaluate(
        database, photos, out=out, split=split, aerial=aerial, out_of_region=out_of_region, cluster=cluster,
        machine=common.machine(device, precision),
    )  # fmt: skip
    print(report.table(), out / "report.html", sep="\n")


SIZE_KM = 3.4  # 720 level-16 cells


def demo(
    out: Annotated[Path, Option(help="Folder for all files of the demo.")] = Path("runs/demo"),
    seed: Annotated[int, Option(help="Seed; another seed gives another world.")] = 0,
) -> None:
    """Run the whole recipe on a rendered town: a few minutes on a laptop, no download."""
    from cellcode import build, evaluate, ingest, simulate, train
    from cellcode.photos import SplitRule

    started = time.monotonic()
    world = simulate(out, size_km=SIZE_KM, seed=seed)
    # The last date was photographed only where no other one was: a split by date tests new positions as well.
    photos = ingest(world.photos_dir, out=out / "table", split=SplitRule(kind="date"))
    run = train("demo", photos, world.aerial_path, out=out / "run")
    cells = build(run, world.aerial_path, out=out / "town.cells")
    report = evaluate(cells, photos, out=out, aerial=world.aerial_path)
    tested = report.values["photos"]
    print(f"\nA rendered town of {len(cells.ids)} level-16 cells; {tested} photos at positions and on a date")
    print(f"not seen in training:\n\n{report.table()}\n")
    _show_one(cells, photos, out)
    print(f"\nReport: {out / 'report.html'}")
    logger.info("demo finished in %.0f s", time.monotonic() - started)


def _show_one(cells: Database, photos: PhotoTable, out: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    from cellcode.cli.queries import describe
    from cellcode.search import locate

    tested = photos.of_split("test")
    errors_m = pq.read_table(out / "predictions.parquet").column("hybrid_error_m").to_numpy()
    typical = int(np.argsort(errors_m)[len(errors_m) // 2])
    print("A typical held-out photo (the median error):\n")
    print(describe(locate(cells, tested.files[typical])))
    lat, lon = tested.lat_deg[typical], tested.lon_deg[typical]
    print(f"  truth: {lat:.6f}, {lon:.6f}; the answer is {errors_m[typical]:.0f} m off")
