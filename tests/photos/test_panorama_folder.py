import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational
from tests.photos.items import read_folder

from cellcode.photos.reading.image import read_image
from cellcode.photos.reading.panorama import PanoramaRule, cut
from cellcode.photos.sources.folder import PANORAMA_REASON
from cellcode.photos.table.item import Reject

GPS = ExifTags.GPS
SMALL = PanoramaRule(width_px=64, height_px=48)
Write = Callable[..., Path]
Gpano = Callable[..., bytes]


def _read(folder: Path, rule: PanoramaRule | None = SMALL) -> tuple[list[dict[str, Any]], dict[str, str]]:
    items = list(read_folder(folder, panoramas=rule, out=folder.parent / "table"))
    rejects = {item.file: item.reason for item in items if isinstance(item, Reject)}
    return [item for item in items if not isinstance(item, Reject)], rejects


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("elements", [False, True])
def test_panorama_becomes_a_row_for_each_view(
    suffix: str, elements: bool, write_photo: Write, gpano: Gpano, tmp_path: Path
) -> None:
    pose = {"PoseHeadingDegrees": 350.0, "PosePitchDegrees": 5, "PoseRollDegrees": "-3.5"}
    photo = write_photo(
        tmp_path / f"p/sub/a{suffix}",
        size=(256, 128),
        tags={ExifTags.Base.Artist: "A. Person", ExifTags.Base.Make: "Cam"},
        detail={ExifTags.Base.DateTimeOriginal: "2024:05:06 07:08:09"},
        gps={GPS.GPSImgDirection: IFDRational(90), GPS.GPSHPositioningError: IFDRational(3)},
        xmp=gpano(elements=elements, ProjectionType="equirectangular", **pose),
    )
    rows, rejects = _read(tmp_path / "p")
    assert not rejects
    assert [row["heading_deg"] for row in rows] == [350, 80, 170, 260]
    names = [Path(row["file"]).name.split(".v")[0] for row in rows]
    assert names == [f"a{suffix}_h{each}" for each in (3500, "0800", 1700, 2600)]
    same = {"lat_deg": 48.1, "fov_deg": 90, "captured_at": datetime(2024, 5, 6, 7, 8, 9), "attribution": "A. Person",
            "device": "Cam", "source": "folder", "accuracy_m": 3, "width_px": 64, "height_px": 48}  # fmt: skip
    for row, (_, view) in zip(rows, cut(read_image(photo), SMALL, 350, 5, -3.5), strict=True):
        assert {name: row[name] for name in same} == same
        path = tmp_path / "p" / row["file"]
        assert path.resolve().parent == tmp_path / "table/cuts/sub"
        assert np.abs(np.asarray(read_image(path)).astype(int) - np.asarray(view)).mean() < 12  # JPEG


def test_views_are_found_again_and_those_of_another_rule_or_damaged_are_cut_anew(
    write_photo: Write, gpano: Gpano, tmp_path: Path
) -> None:
    photo = write_photo(tmp_path / "p/a.jpg", size=(256, 128), xmp=gpano(ProjectionType="equirectangular"))
    views = [(tmp_path / "p" / row["file"]).resolve() for row in _read(tmp_path / "p")[0]]
    for path in views:
        os.utime(path, ns=(0, 0))
    _read(tmp_path / "p")
    assert [path.stat().st_mtime_ns for path in views] == [0] * 4
    views[1].unlink()
    views[2].write_bytes(b"damaged")
    _read(tmp_path / "p")
    assert all(read_image(path).size == (64, 48) for path in views)
    narrow = PanoramaRule(width_px=64, height_px=48, fov_deg=60)
    others = [(tmp_path / "p" / row["file"]).resolve() for row in _read(tmp_path / "p", narrow)[0]]
    write_photo(photo, size=(300, 150), xmp=gpano(ProjectionType="equirectangular"))
    others += [(tmp_path / "p" / row["file"]).resolve() for row in _read(tmp_path / "p", narrow)[0]]
    assert len({*views, *others}) == 12  # a table that lists the earlier ones is not changed
    assert {*views[0].parent.iterdir()} == {*views, *others}


def test_heading_comes_from_exif_where_gpano_has_none_or_stays_unknown(
    write_photo: Write, gpano: Gpano, tmp_path: Path
) -> None:
    packet = gpano(ProjectionType="equirectangular")
    gps = {GPS.GPSImgDirection: IFDRational(1205, 10), GPS.GPSImgDirectionRef: "T"}
    write_photo(tmp_path / "p/a.jpg", size=(64, 32), gps=gps, xmp=packet)
    write_photo(tmp_path / "p/b.jpg", size=(64, 32), xmp=packet)
    rows, _ = _read(tmp_path / "p")
    assert [row["heading_deg"] for row in rows] == [120.5, 210.5, 300.5, 30.5, None, None, None, None]
    assert len({row["file"] for row in rows}) == 8


def test_without_a_rule_a_panorama_is_rejected_with_the_option_that_helps(
    write_photo: Write, gpano: Gpano, tmp_path: Path
) -> None:
    write_photo(tmp_path / "p/a.jpg", size=(64, 32), xmp=gpano(ProjectionType="Equirectangular"))
    write_photo(tmp_path / "p/b.jpg", size=(64, 32))
    rows, rejects = _read(tmp_path / "p", None)
    assert [row["file"] for row in rows] == ["b.jpg"]
    assert rejects == {"a.jpg": PANORAMA_REASON}
    assert not (tmp_path / "table").exists()


CROP = {
    "FullPanoWidthPixels": 1000, "FullPanoHeightPixels": 500, "CroppedAreaLeftPixels": 200, "CroppedAreaTopPixels": 100,
    "CroppedAreaImageWidthPixels": 600, "CroppedAreaImageHeightPixels": 300,
}  # fmt: skip


@pytest.mark.parametrize("size", [(600, 300), (300, 150)], ids=["as it was", "made smaller"])
def test_crop_is_where_gpano_says_also_in_a_picture_made_smaller(
    size: tuple[int, int], write_photo: Write, gpano: Gpano, tmp_path: Path
) -> None:
    """The left half of the crop is red, its right half blue: the border is the middle of the whole, and looks to 100."""
    packet = gpano(ProjectionType="equirectangular", PoseHeadingDegrees=100, **CROP)
    path = write_photo(tmp_path / "p/a.jpg", size=size)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[:, : size[0] // 2, 0], picture[:, size[0] // 2 :, 2] = 255, 255
    Image.fromarray(picture).save(path, exif=Image.open(path).getexif().tobytes(), xmp=packet, quality=95)
    rows, _ = _read(tmp_path / "p", PanoramaRule(count=6, fov_deg=70, width_px=70, height_px=50))
    assert [row["heading_deg"] for row in rows] == [100, 160, 40]
    ahead, right, left = (np.asarray(read_image(tmp_path / "p" / row["file"])).astype(int) for row in rows)
    assert ahead[25, 20:50, 0].argmin() >= 15 - 2
    assert (ahead[25, 38:, 2] > 200).all()
    assert (ahead[25, :32, 0] > 200).all()
    # The border is 60 degrees to the side: out of the field of view of 35 degrees on either side.
    assert (right[..., 2] > 200).all()
    assert (left[..., 0] > 200).all()


@pytest.mark.parametrize(
    ("size", "tags", "says"),
    [
        ((64, 32), {"ProjectionType": "cylindrical"}, "in cylindrical projection"),
        ((96, 32), {"ProjectionType": "equirectangular"}, "not 2:1"),
        ((60, 30), {"ProjectionType": "equirectangular", **CROP, "CroppedAreaLeftPixels": 500}, "does not lie in"),
        ((60, 30), {"ProjectionType": "equirectangular", **CROP, "FullPanoHeightPixels": 600}, "does not lie in"),
        ((60, 30), {"ProjectionType": "equirectangular", **CROP, "CroppedAreaImageWidthPixels": 0}, "does not lie in"),
        ((30, 30), {"ProjectionType": "equirectangular", **CROP}, "another shape"),
        ((96, 32), {"ProjectionType": "equirectangular", **CROP, "CroppedAreaTopPixels": "nan"}, "not 2:1"),
        (
            (60, 20),
            {"ProjectionType": "equirectangular", **CROP, "CroppedAreaImageHeightPixels": 200},
            "none of the views",
        ),
    ],
)
def test_panorama_that_cannot_be_cut_is_rejected_with_the_reason(
    size: tuple[int, int], tags: dict[str, Any], says: str, write_photo: Write, gpano: Gpano, tmp_path: Path
) -> None:
    write_photo(tmp_path / "p/a.jpg", size=size, xmp=gpano(**tags))
    rows, rejects = _read(tmp_path / "p", PanoramaRule(pitch_deg=60, width_px=64, height_px=48))
    assert not rows
    assert says in rejects["a.jpg"]
    assert str(tmp_path) not in rejects["a.jpg"]


def test_damaged_panorama_is_a_reject_and_the_others_are_cut(write_photo: Write, gpano: Gpano, tmp_path: Path) -> None:
    packet = gpano(ProjectionType="equirectangular")
    whole = write_photo(tmp_path / "p/a.jpg", size=(64, 32), xmp=packet).read_bytes()
    (tmp_path / "p/b.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    rows, rejects = _read(tmp_path / "p")
    assert len(rows) == 4
    assert "damaged" in rejects["b.jpg"]


def test_views_inside_the_folder_are_not_taken_for_its_photos(write_photo: Write, gpano: Gpano, tmp_path: Path) -> None:
    write_photo(tmp_path / "p/a.jpg", size=(64, 32), xmp=gpano(ProjectionType="equirectangular"))
    for _ in range(2):
        items = list(read_folder(tmp_path / "p", panoramas=SMALL, out=tmp_path / "p/table"))
        assert [type(item) for item in items] == [dict] * 4


def test_panorama_outside_of_the_limits_of_float_is_no_problem(
    write_photo: Write, gpano: Gpano, tmp_path: Path
) -> None:
    packet = gpano(ProjectionType="equirectangular", PoseHeadingDegrees="1e400", PosePitchDegrees="nan")
    write_photo(tmp_path / "p/a.jpg", size=(64, 32), xmp=packet)
    rows, _ = _read(tmp_path / "p")
    assert [row["heading_deg"] for row in rows] == [None] * 4
