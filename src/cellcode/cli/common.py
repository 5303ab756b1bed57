"""Options that several commands take, each with one name and one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

if TYPE_CHECKING:
    from cellcode.config import MachineConfig

REGION_FORMS = (
    "west,south,east,north in degrees; a GeoJSON file; cap:LAT,LON,RADIUS_M; cells:TOKEN,... or cells:FILE; or country codes "
    "joined by + (BE+DE+NL; BEDENL and EuropeWest are such unions). Prefix not: to exclude the region."
)
Aerial = Annotated[
    str | None,
    Option(help="GeoTIFF, COG, VRT, MBTiles or a folder of them, a tile service or a preset (docs/aerial.md)."),
]
AsJson = Annotated[bool, Option("--json", help="Print JSON, one object per line.")]
Cells = Annotated[Path, Argument(help="A cell-code database, or a folder of its shards as `cellcode split` writes it.")]
Cluster = Annotated[
    str | None,
    Option(
        help="Search a folder of shards on a Ray cluster: its address, auto for the one of this machine, local for one that "
        "ends with the command. Paths must be the same on every node. Needs the extra ray."
    ),
]
DatabaseFolder = Annotated[Path, Argument(help="A cell-code database.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None,
    Option(help="Device for the networks; auto: CUDA, then Apple's GPU, then the CPU.", rich_help_panel="Machine"),
]
OutOfRegion = Annotated[Path | None, Option(help="Photo table of out-of-region photos.", metavar="PHOTOS")]
Overrides = Annotated[list[str] | None, Option("--set", help="Override a setting: a.b=c; repeatable.")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    Option(
        help="Precision of the networks; auto: bfloat16 where the processor supports it.", rich_help_panel="Machine"
    ),
]
Region = Annotated[str | None, Option(help=f"Only this region: {REGION_FORMS}")]


def machine(device: str | None, precision: str | None, settings: MachineConfig | None = None) -> MachineConfig:
    """Return machine settings with what --device and --precision change."""
    from cellcode.config import MachineConfig

    given = {"device": device, "precision": precision}
    return (settings or MachineConfig()).model_copy(update={key: value for key, value in given.items() if value})
