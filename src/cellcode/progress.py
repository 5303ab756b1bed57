"""Progress of long work: a bar with the time left on a terminal, elsewhere a log record every ten seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cellcode import log

T = TypeVar("T")
logger = logging.getLogger(__name__)
LINE_EVERY_S = 10.0


class Meter:
    """Progress over a known number of steps, as a context manager; call `advance` as work is done."""

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.done = description, total, 0
        self._text = ""
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        console = log.console()
        if console is not None and not log.is_quiet():
            text, note = TextColumn("{task.description}"), TextColumn("{task.fields[text]}")
            columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
            self._bar = Progress(
                *columns, console=console, redirect_stdout=False
            )  # results go to stdout, perhaps a file
            self._task = self._bar.add_task(description, total=total, text="")

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None:
            self._log(f"{time.monotonic() - self._start:.0f} s")

    def note(self, text: str) -> None:
        """Show `text` beside the count from now on."""
        self._text = text

    def advance(self, steps: int = 1) -> None:
        """Count `steps` as done."""
        self.done += steps
        if self._bar:
            self._bar.update(self._task, advance=steps, text=self._text)
        elif time.monotonic() - self._last_line > LINE_EVERY_S:
            elapsed = time.monotonic() - self._start
            self._log(f"{elapsed / max(self.done, 1) * (self.total - self.done):.0f} s left")

    def _log(self, tail: str) -> None:
        self._last_line = time.monotonic()
        note = f", {self._text}" if self._text else ""
        figures = {"task": self.description, "done": self.done, "total": self.total}
        logger.info("%s: %d/%d%s, %s", self.description, self.done, self.total, note, tail, extra={"figures": figures})


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield from `items`, showing progress over `total` of them."""
    with Meter(description, total) as meter:
        for item in items:
            yield item
            meter.advance()
