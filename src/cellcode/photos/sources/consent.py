"""What would be fetched or unpacked is shown first; above some size it must be confirmed."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cellcode.errors import UsageError

logger = logging.getLogger(__name__)
FREE_PHOTOS = 2_000
FREE_BYTES = 500_000_000


@dataclass(frozen=True)
class Estimate:
    """What a source would fetch.

    Attributes:
        photos: to fetch, of which `present` are already there.
        photo_bytes: mean size of one; None: unknown.
        found: photos in the region; None: `photos`.
        accepted: those that no option excludes; None: `photos`.
        licences: number of photos to fetch by licence.
        left_out: number of photos by the reason why they are not wanted.
    """

    source: str
    photos: int
    present: int = 0
    photo_bytes: float | None = None
    found: int | None = None
    accepted: int | None = None
    licences: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int | None:
        """Approximate number of bytes to fetch; None: unknown."""
        left = self.photos - self.present
        return 0 if not left else None if self.photo_bytes is None else round(self.photo_bytes * left)

    def describe(self) -> str:
        """Return a few lines for people."""
        found = self.photos if self.found is None else self.found
        size = "an unknown number of bytes" if self.bytes is None else f"about {size_text(self.bytes)}"
        lines = [f"{self.source}: {found:,} photos in the region, {self.photos:,} to fetch, {size}"]
        if self.accepted is not None and self.photos < self.accepted:
            lines.append(f"  chosen at random out of {self.accepted:,}")
        if self.present:
            lines.append(f"  {self.present:,} of them are already there")
        lines += [f"  licence {name}: {count:,} photos" for name, count in sorted(self.licences.items())]
        lines += [f"  left out: {count:,} {reason}" for reason, count in sorted(self.left_out.items())]
        return "\n".join(lines)


def require_consent(
    confirm: Callable[[str], bool], notice: str, photos: int, size_bytes: int | None, *, always: bool = False
) -> None:
    """Log what would be done, and have it confirmed above 2,000 photos or 500 MB.

    Args:
        size_bytes: None: unknown, which counts as above.
        always: also below.

    Raises:
        UsageError: not confirmed.
    """
    logger.info(notice)
    much = photos > FREE_PHOTOS or size_bytes is None or size_bytes > FREE_BYTES
    size = "of unknown size" if size_bytes is None else size_text(size_bytes)
    if photos and (much or always) and not confirm(f"Fetch or unpack this ({size})?"):
        raise UsageError(
            "nothing was fetched: not confirmed; add --yes to confirm, or reduce the amount with --region or --max-photos"
        )


def size_text(size_bytes: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
