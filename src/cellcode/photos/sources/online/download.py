"""The photos of an online service as rows of a photo table: listed, fetched into a folder, told of if they are missing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from cellcode.geography import Region
from cellcode.http import Client, MissingError, RemoteError
from cellcode.photos.reading.image import PhotoError
from cellcode.photos.sources.online import estimates
from cellcode.photos.sources.online.choice import Choice, choose
from cellcode.photos.sources.online.fetch import Fetcher, TooNarrowError
from cellcode.photos.sources.online.listing import of_region
from cellcode.photos.sources.online.opening import open_service
from cellcode.photos.sources.online.options import Options
from cellcode.photos.sources.online.record import Record
from cellcode.photos.sources.online.service import Found, Service, reject
from cellcode.photos.sources.online.store import Store
from cellcode.photos.table.item import Item, Reject
from cellcode.progress import track

T = TypeVar("T")
R = TypeVar("R")


def estimate(
    spec: str, region: Region | None, options: Options | None = None, out: Path | None = None
) -> estimates.Estimate:
    """Tell what `items` would fetch; nothing is fetched but the listing and a few photos, to see how large they are.

    Args:
        spec: `panoramax:`, `panoramax:https://HOST/api[/collections/ID]` or `mapillary:`.
        out: the folder of `items`, which then takes the listing from there; photos in it are counted.

    Raises:
        UsageError: the source or the options cannot be meant.
        RemoteError: the service cannot be asked.
    """
    options = options or Options()
    client = Client(options.politeness)
    service = open_service(spec, client)
    with TemporaryDirectory() as passing:
        folder = out or Path(passing)
        choice = _choice(service, spec, region, options, folder)
        store = Store(folder, options)
        present = sum(store.has(record) for record in choice.records())
        return estimates.make(choice, Fetcher(service, client, options), service.name, present)


def items(spec: str, region: Region | None, out: Path, options: Options | None = None) -> Iterator[Item]:
    """Yield a row for every photo of a region, fetched into OUT/images, or a reject with the reason why it is not there.

    Photos that are there already are not fetched again, and a listing of the last day is not asked for again, so a run that
    was cut off goes on where it was. Passing faults that outlived the tries are transient rejects: run again for them.

    Args:
        spec: as `offer`.
        out: `file` of the rows is relative to it.

    Raises:
        UsageError: the source or the options cannot be meant.
        RemoteError: the service cannot be asked.
    """
    options = options or Options()
    client = Client(options.politeness)
    service = open_service(spec, client)
    choice = _choice(service, spec, region, options, out)
    store, fetcher = Store(out, options), Fetcher(service, client, options)

    def fetched(found: Found) -> list[Item]:
        return [found] if isinstance(found, Reject) else _items(found, service, store, fetcher, options)

    total = choice.wanted + choice.left_out.total()
    photos = track(_in_order(fetched, choice, options.politeness.connections), f"fetching from {service.name}", total)
    for made in photos:
        yield from made


def _choice(service: Service, spec: str, region: Region | None, options: Options, folder: Path) -> Choice:
    return choose(of_region(service, spec, region, options, folder), options, service.source)


def _items(record: Record, service: Service, store: Store, fetcher: Fetcher, options: Options) -> list[Item]:
    """Rows of one photo: one, or one for each view of a panorama."""
    try:
        pictures = store.find(record) or store.keep(record, *fetcher.picture(record))
    except MissingError:
        return [reject(service.source, record.id, "deleted since it was listed")]
    except RemoteError as error:
        return [reject(service.source, record.id, f"not fetched: {error.reason}", transient=not error.lasting)]
    except TooNarrowError:
        return [reject(service.source, record.id, options.too_narrow(record))]
    except PhotoError as error:
        refused = reject(service.source, record.id, str(error).removeprefix("photo: "))
        return [replace(refused, kind="no photo that can be used")]
    return [
        {
            "file": picture.file,
            "lat_deg": record.lat_deg,
            "lon_deg": record.lon_deg,
            "heading_deg": picture.heading_deg,
            "fov_deg": picture.fov_deg,
            "captured_at": record.captured_at,
            "sequence": record.sequence,
            "device": record.device,
            "split": "train",
            "licence": record.licence,
            "attribution": record.attribution,
            "source": service.source,
            "width_px": picture.width_px,
            "height_px": picture.height_px,
            "accuracy_m": record.accuracy_m,
        }
        for picture in pictures
    ]


def _in_order(work: Callable[[T], R], tasks: Iterable[T], threads: int) -> Iterator[R]:
    """Yield results in the order of the tasks; of an endless number of tasks, only a few are taken ahead."""
    waiting = deque[Future[R]]()
    pool = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) >= 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
