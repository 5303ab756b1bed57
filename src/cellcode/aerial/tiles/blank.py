"""Which tiles show nothing, although they came as images.

docs/aerial.md says by which rule. A photograph, however dark, has noise; no two of different places have the same bytes. Only
services are checked for placeholders; the content of a file was chosen by whoever made it.
"""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from PIL import Image

from cellcode.aerial.tiles.provider import Key

BLANK, PLACEHOLDER = "blank", "placeholder"
NEUTRAL = 12  # largest difference of the channels of a colour that is next to grey
REPEATS = 3  # different tiles with the same bytes


def is_uniform(image: Image.Image) -> bool:
    """Return True if all pixels of an RGB or RGBA image have the same colour, apart from transparency."""
    if image.getpixel((0, 0)) != image.getpixel((image.width // 3, image.height // 2)):
        return False  # nearly every photograph
    extrema: Any = image.getextrema()
    return all(low == high for low, high in extrema[:3])


def is_blank(image: Image.Image) -> bool:
    """Return True if a tile is wholly transparent, or of one neutral colour."""
    extrema: Any = image.getextrema() if image.mode == "RGBA" else ()
    if extrema and extrema[3][1] == 0:
        return True
    if not is_uniform(image):
        return False
    colour: Any = image.getpixel((0, 0))
    return bool(max(colour[:3]) - min(colour[:3]) <= NEUTRAL)


class Placeholders:
    """The pictures by which a service says that it has no imagery, by digest; safe for several threads.

    Args:
        learned: called with the digest of a new one, to store it.
    """

    def __init__(self, known: Iterable[bytes] = (), learned: Callable[[bytes], None] | None = None) -> None:
        self._known, self._learned = set(known), learned
        self._seen: defaultdict[bytes, set[Key]] = defaultdict(set)
        self._lock = threading.Lock()

    @property
    def are_kept(self) -> bool:
        """True if placeholders that are found now are known the next time."""
        return self._learned is not None

    def learn(self, body: bytes) -> None:
        """Treat the bytes of a tile as a placeholder from now on."""
        digest = _digest(body)
        with self._lock:
            if digest in self._known:
                return
            self._known.add(digest)
        if self._learned is not None:
            self._learned(digest)

    def check(self, key: Key, body: bytes) -> tuple[bool, list[Key]]:
        """Return True if a tile is a placeholder, and the tiles before it that had the same bytes and were not recognised."""
        digest = _digest(body)
        with self._lock:
            if digest in self._known:
                return True, []
            seen = self._seen[digest]
            seen.add(key)
            if len(seen) < REPEATS:
                return False, []
            late = [other for other in self._seen.pop(digest) if other != key]
        self.learn(body)
        return True, late


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
