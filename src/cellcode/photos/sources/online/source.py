"""What the online services have in common: photos are listed, chosen from, and fetched into OUT/images."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any, ClassVar

import shapely

from cellcode.geography import Region
from cellcode.http import Client, MissingError, RemoteError
from cellcode.photos.reading.image import PhotoError
from cellcode.photos.reading.pixels import in_order
from cellcode.photos.sources.consent import Estimate
from cellcode.photos.sources.online.fetch import Fetcher, Redirects, Store, TooNarrowError
from cellcode.photos.sources.online.listing import Choice, Filter, choose, listing_of
from cellcode.photos.sources.online.quadrants import Ask, Gap, Search
from cellcode.photos.sources.online.record import Found, Record, reject
from cellcode.photos.sources.protocol import Photo, PhotoSource
from cellcode.photos.table.item import Reject
from cellcode.progress import track

_DEGREE_M = 111_000.0
_SAMPLE = 4  # photos fetched to estimate their size
_STATED = ("captured_at", "sequence", "device", "licence", "attribution", "accuracy_m")


class OnlineSource(PhotoSource):
    """A service where photos can be searched for and fetched.

    Attributes:
        name: for people.
        source: for the photo table.
        redirects: where the links to its photos may lead.
    """

    uses = ("panoramas", "politeness", "min_width_px", "min_quality", "max_accuracy_m")
    selects = True
    name: str
    source: ClassVar[str]
    redirects: ClassVar[Redirects] = "same host"

    @cached_property
    def client(self) -> Client:
        """What asks the service."""
        return Client(self.options.politeness)

    @abstractmethod
    def find(self) -> Iterator[list[Found]]:
        """Yield the photos of the region and somewhat around it, each once; what is out of reach is a transient reject.

        Raises:
            UsageError: the service needs a region.
            RemoteError: it does not answer.
        """

    def renew(self, record: Record) -> Record | None:
        """Return a photo with links that have not expired, None where links do not expire; MissingError: it is deleted."""
        return None

    def estimate(self) -> Estimate:
        """Return what `items` would fetch; only the listing and a few photos are fetched. Raises what `find` does."""
        choice, store = self._choice, Store(self.out, self._filter)
        present = sum(store.find(record) is not None for record in choice.records())
        sizes = list(self._sizes(islice(choice.records(), _SAMPLE))) if choice.wanted > present else []
        mean = sum(sizes) / len(sizes) if sizes else None
        counts = (choice.listing.photos, choice.accepted, choice.licences, choice.left_out)
        return Estimate(self.name, choice.wanted, present, mean, *counts)

    def items(self) -> Iterator[Photo | Reject]:
        """Yield every photo of the region, fetched into OUT/images, or a reject with the reason why it is not there.

        Photos that are there, and a listing of the last day, are not fetched again, so that an interrupted run resumes.
        Temporary errors that outlived the retries are transient rejects: run again for them. Raises what `find` does.
        """
        choice, store, fetcher = self._choice, Store(self.out, self._filter), self._fetcher
        fetched = lambda found: [found] if isinstance(found, Reject) else self._photos(found, store, fetcher)  # noqa: E731
        threads = self.options.politeness.connections
        done = in_order(fetched, choice, threads, 4 * threads)
        total = choice.wanted + choice.left_out.total()
        yield from chain.from_iterable(track(done, f"fetching from {self.name}", total))

    @cached_property
    def _filter(self) -> Filter:
        return Filter(self.options)

    @cached_property
    def _choice(self) -> Choice:
        listing = listing_of(self.find, self.name, self.spec, self.region, self.options, self.out)
        return choose(listing, self._filter, self.source)

    @property
    def _fetcher(self) -> Fetcher:
        return Fetcher(self.renew, self.redirects, self.client, self._filter)

    def _sizes(self, records: Iterable[Record]) -> Iterator[int]:
        fetcher = self._fetcher
        for record in records:
            try:
                yield len(fetcher.picture(record)[0])
            except (RemoteError, PhotoError, TooNarrowError):
                continue

    def _photos(self, record: Record, store: Store, fetcher: Fetcher) -> list[Photo | Reject]:
        """One photo, or one for each view of a panorama."""
        refused = partial(reject, self.source, record.id)
        try:
            pictures = store.find(record) or store.keep(record, *fetcher.picture(record))
        except MissingError:
            return [refused("deleted since it was listed")]
        except RemoteError as error:
            return [refused(f"not fetched: {error.reason}", transient=not error.lasting)]
        except TooNarrowError:
            return [refused(self._filter.too_narrow(record))]
        except PhotoError as error:
            return [replace(refused(str(error).removeprefix("photo: ")), kind="not a usable photo")]
        facts = {name: getattr(record, name) for name in _STATED} | {"source": self.source}
        return [Photo(path, (record.lat_deg, record.lon_deg), facts | own) for path, own in pictures]

    def search(
        self, ask: Ask, region: Region, *, limit: int, margin_m: float, max_area_deg2: float = math.inf
    ) -> Iterator[list[dict[str, Any]] | Reject]:
        """Yield the descriptions of all photos of a region and its margin; rejects for boxes that were not listed whole."""
        _, south, _, north = region.shape.bounds
        shortest = math.cos(
            math.radians(min(max(abs(south), abs(north)), 89.0))
        )  # degree of longitude, of one of latitude
        wide = region.shape.buffer(margin_m / _DEGREE_M / shortest, join_style="mitre")
        shape = wide.intersection(shapely.box(-180, -90, 180, 90))
        for found in Search(ask, shape, limit=limit, max_area_deg2=max_area_deg2).run():
            if isinstance(found, Gap):
                yield reject(self.source, found.box, f"part of the region not listed: {found.reason}", transient=True)
            else:
                yield found


def descriptions(answer: object, key: str, url: str) -> list[dict[str, Any]]:
    """Return the list of objects under a key of a JSON answer; RemoteError: the answer is of another kind."""
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RemoteError(f"{url}: the answer holds no list {key!r}", "unexpected answer")
    return found
