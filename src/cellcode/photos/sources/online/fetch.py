"""One photo of a service: its bytes, whole and decodable, with a fresh link where the old one has expired."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from PIL import Image

from cellcode.http import Client, RemoteError
from cellcode.photos.reading.image import PhotoError, read_image
from cellcode.photos.sources.online.choice import Filter
from cellcode.photos.sources.online.record import Record, Rendition

Redirects = Literal["same host", "anywhere"]
_EXPIRED = (403, 410)
_FAULTS_IN_A_ROW = 20


class TooNarrowError(Exception):
    """No picture of the photo is as wide as wanted, which showed only when it was there."""


class Fetcher:
    """Fetches photos; can be used by several threads.

    A host that has failed at many photos in a row, each after all its tries, is not asked again in this run: otherwise a
    server that is down would be waited for once for every photo.
    """

    def __init__(
        self, renew: Callable[[Record], Record | None], redirects: Redirects, client: Client, wanted: Filter
    ) -> None:
        self._renew, self._redirects, self._client, self._filter = renew, redirects, client, wanted
        self._faults, self._lock = Counter[str](), threading.Lock()

    def picture(self, record: Record) -> tuple[bytes, Image.Image]:
        """Return a photo as served, and decoded: RGB, upright.

        Raises:
            RemoteError: it cannot be fetched; lasting or not.
            PhotoError: what is served is no photo that can be used.
            TooNarrowError: it is not as wide as wanted.
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
            renewed = self._renew(record)
            if renewed is None:
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
            host_fails = not error.lasting and error.reason != "byte budget spent"
            with self._lock:
                self._faults[host] = self._faults[host] + 1 if host_fails else 0
            raise
        with self._lock:
            self._faults[host] = 0
        return reply.body, decoded[-1]
