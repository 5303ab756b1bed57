"""OpenStreetView-5M: five million photos of streets all over the world, as its CSV files and zips on disk or at its hub.

Only the lines of the region are kept, then their photos are looked up in the tables of contents of the zips, and only these are
unpacked.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from cellcode.errors import InputError, MissingExtraError, UsageError
from cellcode.photos.reading.capture_time import parse_listed_time
from cellcode.photos.reading.image import reason_of
from cellcode.photos.sources.archives import Member, Places, place
from cellcode.photos.sources.checks import Listed, trimmed
from cellcode.photos.sources.consent import require_consent, size_text
from cellcode.photos.sources.folder import files_below
from cellcode.photos.sources.list_files import CsvList, Lines, PhotoList
from cellcode.photos.sources.lists import ListedSource, select
from cellcode.photos.table.versions import versioned
from cellcode.progress import track

REPOSITORY = "osv5m/osv5m"
_ROOT = f"datasets/{REPOSITORY}/"
_BLOCK_BYTES = 256 * 1024  # a photo has about 50 kB, an entry of a table of contents about 80 bytes


class Dataset:
    """The files of the dataset by their names, train.csv, images/train/00.zip, ...: in a folder, with zips, extracted
    folders, or both."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, confirm: Callable[[str], bool]) -> None:
        """Have what is fetched to begin with confirmed: here nothing."""

    def names(self) -> Iterator[str]:
        """Yield the names of all files."""
        yield from (file.relative_to(self.path).as_posix() for file in files_below(self.path))

    def local(self, name: str) -> Path:
        """Return a file as one on disk."""
        return self.path / name

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, at any place."""
        return (self.path / name).open("rb")


class HubDataset(Dataset):
    """The dataset on Hugging Face. Lists stay in the cache of huggingface_hub and are not fetched a second time.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        InputError: the hub cannot be reached.
    """

    def __init__(self) -> None:
        try:
            import huggingface_hub
        except ImportError:
            raise MissingExtraError("huggingface_hub", "hf", "reading OSV-5M from its hub") from None
        self._hub: Any = huggingface_hub
        self._files: Any = huggingface_hub.HfFileSystem()
        try:
            found: Any = self._files.find(_ROOT.rstrip("/"), detail=True)
        except Exception as error:  # of whatever HTTP library it uses
            raise InputError(f"{REPOSITORY} cannot be listed at its hub ({reason_of(error)})") from None
        self._sizes = {name.removeprefix(_ROOT): int(facts["size"] or 0) for name, facts in found.items()}

    def ask(self, confirm: Callable[[str], bool]) -> None:
        """Show what is fetched to begin with, and have it confirmed, however little it is; UsageError if it is not."""
        lists = {name: size for name, size in self._sizes.items() if name in ("train.csv", "test.csv")}
        zips = sum(name.endswith(".zip") for name in self._sizes)
        named = ", ".join(f"{name} ({size_text(size)})" for name, size in sorted(lists.items()))
        notice = (
            f"{REPOSITORY} on Hugging Face, CC-BY-SA-4.0: {named}, then the tables of contents of {zips} zips "
            "(some MB each), then only the photos that are wanted"
        )
        require_consent(confirm, notice, sum(lists.values()), sum(lists.values()), always=True)

    def names(self) -> Iterator[str]:
        """See `osv5m.Dataset`; photos outside the zips are not looked for."""
        yield from (name for name in sorted(self._sizes) if name.endswith((".csv", ".zip")))

    def local(self, name: str) -> Path:
        """Fetch a file whole."""
        try:
            return Path(self._hub.hf_hub_download(REPOSITORY, name, repo_type="dataset"))
        except Exception as error:  # as above
            raise InputError(
                f"{name} of {REPOSITORY} cannot be fetched ({reason_of(error)}); run again, it resumes"
            ) from None

    def open(self, name: str) -> BinaryIO:
        """Open a file; what is read of it is fetched."""
        opened: BinaryIO = self._files.open(_ROOT + name, "rb", block_size=_BLOCK_BYTES)
        return opened


LICENCE = "CC-BY-SA-4.0"
_NAMES = {"file": "id", "lat": "latitude", "lon": "longitude", "captured_at": "captured_at", "sequence": "sequence"}
_NAMES |= {"attribution": "creator_username"}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class Osv5mSource(ListedSource):
    """The dataset in a folder (`osv5m:FOLDER`) or at its hub (`osv5m:hub`).

    Photos in zips are unpacked into OUT/images, others stay where they are.

    Raises:
        UsageError: check none: there are no widths and heights.
    """

    uses: ClassVar[tuple[str, ...]] = ("check",)

    def prepare(self) -> None:
        """See `PhotoSource`."""
        if self.options.check == "none":
            raise UsageError("osv5m: check none needs widths and heights, which OSV-5M does not list; choose header")

    def listed(self) -> Listed:
        """See `ListedSource`."""
        where, options = self.argument, self.options
        dataset = HubDataset() if where == "hub" else Dataset(Path(where))
        dataset.ask(options.confirm)
        lists = _Lists(dataset, where)
        self.has_split = len(lists.splits) == 2
        listed = select(lists, _NAMES, "osv5m", options.selection(self.region))
        places = find(dataset, set(listed.rows["file"].to_pylist()))
        notice = f"OSV-5M in {where}, {LICENCE}"
        return place(listed, places, dataset.open, self.out, options.confirm, notice)


class _Lists(PhotoList):
    """The dataset's lists, of the `splits` that are there; their dates are milliseconds since 1970."""

    def __init__(self, dataset: Dataset, where: str) -> None:
        present = set(dataset.names())
        self.splits = [split for split in ("test", "train") if f"{split}.csv" in present]
        if not self.splits:
            raise InputError(f"{where or '.'} holds neither train.csv nor test.csv of OSV-5M")
        paths = [dataset.local(f"{split}.csv") for split in self.splits]
        self._lists = [CsvList(path) for path in paths]
        for path, each in zip(paths, self._lists, strict=True):
            if missing := [column for column in _NAMES.values() if column not in each.names]:
                raise InputError(f"{path} is not a list of OSV-5M: it lacks the column {missing[0]}")

    def read(self, wanted: Mapping[str, str]) -> Iterator[Lines]:
        for each, split in zip(self._lists, self.splits, strict=True):
            for lines in each.read(wanted):
                dates = [_time(text) for text in lines.columns["captured_at"].to_pylist()]
                same = {"split": split, "licence": LICENCE}
                columns = {name: pa.repeat(value, len(lines.numbers)) for name, value in same.items()}
                creators = pc.binary_join_element_wise(trimmed(lines.columns["attribution"]), "Mapillary", ", ")
                columns["attribution"] = pc.fill_null(creators, "Mapillary")
                columns["captured_at"] = pa.array(dates, pa.timestamp("ms"))
                yield replace(lines, columns={**lines.columns, **columns})


def find(dataset: Dataset, ids: set[str]) -> Places:
    """Return where the photos of some ids are, in folders (used where they are) or zips; InputError: a zip is damaged."""
    places, archives = dict[str, Member | Path](), []
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
                target = versioned((folder / file.name).as_posix(), f"{info.file_size} {info.CRC}")
                places[file.stem] = Member(archive, info.filename, info.file_size, target)
    return places


def _contents(dataset: Dataset, archive: str) -> list[zipfile.ZipInfo]:
    try:
        with dataset.open(archive) as file, zipfile.ZipFile(file) as opened:
            return opened.infolist()
    except Exception as error:  # zipfile raises anything on damaged files
        raise InputError(
            f"{archive} cannot be read ({reason_of(error)}); it may be half fetched, fetch it again"
        ) from None


def _time(text: str | None) -> datetime | None:
    try:  # some tools write them as 1.5e12
        return parse_listed_time(text) if text else None
    except ValueError:
        return None
