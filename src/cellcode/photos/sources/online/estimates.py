"""What would be fetched, told before it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from cellcode.http import RemoteError
from cellcode.photos.reading.image import PhotoError
from cellcode.photos.sources.consent import size_text
from cellcode.photos.sources.online.choice import Choice
from cellcode.photos.sources.online.fetch import Fetcher, TooNarrowError
from cellcode.photos.sources.online.record import Record

_SAMPLE = 4


@dataclass(frozen=True)
class Estimate:
    """What a service has in a region, as far as the options want it.

    Attributes:
        source: the service, for people.
        found: photos in the region.
        accepted: those to which the options have no objection.
        photos: those that would be fetched.
        present: those of them that are there already.
        sample_bytes: mean size of a few of them that were fetched for it; None if none of them could be.
        licences: number of photos to fetch by licence.
        left_out: number of photos by the reason why they are not wanted, or not known.
    """

    source: str
    found: int
    accepted: int
    photos: int
    present: int
    sample_bytes: float | None
    licences: dict[str, int]
    left_out: dict[str, int]

    @property
    def bytes(self) -> int | None:
        """About how much would be fetched; None where nothing is known of it."""
        left = self.photos - self.present
        if not left:
            return 0
        return None if self.sample_bytes is None else round(self.sample_bytes * left)

    def describe(self) -> str:
        """Return a few lines for people."""
        size = "an unknown number of bytes" if self.bytes is None else f"about {size_text(self.bytes)}"
        lines = [f"{self.source}: {self.found:,} photos in the region, {self.photos:,} to fetch, {size}"]
        if self.photos < self.accepted:
            lines.append(f"  chosen at random out of {self.accepted:,}")
        if self.present:
            lines.append(f"  {self.present:,} of them are there already")
        lines += [f"  licence {name}: {count:,} photos" for name, count in sorted(self.licences.items())]
        lines += [f"  left out: {count:,} {reason}" for reason, count in sorted(self.left_out.items())]
        return "\n".join(lines)


def make(choice: Choice, fetcher: Fetcher, name: str, present: int) -> Estimate:
    """Return the offer of a choice; a few of its photos are fetched to see how large they are."""
    return Estimate(
        source=name,
        found=choice.listing.photos,
        accepted=choice.accepted,
        photos=choice.wanted,
        present=present,
        sample_bytes=_mean_bytes(choice.records(), fetcher) if choice.wanted > present else None,
        licences=dict(choice.licences),
        left_out=dict(choice.left_out),
    )


def _mean_bytes(records: Iterable[Record], fetcher: Fetcher) -> float | None:
    sizes = []
    for record in islice(records, _SAMPLE):
        try:
            sizes.append(len(fetcher.picture(record)[0]))
        except (RemoteError, PhotoError, TooNarrowError):
            continue
    return sum(sizes) / len(sizes) if sizes else None
