"""Reading photos safely: bounded before decoding, upright, RGB, and one clear sentence when a file is no photo."""

import io
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Self

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cellcode.config import PhotoConfig
from cellcode.errors import InputError, MissingExtraError
from cellcode.types import UInt8

MAX_PIXELS = 178_956_970  # above it Pillow itself refuses, as a decompression bomb
MIN_SIDE_PX = 16
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Source = Path | str | bytes | BinaryIO
# Brands of an ISO media file that holds a still picture coded as HEVC.
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_BITS_PER_SAMPLE = 258  # a TIFF tag; Pillow would cut the lower bits off unseen
_EIGHT_BIT = {"RGB", "RGBA", "RGBX", "L", "LA", "La", "P", "PA", "1", "YCbCr"}
_KINDS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "HEIF": "heic"}


@dataclass(frozen=True)
class PhotoSpec:
    """How a photo is read for an encoder.

    Attributes:
        fit: "stretch" to the size, or "crop" the centre of the same aspect first.
        max_pixels: larger photos are refused before they are decoded.
    """

    width_px: int
    height_px: int
    fit: Literal["stretch", "crop"] = "stretch"
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(cls, photo: PhotoConfig, max_pixels: int = MAX_PIXELS) -> Self:
        """Return what a configuration asks for."""
        return cls(photo.width_px, photo.height_px, photo.fit, max_pixels)


class PhotoError(InputError):
    """A file that cannot be used as a photo; the sentence gives the reason."""


class PhotoTooLargeError(PhotoError):
    """A photo with more pixels than the limit."""


class HeicSupportError(MissingExtraError, PhotoError):
    """A photo of a kind that only an extra reads, which is not installed."""


def open_photo(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a photo without decoding it and check its header.

    Raises:
        HeicSupportError: a HEIC, and the extra that reads it is not installed; a PhotoError too.
        PhotoError: empty, not an image, animated, too small, over `max_pixels`, CMYK or more than 8 bits a channel
            (their colours are unknown without a profile).
    """
    name = _name(source)
    try:
        if isinstance(source, Path | str) and Path(source).stat().st_size == 0:
            raise PhotoError(f"{name}: the file is empty")
        image = _open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except PhotoError:
        raise
    except FileNotFoundError:
        raise PhotoError(f"{name}: the file does not exist") from None
    except UnidentifiedImageError:
        raise PhotoError(f"{name}: not an image that can be read") from None
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        raise PhotoError(f"{name}: cannot be read ({reason_of(error)})") from None
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoTooLargeError(f"{name}: {width} x {height} pixels, over the limit of {max_pixels:,}")
    if min(width, height) < MIN_SIDE_PX:
        raise PhotoError(f"{name}: {width} x {height} pixels, too small for a photo")
    # A phone's MPO or HEIC holds a second view, a preview or a burst behind the photo: it is one photo all the same.
    if _frames(image, name) > 1 and image.format not in ("MPO", "HEIF"):
        raise PhotoError(f"{name}: animated or with several pages, not a photo")
    if image.mode not in _EIGHT_BIT:
        kind = "CMYK" if image.mode == "CMYK" else f"mode {image.mode}, more than 8 bits a channel"
        raise PhotoError(f"{name}: {kind}; convert it to 8-bit RGB first")
    if image.format == "TIFF" and max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8:  # type: ignore[attr-defined]
        raise PhotoError(f"{name}: more than 8 bits a channel; convert it to 8-bit RGB first")
    if image.format == "PNG" and getattr(getattr(image, "png", None), "im_rawmode", "").endswith(";16B"):
        raise PhotoError(f"{name}: 16 bits a channel; convert it to 8-bit RGB first")
    return image


def read_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a photo: RGB, upright (orientation tag applied), transparent parts on white; PhotoError as `open_photo`."""
    return _decode(open_photo(source, max_pixels), source)


def photo_size(source: Source, how: Literal["decode", "header"]) -> tuple[int, int]:
    """Return width and height of the upright picture, decoded whole or by its header only; PhotoError as `open_photo`."""
    if how == "decode":
        with read_image(source) as image:
            return image.size
    with open_photo(source) as image:
        try:
            return image.size[::-1] if is_turned(image) else image.size
        except Exception:  # Pillow raises anything on damaged tags
            raise PhotoError(f"{_name(source)}: its EXIF is damaged") from None


def is_turned(image: Image.Image) -> bool:
    """Return True if the orientation tag swaps the sides."""
    return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


def image_kind(source: Source) -> str:
    """Return the usual suffix of an image's format, without a dot; PhotoError as `open_photo`."""
    with open_photo(source) as image:
        return _KINDS.get(image.format or "JPEG", str(image.format).lower())


def read_pixels(source: Source, spec: PhotoSpec) -> UInt8:
    """Decode a photo at an encoder's size.

    Returns:
        (height_px, width_px, 3) uint8. Resized with antialiasing: plain bilinear sampling of a photo twenty times larger
        picks single pixels, and embeddings then depend on the camera's resolution.

    Raises:
        PhotoError: as `read_image`.
    """
    image = open_photo(source, spec.max_pixels)
    # JPEG decodes at 1/2, 1/4 or 1/8 almost for free; twice the size leaves the antialiasing to the resize below.
    longest = 2 * max(spec.width_px, spec.height_px)
    image.draft("RGB", (longest, longest))
    image, size = _decode(image, source), (spec.width_px, spec.height_px)
    resample = Image.Resampling.BILINEAR  # Pillow widens the kernel when it shrinks: antialiased
    return np.array(ImageOps.fit(image, size, resample) if spec.fit == "crop" else image.resize(size, resample))


def _open(source: Path | str | BinaryIO) -> Image.Image:
    try:
        return _pillow_open(source)
    except UnidentifiedImageError:
        if not _is_heic(source):
            raise
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise HeicSupportError("pillow-heif", "heic", f"{_name(source)}: a HEIC photo") from None
        # Of the header only, as other kinds, so that the limit of pixels holds before decoding.
        register_heif_opener(thumbnails=False)  # the picture itself, at every size
        return _pillow_open(source)


def _pillow_open(source: Path | str | BinaryIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked by the caller
        try:
            return Image.open(source)
        except Image.DecompressionBombError:
            raise PhotoTooLargeError(f"{_name(source)}: over the limit of {MAX_PIXELS:,} pixels") from None


def _is_heic(source: Path | str | BinaryIO) -> bool:
    """Look at the first bytes; a stream is left at its beginning."""
    with Path(source).open("rb") if isinstance(source, Path | str) else nullcontext(source) as file:
        file.seek(0)
        head = file.read(12)
        file.seek(0)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS


def _frames(image: Image.Image, name: str) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception as error:  # as above
        raise PhotoError(f"{name}: the picture is damaged ({reason_of(error)})") from None


def _decode(image: Image.Image, source: Source) -> Image.Image:
    try:
        with image:
            image.load()
            # Nothing but the orientation of the EXIF: other tags may be odd without harm to the picture.
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            upright = image.copy() if turn is None else image.transpose(turn)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return upright.convert("RGB")
    except Exception as error:  # as above
        raise PhotoError(f"{_name(source)}: the picture is damaged ({reason_of(error)})") from None


def _name(source: Source) -> str:
    return str(source) if isinstance(source, Path | str) else "photo"


def reason_of(error: Exception) -> str:
    """Return the first line of an error, or its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
