"""What a request may take while its client sends it: memory, and patience."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request

from cellcode.serving.problems import Problem
from cellcode.serving.settings import Settings

FIELD_BYTES = 1_000_000  # of one text field: a region of GeoJSON is the longest


@dataclass
class Held:
    """Bytes of all bodies that are in memory, and how many may be."""

    most: int
    held: int = 0


@dataclass
class Intake:
    """What one request takes while its client sends it: memory, and patience."""

    settings: Settings
    memory: Held
    held: int = 0  # bytes
    waited_s: float = 0.0  # for bytes of the client
    open_bytes: int = 0  # that came since the last complete part

    async def chunks(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; Problem: too_slow, or overloaded (all bodies together are too large)."""
        stream, clock = request.stream(), asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                async with asyncio.timeout(self.settings.idle_seconds):
                    chunk = await anext(stream, b"")
            except TimeoutError:
                raise Problem("too_slow", f"nothing was sent for {self.settings.idle_seconds:g} s") from None
            self.waited_s += clock() - started
            if not chunk:
                return
            if self.memory.held + len(chunk) > self.memory.most:
                raise Problem("overloaded", "the requests at work fill the memory for them", retry_after_s=1)
            self.memory.held += len(chunk)
            self.held += len(chunk)
            self.open_bytes += len(chunk)
            yield chunk

    def give(self, size: int) -> None:
        """Give bytes back that are no longer held."""
        size = min(size, self.held)
        self.held -= size
        self.memory.held -= size

    def next_part(self) -> None:
        """Begin to count time and bytes anew: a part is complete."""
        self.waited_s, self.open_bytes = 0.0, 0

    def check_part(self) -> None:
        """Raise Problem: too_slow, or bad_request, where a part does not end."""
        if self.waited_s > self.settings.photo_seconds:
            raise Problem("too_slow", f"the next photo was not there after {self.settings.photo_seconds:g} s")
        if self.open_bytes > self.settings.photo_bytes + 2 * FIELD_BYTES:
            raise Problem("bad_request", "the multipart body has megabytes outside of its parts")
