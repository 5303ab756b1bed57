"""cellcode ingest."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    source: Annotated[str, Argument(help="A folder of photos with EXIF positions, a .csv or a .parquet list.")],
    out: Annotated[Path, Option(help="Folder for the photo table.")],
    region: Annotated[str | None, Option(help="west,south,east,north in degrees, or a GeoJSON file.")] = None,
    split: Annotated[
        str | None, Option(help="position, date, both or none; without it, a list's own split is kept.")
    ] = None,
    block_m: Annotated[float, Option(help="Edge of the blocks of a split by position.")] = 100.0,
    test_share: Annotated[float, Option(help="About this share of the photos is tested.")] = 0.1,
    test_dates: Annotated[int, Option(help="Number of last capture days that are tested.")] = 1,
    buffer_m: Annotated[float, Option(help="Training photos nearer than this to a tested one are left out.")] = 0.0,
    seed: Annotated[int, Option(help="Seed of the choice of blocks.")] = 0,
) -> None:
    """Fill a photo table; photos that cannot be used go to rejects.csv with the reason."""
    from cellcode.geography import Region
    from cellcode.photos import SplitRule, ingest

    rule = None
    if split is not None:
        rule = SplitRule(split, block_m, test_share, test_dates, buffer_m, seed)  # type: ignore[arg-type]  # it checks
    where = Region.parse(region) if region is not None else None
    ingest.run(source, out=out, region=where, split=rule)
    print(out)
