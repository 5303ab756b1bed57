"""Tiles decoded, checked and kept in memory; a missing tile is made from a coarser one or counted."""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Container
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple

from PIL import Image

from cellcode.aerial.missing import Missing
from cellcode.aerial.tiles.blank import BLANK, PLACEHOLDER, Placeholders, is_blank, is_uniform
from cellcode.aerial.tiles.grid import Box
from cellcode.aerial.tiles.provider import Key, TileProvider, decode
from cellcode.http import MissingError, RemoteError

logger = logging.getLogger(__name__)
MEMORY_BYTES = 128 * 2**20
COARSER = 3  # levels up from which a missing tile is enlarged
_PROBED_FROM = 10  # level: in coarser ones the corner of the world holds land as well
_NOT_THERE = "not there"
DAMAGED = "damaged"
IN_A_ROW = 16  # temporary errors without an answer between them: the service is down
REFUSED_IN_A_ROW = 64  # permanent errors of a service that has sent no tile yet: the key or the address is wrong
_HOPELESS = {"private address", "bad address", "byte budget spent", "bad certificate"}


class Failures:
    """What a source of tiles has masked; safe for several threads."""

    def __init__(self) -> None:
        self._why: dict[Key, Missing] = {}
        self._row, self._refused, self._gave = 0, 0, False
        self._lock = threading.Lock()

    @property
    def counts(self) -> Counter[Missing]:
        """Tiles by reason."""
        with self._lock:
            return Counter(self._why.values())

    def note(self, key: Key, why: Missing) -> None:
        """Count a tile as missing. One that was missed by a temporary error stays so: a crop was cut without it."""
        with self._lock:
            if key not in self._why or not self._why[key].transient:
                self._why[key] = why

    def answered(self, with_image: bool) -> None:
        """Note that the service has answered."""
        with self._lock:
            self._row = 0
            self._gave |= with_image

    def failed(self, error: RemoteError) -> None:
        """Count an error; it is raised where further requests would fail as well."""
        if isinstance(error, MissingError):
            self.answered(False)
            return
        if error.reason in _HOPELESS or error.status == 401:
            raise error
        with self._lock:
            if error.lasting:
                self._refused += not self._gave
                many = self._refused >= REFUSED_IN_A_ROW and not self._gave
            else:
                self._row += 1
                many = self._row >= IN_A_ROW
            number = self._refused if error.lasting else self._row
        if many:
            sentence = (
                f"{number} consecutive tiles could not be fetched, the last: {error}; tiles that were fetched are kept, run "
                "this again later"
            )
            raise RemoteError(sentence, error.reason, error.status, lasting=error.lasting)


class Tile(NamedTuple):
    """A tile as it is kept: the image, or why there is none."""

    image: Image.Image | None
    why: Missing | None = None


class _LatestTiles:
    """The tiles used last, up to `MEMORY_BYTES`; each is loaded once, even when several threads want it at the same time."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[Key, int], Future[Tile]] = OrderedDict()
        self._total, self._lock = 0, threading.Lock()

    def get(self, key: tuple[Key, int], load: Callable[[], Tile]) -> Tile:
        """An error of `load` reaches all who wait for the tile."""
        with self._lock:
            entry = self._entries.get(key)
            if mine := entry is None:
                entry = self._entries[key] = Future()
            else:
                self._entries.move_to_end(key)
        if not mine:
            return entry.result()
        try:
            tile = load()
        except BaseException as error:
            with self._lock:
                self._forget(key)
            entry.set_exception(error)
            raise
        with self._lock:
            entry.set_result(tile)
            if self._entries.get(key) is entry:  # it may have been dropped meanwhile
                self._total += _bytes(tile)
                while self._total > MEMORY_BYTES:
                    self._forget(next(key for key, entry in self._entries.items() if entry.done()))
        return tile

    def __contains__(self, key: tuple[Key, int]) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.done()

    def drop(self, keys: Container[Key]) -> None:
        """Forget tiles of any size; who waits for one still gets it."""
        with self._lock:
            for entry in [entry for entry in self._entries if entry[0] in keys]:
                self._forget(entry)

    def _forget(self, key: tuple[Key, int]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.done() and entry.exception() is None:
            self._total -= _bytes(entry.result())


class Decoder:
    """The tiles of a provider; safe for several threads.

    Args:
        placeholders: pictures that stand for missing imagery; None: they are found out from the service.
    """

    def __init__(self, provider: TileProvider, placeholders: Placeholders | None = None) -> None:
        self._provider = provider
        self._placeholders = (placeholders or Placeholders()) if provider.connections else None
        self._failures = Failures()
        self._latest = _LatestTiles()
        self._probing = threading.Lock()
        self._probed = False
        self.side_px: int | None = None  # along the tiles, as the first one showed

    @property
    def missing(self) -> Counter[Missing]:
        """Tiles that were requested and are missing, by reason."""
        return self._failures.counts

    def get(self, key: Key, side_px: int) -> Tile:
        """Return a tile as an RGB or RGBA square of `side_px`, or why it is missing.

        A tile that does not exist, or shows nothing, is made of the coarser tile over it, if one of the next `COARSER` levels
        has one. One that could not be fetched is not: it may exist. Raises RemoteError if the service sends nothing at all, or
        the first tiles of a file are all damaged.
        """
        tile = self._kept(key, side_px)
        if tile.why is None:
            return tile
        if not tile.why.transient and (image := self._from_coarser(key, side_px)) is not None:
            return Tile(image)
        self._failures.note(key, tile.why)
        return tile

    def is_loaded(self, key: Key, side_px: int) -> bool:
        """Return True if a tile is in memory."""
        return (key, side_px) in self._latest

    def _kept(self, key: Key, side_px: int) -> Tile:
        return self._latest.get((key, side_px), lambda: self._load(key, side_px))

    def _load(self, key: Key, side_px: int) -> Tile:
        try:
            self._probe(key[0])
            body = self._provider.fetch(*key).body
            assert body is not None  # it was requested without a condition
            image = decode(body, side_px)
        except MissingError as error:
            self._failures.failed(error)
            return Tile(None, Missing(_NOT_THERE, self._provider.host))
        except (RemoteError, ValueError) as error:
            if not isinstance(error, RemoteError):  # of a file: what a service sends is checked before it is kept
                sentence = "{}: tile {}/{}/{} cannot be read ({})".format(self._provider.host, *key, error)
                error = RemoteError(sentence, DAMAGED, lasting=True)
            self._failures.failed(error)
            why = Missing(error.reason, self._provider.host, not error.lasting)
            if why.reason == DAMAGED and error.lasting:  # counted even where a coarser tile stands for it
                if why not in self._failures.counts:
                    logger.warning("%s; damaged tiles count as missing", error)
                self._failures.note(key, why)
            return Tile(None, why)
        reason = self._defect(key, image, body)
        self._failures.answered(with_image=reason is None)
        if reason is not None:
            return Tile(None, Missing(reason, self._provider.host))
        if self.side_px is None:
            self.side_px = decode(body).width
        return Tile(_fitted(image, side_px))

    def _defect(self, key: Key, image: Image.Image, body: bytes) -> str | None:
        if is_blank(image):
            return BLANK
        if self._placeholders is None or is_uniform(image):
            return None
        is_one, late = self._placeholders.check(key, body)
        for other in late:  # crops that show them are wrong; the next run cuts them again
            why = Missing(f"{PLACEHOLDER} seen late", self._provider.host, self._placeholders.are_kept)
            self._failures.note(other, why)
        if late:
            self._latest.drop(late)
        return PLACEHOLDER if is_one else None

    def _probe(self, z: int) -> None:
        if self._probed or self._placeholders is None or z < _PROBED_FROM or not self._provider.grid.is_mercator:
            return
        with self._probing:
            if self._probed:
                return
            with suppress(RemoteError, ValueError):
                body = self._provider.fetch(z, 0, 0).body
                if body is not None and not is_uniform(decode(body)):
                    self._placeholders.learn(body)
            self._probed = True

    def _from_coarser(self, key: Key, side_px: int) -> Image.Image | None:
        grid = self._provider.grid
        box = grid.levels[key[0]].box(*key[1:])
        coarser = sorted((z for z in grid.levels if z < key[0]), reverse=True)[:COARSER]
        for z in coarser:
            level = grid.levels[z]
            middle = ((box[0] + box[2]) / 2 - level.left) / level.span, (level.top - (box[1] + box[3]) / 2) / level.span
            column, row = int(middle[0] // 1), int(middle[1] // 1)
            part = _part(box, level.box(column, row), side_px)
            if part is None or not level.has(column, row):
                continue
            tile = self._kept((z, column, row), side_px)
            if tile.image is not None:
                return tile.image.resize((side_px, side_px), Image.Resampling.BILINEAR, part)
        return None


def _part(box: Box, whole: Box, side_px: int) -> Box | None:
    """Left, top, right, bottom of a box in the pixels of another; None if it does not lie inside."""
    side = whole[2] - whole[0]
    shares = [each / side for each in (box[0] - whole[0], whole[3] - box[3], box[2] - whole[0], whole[3] - box[1])]
    if min(shares) < -1e-6 or max(shares) > 1 + 1e-6:
        return None
    left, top, right, bottom = (min(max(share, 0.0), 1.0) * side_px for share in shares)
    return left, top, right, bottom


def _fitted(image: Image.Image, side_px: int) -> Image.Image:
    if image.size == (side_px, side_px):
        return image
    if image.width == image.height and image.width % side_px == 0:
        return image.reduce(image.width // side_px)
    return image.resize((side_px, side_px), Image.Resampling.BILINEAR)


def _bytes(tile: Tile) -> int:
    return tile.image.width * tile.image.height * 4 if tile.image is not None else 64
