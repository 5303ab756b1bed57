"""The photo source of docs/extending, from a folder outside the package; and sources that are not what they should be."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellcode import ingest
from cellcode.errors import InputError, PluginError, UsageError
from cellcode.photos import PhotoTable
from cellcode.photos.sources.registry import PHOTO_SOURCES, estimate

EXAMPLE = Path(__file__).parents[2] / "docs" / "extending" / "utm_folder.py"
PHOTOS = {  # east, north, zone and letter
    "berlin": (389013.57, 5823104.20, 33, "U"),
    "sydney": (334873.00, 6252266.00, 56, "H"),
    "quito": (781000.50, 9975000.25, 17, "M"),
}
SOURCE = """
from cellcode.photos.sources import Estimate, Photo, PhotoSource, Reject


class Mine(PhotoSource):
    def items(self):
"""


def _utm_to_degrees(east: float, north: float, zone: int, letter: str) -> tuple[float, float]:
    """Latitude and longitude by Karney's series of sixth order in the third flattening, independent of PROJ."""
    f, a, k0 = 1 / 298.257223563, 6378137.0, 0.9996
    n = f / (2 - f)
    radius = a / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    beta = [n / 2 - 2 / 3 * n**2 + 37 / 96 * n**3, n**2 / 48 + n**3 / 15, 17 / 480 * n**3]
    delta = [2 * n - 2 / 3 * n**2 - 2 * n**3, 7 / 3 * n**2 - 8 / 5 * n**3, 56 / 15 * n**3]
    xi = (north - (0 if letter >= "N" else 10_000_000)) / (k0 * radius)
    eta = (east - 500_000) / (k0 * radius)
    orders = range(1, 4)
    xi_, eta_ = (
        xi - sum(b * math.sin(2 * j * xi) * math.cosh(2 * j * eta) for j, b in zip(orders, beta, strict=True)),
        eta - sum(b * math.cos(2 * j * xi) * math.sinh(2 * j * eta) for j, b in zip(orders, beta, strict=True)),
    )
    chi = math.asin(math.sin(xi_) / math.cosh(eta_))
    lat = chi + sum(d * math.sin(2 * j * chi) for j, d in zip(orders, delta, strict=True))
    return math.degrees(lat), zone * 6 - 183 + math.degrees(math.atan2(math.sinh(eta_), math.cos(xi_)))


def _jpeg(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: it holds the example and photos, and the package knows nothing of it."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("photos/more").mkdir(parents=True)
    for name, (east, north, zone, letter) in PHOTOS.items():
        Path(f"photos/more/@{east:010.2f}@{north:.2f}@{zone}@{letter}@@@{name}@.jpg").write_bytes(_jpeg())
    Path("photos/plain.jpg").write_bytes(_jpeg())
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name in ("utm_folder", "mine"):
            del sys.modules[name]


def _mine(body: str, head: str = SOURCE) -> None:
    Path("mine.py").write_text(head + body, encoding="utf-8")


def _check(table: PhotoTable) -> None:
    found = {name.split("@")[-2]: row for name, row in zip(table.column("file"), table.rows.to_pylist(), strict=True)}
    assert found.keys() == PHOTOS.keys()
    for name, row in found.items():
        assert (row["lat_deg"], row["lon_deg"]) == pytest.approx(_utm_to_degrees(*PHOTOS[name]), abs=1e-7)
        assert (row["width_px"], row["height_px"], row["licence"]) == (48, 32, "CC0-1.0")
    assert all(path.is_file() for path in table.files)


def test_the_command_line_takes_the_example_from_the_working_directory() -> None:
    code = "import sys; from cellcode.cli import main; main(sys.argv[1:])"
    words = ["ingest", "utm_folder:photos", "--out", "T", "--split", "none"]
    done = subprocess.run([sys.executable, "-P", "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "T\n"), done.stderr
    table = PhotoTable.load("T")
    _check(table)
    assert set(table.column("source")) == {"utm_folder"}
    with Path("T/rejects.csv").open(newline="") as file:
        assert [(row["file"], row["reason"]) for row in csv.DictReader(file)] == [
            ("plain.jpg", "no UTM coordinates in its name")
        ]


def test_region_and_split_need_no_code_of_the_source() -> None:
    table = ingest("utm_folder:UtmFolder?photos", out="T", region="13,52,14,53", split="none")
    assert [name.split("@")[-2] for name in table.column("file")] == ["berlin"]


def test_an_entry_point_is_used_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = folder / "utm-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: utm\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[cellcode.photo_sources]\nutm = utm_folder:UtmFolder\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(PHOTO_SOURCES.__dict__, "_entries", raising=False)
    table = ingest("utm:photos", out="T", split="none")
    PHOTO_SOURCES.__dict__.pop("_entries")
    _check(table)
    assert set(table.column("source")) == {"utm"}


def test_bytes_are_written_into_the_folder_of_the_table_once(folder: Path) -> None:
    (folder / "a.bin").write_bytes(_jpeg(1))
    _mine(
        "        image = open(self.argument, 'rb').read()\n"
        "        yield image, (48.0, 2.0), {'heading_deg': 90, 'split': 'test', 'source': 'own'}\n"
        "        yield image, (49.0, 2.0)\n"
        "        yield b'no image', (48.0, 2.0)\n"
        "        yield Reject('c', None, 'not wanted')\n"
    )
    for _ in range(2):
        table = ingest("mine:a.bin", out="T")
        (row,) = table.rows.to_pylist()
        assert (row["heading_deg"], row["split"], row["source"], row["width_px"]) == (90, "test", "own", 48)
        assert [path.read_bytes() for path in Path("T/images").rglob("*.*")] == [_jpeg(1)]
        assert table.files[0].is_file()
    with Path("T/rejects.csv").open(newline="") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert reasons[:2] == ["not wanted", "the same image as an earlier photo"]
    assert reasons[2].startswith("not an image that can be read; formats are JPEG,")
    assert len(reasons) == 3


def test_photos_that_cannot_be_used_are_rejected_with_the_reason() -> None:
    _mine(
        "        size = {'width_px': 48, 'height_px': 32}\n"
        "        for number, lat in enumerate([91, float('nan'), 48]):\n"
        "            yield f'photos/{number}.jpg', (lat, 2), size\n"
        "        yield 'photos/x.jpg', (48, 2), {**size, 'heading_deg': 'north'}\n"
        "        yield 'photos/y.jpg', (48, 2), {**size, 'split': 'training'}\n"
        "        yield 'photos/z.jpg', (48, 2), {}\n"
    )
    table = ingest("mine:x", out="T", split="none")
    assert table.column("file") == ["../photos/2.jpg"]
    with Path("T/rejects.csv").open(newline="") as file:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {
        "photos/0.jpg": "its position 91, 2 is outside valid coordinates",
        "photos/1.jpg": "its position nan, 2 is outside valid coordinates",
        "photos/x.jpg": "heading_deg is 'north', which is not a float",
        "photos/y.jpg": "split is 'training', not one of train, validation, test, none",
        "photos/z.jpg": "the file does not exist",
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("        yield 'a.jpg'\n", "it yielded 'a.jpg'; expected .file or bytes, .latitude, longitude., facts"),
        ("        yield 'a.jpg', 48\n", "it yielded .*; expected"),
        ("        yield 3, (48, 2)\n", "it yielded .*; expected"),
        ("        yield 'a.jpg', ('north', 2)\n", "it yielded .*; expected"),
        ("        yield 'a.jpg', (48, 2), {'heading': 3}\n", "unknown fact 'heading'; valid facts: heading_deg"),
        ("        yield 1 / 0\n", r"reading its photos raised ZeroDivisionError \(division by zero\)"),
        ("        return 3\n", r"reading its photos raised TypeError"),
        (
            "        yield\n    def __init__(self, *a, **b):\n        raise ValueError('no')\n",
            "building it raised ValueError",
        ),
    ],
)
def test_a_source_that_is_not_what_it_should_be_is_named_in_one_sentence(body: str, message: str) -> None:
    _mine(body)
    with pytest.raises(PluginError, match=message) as raised:
        ingest("mine:x", out="T")
    assert "mine:x" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not Path("T").exists()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere:x", PluginError, "no module nowhere"),
        ("mine:Other?x", PluginError, "expected a subclass of cellcode.photos.sources.PhotoSource"),
        ("other:", UsageError, "unknown photo source other:; valid names: folder:, list:"),
        ("nothing", InputError, "does not exist; give a folder of photos, or a list"),
    ],
)
def test_a_source_that_does_not_exist_is_named(source: str, error: type[Exception], message: str) -> None:
    _mine("        yield\n\nclass Other:\n    pass\n")
    with pytest.raises(error, match=message):
        ingest(source, out="T")


def test_options_that_a_source_does_not_use_are_refused() -> None:
    _mine("        yield from [] if self.options.gpx else []\n")
    with pytest.raises(UsageError, match="gpx is set, which has no meaning for mine:x; its options are check, since"):
        ingest("mine:x", out="T", gpx=["track.gpx"])
    _mine("        yield 'photos/plain.jpg', (48, 2)\n    uses = ('gpx',)\n")
    sys.modules.pop("mine")
    assert len(ingest("mine:x", out="T", gpx=["track.gpx"])) == 1


def test_an_estimate_is_shown_and_must_be_confirmed(caplog: pytest.LogCaptureFixture) -> None:
    _mine(
        "        yield 'photos/plain.jpg', (48, 2)\n"
        "    def count(self):\n        return 1\n"
        "    def licences(self):\n        return {'CC0-1.0': 1}\n"
        "    def estimate(self):\n        return Estimate('My archive', 3000, photo_bytes=1e6)\n"
    )
    with pytest.raises(UsageError, match="nothing was fetched: not confirmed"):
        ingest("mine:x", out="T")
    assert "My archive: 3,000 photos in the region, 3,000 to fetch, about 3.0 GB" in caplog.text
    assert "licence CC0-1.0: 1 photos" in caplog.text
    questions: list[str] = []
    assert len(ingest("mine:x", out="T", confirm=lambda question: not questions.append(question))) == 1
    assert questions == ["Fetch or unpack this (3.0 GB)?"]
    found = estimate("mine:x")
    assert found is not None
    assert found.bytes == 3_000_000_000
