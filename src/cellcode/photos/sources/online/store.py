"""Where fetched photos lie: OUT/images, each as it was served; of a panorama, the views cut out of it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from cellcode.files import atomic_path
from cellcode.photos.reading.image import PhotoError, image_kind, photo_size
from cellcode.photos.reading.panorama import WHOLE, PanoramaRule, cut, headings_shown
from cellcode.photos.sources.online.choice import Filter
from cellcode.photos.sources.online.record import Record

_SUFFIXES = (".jpg", ".png", ".webp")
_JPEG_QUALITY = 92
_SHAPE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Picture:
    """A file in the folder, relative to it, and what its row needs."""

    file: str
    width_px: int
    height_px: int
    heading_deg: float | None
    fov_deg: float | None

    def facts(self) -> dict[str, float | None]:
        """Return what a row has of it."""
        return {name: value for name, value in asdict(self).items() if name != "file"}


class Store:
    """The photos in a folder. A file is there whole or not at all, so one that is there is not fetched again.

    Args:
        out: the folder above `images`.
    """

    def __init__(self, out: Path, wanted: Filter) -> None:
        self._out, self._options = out, wanted.options

    def find(self, record: Record) -> list[Picture] | None:
        """Return the files of a photo, if it is there and wide enough."""
        if record.kind == "panorama":
            return self._views(record)
        for suffix in _SUFFIXES:
            size = _size(self._path(record.id, suffix))
            if size is not None and size[0] >= self._options.min_width_px:
                return [self._picture(record, suffix, size)]
        return None

    def keep(self, record: Record, body: bytes, image: Image.Image) -> list[Picture]:
        """Write a photo and return its files.

        Args:
            image: `body` decoded.

        Raises:
            PhotoError: a kind of image that services do not serve photos as.
        """
        if record.kind == "panorama":
            return self._cut(record, image)
        suffix = f".{image_kind(body)}"
        if suffix not in _SUFFIXES:
            raise PhotoError("photo: neither JPEG, PNG nor WebP")
        with atomic_path(self._path(record.id, suffix)) as temporary:
            temporary.write_bytes(body)
        return [self._picture(record, suffix, image.size)]

    def _path(self, name: str, suffix: str, identifier: str | None = None) -> Path:
        """Many folders of few files: the ends of identifiers are spread evenly, their beginnings are not."""
        return self._out / "images" / (identifier or name)[-2:].lower() / f"{name}{suffix}"

    def _picture(self, record: Record, suffix: str, size: tuple[int, int]) -> Picture:
        file = self._path(record.id, suffix).relative_to(self._out).as_posix()
        return Picture(file, *size, record.heading_deg, record.fov_deg(*size))

    def _views(self, record: Record) -> list[Picture] | None:
        """Views of a panorama, by their names, which depend on how they were cut; None if one is missing."""
        rule = self._options.panoramas
        if rule is None:
            return None
        pictures = []
        for number, heading_deg in enumerate(_headings(record, rule)):
            path = self._path(f"{_views_name(record, rule)}_{number:03d}", ".jpg", record.id)
            if not path.is_file():
                return None
            known_deg = None if record.heading_deg is None else heading_deg
            file = path.relative_to(self._out).as_posix()
            pictures.append(Picture(file, rule.width_px, rule.height_px, known_deg, rule.fov_deg))
        return pictures or None

    def _cut(self, record: Record, image: Image.Image) -> list[Picture]:
        rule, area = self._options.panoramas, record.area
        assert rule is not None  # others are objected to
        if abs(image.width / image.height / (2 * area.width / area.height) - 1) > _SHAPE_TOLERANCE:
            raise PhotoError(f"photo: {image.width} x {image.height} pixels, not the shape of a 360 degree photo")
        views = cut(image, rule, record.heading_deg or 0.0, record.pitch_deg, record.roll_deg, area)
        for number, (_, view) in enumerate(views):
            with atomic_path(self._path(f"{_views_name(record, rule)}_{number:03d}", ".jpg", record.id)) as temporary:
                view.save(temporary, "JPEG", quality=_JPEG_QUALITY)
        pictures = self._views(record)
        if pictures is None:
            raise PhotoError("photo: part of a 360 degree photo that shows none of the views")
        return pictures


def _headings(record: Record, rule: PanoramaRule) -> list[float]:
    """Headings of the views, counted from the panorama's middle where its heading is not known."""
    heading_deg = record.heading_deg or 0.0
    if record.area == WHOLE:  # shows every view
        return rule.headings(heading_deg)
    return headings_shown(rule, heading_deg, record.pitch_deg, record.roll_deg, record.area)


def _views_name(record: Record, rule: PanoramaRule) -> str:
    """Another name for views that were cut otherwise."""
    how = repr((rule, record.heading_deg, record.pitch_deg, record.roll_deg, record.area))
    return f"{record.id}_{hashlib.sha256(how.encode()).hexdigest()[:6]}"


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of the upright picture; None if there is none."""
    try:
        return photo_size(path, "header")
    except PhotoError:
        return None
