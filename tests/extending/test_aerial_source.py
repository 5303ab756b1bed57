"""The aerial source of docs/extending, from a folder outside the package; and sources that are not what they should be."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cellcode import build, config, ingest, open_source, train
from cellcode.aerial import Crop
from cellcode.database import Database
from cellcode.errors import PluginError, UsageError
from cellcode.geography import Region, distance
from cellcode.runs import Run
from cellcode.serving.service import Service
from cellcode.serving.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "docs" / "extending" / "aerial_checkerboard.py"
SPEC = "aerial_checkerboard:Checkerboard?square_m=20"
LAT, LON = 48.85, 2.35
SMALL = """
levels: {prototype: 16, cell: 18}
photo: {width_px: 32, height_px: 32}
tile: {size_m: 80, size_px: 32}
model:
  dim: 16
  ground: {backbone: tiny, aggregation: {name: gem}}
  aerial: {backbone: tiny, aggregation: {name: mean}}
augmentation: {tile_translation_m: 15}
validation: {block_m: 20, share: 0.1, withheld_share: 0}
machine: {precision: float32, device: cpu}
training: {epochs: 1, batch_size: 8}
"""
SOURCE = """
import numpy as np
from cellcode.aerial import AerialSource, Crop
from cellcode.geography import Region


class Source(AerialSource):
    identity = "mine"

    def read(self, lat_deg, lon_deg, size_m, size_px, bearing_deg=0.0):
        return Crop(np.zeros((size_px, size_px, 3), np.uint8), np.ones((size_px, size_px), bool))

    def footprint(self):
        return Region.bbox(2, 48, 3, 49)


class Wrong(Source):
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: it holds the example, and the package knows nothing of it."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name in ("aerial_checkerboard", "mine"):
            del sys.modules[name]


def test_crops_show_the_checkerboard_turned_as_asked() -> None:
    source = open_source(SPEC)
    assert (source.identity, source.licence, source.bounds) == ("checkerboard 20", "CC0-1.0", (-180, -85, 180, 85))
    assert source.covers([LAT, 88.0], [LON, LON]).tolist() == [True, False]
    crop = source.read(LAT, LON, 200.0, 100)
    assert 0.4 < (crop.pixels == 255).mean() < 0.6
    colours = crop.pixels[:, 0, 0].astype(int)
    assert 9 <= np.count_nonzero(np.diff(colours)) <= 10  # 200 m of squares of 20 m
    assert crop.date == "2024-06-01"
    turned = source.read(LAT, LON, 200.0, 100, 180.0)
    assert (turned.pixels[::-1, ::-1] == crop.pixels).mean() > 0.99
    coarse = open_source("aerial_checkerboard:Checkerboard?square_m=100").read(LAT, LON, 200.0, 100)
    assert 1 <= np.count_nonzero(np.diff(coarse.pixels[:, 0, 0].astype(int))) <= 2


def test_a_list_of_imagery_names_it(folder: Path) -> None:
    (folder / "imagery.yaml").write_text(
        f"sources:\n  - source: {SPEC}\n    date: 2025-01-02\n    attribution: Chess club\n", encoding="utf-8"
    )
    source = open_source("imagery.yaml")
    crop = source.read(LAT, LON, 200.0, 50)
    np.testing.assert_array_equal(crop.pixels, open_source(SPEC).read(LAT, LON, 200.0, 50).pixels)
    assert (crop.date, source.attribution, source.licence) == ("2025-01-02", "Chess club", "CC0-1.0")


def test_a_run_is_trained_built_and_served_with_it(folder: Path) -> None:
    run = train(_config(folder), _photos(folder), SPEC, out="run")
    region = Region.bbox(LON - 0.002, LAT - 0.002, LON + 0.002, LAT + 0.002)
    cells = build(run, SPEC, region, out="town.cells")
    assert cells.manifest["imagery"] == {"identity": "checkerboard 20", "date": None}
    assert "CC0-1.0" in cells.manifest["licences"]
    assert cells.facts.has_aerial.all()
    service = Service(cells.folder, Settings(), SPEC)
    assert service.imagery is not None
    image = Image.open(_file(folder, service.imagery.cell(LAT, LON, 18, 64)))
    assert np.ptp(np.asarray(image)) > 200
    assert Database.open(cells.folder).identity == cells.identity  # names no plug-in: opens without it


@pytest.mark.slow
def test_the_nodes_of_a_cluster_import_it_from_the_working_directory(wide_run: Run, folder: Path) -> None:
    ray = pytest.importorskip("ray")
    os.chdir("/")  # the nodes start elsewhere
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    settings: dict[str, Any] = {"object_store_memory": 80 << 20, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=1, _node_ip_address="127.0.0.1", **settings)
    try:
        os.chdir(folder)
        area = Region.bbox(3.088, 52.042, 3.096, 52.046)
        made = build(wide_run, SPEC, area, out="far.cells", cluster="auto")
    finally:
        ray.shutdown()
    here = build(wide_run, SPEC, area, out="here.cells")
    np.testing.assert_array_equal(made.ids, here.ids)
    assert made.facts.has_aerial.all()


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("aerial_checkerboard:Checkerboard?square=1", PluginError, "unexpected keyword argument 'square'"),
        (
            "aerial_checkerboard:Checkerboard?square_m=-1",
            PluginError,
            "square_m=-1 must be a positive number of metres",
        ),
        ("aerial_checkerboard:Checkerboard?square_m", UsageError, "options must be NAME=VALUE, separated by &"),
        ("aerial_checkerboard:Checkerboard?square_m=1&square_m=2", UsageError, "given twice"),
        ("aerial_checkerboard:Chess", PluginError, r"the module aerial_checkerboard \(.*\) has no Chess"),
        ("nowhere_to_be_found:Open", PluginError, "neither installed nor in the working directory"),
        ("os:system", PluginError, "expected a subclass of cellcode.aerial.AerialSource or a function"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_a_sentence(spec: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=rf"^aerial source {spec.split('?')[0]}.*{says}"):
        open_source(spec)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("identity = ''", "identity must not be empty"),
        ("identity = 7", "identity must be a str, not a int"),
        ("identity = None", "identity must be a str, not None"),
        ("date = 2024", "date must be a str or None, not a int"),
        ("footprint = lambda self: (2, 48, 3, 49)", r"footprint\(\) must return a Region, not a tuple"),
        ("footprint = lambda self: 1 / 0", r"footprint\(\) raised ZeroDivisionError \(division by zero\)"),
        ("read = None", r"read\(\) raised TypeError"),
        ("read = lambda self, *where: None", r"read\(\) must return a Crop, not None"),
        (
            "read = lambda self, *where: Crop(np.zeros((9, 9, 3), np.uint8), np.ones((8, 8), bool))",
            r"read\(\) must return pixels of shape \(8, 8, 3\) and type uint8, not \(9, 9, 3\) uint8",
        ),
        (
            "read = lambda self, *where: Crop(np.zeros((8, 8, 3)), np.ones((8, 8), bool))",
            r"read\(\) must return pixels of shape \(8, 8, 3\) and type uint8, not \(8, 8, 3\) float64",
        ),
        (
            "read = lambda self, *where: Crop(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 1), bool))",
            r"read\(\) must return a mask of shape \(8, 8\) and type bool, not \(8, 8, 1\) bool",
        ),
        (
            "read = lambda self, *where: Crop([0], np.ones((8, 8), bool))",
            r"read\(\) must return pixels of shape \(8, 8, 3\) and type uint8, not a list",
        ),
        (
            "covers = lambda self, lat, lon: np.ones(1)",
            r"covers\(\) must return an array of shape \(2,\) and type bool",
        ),
        ("editions = lambda self, count: []", r"editions\(\) must return 1 to 2 aerial sources"),
        ("missing = {}", "missing must be a Counter, not a dict"),
        ("__init__ = lambda self: 1 / 0", "building it raised ZeroDivisionError"),
    ],
)
def test_what_a_source_returns_is_checked(folder: Path, body: str, says: str) -> None:
    (folder / "mine.py").write_text(f"{SOURCE}    {body}\n", encoding="utf-8")
    with pytest.raises(PluginError, match=f"^aerial source mine:Wrong: {says}"):
        _use("mine:Wrong")
    _use("mine:Source")


def test_a_class_that_lacks_a_method_is_refused(folder: Path) -> None:
    text = "from cellcode.aerial import AerialSource\n\n\nclass Half(AerialSource):\n    identity = 'half'\n"
    (folder / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(PluginError, match=r"^aerial source mine:Half: building it raised TypeError .*abstract"):
        open_source("mine:Half")


def test_a_source_without_an_identity_is_refused(folder: Path) -> None:
    (folder / "mine.py").write_text(SOURCE.replace('    identity = "mine"\n', "") + "    pass\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"^aerial source mine:Wrong: identity must be a str, not None"):
        open_source("mine:Wrong")


def test_secrets_among_the_options_are_not_shown(folder: Path) -> None:
    (folder / "mine.py").write_text(
        SOURCE + "    def __init__(self, token):\n        raise OSError\n", encoding="utf-8"
    )
    with pytest.raises(PluginError) as refused:
        open_source("mine:Wrong?token=s3cret")
    assert "s3cret" not in str(refused.value)


def test_an_installed_entry_point_is_used_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "chess-1.dist-info").mkdir()
    (folder / "chess-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: chess\nVersion: 1\n")
    (folder / "chess-1.dist-info" / "entry_points.txt").write_text(
        "[cellcode.aerial_sources]\nchess = aerial_checkerboard:Checkerboard\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(folder))
    from cellcode.aerial.open import SOURCES

    monkeypatch.delitem(SOURCES.__dict__, "_entries", raising=False)  # listed once per process
    try:
        assert (
            open_source("chess?square_m=30").identity == open_source("chess:square_m=30").identity == "checkerboard 30"
        )
        assert open_source("chess").identity == "checkerboard 20"
    finally:
        SOURCES.__dict__.pop("_entries", None)


def _use(spec: str) -> None:
    source = open_source(spec)
    source.covers(np.array([48.0, 49.0]), np.array([2.0, 2.0]))
    assert isinstance(source.read(LAT, LON, 80.0, 8), Crop)
    assert not source.missing
    assert len(source.editions(2)) == 1
    source.close()


def _config(folder: Path) -> config.Config:
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    return config.load(folder / "small.yaml")


def _photos(folder: Path) -> Any:
    rng = np.random.default_rng(0)
    lines = ["file,lat,lon,split"]
    for number in range(24):
        lat, lon = distance.offset(LAT, LON, 30.0 * (number % 6), 30.0 * (number // 6))
        pixels = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
        lines.append(f"{number}.jpg,{lat:.8f},{lon:.8f},train")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ingest(folder / "list.csv", out=folder / "table")


def _file(folder: Path, body: bytes) -> Path:
    path = folder / "crop.jpg"
    path.write_bytes(body)
    return path
