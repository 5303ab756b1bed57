"""Commands that make a database of others."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from cellcode.cli.common import REGION_FORMS, Aerial, DatabaseFolder, Device, Precision, Region, machine


def clip(
    database: DatabaseFolder,
    region: Annotated[str, Option(help=f"Keep the cells of this region: {REGION_FORMS}")],
    out: Annotated[Path, Option(help="Folder for the smaller database.")],
) -> None:
    """Extract a region; results inside it are unchanged."""
    from cellcode.database import clip

    clip(database, region, out=out)
    print(out)


def split(
    database: DatabaseFolder,
    shards: Annotated[int, Option(help="Number of shards.")],
    out: Annotated[Path, Option(help="Folder for the shards; each is a database.")],
) -> None:
    """Split a database into shards for several machines."""
    from cellcode.database import split

    for shard in split(database, shards, out=out):
        print(shard.folder)


def merge(
    databases: Annotated[list[Path], Argument(help="Databases of one run that share no cell.")],
    out: Annotated[Path, Option(help="Folder for the merged database.")],
) -> None:
    """Merge databases of one run."""
    from cellcode.database import merge

    merge(databases, out=out)
    print(out)


def compress(
    database: DatabaseFolder,
    out: Annotated[Path, Option(help="Folder for the smaller database.")],
    code_bytes: Annotated[int, Option("--bytes", help="Bytes per cell; a divisor of the codes' width.")] = 64,
) -> None:
    """Write a database with codes of a few bytes, and report top-1 agreement with the original."""
    from cellcode.database import compress

    compress(database, code_bytes, out=out)
    print(out)


def grow(
    database: Annotated[Path, Argument(help="A cell-code database that keeps its terms.")],
    out: Annotated[Path, Option(help="Folder for the grown database.")],
    photos: Annotated[Path | None, Option(help="A photo table: its training photos give cells prototypes.")] = None,
    run: Annotated[Path | None, Option(help="With --aerial: the run that the database was built from.")] = None,
    aerial: Aerial = None,
    region: Region = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Add photos or new imagery to a database without training.

    Give either --photos, or --run and --aerial. Cells of --region that are missing are added.
    """
    from cellcode.database import grow, reimage
    from cellcode.errors import UsageError

    settings = machine(device, precision)
    if photos is not None and run is None and aerial is None:
        grow(database, photos, region, out=out, machine=settings)
    elif photos is None and run is not None and aerial is not None:
        reimage(database, run, aerial, region, out=out, machine=settings)
    else:
        raise UsageError("give either --photos, or --run and --aerial, to grow a database")
    print(out)


def export(
    database: Annotated[Path, Argument(help="A cell-code database, or a folder of shards.")],
    to: Annotated[
        Literal["parquet", "openvino"],
        Option(help="parquet: one row per cell, with its code, for vector stores; openvino: the ground encoder."),
    ],
    out: Annotated[Path, Option("--out", "--uri", help="Parquet: the file to write. OpenVINO: the folder to write.")],
) -> None:
    """Write the cells of a database as a Parquet table, or its ground encoder as an OpenVINO model."""
    from cellcode.database.store.shards import open_database
    from cellcode.search import engines
    from cellcode.search.cell_table import export_parquet

    write = export_parquet if to == "parquet" else engines.export_openvino
    print(write(open_database(database), out))
