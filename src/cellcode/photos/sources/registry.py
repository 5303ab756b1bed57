"""From what a user writes to a photo source: a name of the registry, or a path that is recognised by its form."""

from pathlib import Path
from tempfile import TemporaryDirectory

from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.photos.options import IngestOptions
from cellcode.photos.sources.consent import Estimate
from cellcode.photos.sources.protocol import PhotoSource
from cellcode.plugins import Registry

PHOTO_SOURCES: Registry[PhotoSource] = Registry(
    "photo source",
    "cellcode.photo_sources",
    PhotoSource,
    {
        "folder:": "cellcode.photos.sources.folder:FolderSource",
        "list:": "cellcode.photos.sources.lists:ListSource",
        "webdataset:": "cellcode.photos.sources.webdataset:WebDatasetSource",
        "osv5m:": "cellcode.photos.sources.osv5m:Osv5mSource",
        "panoramax:": "cellcode.photos.sources.online.panoramax:Panoramax",
        "mapillary:": "cellcode.photos.sources.online.mapillary:Mapillary",
    },
    bare=True,
)


def open_source(
    text: str, *, out: Path, region: Region | None = None, options: IngestOptions | None = None
) -> PhotoSource:
    """Return the source of a text; nothing is fetched yet. Texts and errors are those of `ingest`."""
    found = PHOTO_SOURCES.find(spec := _spec(text))
    source = PHOTO_SOURCES.call(spec, found.factory, found.argument, out=out, region=region, options=options)
    source.spec = text
    source.options.refuse_unused(source.uses, text)
    return source


def estimate(
    text: str, region: Region | None = None, options: IngestOptions | None = None, out: Path | None = None
) -> Estimate | None:
    """Return what ingesting a source into `out` would fetch, None if nothing; RemoteError: a service does not answer."""
    with TemporaryDirectory() as folder:
        return open_source(text, out=out or Path(folder), region=region, options=options).estimate()


def _spec(text: str) -> str:
    if PHOTO_SOURCES.knows(text):
        return text
    from cellcode.photos.sources import lists, webdataset

    path = Path(text)
    if path.is_dir():
        return f"{'webdataset' if webdataset.is_shards(path) else 'folder'}:{text}"
    if ":" in text and not path.exists():
        return text
    if path.suffix.lower() in lists.SUFFIXES:
        return f"list:{text}"
    suffixes = ", ".join(lists.SUFFIXES)
    if path.exists():
        raise UsageError(f"{text} is neither a folder nor a list of photos ({suffixes})")
    raise InputError(f"{text} does not exist; give a folder of photos, or a list ({suffixes})")
