"""What we read out of photos beside what exiftool reads: an independent program, and the reference for such tags."""

import json
import math
import shutil
import struct
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational as Ratio

from cellcode.photos.reading.facts import Facts, read_facts
from cellcode.photos.reading.gpx import Track
from cellcode.photos.reading.image import open_photo, read_image

if shutil.which("exiftool") is None:
    pytest.skip("exiftool is not installed (libimage-exiftool-perl)", allow_module_level=True)

BASE, GPS = ExifTags.Base, ExifTags.GPS
ZERO = (Ratio(0, 0),) * 3
TIME = {BASE.DateTimeOriginal: "2024:05:06 07:08:09"}
POSE = {
    "ProjectionType": "equirectangular",
    "PoseHeadingDegrees": 301.25,
    "PosePitchDegrees": -2.5,
    "PoseRollDegrees": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "south_west": {"lat_deg": -33.123456, "lon_deg": -70.654321},
    "south_east": {"lat_deg": -33.9, "lon_deg": 18.4},
    "pole": {"lat_deg": 90.0, "lon_deg": -180.0},
    "minutes": {"gps": {GPS.GPSLatitude: (Ratio(48), Ratio(512_345, 10_000), Ratio(0))}},
    "degrees": {"gps": {GPS.GPSLatitude: (Ratio(48_123_456, 1_000_000), Ratio(0), Ratio(0))}},
    "nowhere": {"lat_deg": None},
    "null_island": {"lat_deg": 0.0, "lon_deg": 0.0},
    "no_hemisphere": {"gps": {GPS.GPSLatitudeRef: None}},
    "lower_case": {"gps": {GPS.GPSLatitudeRef: "s"}},
    "whole_word": {"gps": {GPS.GPSLatitudeRef: "South", GPS.GPSLongitudeRef: "West"}},
    "zero_by_zero": {"gps": {GPS.GPSLatitude: ZERO}},
    "off_the_globe": {"gps": {GPS.GPSLatitude: (Ratio(91), Ratio(0), Ratio(0))}},
    "true": {"gps": {GPS.GPSImgDirection: Ratio(12_345, 100), GPS.GPSImgDirectionRef: "T"}},
    "magnetic": {"gps": {GPS.GPSImgDirection: Ratio(12_345, 100), GPS.GPSImgDirectionRef: "M"}},
    "no_reference": {"gps": {GPS.GPSImgDirection: Ratio(77)}},
    "direction_0/0": {"gps": {GPS.GPSImgDirection: Ratio(0, 0), GPS.GPSImgDirectionRef: "T"}},
    "direction_400": {"gps": {GPS.GPSImgDirection: Ratio(400)}},
    "accuracy": {"gps": {GPS.GPSHPositioningError: Ratio(47, 10)}},
    "time": {"detail": TIME},
    "zone": {"detail": {**TIME, BASE.OffsetTimeOriginal: "-03:30", BASE.SubsecTimeOriginal: "25"}},
    "stamps": {"detail": TIME, "gps": {GPS.GPSDateStamp: "2024:05:06", GPS.GPSTimeStamp: (Ratio(5), Ratio(8), Ratio(1, 2))}},
    "film": {"detail": {BASE.FocalLengthIn35mmFilm: 28}},
    **{f"turned_{turn}": {"tags": {BASE.Orientation: turn}} for turn in (3, 6, 8)},
    "turned_film": {"tags": {BASE.Orientation: 6}, "detail": {BASE.FocalLengthIn35mmFilm: 28}},
    "device": {"tags": {BASE.Make: "Maker", BASE.Model: "One", BASE.Artist: "A. Person"}},
    "panorama": {"size": (64, 32), "xmp": POSE},
    "cropped": {
        "size": (60, 30),
        "xmp": {
            **POSE, "FullPanoWidthPixels": 1000, "FullPanoHeightPixels": 500, "CroppedAreaLeftPixels": 200,
            "CroppedAreaTopPixels": 150, "CroppedAreaImageWidthPixels": 600, "CroppedAreaImageHeightPixels": 300,
        },
    },
}  # fmt: skip
ODD = {  # written byte by byte: the type that the latitude should not have
    "signed": (10, 3, struct.pack(">6i", 48, 1, 30, 1, 0, 1)),
    "doubles": (12, 3, struct.pack(">3d", 48, 30, 36)),
    "words": (2, 6, b"north\0"),
}
OTHERS = (
    "plain",
    "south_west",
    "no_hemisphere",
    "true",
    "magnetic",
    "zone",
    "stamps",
    "turned_6",
    "device",
    "panorama",
)


@pytest.fixture(scope="module")
def folder(
    write_photo: Callable[..., Path],
    gpano: Callable[..., bytes],
    raw_gps: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, case in CASES.items():
        name = name.replace("/", "_")
        packet = gpano(**case["xmp"]) if "xmp" in case else None
        options = {**case, **({"xmp": packet} if packet else {})}
        path = write_photo(folder / f"{name}.jpg", **options)
        if name in OTHERS:
            write_photo(folder / f"{name}.webp", **options)
            _write_png(path, packet)
            _write_heic(path, packet)
    right = {GPS.GPSLatitudeRef: (2, 2, b"N\0"), GPS.GPSLongitudeRef: (2, 2, b"E\0")}
    right[GPS.GPSLongitude] = (5, 3, struct.pack(">6I", 2, 1, 15, 1, 0, 1))
    for name, latitude in ODD.items():
        exif = raw_gps({**right, GPS.GPSLatitude: latitude})
        Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(folder / f"odd_{name}.jpg", exif=exif)
    return folder


@pytest.fixture(scope="module")
def photos(folder: Path) -> dict[str, tuple[Facts, dict[str, Any]]]:
    """For every photo, what we read and what exiftool reads, numbers as numbers."""
    output = subprocess.run(["exiftool", "-json", "-n", "-G", str(folder)], capture_output=True, text=True).stdout
    seen = {Path(each["SourceFile"]): each for each in json.loads(output)}
    return {
        path.name: (read_facts(open_photo(path), path.name, need_position=False), record)
        for path, record in seen.items()
    }


def _write_png(path: Path, packet: bytes | None) -> None:
    info = PngInfo()
    if packet:
        info.add_itxt("XML:com.adobe.xmp", packet.decode().rstrip("\0"))
    with Image.open(path) as image:
        image.save(path.with_suffix(".png"), exif=image.getexif().tobytes(), pnginfo=info)


def _write_heic(path: Path, packet: bytes | None) -> None:
    try:
        import pillow_heif
    except ImportError:
        return
    with Image.open(path) as image:
        exif = image.getexif().tobytes()
        pillow_heif.from_pillow(image.convert("RGB")).save(path.with_suffix(".heic"), exif=exif, xmp=packet)


def _expected_position(record: dict[str, Any]) -> tuple[float, float] | None:
    lat, lon = record.get("Composite:GPSLatitude"), record.get("Composite:GPSLongitude")
    if not isinstance(lat, int | float) or not isinstance(lon, int | float):
        return None
    return None if abs(lat) > 90 or abs(lon) > 180 or (lat == 0 and lon == 0) else (lat, lon)


def _expected_time(record: dict[str, Any]) -> tuple[datetime | None, bool]:
    shown = record.get("Composite:SubSecDateTimeOriginal") or record.get("EXIF:DateTimeOriginal")
    stamp = record.get("Composite:GPSDateTime")
    if shown and shown[-6] in "+-":
        return datetime.fromisoformat(shown.replace(":", "-", 2)).astimezone(UTC).replace(tzinfo=None), True
    if stamp:
        return datetime.fromisoformat(stamp.replace(":", "-", 2).rstrip("Z")), True
    return (datetime.fromisoformat(shown.replace(":", "-", 2)) if shown else None), False


def test_what_we_read_is_what_exiftool_reads(photos: dict[str, tuple[Facts, dict[str, Any]]]) -> None:
    assert len(photos) >= len(CASES) + len(ODD) + 2 * len(OTHERS)
    assert {name.partition(".")[2] for name, (facts, _) in photos.items() if facts.heading_deg} >= {
        "jpg",
        "png",
        "webp",
    }
    for name, (facts, record) in photos.items():
        position = _expected_position(record)
        if position is None:
            assert facts.position_fault is not None, name
            assert math.isnan(facts.lat_deg), name
        else:
            assert facts.position_fault is None, name
            assert (facts.lat_deg, facts.lon_deg) == pytest.approx(position, abs=1e-9), name
        direction, reference = record.get("EXIF:GPSImgDirection"), record.get("EXIF:GPSImgDirectionRef", "T")
        usable = isinstance(direction, int | float) and 0 <= direction <= 360
        assert facts.heading_deg == (direction if usable and reference == "T" else None), name
        assert facts.magnetic_heading_deg == (direction if usable and reference == "M" else None), name
        assert facts.accuracy_m == record.get("EXIF:GPSHPositioningError"), name
        assert (facts.captured_at, facts.in_utc) == _expected_time(record), name
        assert facts.attribution == record.get("EXIF:Artist"), name
        words = [record[tag] for tag in ("EXIF:Make", "EXIF:Model") if tag in record]
        assert facts.device == (" ".join(words) or None), name


def test_size_and_field_of_view_are_those_of_the_upright_picture(
    photos: dict[str, tuple[Facts, dict[str, Any]]], folder: Path
) -> None:
    for name, (facts, record) in photos.items():
        size = (record["File:ImageWidth"], record["File:ImageHeight"]) if "File:ImageWidth" in record else None
        size = size or tuple(int(side) for side in str(record["Composite:ImageSize"]).split())
        turned = record.get("EXIF:Orientation", 1) >= 5
        if not name.endswith(".heic"):  # there, a property of the picture turns it, and the tag only tells of it
            assert read_image(folder / name).size == (size[::-1] if turned else size), name
        focal_mm = record.get("EXIF:FocalLengthIn35mmFormat")
        if focal_mm:
            film_mm = 24 if (size[0] >= size[1]) == turned else 36
            assert facts.fov_deg == pytest.approx(2 * math.degrees(math.atan(film_mm / 2 / focal_mm))), name


def test_panoramas_are_those_of_exiftool(photos: dict[str, tuple[Facts, dict[str, Any]]]) -> None:
    found = 0
    for name, (facts, record) in photos.items():
        if record.get("XMP:ProjectionType") != "equirectangular":
            assert facts.panorama is None, name
            continue
        found += 1
        assert facts.panorama is not None, name
        pose = (facts.panorama.heading_deg, facts.panorama.pitch_deg, facts.panorama.roll_deg)
        assert pose == tuple(record[f"XMP:Pose{axis}Degrees"] for axis in ("Heading", "Pitch", "Roll")), name
        if "XMP:FullPanoWidthPixels" in record:
            whole = record["XMP:FullPanoWidthPixels"], record["XMP:FullPanoHeightPixels"]
            area = facts.panorama.area
            assert area.left * whole[0] == pytest.approx(record["XMP:CroppedAreaLeftPixels"]), name
            assert area.top * whole[1] == pytest.approx(record["XMP:CroppedAreaTopPixels"]), name
            assert area.width * whole[0] == pytest.approx(record["XMP:CroppedAreaImageWidthPixels"]), name
            assert area.height * whole[1] == pytest.approx(record["XMP:CroppedAreaImageHeightPixels"]), name
    assert found >= 4


def test_track_places_photos_where_exiftool_geotags_them(write_photo: Callable[..., Path], tmp_path: Path) -> None:
    """A walk of 60 points, ten metres and seven seconds apart, and photos of a clock in another zone that is 90 s slow."""
    rng = np.random.default_rng(4)
    turn = np.cumsum(rng.normal(0, 0.4, 60))
    lat, lon = 52.1 + np.cumsum(np.cos(turn)) * 9e-5, 4.3 + np.cumsum(np.sin(turn)) * 14.6e-5
    start = datetime(2024, 5, 6, 7, 0, tzinfo=UTC).timestamp()
    points = "".join(
        f'<trkpt lat="{lat[n]:.7f}" lon="{lon[n]:.7f}"><time>'
        f"{datetime.fromtimestamp(start + 7 * n, UTC):%Y-%m-%dT%H:%M:%SZ}</time></trkpt>"
        for n in range(60)
    )
    track = tmp_path / "track.gpx"
    track.write_text(f'<gpx version="1.1"><trk><trkseg>{points}</trkseg></trk></gpx>')
    shown = start - 90 + np.sort(rng.choice(np.arange(1, 7 * 59), 12, replace=False))
    names = []
    for number, moment in enumerate(shown):
        local = datetime.fromtimestamp(moment - 3.5 * 3600, UTC)
        detail = {BASE.DateTimeOriginal: f"{local:%Y:%m:%d %H:%M:%S}", BASE.OffsetTimeOriginal: "-03:30"}
        names.append(write_photo(tmp_path / f"photos/{number:02}.jpg", None, detail=detail))
    command = ["exiftool", "-q", "-overwrite_original", "-geotag", str(track), "-geosync=+90"]
    command += ["-geotime<SubSecDateTimeOriginal", str(tmp_path / "photos")]
    times = [read_facts(open_photo(name), name.name, need_position=False).captured_at for name in names]
    subprocess.run(command, check=True)
    theirs = np.array([[facts.lat_deg, facts.lon_deg] for facts in (read_facts(open_photo(n), n.name) for n in names)])
    ours = Track.read([track]).place(np.array(times, "datetime64[ms]"), clock_offset_s=90)
    assert np.abs(np.stack([ours.lat_deg, ours.lon_deg], axis=1) - theirs).max() < 3e-8  # 3 mm; EXIF keeps as much
