"""Panoramax against its own software: photos with EXIF go up, and come back as rows of a photo table."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational
from tests.photos.items import read_online

from cellcode.geography import Region
from cellcode.photos.reading.panorama import PanoramaRule
from cellcode.photos.sources.registry import estimate
from cellcode.photos.table.item import Reject

pytestmark = pytest.mark.peers
GPS, EXIF, BASE = ExifTags.GPS, ExifTags.IFD, ExifTags.Base
NOON = datetime(2025, 6, 1, 12)
HERE = Region.bbox(2.34, 48.85, 2.36, 48.87)
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" GPano:ProjectionType="equirectangular" '
    'GPano:PoseHeadingDegrees="90"/></rdf:RDF></x:xmpmeta>'
)


def degrees(value: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    minutes = (value % 1) * 60
    return IFDRational(int(value)), IFDRational(int(minutes)), IFDRational(round(minutes % 1 * 60 * 10_000), 10_000)


def write(path: Path, lat: float, lon: float, number: int, size: tuple[int, int], **options: Any) -> None:
    """A photo as a phone writes it: position, direction, time, focal length on 35 mm film, error of the position."""
    exif = Image.Exif()
    exif.update({BASE.Make: "Acme", BASE.Model: "One", BASE.Artist: "Ann"})
    exif.get_ifd(EXIF.Exif).update(
        {
            BASE.DateTimeOriginal: (NOON + timedelta(days=number)).strftime("%Y:%m:%d %H:%M:%S"),
            BASE.FocalLength: IFDRational(5),
            BASE.FocalLengthIn35mmFilm: 26,
        }
    )
    exif.get_ifd(EXIF.GPSInfo).update(
        {
            GPS.GPSLatitudeRef: "N",
            GPS.GPSLatitude: degrees(lat),
            GPS.GPSLongitudeRef: "E",
            GPS.GPSLongitude: degrees(lon),
            GPS.GPSImgDirectionRef: "T",
            GPS.GPSImgDirection: IFDRational(number * 11 + 7),
            GPS.GPSHPositioningError: IFDRational(number + 1),
        }
    )
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    Image.fromarray(((ramp + 40 * number) % 256).astype(np.uint8)).save(path, exif=exif.tobytes(), **options)


@pytest.fixture(scope="module")
def uploaded(geovisio: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """24 photos along a street and one panorama, uploaded as two sequences."""
    folder = tmp_path_factory.mktemp("photos")
    places = [(48.853 + 0.0005 * number, 2.345 + 0.0003 * number) for number in range(24)]
    for number, place in enumerate(places):
        write(folder / f"{number:02d}.jpg", *place, number, (800, 600))
    street = geovisio.upload("a street", sorted(folder.glob("*.jpg")))
    write(folder / "round.jpg", 48.862, 2.352, 1, (4096, 2048), xmp=XMP.encode())
    square = geovisio.upload("a square", [folder / "round.jpg"])
    return {"spec": f"panoramax:{geovisio.api_url}", "street": street, "square": square, "places": places}


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLCODE_ALLOW_PRIVATE", "1")


def test_photos_come_back_as_they_went_up(uploaded: dict[str, Any], tmp_path: Path) -> None:
    rows = list(read_online(uploaded["spec"], HERE, tmp_path))
    assert [row.reason for row in rows if isinstance(row, Reject)] == [
        "a 360 degree photo; --panoramas cuts views out of it"
    ]
    photos = sorted((row for row in rows if not isinstance(row, Reject)), key=lambda row: row["captured_at"])
    assert len(photos) == 24
    for number, (row, (lat, lon)) in enumerate(zip(photos, uploaded["places"], strict=True)):
        assert (row["lat_deg"], row["lon_deg"]) == pytest.approx((lat, lon), abs=1e-7)
        assert row["heading_deg"] == pytest.approx(number * 11 + 7, abs=1)
        assert row["fov_deg"] == pytest.approx(math.degrees(2 * math.atan(18 / 26)), abs=1)
        assert row["accuracy_m"] == pytest.approx(number + 1)
        assert row["sequence"] == uploaded["street"]
        assert (row["device"], row["licence"], row["source"]) == ("Acme One", "CC-BY-SA-4.0", "panoramax")
        assert "Ann" in row["attribution"]
        with Image.open(tmp_path / row["file"]) as image:
            assert image.size == (row["width_px"], row["height_px"]) == (500, 375)


def test_the_full_size_is_taken_where_it_is_wanted(uploaded: dict[str, Any], tmp_path: Path) -> None:
    """The "sd" picture of GeoVisio is 2048 px wide even where the photo is 800."""
    options: dict[str, Any] = {"min_width_px": 600, "max_photos": 3}
    rows = [row for row in read_online(uploaded["spec"], HERE, tmp_path, **options) if not isinstance(row, Reject)]
    assert {(row["width_px"], row["height_px"]) for row in rows} == {(800, 600)}
    assert len(rows) == 3


def test_offer_tells_what_there_is(uploaded: dict[str, Any]) -> None:
    offer = estimate(uploaded["spec"], HERE)
    assert (offer.found, offer.photos, offer.licences) == (25, 24, {"CC-BY-SA-4.0": 24})
    assert offer.bytes is not None
    assert 1000 < offer.bytes / 24 < 200_000


def test_a_sequence_is_paged(uploaded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellcode.photos.sources.online.panoramax.LIMIT", 5)
    spec = f"{uploaded['spec']}/collections/{uploaded['street']}"
    rows = list(read_online(spec, None, tmp_path))
    assert [row["lat_deg"] for row in rows] == pytest.approx([lat for lat, _ in uploaded["places"]])


@pytest.mark.parametrize("limit", [3, 10])
def test_a_region_is_found_whole_below_the_cap(
    limit: int, uploaded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This server has no next page to a search: boxes are split."""
    monkeypatch.setattr("cellcode.photos.sources.online.panoramax.LIMIT", limit)
    assert len([row for row in read_online(uploaded["spec"], HERE, tmp_path) if not isinstance(row, Reject)]) == 24


def test_dates_and_accuracy(uploaded: dict[str, Any], tmp_path: Path) -> None:
    noon_utc = NOON - timedelta(hours=2)  # the server takes a time without a zone for that of the place, in summer
    options: dict[str, Any] = {"since": noon_utc + timedelta(days=5), "until": noon_utc + timedelta(days=12)}
    rows = list(read_online(uploaded["spec"], HERE, tmp_path, max_accuracy_m=10.0, **options))
    days = sorted((row["captured_at"] - noon_utc).days for row in rows if not isinstance(row, Reject))
    assert days == [5, 6, 7, 8, 9]
    assert [row.reason for row in rows if isinstance(row, Reject)] == ["position less accurate than 10 m"] * 3


def test_a_panorama_is_cut(uploaded: dict[str, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"panoramas": PanoramaRule(count=4, fov_deg=90, reference="north")}
    spec = f"{uploaded['spec']}/collections/{uploaded['square']}"
    rows = list(read_online(spec, None, tmp_path, **options))
    assert [row["heading_deg"] for row in rows] == [0, 90, 180, 270]
    assert {row["fov_deg"] for row in rows} == {90}
    assert all((tmp_path / row["file"]).is_file() for row in rows)


def test_more_than_the_servers_limit_is_refused_and_then_less_is_asked(
    uploaded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = uploaded["spec"].removeprefix("panoramax:")
    assert requests.get(f"{api}/search?limit=10001&bbox=2,48,3,49", timeout=60).status_code == 400
    monkeypatch.setattr("cellcode.photos.sources.online.panoramax.LIMIT", 16_000)
    assert len([row for row in read_online(uploaded["spec"], HERE, tmp_path) if not isinstance(row, Reject)]) == 24


def test_a_photo_deleted_since_the_listing_is_told(geovisio: Any, uploaded: dict[str, Any], tmp_path: Path) -> None:
    estimate(uploaded["spec"], HERE, out=tmp_path)
    sequence = f"{geovisio.api_url}/collections/{uploaded['street']}"
    first = requests.get(f"{sequence}/items?limit=1", timeout=60).json()["features"][0]["id"]
    geovisio.delete(uploaded["street"], first)
    rejects = [row for row in read_online(uploaded["spec"], HERE, tmp_path) if isinstance(row, Reject)]
    assert [row.reason for row in rejects if row.file == f"panoramax/{first}"] == ["deleted since it was listed"]
