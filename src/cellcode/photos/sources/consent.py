"""What would be fetched or unpacked is told before it is, and above some size somebody has to say yes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from cellcode.errors import UsageError

FREE_PHOTOS = 2_000
FREE_BYTES = 500_000_000


def refuse(question: str) -> bool:
    """Say no, where nobody is there to be asked."""
    return False


@dataclass(frozen=True)
class Consent:
    """Asks somebody.

    Attributes:
        confirm: is given a question and says yes or no.
    """

    confirm: Callable[[str], bool] = refuse

    def ask(self, notice: str, photos: int, size_bytes: int | None, *, always: bool = False) -> None:
        """Print what would be done, and ask if it is much: more than 2,000 photos or 500 MB.

        Args:
            size_bytes: None: not known, which is much.
            always: ask however little it is.

        Raises:
            UsageError: the answer is no.
        """
        print(notice, file=sys.stderr, flush=True)
        much = photos > FREE_PHOTOS or size_bytes is None or size_bytes > FREE_BYTES
        if photos and (much or always) and not self.confirm("Go on?"):
            raise UsageError("nothing was fetched; say --yes to go on, or ask for less with --region or --max-photos")


def size_text(size_bytes: int) -> str:
    """Return a number of bytes as people say it."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
