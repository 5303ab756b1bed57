"""Requests to one host, spaced in time."""

import threading
import time
from collections import defaultdict


class Pace:
    """Spaces requests to each host evenly; threads wait for their turn.

    Args:
        requests_per_s: to one host.
    """

    def __init__(self, requests_per_s: float) -> None:
        self._gap_s = 1 / requests_per_s
        self._lock = threading.Lock()
        self._next: defaultdict[str, float] = defaultdict(float)  # monotonic time of the next free turn

    def wait(self, host: str) -> None:
        """Return when a request to `host` may be sent."""
        with self._lock:
            turn = max(self._next[host], time.monotonic())
            self._next[host] = turn + self._gap_s
        time.sleep(max(0.0, turn - time.monotonic()))

    def hold(self, host: str, seconds: float) -> None:
        """Send nothing to `host` for a while: it has refused further requests, which holds for every thread."""
        with self._lock:
            self._next[host] = max(self._next[host], time.monotonic() + seconds)
