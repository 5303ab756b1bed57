"""Tiles that could not be fetched: counted once each, and when to give up."""

import threading
from collections import Counter

from cellcode.aerial.missing import Missing
from cellcode.aerial.tiles.provider import Key
from cellcode.http import MissingError, RemoteError

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
            if with_image:
                self._gave = True

    def failed(self, error: RemoteError) -> None:
        """Count an error; returns if the tile is to be masked.

        Raises:
            RemoteError: further requests would fail as well.
        """
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
            raise RemoteError(
                f"{number} consecutive tiles could not be fetched, the last: {error}; tiles that were fetched are kept, run "
                "this again later",
                error.reason,
                error.status,
                lasting=error.lasting,
            )
