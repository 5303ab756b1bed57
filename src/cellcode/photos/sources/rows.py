"""From the photos of a source to rows of the photo table: checked, with files in place and sizes known."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cellcode.errors import PluginError
from cellcode.files import atomic_path
from cellcode.photos.options import Check
from cellcode.photos.reading.image import PhotoError, image_kind, photo_size
from cellcode.photos.table.item import Batch, Reject
from cellcode.photos.table.photo_table import SCHEMA, SPLITS, with_columns
from cellcode.photos.table.selection import Selection, keep

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
        rejects, rows, images = list[Reject](), list[dict[str, Any]](), list[Path | bytes]()
        for item in items:
            if isinstance(item, Reject):
                rejects.append(item)
                continue
            image, row = self._row(item)
            fault = _fault(row)
            if fault is None:
                rows.append(row)
                images.append(image)
            else:
                rejects.append(Reject(row["file"], None, *fault))
        table = pa.Table.from_pylist(rows, SCHEMA)
        wanted, left_out = selection.mask(table)
        table, chosen = keep(table, wanted), np.flatnonzero(wanted)
        placed = list(self.threads.map(lambda index: self._place(images[index], rows[index], root), chosen))
        usable = np.ones(len(placed), bool)
        for number, (index, found) in enumerate(zip(chosen, placed, strict=True)):
            if isinstance(images[index], bytes) and not isinstance(found, str):
                found = "the same image as an earlier photo" if found[0] in self._seen else found
                self._seen.add(found[0])
            if isinstance(found, str):
                usable[number] = False
                rejects.append(Reject(rows[index]["file"], None, found))
        known = [found for each, found in zip(usable, placed, strict=True) if each]
        files, widths, heights = zip(*known, strict=True) if known else ((), (), ())
        table = with_columns(keep(table, usable), file=files, width_px=widths, height_px=heights)
        return Batch(table, rejects, left_out)

    def _row(self, item: object) -> tuple[Path | bytes, dict[str, Any]]:
        """The image and the row of an item, whose file and size are not known yet."""
        try:
            image, position, facts = (*item, {})[:3] if isinstance(item, tuple) else (None, (), {})
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

    def _place(self, image: Path | bytes, row: Mapping[str, Any], root: Path) -> tuple[str, int, int] | str:
        """File and size of a photo, or why it cannot be used."""
        try:
            if isinstance(image, bytes):
                size = photo_size(image, "decode")
                path = self.out / "images" / row["file"][:2] / f"{row['file']}.{image_kind(image)}"
                if not path.is_file():
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(image)
                return relative_file(path, root), *size
            if row["width_px"] and row["height_px"]:
                return relative_file(image, root), row["width_px"], row["height_px"]
            if self.check == "none":
                return "no width_px and height_px, which check none needs"
            return relative_file(image, root), *photo_size(image, self.check)
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


def _fault(row: Mapping[str, Any]) -> tuple[str, bool, str] | None:
    """The reason why a row cannot be used, that it is not transient, and its kind; None if it can be."""
    lat, lon = row["lat_deg"], row["lon_deg"]
    if not (abs(lat) <= 90 and abs(lon) <= 180):  # also NaN
        return (
            f"its position {lat:g}, {lon:g} is outside valid coordinates",
            False,
            "position outside valid coordinates",
        )
    if row["split"] not in SPLITS:
        return f"split is {row['split']!r}, not one of {', '.join(SPLITS)}", False, "unknown split"
    for name in _FACTS:
        value, kind = row.get(name), SCHEMA.field(name).type
        if isinstance(value, float) and pa.types.is_floating(kind) and math.isfinite(value):
            continue
        try:
            pa.array([value], kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return f"{name} is {value!r}, which is not a {kind}", False, f"{name} is not a {kind}"
    return None
