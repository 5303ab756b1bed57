"""From the photos of a source to rows of the photo table: checked, with files in place and sizes known."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa

from cellcode.errors import PluginError
from cellcode.files import atomic_path
from cellcode.photos.options import Check
from cellcode.photos.reading.image import PhotoError, image_kind, photo_size
from cellcode.photos.table.item import Batch, Reject
from cellcode.photos.table.photo_table import SCHEMA, SPLITS
from cellcode.photos.table.selection import Selection

_EXPECTED = "expected (file or bytes, (latitude, longitude), facts) or a Reject"
_FACTS = tuple(name for name in SCHEMA.names if name not in ("file", "lat_deg", "lon_deg"))
_NAME_LENGTH = 24


@dataclass
class RowMaker:
    """Makes rows of one source's photos.

    Attributes:
        spec: of the source, for messages.
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
        """Return rows and rejects of some items; of those that are not wanted nothing is read or written.

        Args:
            root: folder that `file` is relative to.

        Raises:
            PluginError: an item is of another form, or has a fact that the photo table has no column for.
        """
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
        for (image, row), found in zip(
            photos, self.threads.map(lambda each: self._place(each[0], each[1], root), photos), strict=True
        ):
            if isinstance(image, bytes) and not isinstance(found, str):
                again = row["file"] in self._seen
                self._seen.add(row["file"])
                found = "the same image as an earlier photo" if again else found
            if isinstance(found, str):
                rejects.append(Reject(row["file"], None, found))
            else:
                rows.append(row | found)
        return Batch(pa.Table.from_pylist(rows, SCHEMA), rejects, left_out)

    def _row(self, item: object) -> tuple[Path | bytes, dict[str, Any]]:
        """The image and the row of an item, whose file and size are not known yet."""
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
        """File and size of a photo, or why it cannot be used."""
        width, height = row["width_px"], row["height_px"]
        try:
            if isinstance(image, bytes):
                width, height = photo_size(image, "decode")
                path = self.out / "images" / row["file"][:2] / f"{row['file']}.{image_kind(image)}"
                if not path.is_file():
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(image)
                return {"file": relative_file(path, root), "width_px": width, "height_px": height}
            if not (width and height):
                if self.check == "none":
                    return "no width_px and height_px, which check none needs"
                width, height = photo_size(image, self.check)
            return {"file": relative_file(image, root), "width_px": width, "height_px": height}
        except PhotoError as error:
            return str(error).removeprefix(f"{image if isinstance(image, Path) else 'photo'}: ")


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
    """The reason why a row cannot be used; None if it can be."""
    lat, lon = row["lat_deg"], row["lon_deg"]
    if not (abs(lat) <= 90 and abs(lon) <= 180):  # also NaN
        return f"its position {lat:g}, {lon:g} is outside valid coordinates"
    if row["split"] not in SPLITS:
        return f"split is {row['split']!r}, not one of {', '.join(SPLITS)}"
    for name in set(row).intersection(_FACTS):
        try:
            pa.array([row[name]], SCHEMA.field(name).type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return f"{name} is {row[name]!r}, which is not a {SCHEMA.field(name).type}"
    return None
