"""A list of photos with their positions, as CSV, Parquet, GeoParquet or GeoJSON; archives have one too."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Literal
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellcode.errors import InputError, UsageError
from cellcode.photos.options import Check
from cellcode.photos.reading.image import PhotoError, photo_size
from cellcode.photos.sources.checks import Listed, check, resolve
from cellcode.photos.sources.list_files import GEOJSON_SUFFIXES, CsvList, GeoJsonList, ParquetList, PhotoList
from cellcode.photos.sources.protocol import PhotoSource
from cellcode.photos.table.item import Batch, Reject, Selection, keep
from cellcode.photos.table.photo_table import SCHEMA, with_columns
from cellcode.progress import Meter
from cellcode.types import Int64

_KINDS: dict[str, Callable[[Path], PhotoList]] = {".csv": CsvList, ".tsv": CsvList}
_KINDS |= dict.fromkeys((".parquet", ".geoparquet"), ParquetList)
_KINDS |= dict.fromkeys(GEOJSON_SUFFIXES, GeoJsonList)
SUFFIXES = tuple(_KINDS)
_TOGETHER = 10_000  # photos; a pool keeps all its tasks in memory
_UNTIDY = r"(^|/)\.{0,2}/|/\.{0,2}$|\\|[^\x00-\x7f]"  # paths that can be written in another way


class ListedSource(PhotoSource):
    """A source that has a list of its photos, checked and chosen from before a photo is read."""

    uses: ClassVar[tuple[str, ...]] = ("columns", "check")
    selects = True

    def listed(self) -> Listed:
        """Return the wanted photos, whose `file` is relative to `root`; sets `has_split`."""
        raise NotImplementedError

    def batches(self) -> Iterator[Batch]:
        """See `PhotoSource`."""
        listed = self.listed()
        yield Batch(listed.rows.slice(0, 0), listed.rejects, listed.left_out)
        yield from measure(listed, self.root, self.options.check, self.spec)

    def select(self, photos: PhotoList, path: Path, source: str, columns: Mapping[str, str]) -> Listed:
        """Choose from a list by the options; see `select` and `checks.resolve`."""
        wanted = resolve(photos.names, columns, path, placed=photos.placed)
        self.has_split = "split" in wanted
        return select(photos, wanted, source, self.options.selection(self.region))


class ListSource(ListedSource):
    """A list of photos in a file; paths are relative to it."""

    def listed(self) -> Listed:
        """See `ListedSource`."""
        path = Path(self.argument)
        self.root = path.parent
        if (kind := _KINDS.get(path.suffix.lower())) is None:
            raise UsageError(f"{path} is not a list of photos ({', '.join(SUFFIXES)})")
        return self.select(kind(path), path, "list", self.options.columns)


def select(photos: PhotoList, wanted: Mapping[str, str], source: str, selection: Selection) -> Listed:
    """Check every line of a list and choose the wanted photos. Of several lines of one photo, the first counts.

    Args:
        wanted: our name to the list's column, as of `checks.resolve`.
        source: of the photos, where the list states none.
    """
    parts, numbers, rejects, left_out = [SCHEMA.empty_table()], [np.zeros(0, np.int64)], list[Reject](), Counter[str]()
    for lines in photos.read(wanted):
        checked = check(lines, source)
        inside, outside = selection.mask(checked.rows)
        parts.append(keep(checked.rows, inside))
        numbers.append(checked.numbers[inside])
        rejects += checked.rejects
        left_out += outside
    rows, lines_of = pa.concat_tables(parts), np.concatenate(numbers)
    first = _first_of_same(rows["file"])
    once = first == np.arange(len(rows))
    again = np.flatnonzero(~once)
    doubles = zip(rows["file"].take(again).to_pylist(), lines_of[again], lines_of[first[again]], strict=True)
    rejects += [
        Reject(file, int(line), f"duplicate of line {earlier}", kind="duplicate of another line")
        for file, line, earlier in doubles
    ]
    rows, lines_of = keep(rows, once), lines_of[once]
    chosen, not_chosen = selection.choose(rows)
    return Listed(keep(rows, chosen), lines_of[chosen], rejects, left_out + not_chosen)


def _first_of_same(files: pa.ChunkedArray) -> Int64:
    """The first row that names the same file as each row, (N,)."""
    files = files.combine_chunks()
    untidy = pc.match_substring_regex(files, _UNTIDY)
    tidied = [os.path.normpath(normalize("NFC", file.replace("\\", "/"))) for file in files.filter(untidy).to_pylist()]
    same = pc.replace_with_mask(files, untidy, pa.array(tidied, pa.string())).dictionary_encode()
    codes = same.indices.to_numpy(zero_copy_only=False)
    first = np.zeros(len(same.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # the last write of each counts: that of the first row
    return np.asarray(first[codes])


def measure(listed: Listed, root: Path, how: Check, name: str) -> Iterator[Batch]:
    """Yield the photos with their width and height, upright; those that cannot be read are rejects.

    Args:
        how: "decode" reads every photo whole, so that a damaged one is found here and not in the middle of a training;
            "header" only opens it; "none" does not touch the files.

    Raises:
        InputError: "none", and a photo's size is not in the list.
    """
    rows, lines = listed.rows, listed.numbers
    if how == "none":
        unknown = (rows["width_px"].to_numpy() == 0) | (rows["height_px"].to_numpy() == 0)
        if unknown.any():
            raise InputError(
                f"{name}: --check none needs the columns width and height, which line {lines[unknown][0]} lacks; "
                "--check header reads sizes from the photos' headers"
            )
        yield Batch(rows)
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads, Meter("reading photos", len(rows)) as meter:
        for first in range(0, len(rows), _TOGETHER):
            some, numbers = rows.slice(first, _TOGETHER), lines[first : first + _TOGETHER]
            files = [_spelled(root, file) for file in some["file"].to_pylist()]
            sizes, rejects, usable = list[tuple[int, int]](), list[Reject](), np.zeros(len(some), bool)
            for row, size in enumerate(threads.map(lambda file: _size(root / file, how), files)):
                if isinstance(size, str):
                    rejects.append(Reject(files[row], int(numbers[row]), size))
                else:
                    sizes.append(size)
                    usable[row] = True
                meter.advance()
            widths, heights = np.array(sizes, np.int32).reshape(-1, 2).T
            named = with_columns(some, file=files)
            yield Batch(with_columns(keep(named, usable), width_px=widths, height_px=heights), rejects)


def _spelled(root: Path, file: str) -> str:
    """The name of a file as the disk has it, where the list has backslashes, or other characters for the same accents."""
    if (file.isascii() and "\\" not in file) or os.path.exists(root / file):
        return file
    found = ""
    for part in file.replace("\\", "/").split("/"):
        forms = (found + form for form in (part, normalize("NFC", part), normalize("NFD", part)))
        found = next((form for form in forms if os.path.exists(root / form)), found + part) + "/"
    return found[:-1]


def _size(path: Path, how: Literal["decode", "header"]) -> tuple[int, int] | str:
    try:
        return photo_size(path, how)
    except PhotoError as error:
        return str(error).removeprefix(f"{path}: ")
