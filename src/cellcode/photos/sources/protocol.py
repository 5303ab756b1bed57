"""What a photo source is: the base class that built-in sources and plug-ins share."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from cellcode.errors import CellcodeError, PluginError
from cellcode.geography import Region
from cellcode.photos.options import IngestOptions
from cellcode.photos.sources.consent import Estimate
from cellcode.photos.sources.rows import RowMaker
from cellcode.photos.table.item import Batch, Reject
from cellcode.progress import track

_TOGETHER = 128  # photos that may be held as bytes


class Photo(NamedTuple):
    """One photo of a source; a plain tuple of the same is accepted too.

    Attributes:
        image: path of the file (a relative one is relative to the working directory), or the bytes of one, which are written
            into OUT/images.
        position: latitude and longitude in degrees, WGS84.
        facts: further columns of the photo table (docs/formats.md) by their names, such as heading_deg and captured_at. A file
            whose width_px and height_px are among them is not opened.
    """

    image: Path | str | bytes
    position: tuple[float, float]
    facts: Mapping[str, Any] = {}


class PhotoSource:
    """A source of photos. A plug-in writes `items`, and the rest where it knows more.

    Attributes:
        uses: names of the options (fields of `IngestOptions`) that the source uses beside those that every source does; others
            are refused where they are set.
        selects: the source itself keeps to `max_photos`.
        spec: what the user wrote, for messages.
        argument: what follows the name of the source.
        out: folder of the photo table.
        region: photos outside it are left out; None: all are wanted. A source that knows positions beforehand may use it.
        root: folder that `file` of the photo table is relative to.
        has_split: the photos state their split; it is kept unless the user asks for another one.
    """

    uses: ClassVar[tuple[str, ...]] = ("check",)
    selects: ClassVar[bool] = False

    def __init__(
        self, argument: str, *, out: Path, region: Region | None = None, options: IngestOptions | None = None
    ) -> None:
        self.argument, self.out, self.region = argument, out, region
        self.options = options or IngestOptions()
        self.root, self.spec, self.has_split = out, argument, False
        self.prepare()

    def prepare(self) -> None:
        """Check the argument and the options, before anything is read.

        Raises:
            UsageError: one cannot be used.
        """

    def items(self) -> Iterator[Photo | Reject]:
        """Yield the photos, or why one cannot be used.

        Raises:
            InputError: the source cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} has no items")

    def count(self) -> int | None:
        """Return the number of items, for progress; None: unknown."""
        return None

    def licences(self) -> Mapping[str, int]:
        """Return the number of photos by licence, which is logged before they are read; empty: unknown."""
        return {}

    def estimate(self) -> Estimate | None:
        """Return what reading the source fetches, so that it can be confirmed; None: nothing."""
        return None

    def batches(self) -> Iterator[Batch]:
        """Yield rows of the photo table and rejects, made of `items`; those outside the region and the dates are left out.

        Raises:
            PluginError: `items` raises an error of its own, or yields something else than photos and rejects.
        """
        items, total = self._items(), self.count()
        items = track(items, f"reading {self.spec}", total) if total is not None else items
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            maker = RowMaker(self.spec, self.out, self.options.check, threads)
            selection = self.options.selection(self.region)
            while some := list(islice(items, _TOGETHER)):
                yield maker.batch(some, self.root, selection)
            self.has_split = maker.has_split

    def _items(self) -> Iterator[Any]:
        try:
            yield from self.items()
        except CellcodeError:
            raise
        except Exception as error:
            raise PluginError(
                f"photo source {self.spec}: reading its photos raised {type(error).__name__} ({error})"
            ) from error
