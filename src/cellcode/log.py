"""Logging of the library, and the handler that the command line installs. Nothing in the library prints.

Every module logs to `logging.getLogger(__name__)`, below the logger `cellcode`. A program that uses the library sees warnings
and errors, and all messages after `logging.basicConfig(level=logging.INFO)`.
"""

import datetime
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, TextIO

from rich.console import Console

Format = Literal["text", "json"]
NAMES = ("cellcode", "experiments")


def install(format: Format = "text", *, quiet: bool = False) -> None:
    """Send the library's messages to stderr from now on.

    "text" is for people, without time stamps on a terminal; "json" is one object per line. Quiet: warnings and errors only.
    """
    uninstall()
    handler = StderrHandler(format)
    for name in NAMES:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)


def uninstall() -> None:
    """Undo `install`."""
    for name in NAMES:
        logger = logging.getLogger(name)
        for handler in [each for each in logger.handlers if isinstance(each, StderrHandler)]:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


@contextmanager
def installed(format: Format = "text", *, quiet: bool = False) -> Iterator[None]:
    """Send the library's messages to stderr while the block runs; see `install`."""
    install(format, quiet=quiet)
    try:
        yield
    finally:
        uninstall()


def is_quiet() -> bool:
    """Return True if progress is not to be shown."""
    return not logging.getLogger("cellcode").isEnabledFor(logging.INFO)


def console() -> Console | None:
    """Return the terminal that bars are drawn on; None where stderr is no terminal or lines are for programs.

    Messages go through it while a bar is drawn, so that neither tears the other.
    """
    handlers = [each for each in logging.getLogger("cellcode").handlers if isinstance(each, StderrHandler)]
    return handlers[0].console if handlers else None


def silence(stream: TextIO) -> None:
    """Let what is written to stdout or stderr from now on, or was not yet, go nowhere."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class StderrHandler(logging.Handler):
    """Writes records to stderr, whatever stderr is at that time."""

    def __init__(self, format: Format) -> None:
        super().__init__()
        self.console = Console(stderr=True) if format == "text" and sys.stderr.isatty() else None
        self.setFormatter(JsonFormatter() if format == "json" else TextFormatter(stamped=self.console is None))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            if self.console is not None:
                self.console.out(self.format(record), highlight=False)
            else:
                print(self.format(record), file=sys.stderr, flush=True)
        except OSError:  # its disk is full, or its reader has gone: the work matters more
            silence(sys.stderr)


class TextFormatter(logging.Formatter):
    """The message, marked if it is a warning or an error, and with a time stamp where lines are kept."""

    def __init__(self, *, stamped: bool) -> None:
        super().__init__("%(asctime)s %(message)s" if stamped else "%(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line."""
        if record.levelno >= logging.WARNING:
            record.message = f"{record.levelname.lower()}: {record.message}"
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC, ISO 8601), level, logger, message, and the figures of progress."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "figures", {}))
