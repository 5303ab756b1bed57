"""Logging of the library, and the handler that the command line installs. Nothing in the library prints.

Every module logs to `logging.getLogger(__name__)`, below the logger `cellcode`. A program that uses the library sees warnings
and errors, and all of it after `logging.basicConfig(level=logging.INFO)`.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Literal

from rich.console import Console

Format = Literal["text", "json"]


def install(format: Format = "text", *, quiet: bool = False) -> None:
    """Send the library's messages to stderr: to people as text, to programs as one JSON object per line.

    Args:
        format: on a terminal text has no time stamp; elsewhere every line begins with one.
        quiet: only warnings and errors.
    """
    for name in ("cellcode", "experiments"):
        logger = logging.getLogger(name)
        for handler in [each for each in logger.handlers if isinstance(each, StderrHandler)]:
            logger.removeHandler(handler)
        logger.addHandler(StderrHandler(format))
        logger.setLevel(logging.WARNING if quiet else logging.INFO)


def is_quiet() -> bool:
    """Return True if progress is not to be shown."""
    return not logging.getLogger("cellcode").isEnabledFor(logging.INFO)


def console() -> Console | None:
    """Return the terminal that bars are drawn on; None where stderr is no terminal or lines are for programs.

    Messages go through it while a bar is drawn, so that neither tears the other.
    """
    handlers = [each for each in logging.getLogger("cellcode").handlers if isinstance(each, StderrHandler)]
    return handlers[0].console if handlers else None


class StderrHandler(logging.Handler):
    """Writes records to stderr, whatever stderr is at that time."""

    def __init__(self, format: Format) -> None:
        super().__init__()
        self.console = Console(stderr=True) if format == "text" and sys.stderr.isatty() else None
        self.setFormatter(JsonFormatter() if format == "json" else TextFormatter(stamped=self.console is None))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        text = self.format(record)
        if self.console is not None:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)


class TextFormatter(logging.Formatter):
    """The message, with the level if it is a warning and with a time stamp where lines are kept."""

    def __init__(self, *, stamped: bool) -> None:
        super().__init__("%(asctime)s %(message)s" if stamped else "%(message)s", "%Y-%m-%d %H:%M:%S")


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC, ISO 8601), level, logger, message, and the figures of progress."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(line | getattr(record, "figures", {}))
