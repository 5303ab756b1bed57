"""What one photo may cost, and which files are tried at all."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.faults import hostile

from cellcode.photos.reading import image as reading
from cellcode.photos.reading import limits
from cellcode.photos.reading.image import PhotoError, PhotoSpec, PhotoTooLargeError, photo_size, read_image, read_pixels

SPEC = PhotoSpec(32, 24)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "JPEG2000", "SGI", "IM", "DIB", "PDF", "EPS"])
def test_other_formats_are_refused_whatever_their_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(hostile.encoded(kind))
    with pytest.raises(PhotoError, match=f"{path}: not an image that can be read; formats are JPEG, PNG, WebP"):
        read_image(path)


def test_a_program_named_as_a_photo_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(hostile.EPS)
    monkeypatch.setattr("tempfile.mkstemp", lambda *_, **__: pytest.fail("a temporary file is written"))
    with pytest.raises(PhotoError, match="not an image"):
        read_pixels(path, SPEC)


def test_avif_is_read_and_its_animations_are_refused() -> None:
    one = hostile.encoded("AVIF")
    assert read_image(one).size == (64, 48)
    assert reading.image_kind(one) == "avif"
    with pytest.raises(PhotoError, match="animated"):
        read_image(hostile.encoded("AVIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "red")]))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_read(progressive: bool) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    out = io.BytesIO()
    noise.save(out, "JPEG", progressive=progressive)
    whole = out.getvalue()
    for cut in (1, 2):
        for end in (b"", b"\0" * 512):
            np.testing.assert_array_equal(np.asarray(read_image(whole[:-cut] + end)), np.asarray(read_image(whole)))
        np.testing.assert_array_equal(read_pixels(whole[:-cut], SPEC), read_pixels(whole, SPEC))
        assert photo_size(whole[:-cut], "decode") == (128, 96)
    last = np.asarray(read_image(whole[:-4]))
    assert (last[:78] == np.asarray(read_image(whole))[:78]).all()  # a part of the last block may be missing
    for share in (0.3, 0.5, 0.8, 0.95):
        for read in (read_image, lambda data: read_pixels(data, SPEC), lambda data: photo_size(data, "decode")):
            with pytest.raises(PhotoError, match="truncated"):
                read(whole[: int(share * len(whole))])


def test_a_progressive_jpeg_cut_between_two_scans_is_refused() -> None:
    whole = hostile.jpeg((128, 96), progressive=True)
    for number in range(1, 8):
        place = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"][number]
        with pytest.raises(PhotoError, match="truncated"):
            read_image(whole[:place])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (hostile.scan_bomb(150, (400, 300)), "more than 100 scans of 120,000 pixels"),
        (hostile.scan_bomb(30, (8000, 6000)), "more than 20 scans of 48,000,000 pixels"),
        (hostile.tiff(pages=500), "several pages"),
        (hostile.tiff(pages=3, loop=True), "several pages"),
        (hostile.png_chunks(2000), "far more parts"),
        (hostile.png_texts(), "cannot be read"),
        (hostile.jpeg_segments(2000), "far more parts"),
        (hostile.jpeg_padding(3000), "far more parts"),
        (hostile.gif_blocks(2000), "far more parts"),
        (hostile.bmp_runs(60), "far more parts"),
    ],
)
def test_bombs_are_refused_in_a_sentence(data: bytes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_READS", 2000)
    with pytest.raises(PhotoError, match=says) as caught:
        read_pixels(data, SPEC)
    assert str(caught.value).startswith("photo: ")


def test_ordinary_photos_have_few_scans_and_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_READS", 400)
    own_data = b"\xff\xef\xff\xffab" + b"\xff\xda" * 32_765  # a segment of the camera that looks like scans
    for data in (hostile.jpeg(), hostile.jpeg(progressive=True), hostile.encoded("PNG"), hostile.encoded("TIFF")):
        assert read_pixels(data, SPEC).shape == (24, 32, 3)
    plain = hostile.jpeg((400, 300))
    np.testing.assert_array_equal(read_pixels(plain[:2] + own_data + plain[2:], SPEC), read_pixels(plain, SPEC))


@pytest.mark.parametrize(("kind", "per_pixel"), [("PNG", 8), ("WEBP", 16), ("TIFF", 12), ("AVIF", 12), ("GIF", 8)])
def test_what_decoding_takes_is_bounded_by_format(kind: str, per_pixel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = hostile.encoded(kind)
    monkeypatch.setattr(reading, "MAX_MEMORY_BYTES", per_pixel * 64 * 48)
    assert read_image(data).size == (64, 48)
    monkeypatch.setattr(reading, "MAX_MEMORY_BYTES", per_pixel * 64 * 48 - 1)
    with pytest.raises(PhotoTooLargeError, match=f"64 x 48 pixels need 0 MB to decode a {kind}"):
        photo_size(data, "header")


def test_a_jpeg_takes_what_is_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_MEMORY_BYTES", 8 * 400 * 300)
    plain, progressive = hostile.jpeg((800, 600)), hostile.jpeg((800, 600), progressive=True)
    assert read_pixels(plain, SPEC).shape == (24, 32, 3)  # at an eighth of its size
    assert photo_size(plain, "decode") == (800, 600)
    for read in (lambda: read_image(plain), lambda: read_pixels(progressive, SPEC)):  # all of its coefficients are kept
        with pytest.raises(PhotoTooLargeError, match="over the limit"):
            read()


def test_threads_share_one_budget_and_small_photos_pass_large_ones() -> None:
    memory, order = limits.Memory(100), list[str]()
    large_waits = threading.Event()

    def large() -> None:
        large_waits.set()
        with memory.hold(80):
            order.append("large")

    with memory.hold(60):
        thread = threading.Thread(target=large)
        thread.start()
        large_waits.wait(5)
        with memory.hold(30):
            order.append("small")
    thread.join(5)
    assert order == ["small", "large"]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_the_same_in_strips(mode: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (600, 40, len(mode)), np.uint8)
    image, out = Image.fromarray(pixels, mode), io.BytesIO()
    image.save(out, "PNG")
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(read_image(out.getvalue())), expected)
