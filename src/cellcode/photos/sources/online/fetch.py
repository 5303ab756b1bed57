"""One photo of a service: its bytes, whole and decodable, with a fresh link where the old one has expired; and as a file.

OUT/images has photos as they were served, and of a panorama the views cut out of it.
"""

import hashlib
import io
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from cellcode.files import write_bytes
from cellcode.http import Client, RemoteError
from cellcode.photos.reading.image import PhotoError, image_kind, photo_size, read_image
from cellcode.photos.reading.panorama import WHOLE, PanoramaRule, cut, headings_shown
from cellcode.photos.sources.online.listing import Filter
from cellcode.photos.sources.online.record import Record, Rendition

Redirects = Literal["same host", "anywhere"]
_EXPIRED = (403, 410)
_FAULTS_IN_A_ROW = 20
_SUFFIXES = (".jpg", ".png", ".webp")
_JPEG_QUALITY = 92
_SHAPE_TOLERANCE = 0.01


class TooNarrowError(Exception):
    """No picture of the photo is as wide as wanted, which showed only when it was there."""


class Fetcher:
    """Fetches photos, by several threads; a host that has failed at many in a row, after all tries, is not asked again."""

    def __init__(
        self, renew: Callable[[Record], Record | None], redirects: Redirects, client: Client, wanted: Filter
    ) -> None:
        self._renew, self._redirects, self._client, self._filter = renew, redirects, client, wanted
        self._faults, self._lock = Counter[str](), threading.Lock()

    def picture(self, record: Record) -> tuple[bytes, Image.Image]:
        """Return a photo as served, and decoded: RGB, upright.

        Raises:
            RemoteError, PhotoError, TooNarrowError: it cannot be fetched, is no photo, or is not as wide as wanted.
        """
        wanted_px = self._filter.wanted_px(record)
        for rendition in record.wide_enough(wanted_px):
            body, image = self._fresh(record, rendition)
            if image.width >= wanted_px:
                return body, image
        raise TooNarrowError

    def _fresh(self, record: Record, rendition: Rendition) -> tuple[bytes, Image.Image]:
        try:
            return self._ask(rendition.url)
        except RemoteError as error:
            if error.status not in _EXPIRED:
                raise
            if (renewed := self._renew(record)) is None:
                raise
        same = [each for each in renewed.renditions if each.width_px == rendition.width_px]
        return self._ask((same or renewed.renditions[-1:])[0].url)

    def _ask(self, url: str) -> tuple[bytes, Image.Image]:
        host, decoded, bad = urlsplit(url).netloc, list[Image.Image](), set[bytes]()

        def decode(body: bytes) -> None:
            try:
                decoded.append(read_image(body))
            except PhotoError as error:
                if body in bad:  # the very same again: it is the photo, not its way here
                    raise
                bad.add(body)
                raise ValueError(str(error).removeprefix("photo: ")) from None

        if self._faults[host] >= _FAULTS_IN_A_ROW:
            raise RemoteError(f"{host} has failed {_FAULTS_IN_A_ROW} times in a row", "the server fails at every photo")
        try:
            reply = self._client.get(url, expect="image", follow=self._redirects, verify=decode)
        except RemoteError as error:
            self._note(host, fails=not error.lasting and error.reason != "byte budget spent")
            raise
        self._note(host, fails=False)
        return reply.body, decoded[-1]

    def _note(self, host: str, *, fails: bool) -> None:
        with self._lock:
            self._faults[host] = self._faults[host] + 1 if fails else 0


Picture = tuple[Path, dict[str, Any]]  # a file, and what its row has of it


class Store:
    """The photos in `out`/images. A file is there whole or not at all, so one that is there is not fetched again."""

    def __init__(self, out: Path, wanted: Filter) -> None:
        self._out, self._options = out, wanted.options

    def find(self, record: Record) -> list[Picture] | None:
        """Return the files of a photo, if it is there and wide enough."""
        rule = self._options.panoramas
        if record.kind == "panorama":
            views = self._views(record, rule) if rule is not None else []
            return views if views and all(path.is_file() for path, _ in views) else None
        for suffix in _SUFFIXES:
            with suppress(PhotoError):  # there is none
                size = photo_size(self._path(record.id, suffix), "header")
                if size[0] >= self._options.min_width_px:
                    return [self._picture(record, suffix, size)]
        return None

    def keep(self, record: Record, body: bytes, image: Image.Image) -> list[Picture]:
        """Write a photo, `body` as served and decoded, and return its files; PhotoError: not a kind that services serve."""
        if record.kind == "panorama":
            return self._cut(record, image)
        suffix = f".{image_kind(body)}"
        if suffix not in _SUFFIXES:
            raise PhotoError("photo: neither JPEG, PNG nor WebP")
        write_bytes(self._path(record.id, suffix), body)
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
        facts = [{**size, "heading_deg": None if record.heading_deg is None else each} for each in headings]
        names = (f"{record.id}_{digest}_{number:03d}" for number in range(len(headings)))
        return [(self._path(name, ".jpg", record.id), each) for name, each in zip(names, facts, strict=True)]

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
            view.save(written := io.BytesIO(), "JPEG", quality=_JPEG_QUALITY)
            write_bytes(path, written.getvalue())
        return pictures
