"""The worlds of the benchmark, rendered and ingested, and the photos of each purpose."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cellcode.files import read_json, write_json
from cellcode.geography import Region, s2
from cellcode.photos import PhotoTable
from cellcode.photos.ingest import ingest
from cellcode.simulation.simulate import MANIFEST, simulate
from cellcode.simulation.survey import make_survey
from experiments.benchmark_survey import held_out, make_benchmark_survey

TABLE, AERIAL, HELD_OUT = "table", "aerial.tif", "held_out.geojson"
PROTOTYPE_LEVEL = 15
WALK = "walk "  # how the sequences of walks begin


def render(
    folder: Path,
    needs: dict[str, Path],
    *,
    size_km: float,
    photos: int,
    seed: int,
    look: str = "north",
    coast: bool = False,
    survey: Literal["demo", "benchmark"] = "demo",
    world_version: int = 1,
    survey_digest: str = "",
) -> dict[str, Any]:
    """Render a world and ingest its photos; the work of a stage. A benchmark's held-out square is written beside them.

    `world_version` and `survey_digest` tell worlds apart that other code drew or surveyed.
    """
    plan = make_benchmark_survey if survey == "benchmark" else make_survey
    made = simulate(folder, size_km=size_km, photos=photos, seed=seed, look=look, coast=coast, survey=plan)
    table = ingest(made.truth_path, out=folder / TABLE)
    if survey == "benchmark":
        size_m = read_json(folder / MANIFEST)["size_m"]
        write_json(folder / HELD_OUT, held_out(size_m).to_geojson())
    splits = dict(sorted(Counter(table.split.tolist()).items()))
    return {"photos": len(table), "size_km2": size_km**2, "splits": splits}


@dataclass(frozen=True)
class Parts:
    """Photos of the benchmark region by purpose.

    Attributes:
        learning: splits train and validation, outside the held-out square.
        same_area: single test photos outside the square.
        cross_area: test photos in the square, in level-15 cells without any training photo.
        walks: test photos of walks; `sequence` names the walk, their order is that of the steps.
    """

    learning: PhotoTable
    same_area: PhotoTable
    cross_area: PhotoTable
    walks: PhotoTable

    @property
    def training(self) -> PhotoTable:
        """The photos that are trained on."""
        return self.learning.of_split("train")


def parts(world: Path) -> Parts:
    """Read the photo table of the benchmark region."""
    table = PhotoTable.load(world / TABLE)
    square = Region.geojson(json.loads((world / HELD_OUT).read_text(encoding="utf-8")))
    inside = square.contains(table.lat_deg, table.lon_deg)
    walks = np.array([str(name).startswith(WALK) for name in table.column("sequence")])
    tested = table.split == "test"
    # A level-15 cell across the square's border has a prototype: photos in it are of neither area.
    cells = s2.cell_ids(table.lat_deg, table.lon_deg, PROTOTYPE_LEVEL)
    taught = np.isin(cells, cells[(table.split == "train") & ~inside])
    return Parts(
        learning=table.select(~tested & ~inside),
        same_area=table.select(tested & ~inside & ~walks),
        cross_area=table.select(tested & inside & ~walks & ~taught),
        walks=table.select(tested & walks),
    )


def joined(*tables: PhotoTable) -> PhotoTable:
    """Return one table of the photos of several."""
    absolute = [table.with_column("file", [str(path.absolute()) for path in table.files]) for table in tables]
    return PhotoTable(pa.concat_tables([table.rows for table in absolute]), Path("/"), tables[0].notes)


def with_split(table: PhotoTable, split: str) -> PhotoTable:
    """Return the photos, all in one split."""
    return table.with_column("split", [split] * len(table))


def cropped(table: PhotoTable, region: Region) -> PhotoTable:
    """Return the photos inside a region."""
    return table.select(region.contains(table.lat_deg, table.lon_deg))
