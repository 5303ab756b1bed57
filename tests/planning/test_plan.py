"""The oracle of an estimate is what really happens on the rendered region."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellcode import cli
from cellcode import config as configuration
from cellcode.aerial.tiles.grid import web_mercator
from cellcode.aerial.tiles.provider import TileProvider, TileReply, Validators
from cellcode.aerial.tiles.source import TileSource
from cellcode.config import Config
from cellcode.database import Database
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, s2
from cellcode.photos import PhotoTable
from cellcode.planning import Photos, make, pace, plan
from cellcode.planning.material import tiles, training_windows
from cellcode.planning.pace import Pace
from cellcode.runs import Run
from cellcode.simulation import Simulation
from cellcode.training.data.tiles import TileStore
from cellcode.training.setup.data_setup import split_validation


class CountingTiles(TileProvider):
    """Tiles in memory, as a service would give them."""

    attribution = licence = ""
    identity, date, host, name, connections = "counting", None, "127.0.0.1", "counting", 1
    bounds = (-180.0, -85.0, 180.0, 85.0)

    def __init__(self) -> None:
        self.grid, self.asked = web_mercator(0, 19), set[tuple[int, int, int]]()

    def fetch(self, z: int, x: int, y: int, validators: Validators | None = None) -> TileReply:
        self.asked.add((z, x, y))
        noise = np.random.default_rng([z, x, y]).integers(0, 255, (8, 8, 3), dtype=np.uint8)  # like no other tile
        file = io.BytesIO()
        Image.fromarray(noise).resize((256, 256)).save(file, "JPEG")
        return TileReply(file.getvalue())


@pytest.fixture(autouse=True)
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MEASURED_S", 0.0)


@pytest.mark.parametrize(
    ("region", "size_px"),
    [
        ("4.900,52.360,4.920,52.372", 64),  # more than a kilometre
        ("10.000,0.000,10.012,0.010", 128),
        ("18.90,69.640,18.94,69.653", 64),
        ("cap:52.09,5.12,700", 128),
    ],
)
def test_tiles_are_those_that_reading_the_region_asks_for(region: str, size_px: int, tmp_path: Path) -> None:
    where = Region.parse(region)
    config = configuration.parse({"tile": {"size_px": size_px}})
    provider = CountingTiles()
    with TileSource(provider) as source:
        expected = tiles(config, where, source)
        TileStore(
            source, where.cells(16), config.tile, config.augmentation.tile_translation_m, tmp_path / "imagery.npy"
        )
    assert {z for z, _, _ in provider.asked} == {expected.level}
    assert expected.count == pytest.approx(len(provider.asked), rel=0.35)
    assert expected == tiles(config, where)  # without a source: a service of map tiles


def test_training_windows_are_those_that_training_keeps(tmp_path: Path) -> None:
    cells = Region.parse("cap:52.09,5.12,300").cells(16)
    config = configuration.parse({"tile": {"scales": [1, 4]}})
    with TileSource(CountingTiles()) as source:
        TileStore(source, cells, config.tile, config.augmentation.tile_translation_m, tmp_path / "imagery.npy")
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    expected = len(cells) * sum(4 * window.side_px**2 for window in training_windows(config))
    assert kept <= expected <= 1.5 * kept


def test_plan_of_the_rendered_town(
    town: Simulation, town_photos: PhotoTable, town_config: Config, town_run: Run, town_cells: Database
) -> None:
    from cellcode.aerial import open_source

    photos = Photos.of_table(town.out / "table", town.region, town_config)
    made = make(town.region, town_config, photos, open_source(town.aerial_path))
    assert made.cells == len(town.region.cells(16))
    assert made.prototype_cells == len(town.region.cells(15))
    assert made.photos == len(town_photos)
    lat, lon = town_photos.of_split("train").lat_deg, town_photos.of_split("train").lon_deg
    assert made.visited_cells == len(np.unique(s2.cell_ids(lat, lon, 16)))
    assert (made.tiles, made.imagery_bytes, made.photo_bytes, made.fetch_s) == (None, 0, 0, 0.0)
    weighed = sum(path.stat().st_size for path in town_cells.folder.rglob("*") if path.is_file())
    assert made.database_bytes == pytest.approx(weighed, rel=0.3)
    assert made.disk_bytes > 2 * made.database_bytes
    assert made.train_s > 0
    assert made.build_s > 0


def test_database_grows_as_the_plan_says(town_config: Config, town_cells: Database) -> None:
    rows = sum((town_cells.folder / name).stat().st_size for name in ("ids.npy", "codes.npy", "codes_int8.npy"))
    rows += sum(path.stat().st_size for path in (town_cells.folder / "terms").iterdir())
    rows += (town_cells.folder / "tile_digests.npy").stat().st_size
    nothing = Pace(0, 0, 0, 0, 0, 0, 0, 0, 0)
    cells = len(town_cells.ids)
    more = plan.database_bytes(town_config, 2 * cells, True, nothing) - plan.database_bytes(
        town_config, cells, True, nothing
    )
    assert more == pytest.approx(rows, rel=0.1)


def test_steps_are_those_that_training_took(town_config: Config, town_photos: PhotoTable, town_run: Run) -> None:
    log = (town_run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    taken = json.loads(log[-1])["step"] + 1
    training, validation = split_validation(town_photos, town_config)
    a_second_a_step = Pace(0, 0, 1, 0, 0, 0, 0, 0, 0)
    estimated = plan.train_s(town_config, len(training) + len(validation), 50, a_second_a_step)
    assert estimated == pytest.approx(taken, rel=0.2)


def test_photos_without_positions_visit_cells_at_random() -> None:
    photos = Photos.of_count(1000)
    assert photos.training == 900
    rng = np.random.default_rng(0)
    seen = np.mean([len(np.unique(rng.integers(0, 500, 900))) for _ in range(50)])
    assert photos.cells(500, 1) == pytest.approx(seen, rel=0.02)
    assert Photos.of_count(0).cells(500, 1) == 0
    with pytest.raises(UsageError, match="-1"):
        Photos.of_count(-1)


def test_photos_of_another_place_are_refused(town: Simulation, town_photos: PhotoTable, town_config: Config) -> None:
    with pytest.raises(InputError, match="none of its photos lies in the region"):
        Photos.of_table(town.out / "table", Region.parse("LU"), town_config)


def test_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--region", "cap:50.8,4.4,1500", "--config", "configs/demo.yaml", "--photos-count", "3000"]
    cli_main([*arguments, "--json"])
    made = json.loads(capsys.readouterr().out)
    assert made["cells"] == len(Region.parse("cap:50.8,4.4,1500").cells(16))
    assert made["photos"] == 3000
    assert made["tiles"] > 0
    assert made["fetch_s"] >= (3000 + made["tiles"]) / 10  # ten requests a second
    cli_main([*arguments, "--no-aerial"])
    shown = capsys.readouterr().out
    assert "cells of level 16" in shown
    assert "imagery to fetch" in shown
    assert "nothing" in shown


def cli_main(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert not ended.value.code


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "one of them"),
        (["--photos", "x", "--photos-count", "3"], "one of them"),
        (["--photos-count", "3", "--aerial", "x.tif", "--no-aerial"], "not both"),
        (["--photos-count", "3", "--aerial", "missing.tif"], "does not exist"),
        (["--photos", "missing"], "not a photo table"),
    ],
)
def test_command_refuses_what_cannot_be_meant(given: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "--region", "LU", "--config", "configs/demo.yaml", *given])
    assert ended.value.code in (1, 2)
    assert says in capsys.readouterr().err


def test_a_country_is_planned_without_listing_its_cells(town_config: Config) -> None:
    made = make(Region.parse("BEDENL"), town_config, Photos.of_count(1_000_000))
    assert made.cells == pytest.approx(Region.parse("BEDENL").area_m2() / s2.mean_edge_m(16) ** 2, rel=1e-3)
    assert made.tile_level is not None
    tile_m = 40_075_017 * np.cos(np.deg2rad(51)) / 2**made.tile_level
    assert made.tiles == pytest.approx(made.area_m2 / tile_m**2, rel=0.1)
