import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from tests.photos.items import read_folder

from cellcode.errors import MissingExtraError
from cellcode.photos.reading.image import PhotoError, PhotoSpec, PhotoTooLargeError, open_photo, read_image, read_pixels
from cellcode.photos.table.item import Reject

pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")

Write = Callable[..., Path]


@pytest.fixture
def write_heic(write_photo: Write, tmp_path: Path) -> Callable[..., Path]:
    """As `write_photo`, with the EXIF of that; the picture is red above, green and blue below."""

    def write(path: Path, *position: float | None, **options: Any) -> Path:
        exif = Image.open(write_photo(tmp_path / "like.jpg", *position, **options)).getexif()
        picture = np.zeros((120, 160, 3), np.uint8)
        picture[:60, :, 0], picture[60:, :80, 1], picture[60:, 80:, 2] = 255, 255, 255
        path.parent.mkdir(exist_ok=True)
        pillow_heif.from_pillow(Image.fromarray(picture)).save(path, exif=exif.tobytes(), quality=95)
        return path

    return write


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])


@pytest.mark.parametrize(
    ("orientation", "size", "corners"),  # colours of the upper left and the lower left corner of the upright picture
    [(1, (160, 120), "rg"), (3, (160, 120), "br"), (6, (120, 160), "gb"), (8, (120, 160), "rr")],
)
def test_heic_is_read_upright_with_its_tags(
    orientation: int, size: tuple[int, int], corners: str, write_heic: Write, tmp_path: Path
) -> None:
    write_heic(tmp_path / "p/a.HEIC", -33.9, 18.4, tags={ExifTags.Base.Orientation: orientation})
    (row,) = read_folder(tmp_path / "p")
    assert isinstance(row, dict)
    assert (row["lat_deg"], row["lon_deg"]) == pytest.approx((-33.9, 18.4), abs=1e-6)
    assert (row["width_px"], row["height_px"]) == size
    for pixels in (
        np.asarray(read_image(tmp_path / "p/a.HEIC")),
        read_pixels(tmp_path / "p/a.HEIC", PhotoSpec(24, 24)),
    ):
        assert "".join("rgb"[pixels[row, 4].argmax()] for row in (4, -5)) == corners


def test_bytes_and_streams_are_read_too(write_heic: Write, tmp_path: Path) -> None:
    content = write_heic(tmp_path / "a.heic").read_bytes()
    for source in (content, io.BytesIO(content)):
        assert read_image(source).size == (160, 120)


def test_limit_of_pixels_holds_before_decoding(
    write_heic: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_heic(tmp_path / "a.heic")
    kind = type(open_photo(path))
    monkeypatch.setattr(kind, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(PhotoTooLargeError, match="160 x 120 pixels, over the limit of 19,199"):
        read_image(path, max_pixels=19_199)


def test_damaged_heic_is_a_photo_or_a_sentence(write_heic: Write, tmp_path: Path) -> None:
    whole = write_heic(tmp_path / "a.heic").read_bytes()
    rng = np.random.default_rng(2)
    damaged = [whole[: len(whole) * part // 10] for part in (1, 5, 9)]
    for _ in range(20):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 6):
            changed[place] = rng.integers(0, 256)
        damaged.append(bytes(changed))
    for content in damaged:
        with contextlib.suppress(PhotoError):
            assert read_image(content).mode == "RGB"


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_each_heic_is_a_reject_that_names_it(
    write_photo: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(tmp_path / "p/good.jpg")
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for name in ("a.heic", "b.HEIF", "c.jpg"):  # some tools give it a wrong suffix
        (tmp_path / "p" / name).write_bytes(head + bytes(100))
    items = list(read_folder(tmp_path / "p"))
    assert {item.reason for item in items if isinstance(item, Reject)} == {
        "a HEIC photo needs the package pillow-heif, which is not installed: pip install 'cellcode[heic]'"
    }
    assert [item["file"] for item in items if not isinstance(item, Reject)] == ["good.jpg"]
    for kind in (PhotoError, MissingExtraError):
        with pytest.raises(kind, match=r"a\.heic: a HEIC photo needs"):
            open_photo(tmp_path / "p/a.heic")
