import csv
import io
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import ExifTags, Image, features
from PIL.TiffImagePlugin import IFDRational

from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.photos import IngestOptions, PhotoTable, SplitRule, ingest
from cellcode.photos.reading.panorama import PanoramaRule

GPS = ExifTags.GPS
Write = Callable[..., Path]


def _rejects(table: Path) -> dict[str, str]:
    with (table / "rejects.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def _with_ascii_version(write_photo: Write, path: Path) -> None:
    """An upright photo in all but its orientation tag, with one GPS tag of a type that it should not have."""
    write_photo(path, tags={ExifTags.Base.Orientation: 6}, gps={GPS.GPSVersionID: b"\2\3\0\0"})
    right, wrong = b"\0\0\0\1\0\0\0\4\2\3\0\0", b"\0\0\0\2\0\0\0\4\2\3\0\0"
    content = path.read_bytes()
    assert content.count(right) == 1
    path.write_bytes(content.replace(right, wrong))


def _with_damaged_exif_header(write_photo: Write, path: Path) -> None:
    write_photo(path)
    content = path.read_bytes()
    assert content.count(b"MM\0*\0\0\0\x08") == 1
    path.write_bytes(content.replace(b"MM\0*\0\0\0\x08", b"MM\xcc*\0\0\0\x08"))


def _with_page_that_is_none(path: Path) -> None:
    """A TIFF whose directory points on to a second page, where there is nothing but black pixels."""
    memory = io.BytesIO()
    Image.new("RGB", (64, 64)).save(memory, "TIFF")
    content = bytearray(memory.getvalue())
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * count, len(content) - 1000)
    path.write_bytes(content)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_each_bad_file_is_rejected_with_its_reason_and_nothing_else_is_lost(
    write_photo: Write, png_header: Callable[[int, int], bytes], tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    good = {"a.jpg": (48.1, 2.3), "b.jpeg": (-33.9, 18.4), "m/C.JPG": (40.7, -74.0), "m/n/d.png": (-22.9, -43.2)}
    good |= {"z.webp": (35.0, 139.0)}
    for name, (lat, lon) in good.items():
        write_photo(photos / name, lat, lon)
    write_photo(photos / "no_gps.jpg", None)
    write_photo(photos / "rationals.jpg", gps={GPS.GPSLatitude: (IFDRational(0, 0),) * 3})
    write_photo(photos / "latitude.jpg", gps={GPS.GPSLatitude: (IFDRational(91), IFDRational(0), IFDRational(0))})
    write_photo(photos / "cmyk.jpg", mode="CMYK")
    write_photo(photos / "dot.jpg", size=(1, 1))
    write_photo(photos / "turning.gif", save_all=True, append_images=[Image.new("RGB", (48, 32), "red")])
    write_photo(photos / "turning.webp", save_all=True, append_images=[Image.new("RGB", (48, 32), "red")])
    write_photo(photos / "still.gif")
    (photos / "empty.jpg").write_bytes(b"")
    whole = write_photo(photos / "cut.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (photos / "text.jpg").write_text("no photo at all")
    (photos / "huge.png").write_bytes(png_header(30_000, 10_000))
    profile = {"driver": "PNG", "width": 32, "height": 32, "dtype": "uint16"}
    for name, count in (("deep.png", 3), ("deep_grey.png", 1)):
        with rasterio.open(photos / name, "w", count=count, **profile) as raster:
            raster.write(np.full((count, 32, 32), 40_000, np.uint16))

    table = ingest(photos, out=tmp_path / "table")

    positions = dict(zip(table.column("file"), zip(table.lat_deg, table.lon_deg, strict=True), strict=True))
    assert positions == {name: pytest.approx(place, abs=1e-6) for name, place in good.items()}
    expected = {
        "no_gps.jpg": "no GPS position",
        "rationals.jpg": "damaged (not numbers, 0/0",
        "latitude.jpg": "not on the globe",
        "cmyk.jpg": "CMYK",
        "dot.jpg": "too small",
        "turning.gif": "animated",
        "turning.webp": "animated",
        "still.gif": "no GPS position",
        "empty.jpg": "empty",
        "cut.jpg": "damaged",
        "text.jpg": "not an image",
        "huge.png": "over the limit",
        "deep.png": "16 bits a channel",
        "deep_grey.png": "more than 8 bits a channel",
    }
    reasons = _rejects(tmp_path / "table")
    assert reasons.keys() == expected.keys()
    for name, part in expected.items():
        assert part in reasons[name]
        assert str(tmp_path) not in reasons[name]
    assert table.notes is not None
    assert sum(table.notes["rejected"].values()) == len(expected)


@pytest.mark.parametrize("damage", ["ascii version", "exif header", "no page"])
def test_oddly_damaged_file_does_not_stop_the_others(damage: str, write_photo: Write, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_photo(photos / "good.jpg")
    if damage == "ascii version":
        _with_ascii_version(write_photo, photos / "odd.jpg")
    elif damage == "exif header":
        _with_damaged_exif_header(write_photo, photos / "odd.webp")
    else:
        _with_page_that_is_none(photos / "odd.tif")
    table = ingest(photos, out=tmp_path / "table")
    assert "good.jpg" in table.column("file")
    assert len(table) + len(_rejects(tmp_path / "table")) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_in_the_table_is_that_of_the_upright_picture(orientation: int, write_photo: Write, tmp_path: Path) -> None:
    write_photo(tmp_path / "p/a.jpg", size=(48, 32), tags={ExifTags.Base.Orientation: orientation})
    table = ingest(tmp_path / "p", out=tmp_path / "table")
    expected = (48, 32) if orientation <= 4 else (32, 48)
    assert (table.column("width_px")[0], table.column("height_px")[0]) == expected


def test_rows_follow_the_order_of_names_and_can_be_loaded(write_photo: Write, tmp_path: Path) -> None:
    for name in ("c.jpg", "a.jpg", "b/z.jpg", "b/y.jpg"):
        write_photo(tmp_path / "p" / name)
    made = ingest(tmp_path / "p", out=tmp_path / "table")
    assert made.column("file") == sorted(made.column("file"))
    loaded = PhotoTable.load(tmp_path / "table")
    assert loaded.rows.equals(made.rows)
    assert all(path.is_file() for path in loaded.files)
    assert _rejects(tmp_path / "table") == {}


def test_hidden_and_other_files_are_passed_over(write_photo: Write, tmp_path: Path) -> None:
    photos = tmp_path / "p"
    for name in ("a.jpg", ".b.jpg", ".thumbnails/c.jpg", "d/.e/f.jpg"):
        write_photo(photos / name)
    (photos / "notes.txt").write_text("hello")
    (photos / "folder.jpg").mkdir()
    assert ingest(photos, out=tmp_path / "table").column("file") == ["a.jpg"]
    assert _rejects(tmp_path / "table") == {}


def test_hidden_folder_above_the_photos_does_not_hide_them(write_photo: Write, tmp_path: Path) -> None:
    write_photo(tmp_path / ".data/p/a.jpg")
    assert len(ingest(tmp_path / ".data/p", out=tmp_path / "table")) == 1


def test_photos_outside_the_region_are_left_out_and_are_no_rejects(
    write_photo: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_photo(tmp_path / "p/in.jpg", 48.1, 2.3)
    write_photo(tmp_path / "p/out.jpg", 49.1, 2.3)
    table = ingest(tmp_path / "p", out=tmp_path / "table", region=Region.bbox(2, 48, 3, 49))
    assert table.column("file") == ["in.jpg"]
    assert _rejects(tmp_path / "table") == {}
    assert "1 outside the region" in caplog.text


def test_summary_tells_how_many_were_rejected_and_why(
    write_photo: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_photo(tmp_path / "p/a.jpg")
    for name in ("b", "c"):
        write_photo(tmp_path / f"p/{name}.jpg", None)
    table = ingest(tmp_path / "p", out=tmp_path / "table")
    assert "2 rejected: 2 no GPS position in its EXIF" in caplog.text
    assert table.notes is not None
    assert table.notes["rejected"] == {"no GPS position in its EXIF": 2}


def test_folder_of_nothing_usable_is_refused_and_leaves_no_table(write_photo: Write, tmp_path: Path) -> None:
    write_photo(tmp_path / "p/a.jpg", None)
    write_photo(tmp_path / "p/b.jpg")
    with pytest.raises(InputError, match=r"none of 2 photos.* 1 outside the region .*no GPS"):
        ingest(tmp_path / "p", out=tmp_path / "table", region=Region.bbox(10, 0, 11, 1))
    assert not (tmp_path / "table").exists()


def test_folder_without_photos_and_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/notes.txt").write_text("hello")
    with pytest.raises(InputError, match="holds no photos"):
        ingest(tmp_path / "p", out=tmp_path / "table")
    with pytest.raises(InputError, match="is not a folder"):
        ingest(f"folder:{tmp_path / 'q'}", out=tmp_path / "table")


def test_all_kinds_of_photos_are_taken_and_every_other_file_is_counted(
    write_photo: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = write_photo(tmp_path / "a.jpg").read_bytes()
    names = ["a.jfif", "b.JPE", "c.insp", "d.mpo", "e/f.jpg"]
    others = ["b.MP4", "c/d.mov", "d.mov", ".e.mp4", ".g/a.jpg", "notes", "e/list.txt", "folder.jpg/x.txt"]
    for name in [*names, *others]:
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_bytes(content)
    if features.check("avif"):
        names.append(write_photo(tmp_path / "p/z.avif").name)
    assert sorted(ingest(tmp_path / "p", out=tmp_path / "table").column("file")) == sorted(names)
    counted = "8 files passed over: 2 hidden, 2 .mov, 2 .txt, 1 .mp4, 1 without a suffix"
    assert counted in caplog.text
    for name in names:
        (tmp_path / "p" / name).unlink()
    with pytest.raises(InputError, match=counted):
        ingest(tmp_path / "p", out=tmp_path / "table")


def test_links_to_folders_are_followed_and_loops_end(write_photo: Write, tmp_path: Path) -> None:
    write_photo(tmp_path / "p/z/a.jpg")
    write_photo(tmp_path / "elsewhere/inner/b.jpg")
    write_photo(tmp_path / "beside.jpg")
    links = {"again": "p/z", "linked": "elsewhere", "up": ".", "me": "p", "z/back": "p"}
    for name, target in links.items():
        (tmp_path / "p" / name).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "elsewhere/twice").symlink_to(tmp_path / "p/linked", target_is_directory=True)
    (tmp_path / "p/self").symlink_to("self")
    (tmp_path / "p/broken.jpg").symlink_to(tmp_path / "gone.jpg")
    table = ingest(tmp_path / "p", out=tmp_path / "table")
    assert table.column("file") == ["linked/inner/b.jpg", "z/a.jpg"]
    assert _rejects(tmp_path / "table") == {"broken.jpg": "the file does not exist"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_name_that_is_not_utf_8_is_a_reject(write_photo: Write, tmp_path: Path) -> None:
    content = write_photo(tmp_path / "p/ä.jpg").read_bytes()
    for name in (b"caf\xe9.jpg", b"\xff/b.jpg"):
        path = Path(os.fsdecode(os.fsencode(tmp_path / "p") + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert ingest(tmp_path / "p", out=tmp_path / "table").column("file") == ["ä.jpg"]
    reason = "its name is not UTF-8; rename it"
    assert _rejects(tmp_path / "table") == {"caf\\udce9.jpg": reason, "\\udcff/b.jpg": reason}


def test_source_of_no_known_kind_is_refused(write_photo: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ingest(tmp_path / "nothing", out=tmp_path / "table")
    with pytest.raises(UsageError, match="neither a folder"):
        ingest(write_photo(tmp_path / "a.jpg"), out=tmp_path / "table")


def test_run_splits_a_folder_by_position_unless_told_otherwise(write_photo: Write, tmp_path: Path) -> None:
    for row in range(20):
        write_photo(tmp_path / f"p/{row:02}.jpg", 48 + row / 100)
    table = ingest(tmp_path / "p", out=tmp_path / "table")
    assert (table.split == "test").sum() == 2
    assert table.notes is not None
    assert table.notes["split_rule"]["kind"] == "position"
    everything = ingest(tmp_path / "p", out=tmp_path / "table", split=SplitRule(kind="none"))
    assert (everything.split == "train").all()


def test_table_holds_photos_placed_by_a_track_and_views_of_panoramas(
    write_photo: Write, gpano: Callable[..., bytes], tmp_path: Path
) -> None:
    points = ((48, "08:00:00"), (48.0005, "08:00:40"))
    track = "".join(f'<trkpt lat="{lat}" lon="2"><time>2024-07-06T{time}Z</time></trkpt>' for lat, time in points)
    (tmp_path / "walk.gpx").write_text(f"<gpx><trk><trkseg>{track}</trkseg></trk></gpx>")
    detail = {ExifTags.Base.DateTimeOriginal: "2024:07:06 09:58:50"}
    pano = gpano(ProjectionType="equirectangular", PoseHeadingDegrees=30)
    write_photo(tmp_path / "p/placed.jpg", None, size=(64, 32), detail=detail, xmp=pano)
    write_photo(tmp_path / "p/plain.jpg", -33.9, 18.4)
    options = IngestOptions(
        gpx=(tmp_path / "walk.gpx",),
        camera_zone="+02:00",
        clock_offset_s=90,
        panoramas=PanoramaRule(count=2, width_px=32, height_px=32),
    )
    ingest(tmp_path / "p", out=tmp_path / "table", split=SplitRule(kind="none"), options=options)
    table = PhotoTable.load(tmp_path / "table")
    assert table.column("source") == ["folder+gpx", "folder+gpx", "folder"]
    assert table.lat_deg.tolist() == pytest.approx([48.00025, 48.00025, -33.9])
    assert table.heading_deg[:2].tolist() == [30, 210]
    assert table.fov_deg[:2].tolist() == [90, 90]
    assert table.captured_at[0] == np.datetime64("2024-07-06T08:00:20")
    assert all(path.is_file() for path in table.files)
    assert _rejects(tmp_path / "table") == {}
