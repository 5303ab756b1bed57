"""Where fetched photos lie: OUT/images, each as it was served; of a panorama, the views cut out of it."""

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from cellcode.files import atomic_path
from cellcode.photos.reading.image import PhotoError, image_kind, photo_size
from cellcode.photos.reading.panorama import WHOLE, PanoramaRule, cut, headings_shown
from cellcode.photos.sources.online.choice import Filter
from cellcode.photos.sources.online.record import Record

_SUFFIXES = (".jpg", ".png", ".webp")
_JPEG_QUALITY = 92
_SHAPE_TOLERANCE = 0.01


Picture = tuple[Path, dict[str, Any]]  # a file, and what its row has of it


class Store:
    """The photos in a folder. A file is there whole or not at all, so one that is there is not fetched again.

    Args:
        out: the folder above `images`.
    """

    def __init__(self, out: Path, wanted: Filter) -> None:
        self._out, self._options = out, wanted.options

    def find(self, record: Record) -> list[Picture] | None:
        """Return the files of a photo, if it is there and wide enough."""
        rule = self._options.panoramas
        if record.kind == "panorama":
            views = self._views(record, rule) if rule is not None else []
            return views if views and all(path.is_file() for path, _ in views) else None
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
        facts = {"width_px": size[0], "height_px": size[1], "fov_deg": record.fov_deg(*size)}
        return self._path(record.id, suffix), {**facts, "heading_deg": record.heading_deg}

    def _views(self, record: Record, rule: PanoramaRule) -> list[Picture]:
        """Views of a panorama, written or not; their names depend on how they are cut."""
        pose = (record.heading_deg, record.pitch_deg, record.roll_deg, record.area)
        digest = hashlib.sha256(repr((rule, *pose)).encode()).hexdigest()[:6]
        size = {"width_px": rule.width_px, "height_px": rule.height_px, "fov_deg": rule.fov_deg}
        middle_deg = record.heading_deg or 0.0
        headings = rule.headings(middle_deg)
        if record.area != WHOLE:
            headings = headings_shown(rule, middle_deg, *pose[1:])
        return [
            (
                self._path(f"{record.id}_{digest}_{number:03d}", ".jpg", record.id),
                {**size, "heading_deg": None if record.heading_deg is None else heading_deg},
            )
            for number, heading_deg in enumerate(headings)
        ]

    def _cut(self, record: Record, image: Image.Image) -> list[Picture]:
        rule, area = self._options.panoramas, record.area
        assert rule is not None  # the filter excludes others
        if abs(image.width / image.height / (2 * area.width / area.height) - 1) > _SHAPE_TOLERANCE:
            raise PhotoError(f"photo: {image.width} x {image.height} pixels, not the shape of a 360 degree photo")
        pictures = self._views(record, rule)
        if not pictures:
            raise PhotoError("photo: part of a 360 degree photo that shows none of the views")
        views = cut(image, rule, record.heading_deg or 0.0, record.pitch_deg, record.roll_deg, area)
        for (path, _), (_, view) in zip(pictures, views, strict=True):
            with atomic_path(path) as temporary:
                view.save(temporary, "JPEG", quality=_JPEG_QUALITY)
        return pictures


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of the upright picture; None if there is none."""
    try:
        return photo_size(path, "header")
    except PhotoError:
        return None
