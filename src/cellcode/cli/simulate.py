"""cellcode simulate."""

from pathlib import Path
from typing import Annotated

from typer import Option


def command(
    out: Annotated[Path, Option(help="Folder for photos/, aerial.tif and truth.csv.")],
    size_km: Annotated[float, Option(help="Edge of the square world.")] = 4.0,
    photos: Annotated[int, Option(help="Number of photos.")] = 12_000,
    seed: Annotated[int, Option(help="Seed; another seed gives another world.")] = 0,
    look: Annotated[str, Option(help="Style of facades, roofs, plants and cameras: north or south.")] = "north",
    coast: Annotated[bool, Option("--coast", help="The west of the world is sea.")] = False,
) -> None:
    """Render a region: JPEGs with EXIF, an aerial GeoTIFF, the truth."""
    from cellcode.simulation import simulate

    made = simulate(out, size_km=size_km, photos=photos, seed=seed, look=look, coast=coast)
    print(made.out)
