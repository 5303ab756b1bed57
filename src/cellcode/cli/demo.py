"""cellcode demo."""

import sys
import time
from pathlib import Path
from typing import Annotated

from typer import Option

SIZE_KM = 3.4  # 720 level-16 cells


def command(
    out: Annotated[Path, Option(help="Folder for everything the demo makes.")] = Path("runs/demo"),
    seed: Annotated[int, Option(help="Another seed, another world.")] = 0,
) -> None:
    """Go through the whole recipe on a rendered town: a few minutes on a laptop, no download."""
    from importlib.resources import as_file, files

    from cellcode import build, evaluate, ingest, simulate, train
    from cellcode.photos import SplitRule

    started = time.monotonic()
    world = simulate.run(out, size_km=SIZE_KM, seed=seed)
    # The last date was photographed only where no other one was: a split by date tests new positions as well.
    photos = ingest.folder(world.photos_dir, out=out / "table", split=SplitRule(kind="date"))
    with as_file(files("cellcode") / "configs" / "demo.yaml") as config:
        run = train.run(config, photos, world.aerial_path, out=out / "run")
    cells = build.run(run, world.aerial_path, out=out / "town.cells")
    report = evaluate.run(cells, photos, out=out)
    print(
        f"\nA rendered town of {len(cells.ids)} level-16 cells; {report.values['photos']} photos of positions and a date"
    )
    print("that training never saw:\n")
    print(report.table())
    print()
    _show_one(cells, photos)
    print(f"\nReport: {out / 'report.html'}")
    print(f"demo finished in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _show_one(cells: object, photos: object) -> None:
    """Locate the first held-out photo and print the answer beside the truth."""
    from cellcode.cli.locate import describe
    from cellcode.database import Database
    from cellcode.geography import distance
    from cellcode.photos import PhotoTable
    from cellcode.search import locate

    assert isinstance(cells, Database)
    assert isinstance(photos, PhotoTable)
    one = photos.of_split("test")
    lat, lon = float(one.lat_deg[0]), float(one.lon_deg[0])
    answer = locate.run(cells, one.files[0])
    error_m = float(distance.haversine_m(lat, lon, answer.lat, answer.lon))
    print(describe(answer))
    print(f"  truth: {lat:.6f}, {lon:.6f}; the answer is {error_m:.0f} m off")
