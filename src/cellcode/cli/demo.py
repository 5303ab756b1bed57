"""cellcode demo."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

if TYPE_CHECKING:
    from cellcode.database import Database
    from cellcode.photos import PhotoTable

logger = logging.getLogger(__name__)
SIZE_KM = 3.4  # 720 level-16 cells


def command(
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
    print(
        f"\nA rendered town of {len(cells.ids)} level-16 cells; {report.values['photos']} photos at positions and on a date"
    )
    print("not seen in training:\n")
    print(report.table())
    print()
    _show_one(cells, photos, out)
    print(f"\nReport: {out / 'report.html'}")
    logger.info("demo finished in %.0f s", time.monotonic() - started)


def _show_one(cells: Database, photos: PhotoTable, out: Path) -> None:
    """Locate the held-out photo of median error and print the answer beside the truth."""
    import numpy as np
    import pyarrow.parquet as pq

    from cellcode.cli.locate import describe
    from cellcode.search import locate

    tested = photos.of_split("test")
    errors_m = pq.read_table(out / "predictions.parquet").column("hybrid_error_m").to_numpy()
    typical = int(np.argsort(errors_m)[len(errors_m) // 2])
    print("A typical held-out photo (the median error):\n")
    print(describe(locate(cells, tested.files[typical])))
    lat, lon = tested.lat_deg[typical], tested.lon_deg[typical]
    print(f"  truth: {lat:.6f}, {lon:.6f}; the answer is {errors_m[typical]:.0f} m off")
