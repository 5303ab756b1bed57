"""What a photo source is: the base class that built-in sources and plug-ins share, and how its photos become rows."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from cellcode.errors import CellcodeError, PluginError, storage_cause
from cellcode.files import write_bytes
from cellcode.geography import Region
from cellcode.photos.options import Check, IngestOptions
from cellcode.photos.reading.facts import NULL_ISLAND
from cellcode.photos.reading.image import PhotoError, image_kind, photo_size
from cellcode.photos.sources.consent import Estimate
from cellcode.photos.table.item import Batch, Reject, Selection
from cellcode.photos.table.photo_table import SCHEMA, SPLITS
from cellcode.progress import track

_EXPECTED = "expected (file or bytes, (latitude, longitude), facts) or a Reject"
_FACTS = tuple(name for name in SCHEMA.names if name not in ("file", "lat_deg", "lon_deg"))
_NAME_LENGTH = 24


@dataclass
class RowMaker:
    """Makes rows of one source's photos.

    Attributes:
        out: folder of the photo table; bytes are written into its folder `images`, under a digest as name.
        check: how files are looked at whose size is not among their facts.
        has_split: a photo stated its split.
    """

    spec: str
    out: Path
    check: Check
    threads: ThreadPoolExecutor
    has_split: bool = False
    _seen: set[str] = field(default_factory=set)

    def batch(self, items: list[Any], root: Path, selection: Selection) -> Batch:
        """Return rows and rejects of some items; of unwanted ones nothing is read or written. PluginError: wrong items."""
        rejects, photos, rows = list[Reject](), list[tuple[Path | bytes, dict[str, Any]]](), list[dict[str, Any]]()
        for item in items:
            if isinstance(item, Reject):
                rejects.append(item)
                continue
            image, row = self._row(item)
            if fault := _fault(row):
                rejects.append(Reject(row["file"], None, fault))
            else:
                photos.append((image, row))
        wanted, left_out = selection.mask(pa.Table.from_pylist([row for _, row in photos], SCHEMA))
        photos = list(compress(photos, wanted))
        placed = self.threads.map(lambda each: self._place(each[0], each[1], root), photos)
        for (image, row), found in zip(photos, placed, strict=True):
            if isinstance(image, bytes) and not isinstance(found, str):
                found = "the same image as an earlier photo" if row["file"] in self._seen else found
                self._seen.add(row["file"])
            if isinstance(found, str):
                rejects.append(Reject(row["file"], None, found))
            else:
                rows.append(row | found)
        return Batch(pa.Table.from_pylist(rows, SCHEMA), rejects, left_out)

    def _row(self, item: object) -> tuple[Path | bytes, dict[str, Any]]:
        try:
            if not isinstance(item, tuple):
                raise TypeError
            image, position, facts = item if len(item) == 3 else (*item, {})
            lat, lon = (float(degrees) for degrees in position)
            names = set(facts)
        except (TypeError, ValueError):
            image = None
        if not isinstance(image, Path | str | bytes) or not isinstance(facts, Mapping):
            raise PluginError(f"photo source {self.spec}: it yielded {str(item)[:100]!r}; {_EXPECTED}")
        if unknown := sorted(names.difference(_FACTS)):
            raise PluginError(
                f"photo source {self.spec}: unknown fact {unknown[0]!r}; valid facts: {', '.join(_FACTS)}"
            )
        self.has_split |= "split" in facts
        name = hashlib.sha256(image).hexdigest()[:_NAME_LENGTH] if isinstance(image, bytes) else str(image)
        row = {"split": "train", "source": self.spec.partition(":")[0], "width_px": 0, "height_px": 0}
        row |= {name: value for name, value in facts.items() if value is not None}
        row |= {"file": name, "lat_deg": lat, "lon_deg": lon}
        return image if isinstance(image, bytes) else Path(image), row

    def _place(self, image: Path | bytes, row: Mapping[str, Any], root: Path) -> dict[str, Any] | str:
        width, height = row["width_px"], row["height_px"]
        try:
            if isinstance(image, bytes):
                width, height = photo_size(image, "decode")
                path = self.out / "images" / row["file"][:2] / f"{row['file']}.{image_kind(image)}"
                if not path.is_file():
                    write_bytes(path, image)
            else:
                path = image
                if not (width and height):
                    if self.check == "none":
                        return "no width_px and height_px, which check none needs"
                    width, height = photo_size(path, self.check)
            return {"file": relative_file(path, root), "width_px": width, "height_px": height}
        except PhotoError as error:
            return str(error).removeprefix(f"{image if isinstance(image, Path) else 'photo'}: ")


def utf8_fault(name: str) -> str | None:
    """Return what is wrong with a name whose bytes are not UTF-8, which no table can hold; None if they are."""
    return None if name == name.encode("utf-8", "ignore").decode() else "its name is not UTF-8; rename it"


def relative_file(path: Path, root: Path) -> str:
    """Return a path as `file` of a photo table: relative to its root, with slashes."""
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    whole = path.parent.resolve() / path.name
    try:
        return Path(os.path.relpath(whole, root.resolve())).as_posix()
    except ValueError:  # another drive
        return whole.as_posix()


def _fault(row: Mapping[str, Any]) -> str | None:
    lat, lon = row["lat_deg"], row["lon_deg"]
    if not (abs(lat) <= 90 and abs(lon) <= 180):  # also NaN
        return f"its position {lat:g}, {lon:g} is outside valid coordinates"
    if lat == lon == 0:
        return NULL_ISLAND
    if fault := utf8_fault(row["file"]):
        return fault
    if row["split"] not in SPLITS:
        return f"split is {row['split']!r}, not one of {', '.join(SPLITS)}"
    for name in set(row).intersection(_FACTS):
        try:
            pa.array([row[name]], SCHEMA.field(name).type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return f"{name} is {row[name]!r}, which is not a {SCHEMA.field(name).type}"
    return None


_TOGETHER = 128  # photos that may be held as bytes


class Photo(NamedTuple):
    """One photo of a source; a plain tuple of the same is accepted too.

    Attributes:
        image: path of the file, or the bytes of one, which are written into OUT/images.
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
            if storage_cause(error) is not None:  # not of its making
                raise
            raise PluginError(
                f"photo source {self.spec}: reading its photos raised {type(error).__name__} ({error})"
            ) from error
