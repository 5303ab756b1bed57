"""Reading photos safely: bounded before decoding, upright, RGB, and one clear sentence when a file is no photo."""

import errno
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from cellcode.errors import MissingExtraError, OutputError, storage_cause
from cellcode.photos.reading import limits
from cellcode.photos.reading.exif import orientation
from cellcode.photos.reading.limits import END, MAX_MEMORY_BYTES, Metered
from cellcode.photos.reading.limits import PhotoError as PhotoError
from cellcode.types import UInt8

if TYPE_CHECKING:
    from cellcode.config import PhotoConfig

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
# No other format is tried, whatever a file is called: some run programs or write temporary files.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
# Bytes that decoding takes per pixel: Pillow's own four, once more to turn the picture or to lay it on white, and what
# the format's library holds beside them.
_BYTES_PER_PIXEL = {"TIFF": 12, "WEBP": 16, "AVIF": 12, "HEIF": 12}
_OTHER_BYTES_PER_PIXEL, _COEFFICIENT_BYTES = 8, 6
_STRIP_PX = 256
_LAST_BLOCK_PX = 18  # of a JPEG, with the rim that smooth colours spread over
_EIGHT_BIT = {"RGB", "RGBA", "RGBX", "L", "LA", "La", "P", "PA", "1", "YCbCr"}
_JPEGS = ("JPEG", "MPO")
FORMAT_NAMES = "JPEG, PNG, WebP, TIFF, HEIC, AVIF, BMP and GIF"
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
    def of(cls, photo: "PhotoConfig", max_pixels: int = MAX_PIXELS) -> Self:
        """Return what a configuration asks for."""
        return cls(photo.width_px, photo.height_px, photo.fit, max_pixels)


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
        image = _open(Metered(source), name)
    except (PhotoTooLargeError, HeicSupportError):
        raise
    except PhotoError as error:
        raise PhotoError(f"{name}: {error}") from None
    except FileNotFoundError:
        raise PhotoError(f"{name}: the file does not exist") from None
    except UnidentifiedImageError:
        raise PhotoError(f"{name}: not an image that can be read; formats are {FORMAT_NAMES}") from None
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        raise _fault(error, name, "cannot be read") from None
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoTooLargeError(f"{name}: {width} x {height} pixels, over the limit of {max_pixels:,}")
    if min(width, height) < MIN_SIDE_PX:
        raise PhotoError(f"{name}: {width} x {height} pixels, too small for a photo")
    if image.format not in _JPEGS:  # these may be decoded at a fraction of their size
        _memory_bytes(image, name)
    # A phone's MPO or HEIC holds a second view, a preview or a burst behind the photo: it is one photo all the same.
    if image.format not in ("MPO", "HEIF") and _is_animated(image, name):
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
    with _decoded(open_photo(source, max_pixels), source) as picture:
        return picture


def photo_size(source: Source, how: Literal["decode", "header"]) -> tuple[int, int]:
    """Return width and height of the upright picture, decoded whole or by its header only; PhotoError as `open_photo`."""
    with open_photo(source) as image:
        size = image.size
        if how == "header":
            return size[::-1] if orientation(image) >= 5 else size
        with _decoded(image, source, (1, 1)):  # every bit of a JPEG is read, a fraction of its pixels made
            return size[::-1] if orientation(image) >= 5 else size


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
    # JPEG decodes at 1/2, 1/4 or 1/8 almost for free; twice the size leaves the antialiasing to the resize below.
    longest, size = 2 * max(spec.width_px, spec.height_px), (spec.width_px, spec.height_px)
    resample = Image.Resampling.BILINEAR  # Pillow widens the kernel when it shrinks: antialiased
    with _decoded(open_photo(source, spec.max_pixels), source, (longest, longest)) as picture:
        return np.array(ImageOps.fit(picture, size, resample) if spec.fit == "crop" else picture.resize(size, resample))


def _open(file: Metered, name: str) -> Image.Image:
    if not file.bytes:
        raise PhotoError("the file is empty")
    try:
        return _pillow_open(file, name, _FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(12)
        if head[4:8] != b"ftyp" or head[8:12] not in _HEIC_BRANDS:
            raise
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise HeicSupportError("pillow-heif", "heic", f"{name}: a HEIC photo") from None
        # Of the header only, as other kinds, so that the limit of pixels holds before decoding.
        register_heif_opener(thumbnails=False)  # the picture itself, at every size
        return _pillow_open(file, name, ("HEIF",))


def _pillow_open(file: Metered, name: str, formats: tuple[str, ...]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, whose limit is checked by the caller, and of each odd tag
        try:
            image = Image.open(file, formats=formats)
        except Image.DecompressionBombError:
            raise PhotoTooLargeError(f"{name}: over the limit of {MAX_PIXELS:,} pixels") from None
    image._exclusive_fp = True  # closed with the image, as if Pillow had opened it
    return image


def _fault(error: Exception, name: str, what: str) -> OutputError | PhotoError:
    """What to raise where a photo could not be read: too few file descriptors are no fault of the photo."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return OutputError(f"{name}: {storage_cause(error)}")
    return PhotoError(f"{name}: {what} ({reason_of(error)})")


def _is_animated(image: Image.Image, name: str) -> bool:
    """Whether there is a second picture; how many there are would take a look at each."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception as error:  # as above
        raise _fault(error, name, "the picture is damaged") from None


def _memory_bytes(image: Image.Image, name: str, coded_pixels: int = 0) -> int:
    """What decoding takes at most, of a JPEG of so many pixels before it is reduced; PhotoTooLargeError: over the limit."""
    size = image.width * image.height * _BYTES_PER_PIXEL.get(image.format or "", _OTHER_BYTES_PER_PIXEL)
    if image.info.get("progressive"):  # all coefficients are kept until the last scan, whatever size is made of them
        size = max(size, size // 2 + coded_pixels * _COEFFICIENT_BYTES)
    if size > MAX_MEMORY_BYTES:
        said = f"{image.width} x {image.height} pixels need {size // 10**6:,} MB to decode a {image.format}"
        raise PhotoTooLargeError(f"{name}: {said}, over the limit of {MAX_MEMORY_BYTES // 10**6:,} MB; make it smaller")
    return size


@contextmanager
def _decoded(image: Image.Image, source: Source, reduced: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Hold the memory for a photo, decoded: a JPEG perhaps `reduced`, but not below this size."""
    name = _name(source)
    pixels = image.width * image.height
    if reduced is not None:
        image.draft("RGB", reduced)
    with image, limits.MEMORY.hold(_memory_bytes(image, name, pixels)):
        try:
            picture = _upright_rgb(_loaded(image, source, pixels, reduced))
        except PhotoError as error:
            raise PhotoError(f"{name}: {error}") from None
        except MemoryError:
            raise PhotoError(f"{name}: not enough memory to decode {image.width} x {image.height} pixels") from None
        except Exception as error:  # as above
            raise _fault(error, name, "the picture is damaged") from None
        yield picture


def _loaded(image: Image.Image, source: Source, pixels: int, reduced: tuple[int, int] | None) -> Image.Image:
    """Decode an opened photo; a JPEG that lacks its end marker alone, or part of its last block, is usable."""
    if image.format not in _JPEGS:
        image.load()
        vars(image).pop("_decoder", None)  # of WebP and AVIF: it holds the picture once more
        return image
    data = Metered(source).read()
    limits.check_scans(data, pixels)
    try:
        image.load()
        return image
    except OSError as error:
        parts = {layer[0] for layer in image.layer}  # type: ignore[attr-defined]
        progressive = bool(image.info.get("progressive"))
        if "truncated" not in str(error) or not limits.has_all_scans(data, parts, progressive):
            raise
        body = data.rstrip(b"\xff")  # half of the marker
        # What is missing would look different with other data in its place; of a progressive JPEG, perhaps only at full size.
        compared = None if progressive else reduced
        first, second = (_with_end(body + other, compared) for other in (b"", b"\x55" * 4096))
        differs = ImageChops.difference(first, second).getbbox()
        block = 1 + _LAST_BLOCK_PX * math.sqrt(first.width * first.height / pixels)
        if differs and max(differs[2] - differs[0], differs[3] - differs[1]) > block:
            raise
        return first if compared == reduced else _with_end(body, reduced)


def _with_end(data: bytes, reduced: tuple[int, int] | None) -> Image.Image:
    image = _pillow_open(Metered(data + END), "photo", ("JPEG",))
    if reduced is not None:
        image.draft("RGB", reduced)
    image.load()
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the orientation and transparency of a decoded photo, with one copy of its pixels at a time."""
    if (turn := _TURNS.get(orientation(image))) is not None:
        turned = image.transpose(turn)
        image.close()
        image = turned
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image if image.mode == "RGB" else image.convert("RGB")
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_PX):
        strip = image.crop((0, top, image.width, min(top + _STRIP_PX, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return opaque


def _name(source: Source) -> str:
    return str(source) if isinstance(source, Path | str) else "photo"


def reason_of(error: Exception) -> str:
    """Return the first line of an error, or its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
