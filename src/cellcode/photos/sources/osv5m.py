"""OpenStreetView-5M: five million photos of streets all over the world, as its CSV files and zips on disk or at its hub.

Only the lines of the region are kept, then the tables of contents of the zips tell where their photos are, and only these are
unpacked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellcode.errors import InputError, UsageError
from cellcode.photos.sources.archives import Member, Places, place
from cellcode.photos.sources.list_files import CsvList, Lines
from cellcode.photos.sources.lists import Listed, ListedSource, select
from cellcode.photos.sources.osv5m_files import Dataset, HubDataset
from cellcode.photos.table.photo_table import with_columns
from cellcode.photos.table.selection import Selection, keep
from cellcode.progress import track

LICENCE = "CC-BY-SA-4.0"
SPLITS = ("train", "test")
_NAMES = {
    "file": "id",
    "lat": "latitude",
    "lon": "longitude",
    "captured_at": "captured_at",
    "sequence": "sequence",
    "attribution": "creator_username",
}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class Osv5mSource(ListedSource):
    """The dataset in a folder (`osv5m:FOLDER`) or at its hub (`osv5m:hub`).

    Photos in zips are unpacked into OUT/images, others stay where they are.

    Raises:
        UsageError: check none: there are no widths and heights.
    """

    uses: ClassVar[tuple[str, ...]] = ("check",)

    def listed(self) -> Listed:
        """See `ListedSource`."""
        where, options = self.argument, self.options
        if options.check == "none":
            raise UsageError(
                f"{self.spec}: check none needs widths and heights, which OSV-5M does not list; choose header"
            )
        dataset = Dataset(Path(where))
        if where == "hub":
            dataset = hub = HubDataset()
            hub.ask(options.confirm)
        listed, self.has_split = listed_by_id(dataset, options.selection(self.region), where)
        places = find(dataset, set(listed.rows["file"].to_pylist()))
        notice = f"OSV-5M in {where}, {LICENCE}"
        return place(listed, places, dataset.open, self.out, options.confirm, notice)


class _Csv:
    """One of the dataset's two lists, whose dates are milliseconds since 1970."""

    placed = False

    def __init__(self, path: Path, split: str) -> None:
        self._list, self._split = CsvList(path), split
        self.names = self._list.names
        missing = [column for column in _NAMES.values() if column not in self.names]
        if missing:
            raise InputError(f"{path} is not a list of OSV-5M: it lacks the column {missing[0]}")

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        for lines in self._list.read(wanted):
            dates = pa.array([_milliseconds(text) for text in lines.columns["captured_at"].to_pylist()], pa.int64())
            split = pa.array([self._split] * len(lines.numbers), pa.string())
            columns = {**lines.columns, "captured_at": pc.cast(dates, pa.timestamp("ms")), "split": split}
            yield replace(lines, columns=columns)


def listed_by_id(dataset: Dataset, selection: Selection, where: str) -> tuple[Listed, bool]:
    """Return the wanted photos by their ids, and whether both lists are there, which are the dataset's own split.

    Raises:
        InputError: neither list is there, or one is damaged.
    """
    files = [f"{split}.csv" for split in SPLITS]
    present = [name for name in dataset.names() if name in files]
    if not present:
        raise InputError(f"{where or '.'} holds neither train.csv nor test.csv of OSV-5M")
    parts = [
        select(_Csv(dataset.local(name), name.removesuffix(".csv")), _NAMES, "osv5m", selection)
        for name in sorted(present)
    ]
    whole = Listed(
        rows=_credited(pa.concat_tables([part.rows for part in parts])),
        numbers=np.concatenate([part.numbers for part in parts]),
        rejects=[reject for part in parts for reject in part.rejects],
        left_out=sum((part.left_out for part in parts[1:]), parts[0].left_out),
    )
    chosen, not_chosen = selection.choose(whole.rows)
    rows, left_out = keep(whole.rows, chosen), whole.left_out + not_chosen
    return replace(whole, rows=rows, numbers=whole.numbers[chosen], left_out=left_out), len(present) == 2


def find(dataset: Dataset, ids: set[str]) -> Places:
    """Return where the photos of some ids are, in folders or in zips; the former are used where they are.

    Raises:
        InputError: a zip is damaged, so that its contents are unknown.
    """
    places: dict[str, Member | Path] = {}
    archives = []
    for name in dataset.names():
        path = PurePosixPath(name)
        if path.suffix.lower() == ".zip":
            archives.append(name)
        elif path.suffix.lower() in _SUFFIXES and path.stem in ids:
            places[path.stem] = dataset.local(name)
    for archive in track(sorted(archives), "looking into the zips", len(archives)):
        if len(places) == len(ids):
            break
        folder = PurePosixPath("images") / PurePosixPath(archive).with_suffix("").as_posix().removeprefix("images/")
        for info in _contents(dataset, archive):
            file = PurePosixPath(info.filename)
            if file.stem in ids and file.suffix.lower() in _SUFFIXES and file.stem not in places:
                target = (folder / file.name).as_posix()
                places[file.stem] = Member(archive, info.filename, info.file_size, target)
    return places


def _contents(dataset: Dataset, archive: str) -> list[zipfile.ZipInfo]:
    try:
        with dataset.open(archive) as file, zipfile.ZipFile(file) as opened:
            return opened.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{archive} cannot be read ({error}); it may be half fetched, fetch it again") from None


def _credited(rows: pa.Table) -> pa.Table:
    """Put the licence in, and where the photos come from beside who took them."""
    creators = pc.fill_null(pc.binary_join_element_wise(rows["attribution"], "Mapillary", ", "), "Mapillary")
    return with_columns(rows, licence=[LICENCE] * len(rows), attribution=creators.to_pylist())


def _milliseconds(text: str | None) -> int | None:
    """Milliseconds since 1970; many lines have none. Some tools write them as 1.5e12."""
    try:
        return int(float(text)) if text else None
    except (ValueError, OverflowError):
        return None
