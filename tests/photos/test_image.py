import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import ExifTags, Image, ImageOps

from cellcode.config import PhotoConfig
from cellcode.photos.reading.image import PhotoError, PhotoSpec, open_photo, read_image, read_pixels
from cellcode.photos.reading.pixels import load_pixels
from cellcode.types import UInt8


def _encode(pixels: UInt8 | Image.Image, kind: str = "PNG", orientation: int | None = None, **options: Any) -> bytes:
    if orientation is not None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    memory = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(memory, kind, **options)
    return memory.getvalue()


def _noise(height: int, width: int, seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _stored(upright: UInt8, orientation: int) -> UInt8:
    """What a camera stores, by the definition of the tag: where the first row and column are in the visual scene."""
    return {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.swapaxes(0, 1),  # left, top
        6: upright[:, ::-1].swapaxes(0, 1),  # right, top
        7: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
        8: upright[::-1].swapaxes(0, 1),  # left, bottom
    }[orientation]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_is_read_upright_for_every_orientation(orientation: int, kind: str) -> None:
    upright = _noise(32, 48)
    content = _encode(np.ascontiguousarray(_stored(upright, orientation)), kind, orientation)
    np.testing.assert_array_equal(np.asarray(read_image(content)), upright)
    np.testing.assert_array_equal(read_pixels(content, PhotoSpec(48, 32)), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_read_upright_for_every_orientation(orientation: int) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    upright = colours.repeat(320, axis=0).repeat(480, axis=1)
    content = _encode(np.ascontiguousarray(_stored(upright, orientation)), "JPEG", orientation, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(np.asarray(read_image(content)), expected)
    small = read_pixels(content, PhotoSpec(48, 32)).astype(int)  # decoded at a fraction of its size
    corners = small[[8, 8, 24, 24], [12, 36, 12, 36]]
    assert np.abs(corners - colours.reshape(4, 3)).max() < 6


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_senseless_orientation_is_taken_for_upright(orientation: int) -> None:
    upright = _noise(32, 48)
    np.testing.assert_array_equal(np.asarray(read_image(_encode(upright, "PNG", orientation))), upright)


def test_path_text_bytes_and_stream_are_the_same_photo(tmp_path: Path) -> None:
    pixels, path = _noise(20, 30), tmp_path / "a.png"
    path.write_bytes(_encode(pixels))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(np.asarray(read_image(source)), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_checkerboard_shrinks_to_grey(kind: str) -> None:
    """Sampling single pixels would give black and white."""
    board = (np.indices((480, 640)).sum(axis=0) % 2 * 255).astype(np.uint8)
    content = _encode(np.repeat(board[..., None], 3, axis=2), kind)
    small = read_pixels(content, PhotoSpec(32, 24)).astype(float)
    assert small.shape == (24, 32, 3)
    assert np.abs(small - 127.5).max() < 4


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_pixels_do_not_depend_on_the_resolution_of_the_camera(fit: str) -> None:
    y, x = np.mgrid[0:1:1500j, 0:1:2000j]
    scene = np.stack([127 + 120 * np.sin(9 * x), 127 + 120 * np.cos(7 * y), 255 * x * y], axis=-1).astype(np.uint8)
    coarse = np.asarray(Image.fromarray(scene).resize((400, 300), Image.Resampling.BOX))
    fine_pixels = read_pixels(_encode(scene, "JPEG", quality=95), PhotoSpec(40, 40, fit)).astype(int)
    coarse_pixels = read_pixels(_encode(coarse, "PNG"), PhotoSpec(40, 40, fit)).astype(int)
    assert np.abs(fine_pixels - coarse_pixels).max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_crop_keeps_the_aspect_and_stretch_keeps_the_whole(kind: str) -> None:
    thirds = np.zeros((600, 1800, 3), np.uint8)
    for third in range(3):
        thirds[:, 600 * third : 600 * (third + 1), third] = 255
    content = _encode(thirds, kind, **({"quality": 95} if kind == "JPEG" else {}))
    cropped = read_pixels(content, PhotoSpec(30, 30, "crop")).astype(int)
    assert np.abs(cropped[:, 2:-2] - [0, 255, 0]).max() < 6
    stretched = read_pixels(content, PhotoSpec(30, 30, "stretch")).astype(int)
    for third in range(3):
        assert np.abs(stretched[:, 10 * third + 2 : 10 * third + 8] - np.eye(3)[third] * 255).max() < 6


def test_crop_of_a_tall_photo_takes_the_middle_rows() -> None:
    tall = np.zeros((900, 300, 3), np.uint8)
    tall[300:600] = 200
    assert (read_pixels(_encode(tall), PhotoSpec(30, 30, "crop"))[2:-2] == 200).all()


def test_width_comes_before_height() -> None:
    assert read_pixels(_encode(_noise(100, 100)), PhotoSpec(30, 20)).shape == (20, 30, 3)
    assert read_pixels(_encode(_noise(100, 100)), PhotoSpec(30, 20, "crop")).shape == (20, 30, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_other_opaque_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(_noise(20, 30)).convert(mode)
    got = read_image(_encode(image))
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_shown_on_white(mode: str) -> None:
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:, 10:20, 3], pixels[:, 20:, 3] = 128, 255
    if mode == "P":
        pixels[:, 10:20, 3] = 255
        image = Image.new("P", (30, 20), 1)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(0, (0, 0, 10, 20))
        content = _encode(image, transparency=0)
    else:
        content = _encode(Image.fromarray(pixels).convert(mode))
    got = np.asarray(read_image(content)).astype(int)
    expected = np.broadcast_to((255 - pixels[..., 3:]).astype(int), got.shape)
    assert np.abs(got - expected).max() <= 1


def test_pixel_limit_is_told_before_decoding(png_header: Callable[[int, int], bytes]) -> None:
    content = _encode(_noise(40, 50))
    assert read_image(content, max_pixels=2000).size == (50, 40)
    for read in (
        lambda: read_image(content, max_pixels=1999),
        lambda: read_pixels(content, PhotoSpec(8, 8, max_pixels=1999)),
    ):
        with pytest.raises(PhotoError, match="50 x 40 pixels, over the limit of 1,999"):
            read()
    # The picture behind this header would fail to decode.
    with pytest.raises(PhotoError, match="over the limit"):
        read_image(png_header(60_000, 60_000))


def test_photo_just_under_the_limit_is_opened(png_header: Callable[[int, int], bytes]) -> None:
    assert open_photo(png_header(17_895, 10_000)).size == (17_895, 10_000)


@pytest.mark.parametrize(("size", "ok"), [((16, 16), True), ((15, 400), False), ((400, 15), False), ((1, 1), False)])
def test_tiny_pictures_are_no_photos(size: tuple[int, int], ok: bool) -> None:
    content = _encode(Image.new("RGB", size))
    if ok:
        assert read_image(content).size == size
    else:
        with pytest.raises(PhotoError, match=f"{size[0]} x {size[1]} pixels, too small"):
            read_image(content)


def test_animations_and_pages_are_no_photos() -> None:
    frames = [Image.fromarray(_noise(20, 30, seed)) for seed in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        content = _encode(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.raises(PhotoError, match="animated or with several pages"):
            read_image(content)
        assert read_image(_encode(frames[0], kind)).size == (30, 20)


def test_second_view_of_a_phones_file_does_not_make_it_an_animation() -> None:
    frames = [Image.fromarray(_noise(20, 30, seed)) for seed in range(2)]
    content = _encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    np.testing.assert_array_equal(
        np.asarray(read_image(content)), np.asarray(Image.open(io.BytesIO(_encode(frames[0], "JPEG"))))
    )


def test_cmyk_is_refused() -> None:
    with pytest.raises(PhotoError, match="CMYK"):
        read_image(_encode(Image.new("CMYK", (30, 20)), "JPEG"))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("driver", "bands"), [*(("PNG", bands) for bands in (1, 2, 3, 4)), ("GTiff", 1), pytest.param("GTiff", 3)]
)
def test_more_than_eight_bits_a_channel_are_refused(driver: str, bands: int, tmp_path: Path) -> None:
    path = tmp_path / "deep.img"
    options = {"photometric": "RGB"} if (driver, bands) == ("GTiff", 3) else {}
    with rasterio.open(path, "w", driver, 32, 32, bands, dtype="uint16", **options) as raster:
        raster.write(np.full((bands, 32, 32), 40_000, np.uint16))
    with pytest.raises(PhotoError, match="bits a channel"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"hello, I am a text", "not an image"), (b"\xff\xd8\xff", "cannot be|not an image")],
)
def test_what_is_no_image_is_refused_in_a_sentence(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=says) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="does not exist"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_file_that_ends_early_is_never_read_as_a_photo(kind: str, share: float) -> None:
    content = _encode(_noise(60, 80), kind)
    with pytest.raises(PhotoError):
        read_image(content[: int(len(content) * share)])


def test_random_damage_gives_a_photo_or_a_sentence() -> None:
    """Any other error would end an ingest of a hundred thousand photos."""
    rng = np.random.default_rng(11)
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        whole = _encode(_noise(24, 32), kind)
        for _ in range(150):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 4):
                damaged[place] = rng.integers(0, 256)
            with contextlib.suppress(PhotoError):
                assert read_image(bytes(damaged)).mode == "RGB"


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_many_photos_are_read_as_one_by_one_and_failures_are_told(fit: str, tmp_path: Path) -> None:
    files = []
    for number in range(7):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(_encode(_noise(60, 90 + number, number)))
    files[3].write_bytes(b"broken")
    files.append(tmp_path / "missing.png")
    photo = PhotoConfig(width_px=32, height_px=24, fit=fit)
    pixels, failures = load_pixels(files, photo)
    assert pixels.shape == (8, 24, 32, 3)
    assert set(failures) == {3, 7}
    assert "3.png" in failures[3]
    assert not pixels[[3, 7]].any()
    for row in (0, 1, 2, 4, 5, 6):
        np.testing.assert_array_equal(pixels[row], read_pixels(files[row], PhotoSpec(32, 24, fit)))
