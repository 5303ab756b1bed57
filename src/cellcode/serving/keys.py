"""API keys out of a file, and how many photos each may send per minute."""

import hmac
import math
import time
from collections import OrderedDict
from pathlib import Path

from cellcode.errors import InputError
from cellcode.serving.problems import Problem

MIN_LENGTH = 16
REMEMBERED = 10_000  # askers whose rate is known; the one longest silent is forgotten first


def read(path: Path) -> frozenset[str]:
    """Read keys, one per line; empty lines and lines that start with # are skipped.

    Raises:
        InputError: the file cannot be read, holds no key, or one that is too short. Keys are never repeated in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a file of keys ({type(error).__name__}); it needs one per line"
        ) from None
    keys = [line.strip() for line in lines]
    for number, key in enumerate(keys, 1):
        if key and not key.startswith("#") and (len(key) < MIN_LENGTH or not key.isascii() or " " in key):
            raise InputError(f"{path}, line {number}: a key needs at least {MIN_LENGTH} ASCII characters, no spaces")
    found = frozenset(key for key in keys if key and not key.startswith("#"))
    if not found:
        raise InputError(f"{path} holds no key; it needs one per line")
    return found


def check(keys: frozenset[str], authorization: str | None) -> str:
    """Return the key of an Authorization header.

    Raises:
        Problem: unauthorized, it holds none of the keys.
    """
    kind, _, given = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not given:
        raise Problem("unauthorized", "this service needs a key")
    # Every key is compared, each in constant time: the time it takes reveals nothing.
    matches = [key for key in keys if hmac.compare_digest(key.encode(), given.strip().encode("utf-8", "replace"))]
    if not matches:
        raise Problem("unauthorized", "the key is not one of this service")
    return matches[0]


class Rates:
    """A bucket of photos for each asker, refilled evenly and as large as a minute's worth.

    Args:
        per_minute: None: no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, asker: str, photos: int = 1) -> None:
        """Take photos out of the asker's bucket; the last ones may overdraw it.

        Raises:
            Problem: rate_limited, the bucket is empty.
        """
        if self.per_minute is None:
            return
        now = time.monotonic()
        left, at = self._buckets.pop(asker, (self.per_minute, now))
        left = min(self.per_minute, left + (now - at) * self.per_minute / 60)
        if left < min(1.0, self.per_minute):
            self._buckets[asker] = (left, now)
            wait = math.ceil((min(1.0, self.per_minute) - left) * 60 / self.per_minute)
            raise Problem(
                "rate_limited", f"more than {self.per_minute:g} photos per minute", retry_after_s=max(wait, 1)
            )
        self._buckets[asker] = (left - photos, now)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
