"""cellcode pmtiles."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import Region


def command(
    aerial: Annotated[str, Argument(help="Aerial imagery: a path, a service or a preset (docs/aerial.md).")],
    out: Annotated[Path, Option(help="The .pmtiles file to write.")],
    region: Region = None,
    max_zoom: Annotated[int, Option(help="Finest zoom; at 52 degrees zoom 17 has 0.7 m per pixel.")] = 17,
    min_zoom: Annotated[int | None, Option(help="Coarsest zoom; default: eight less than the finest.")] = None,
) -> None:
    """Write the imagery of a region as one PMTiles file, for a map in a browser without a tile server."""
    from cellcode.aerial import open_source
    from cellcode.aerial.tiles import pmtiles

    pmtiles.export(open_source(aerial), region, out, max_zoom=max_zoom, min_zoom=min_zoom)
    print(out)
