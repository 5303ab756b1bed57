"""The files of OpenStreetView-5M, on disk or at its hub: lists are fetched whole, of zips only what is wanted."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cellcode.errors import InputError, MissingExtraError
from cellcode.photos.sources.consent import require_consent, size_text

REPOSITORY = "osv5m/osv5m"
_ROOT = f"datasets/{REPOSITORY}/"
_BLOCK_BYTES = 256 * 1024  # a photo has about 50 kB, an entry of a table of contents about 80 bytes


class Dataset:
    """The files of the dataset by their names, train.csv, images/train/00.zip, ...: in a folder, with zips, extracted
    folders, or both."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> Iterator[str]:
        """Yield the names of all files."""
        for folder, _, files in os.walk(self.path):
            relative = Path(folder).relative_to(self.path)
            yield from ((relative / file).as_posix() for file in sorted(files))

    def local(self, name: str) -> Path:
        """Return a file as one on disk."""
        return self.path / name

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, at any place."""
        return (self.path / name).open("rb")


class HubDataset(Dataset):
    """The dataset on Hugging Face.

    Lists stay in the cache of huggingface_hub and are not fetched a second time.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        InputError: the hub cannot be reached.
    """

    def __init__(self) -> None:
        """Ask for the names and sizes of the files."""
        try:
            import huggingface_hub
        except ImportError:
            raise MissingExtraError("huggingface_hub", "hf", "reading OSV-5M from its hub") from None
        self._hub: Any = huggingface_hub
        self._files: Any = huggingface_hub.HfFileSystem()
        try:
            found: Any = self._files.find(_ROOT.rstrip("/"), detail=True)
        except Exception as error:  # of whatever HTTP library it uses
            raise InputError(f"{REPOSITORY} cannot be listed at its hub ({_first(error)})") from None
        self._sizes = {name.removeprefix(_ROOT): int(facts["size"] or 0) for name, facts in found.items()}

    def ask(self, confirm: Callable[[str], bool]) -> None:
        """Show what is fetched to begin with, and have it confirmed, however little it is.

        Raises:
            UsageError: not confirmed.
        """
        lists = {name: size for name, size in self._sizes.items() if name in ("train.csv", "test.csv")}
        zips = sum(name.endswith(".zip") for name in self._sizes)
        named = ", ".join(f"{name} ({size_text(size)})" for name, size in sorted(lists.items()))
        notice = (
            f"{REPOSITORY} on Hugging Face, CC-BY-SA-4.0: {named}, then the tables of contents of {zips} zips "
            "(some MB each), then only the photos that are wanted"
        )
        size = sum(lists.values())
        require_consent(confirm, notice, size, size, always=True)

    def names(self) -> Iterator[str]:
        """See `osv5m.Dataset`; photos outside the zips are not looked for."""
        yield from (name for name in sorted(self._sizes) if name.endswith((".csv", ".zip")))

    def local(self, name: str) -> Path:
        """Fetch a file whole."""
        try:
            return Path(self._hub.hf_hub_download(REPOSITORY, name, repo_type="dataset"))
        except Exception as error:  # as above
            raise InputError(
                f"{name} of {REPOSITORY} cannot be fetched ({_first(error)}); run again, it resumes"
            ) from None

    def open(self, name: str) -> BinaryIO:
        """Open a file; what is read of it is fetched."""
        opened: BinaryIO = self._files.open(_ROOT + name, "rb", block_size=_BLOCK_BYTES)
        return opened


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
