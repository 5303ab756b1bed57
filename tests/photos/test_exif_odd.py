"""Tags of other types than they should be, magnetic headings, and what XMP adds."""

import struct
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational
from tests.photos.items import read_folder

from cellcode.errors import MissingExtraError
from cellcode.photos.reading import magnetic
from cellcode.photos.reading.exif import orientation
from cellcode.photos.reading.facts import Facts, read_facts
from cellcode.photos.reading.image import PhotoError, open_photo

GPS = ExifTags.GPS
BYTE, ASCII, RATIONAL, UNDEFINED, SRATIONAL, DOUBLE = 1, 2, 5, 7, 10, 12
GOOD = {
    GPS.GPSLatitudeRef: (ASCII, 2, b"N\0"),
    GPS.GPSLatitude: (RATIONAL, 3, struct.pack(">6I", 48, 1, 30, 1, 0, 1)),
    GPS.GPSLongitudeRef: (ASCII, 2, b"W\0"),
    GPS.GPSLongitude: (RATIONAL, 3, struct.pack(">6I", 2, 1, 15, 1, 0, 1)),
}
Write = Callable[..., Path]
Raw = Callable[[dict[int, tuple[int, int, bytes]]], bytes]


def _facts(path: Path, **options: bool) -> Facts:
    return read_facts(open_photo(path), path.name, **options)


def _save(path: Path, exif: bytes) -> Path:
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    "latitude",
    [
        (DOUBLE, 3, struct.pack(">3d", 48, 30, 0)),
        (SRATIONAL, 3, struct.pack(">6i", 48, 1, 30, 1, 0, 1)),
        (RATIONAL, 3, struct.pack(">6I", 97, 2, 0, 1, 0, 1)),
    ],
    ids=["doubles", "signed", "decimal degrees"],
)
def test_numbers_of_another_type_are_numbers(latitude: tuple[int, int, bytes], raw_gps: Raw, tmp_path: Path) -> None:
    facts = _facts(_save(tmp_path / "a.jpg", raw_gps({**GOOD, GPS.GPSLatitude: latitude})))
    assert (facts.lat_deg, facts.lon_deg) == (48.5, -2.25)


@pytest.mark.parametrize(
    "latitude",
    [
        (ASCII, 9, b"48 30 30\0"),
        (ASCII, 4, b"48\0\0"),
        (SRATIONAL, 3, struct.pack(">6i", -48, 1, 30, 1, 0, 1)),
        (DOUBLE, 3, struct.pack(">3d", float("nan"), 30, 0)),
        (DOUBLE, 3, struct.pack(">3d", float("inf"), 30, 0)),
        (RATIONAL, 1, struct.pack(">2I", 485, 10)),
        (RATIONAL, 5, struct.pack(">10I", *[1] * 10)),
        (RATIONAL, 3, struct.pack(">6I", 48, 1, 60, 1, 0, 1)),
        (RATIONAL, 3, struct.pack(">6I", 48, 1, 5, 1, 61, 1)),
        (BYTE, 3, bytes([48, 30, 0])),
        (UNDEFINED, 3, bytes([48, 30, 0])),
    ],
    ids=[
        "words",
        "word",
        "negative",
        "nan",
        "infinite",
        "one number",
        "five numbers",
        "60 minutes",
        "61 seconds",
        "bytes",
        "undefined",
    ],
)
def test_what_is_no_triple_of_positive_numbers_is_refused(
    latitude: tuple[int, int, bytes], raw_gps: Raw, tmp_path: Path
) -> None:
    path = _save(tmp_path / "a.jpg", raw_gps({**GOOD, GPS.GPSLatitude: latitude}))
    with pytest.raises(PhotoError, match="damaged"):
        _facts(path)
    facts = _facts(path, need_position=False)
    assert np.isnan([facts.lat_deg, facts.lon_deg]).all()
    assert facts.position_fault is not None


def test_receiver_without_a_fix_has_no_position_and_no_time(raw_gps: Raw, write_photo: Write, tmp_path: Path) -> None:
    for letter, wrong in ((b"V\0", True), (b"A\0", False)):
        path = _save(tmp_path / "a.jpg", raw_gps({**GOOD, GPS.GPSStatus: (ASCII, 2, letter)}))
        assert ("GPSStatus V" in (_facts(path, need_position=False).position_fault or "")) == wrong
    packet = _xmp(' exif:GPSLatitude="48,30N" exif:GPSLongitude="2,15E" exif:GPSStatus="V">')
    with pytest.raises(PhotoError, match="GPSStatus V"):
        _facts(write_photo(tmp_path / "b.jpg", None, xmp=packet))
    same = _xmp(' exif:GPSLatitude="48,30N" exif:GPSLongitude="2,15E">')
    with pytest.raises(PhotoError, match="GPSStatus V"):
        _facts(write_photo(tmp_path / "c.jpg", gps={GPS.GPSStatus: "V"}, xmp=same))
    stamps = {GPS.GPSDateStamp: "2024:05:06", GPS.GPSTimeStamp: (IFDRational(7), IFDRational(8), IFDRational(9))}
    path = write_photo(tmp_path / "d.jpg", gps={GPS.GPSStatus: "V", **stamps})
    assert _facts(path, need_position=False).captured_at is None


def _entries(exif: bytes) -> dict[int, int]:
    """Where the entry of each tag lies, in all directories of a big-endian EXIF."""
    found, waiting = {}, [struct.unpack_from(">L", exif, 10)[0] + 6]
    while waiting:
        start = waiting.pop()
        (count,) = struct.unpack_from(">H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(">HHLL", exif, place)
            found[tag] = place
            waiting += [value + 6] if tag in (ExifTags.Base.ExifOffset, ExifTags.Base.GPSInfo) else []
    return found


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_one_damaged_tag_costs_only_itself(suffix: str, write_photo: Write, tmp_path: Path) -> None:
    """A wrong type, number of values or place of any tag that nobody needs, before, between and after those that are."""
    base = ExifTags.Base
    tags = {
        base.ImageDescription: "a long text",
        base.Orientation: 6,
        base.Software: "another text",
        base.Make: "Maker",
    }
    detail = {
        base.ExposureTime: IFDRational(1, 99),
        base.DateTimeOriginal: "2024:05:06 07:08:09",
        base.LensModel: "lens",
    }
    gps = {GPS.GPSVersionID: b"\2\3\0\0", GPS.GPSAltitude: IFDRational(35), GPS.GPSDOP: IFDRational(2)}
    whole = write_photo(tmp_path / f"a{suffix}", tags=tags, detail=detail, gps=gps)
    with Image.open(whole) as image:
        exif = b"Exif\0\0" + image.getexif().tobytes().removeprefix(b"Exif\0\0")
    entries, broken = _entries(exif), 0
    needless = (base.ImageDescription, base.Software, base.ExposureTime, base.LensModel, 0, GPS.GPSAltitude, GPS.GPSDOP)
    changes = [(2, ">H", kind) for kind in (0, 1, 2, 3, 5, 7, 13, 999)] + [(4, ">L", 0x7FFFFFFF), (8, ">L", 0xFFFFFF00)]
    for tag in needless:
        for place, form, value in changes:
            damaged = bytearray(exif)
            struct.pack_into(form, damaged, entries[tag] + place, value)
            with open_photo(_save(tmp_path / f"b{suffix}", bytes(damaged))) as image:
                facts = read_facts(image, "b")
                assert (facts.lat_deg, facts.lon_deg) == pytest.approx((48.1, 2.3)), (tag, place, value)
                assert (facts.captured_at, facts.device) == (datetime(2024, 5, 6, 7, 8, 9), "Maker"), (
                    tag,
                    place,
                    value,
                )
                assert orientation(image) == 6, (tag, place, value)
                broken += 1
    assert broken == 70


def test_words_of_devices_are_read_in_utf_8_and_in_latin_1(write_photo: Write, tmp_path: Path) -> None:
    for number, (name, encoding) in enumerate((("小米 ü", "utf-8"), ("Ü-Kamera", "latin-1"))):
        path = write_photo(tmp_path / f"{number}.jpg", tags={ExifTags.Base.Make: "x" * len(name.encode(encoding))})
        content = path.read_bytes()
        path.write_bytes(content.replace(b"x" * len(name.encode(encoding)), name.encode(encoding)))
        assert _facts(path).device == name


@pytest.mark.parametrize("value", [struct.pack(">2i", -90, 1), struct.pack(">2i", 90, 0)])
def test_direction_that_is_none_is_left_out(value: bytes, raw_gps: Raw, tmp_path: Path) -> None:
    direction = {GPS.GPSImgDirection: (SRATIONAL, 1, value)}
    assert _facts(_save(tmp_path / "a.jpg", raw_gps({**GOOD, **direction}))).heading_deg is None


@pytest.mark.parametrize(
    ("place", "date", "noaa_deg"),  # from the test values that NOAA publishes with the models, at sea level
    [
        ((80, 0), datetime(2020, 1, 1), -1.28),
        ((0, 120), datetime(2020, 1, 1), 0.16),
        ((-80, 240), datetime(2020, 1, 1), 69.36),
        ((80, 0), datetime(2025, 1, 1), 1.28),
        ((0, 120), datetime(2025, 1, 1), -0.16),
        ((-80, 240), datetime(2025, 1, 1), 68.78),
    ],
)
def test_declination_is_that_of_the_published_test_values(
    place: tuple[float, float], date: datetime, noaa_deg: float
) -> None:
    pytest.importorskip("pygeomag")
    assert magnetic.declination_deg(*place, date) == pytest.approx(noaa_deg, abs=0.006)


def test_there_is_no_declination_without_a_model_or_at_the_pole() -> None:
    pytest.importorskip("pygeomag")
    assert magnetic.declination_deg(48, 2, datetime(2009, 12, 31)) is None
    assert magnetic.declination_deg(48, 2, datetime(2010, 1, 1)) is not None
    assert magnetic.declination_deg(48, 2, datetime(2029, 12, 31)) is not None
    assert magnetic.declination_deg(48, 2, datetime(2030, 1, 1)) is None
    assert magnetic.declination_deg(86.5, 163, datetime(2020, 6, 1)) is None


def _with_magnetic_heading(write_photo: Write, path: Path, date: str | None) -> Path:
    detail = {ExifTags.Base.DateTimeOriginal: date} if date else {}
    gps = {GPS.GPSImgDirection: IFDRational(350), GPS.GPSImgDirectionRef: "M"}
    return write_photo(path, 47.6205, -122.3493, gps=gps, detail=detail)


def test_magnetic_heading_becomes_true_and_what_cannot_be_turned_is_counted(
    write_photo: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pygeomag")
    for name, date in (("a", "2025:04:02 00:00:00"), ("b", "2005:04:02 00:00:00"), ("c", None), ("d", None)):
        _with_magnetic_heading(write_photo, tmp_path / f"{name}.jpg", date)
    rows = [item for item in read_folder(tmp_path) if isinstance(item, dict)]
    assert rows[0]["heading_deg"] == pytest.approx(350 + 15.066 - 360, abs=0.01)
    assert [row["heading_deg"] for row in rows[1:]] == [None] * 3
    said = caplog.text
    assert "2 magnetic headings left out, of photos without a date" in said
    assert "1 magnetic headings left out, of a date or place without a magnetic model" in said


def test_without_the_extra_magnetic_headings_are_left_out_and_counted(
    write_photo: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pygeomag", None)
    magnetic._model.cache_clear()
    with pytest.raises(MissingExtraError, match=r"cellcode\[magnetic\]"):
        magnetic.declination_deg(48, 2, datetime(2025, 1, 1))
    _with_magnetic_heading(write_photo, tmp_path / "a.jpg", "2025:04:02 00:00:00")
    assert [item["heading_deg"] for item in read_folder(tmp_path) if isinstance(item, dict)] == [None]
    assert "1 magnetic headings left out (turning a magnetic heading" in caplog.text


def _xmp(properties: str) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:cc="http://creativecommons.org/ns#"'
        f"{properties}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


@pytest.mark.parametrize(
    ("lat", "lon", "expected"),
    [
        ("48,30.6N", "2,15E", (48.51, 2.25)),
        ("48,30,36N", "2,15,0W", (48.51, -2.25)),
        ("33,54S", "18,24E", (-33.9, 18.4)),
        ("48.51N", "2.25E", (48.51, 2.25)),
    ],
)
def test_position_in_xmp_counts_where_exif_has_none(
    lat: str, lon: str, expected: tuple[float, float], write_photo: Write, tmp_path: Path
) -> None:
    packet = _xmp(f' exif:GPSLatitude="{lat}" exif:GPSLongitude="{lon}">')
    facts = _facts(write_photo(tmp_path / "a.jpg", None, xmp=packet))
    assert (facts.lat_deg, facts.lon_deg) == pytest.approx(expected)
    own = _facts(write_photo(tmp_path / "b.jpg", 10, 20, xmp=packet))
    assert (own.lat_deg, own.lon_deg) == (10, 20)


@pytest.mark.parametrize(
    "lat",
    [
        "48,30.6",
        "48,30.6E",
        "-48,30N",
        "91,0N",
        "",
        "0,0N",
        "48,30,36,5N",
        "48,60N",
        "48,5,61N",
        "48,51,5074N",
        "٤٨,30N",
    ],
)
def test_odd_position_in_xmp_is_none(lat: str, write_photo: Write, tmp_path: Path) -> None:
    packet = _xmp(f' exif:GPSLatitude="{lat}" exif:GPSLongitude="0,0E">')
    with pytest.raises(PhotoError, match="no GPS position"):
        _facts(write_photo(tmp_path / "a.jpg", None, xmp=packet))


def test_licence_in_xmp_reaches_the_row(write_photo: Write, tmp_path: Path) -> None:
    address = "https://creativecommons.org/licenses/by/4.0/"
    write_photo(tmp_path / "a.jpg", xmp=_xmp(f'><cc:license rdf:resource="{address}"/>'))
    (row,) = read_folder(tmp_path)
    assert isinstance(row, dict)
    assert row["licence"] == address


def test_damaged_xmp_is_fatal_only_where_it_may_hide_a_panorama(
    write_photo: Write, gpano: Callable[..., bytes], tmp_path: Path
) -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>'
    for number, packet in enumerate((b"<x", b"\xff\xfe\0", bomb)):
        assert _facts(write_photo(tmp_path / f"{number}.jpg", xmp=packet)).panorama is None
    cut = gpano(ProjectionType="equirectangular")[:-60]
    with pytest.raises(PhotoError, match="XMP is damaged"):
        _facts(write_photo(tmp_path / "pano.jpg", xmp=cut))
