"""The ingest step of the recipe: photos from a folder, a list, an archive or a service become a photo table."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.photos.reading.capture_time import Clock
from cellcode.photos.reading.gpx import Track
from cellcode.photos.sources import columns as list_columns
from cellcode.photos.sources import osv5m, webdataset
from cellcode.photos.sources.archives import DiskFolder, place
from cellcode.photos.sources.consent import Consent
from cellcode.photos.sources.folder import SUFFIXES as PHOTOS
from cellcode.photos.sources.folder import read_folder
from cellcode.photos.sources.lists import SUFFIXES, Listed, open_list, select
from cellcode.photos.sources.options import Options
from cellcode.photos.sources.osv5m_hub import HubDataset
from cellcode.photos.sources.sizes import measure
from cellcode.photos.table.item import Batch, in_batches
from cellcode.photos.table.photo_table import PhotoTable
from cellcode.photos.table.splits import SplitRule
from cellcode.photos.table.writer import IncompleteError, fill

__all__ = ["IncompleteError", "Options", "csv", "folder", "ingest", "online", "osv5m_dataset", "shards"]

_ONLINE = ("panoramax:", "mapillary:")
_PLAIN = Options()


def ingest(
    source: Path | str,
    *,
    out: Path | str,
    region: Region | Path | str | None = None,
    split: SplitRule | None = None,
    options: Options = _PLAIN,
) -> PhotoTable:
    """Fill a photo table.

    Args:
        source: a folder of photos; a .csv, .parquet, .geoparquet or .geojson list; `osv5m:FOLDER` or `osv5m:hub`;
            `webdataset:FOLDER` or a folder of .tar shards; `panoramax:` or `mapillary:`.
        region: photos outside it are left out.
        split: None keeps the source's own split, and splits by position where there is none.

    Raises:
        InputError: the source cannot be read, or none of its photos can be used.
        IncompleteError: the table is written, but photos are missing that another run may get.
        UsageError: the source is of no known kind, an option has no meaning for it, or nobody agrees to what would be fetched.
    """
    door, what = _door(str(source))
    return door(what, out=out, region=Region.of(region), split=split, options=options)


def _door(source: str) -> tuple[Callable[..., PhotoTable], str]:
    """The function that a source is for, and what it is given."""
    if source.startswith(_ONLINE):
        return online, source
    if source.startswith(osv5m.PREFIX):
        return osv5m_dataset, source
    if source.startswith(webdataset.PREFIX):
        return shards, source.removeprefix(webdataset.PREFIX)
    path = Path(source)
    if path.is_dir():
        return (shards if _is_shards(path) else folder), source
    if path.suffix.lower() in SUFFIXES:
        return csv, source
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder of photos, or a list ({', '.join(SUFFIXES)})")
    raise UsageError(f"{path} is neither a folder nor a list of photos ({', '.join(SUFFIXES)})")


def folder(
    source: Path | str,
    *,
    out: Path | str,
    region: Region | None = None,
    split: SplitRule | None = None,
    options: Options = _PLAIN,
) -> PhotoTable:
    """Fill a photo table from the photos in a folder and the folders below it, by their EXIF or a GPX track; see `ingest`."""
    options.refuse_unused("folder", f"{source}, a folder of photos")
    items = read_folder(
        Path(source),
        track=Track.read(options.gpx) if options.gpx else None,
        track_heading=options.track_heading,
        clock=Clock.parse(options.camera_zone, options.clock_offset_s),
        panoramas=options.panoramas,
        out=Path(out),
    )
    return fill(
        in_batches(items),
        root=Path(source),
        source=str(source),
        out=Path(out),
        rule=split or SplitRule(),
        selection=options.selection(region),
        allow_missing=options.allow_missing,
    )


def csv(
    source: Path | str,
    *,
    out: Path | str,
    region: Region | None = None,
    split: SplitRule | None = None,
    options: Options = _PLAIN,
) -> PhotoTable:
    """Fill a photo table from a list with file, lat, lon (and more, see docs/formats.md); see `ingest`."""
    options.refuse_unused("list", f"{source}, a list of photos")
    path = Path(source)
    photos = open_list(path)
    wanted = list_columns.resolve(photos.names, options.columns, path, placed=photos.placed)
    listed = select(photos, wanted, "list", options.selection(region))
    rule = split if split is not None or "split" in wanted else SplitRule()
    return _fill_listed(listed, path.parent, str(path), Path(out), rule, options)


def shards(
    source: Path | str,
    *,
    out: Path | str,
    region: Region | None = None,
    split: SplitRule | None = None,
    options: Options = _PLAIN,
) -> PhotoTable:
    """Fill a photo table from a folder of WebDataset shards; its photos are unpacked into OUT/images. See `ingest`."""
    options.refuse_unused("webdataset", f"{source}, a folder of shards")
    path, out = Path(source), Path(out)
    photos = webdataset.TarList(path)
    asked = {**options.columns, "file": webdataset.KEY}
    wanted = list_columns.resolve(photos.names, asked, path, placed=False)
    listed = select(photos, wanted, "webdataset", options.selection(region))
    listed = place(listed, photos.places, DiskFolder(path), out, Consent(options.confirm), str(path))
    rule = split if split is not None or "split" in wanted else SplitRule()
    return _fill_listed(listed, out, str(path), out, rule, options)


def osv5m_dataset(
    source: str,
    *,
    out: Path | str,
    region: Region | None = None,
    split: SplitRule | None = None,
    options: Options = _PLAIN,
) -> PhotoTable:
    """Fill a photo table from OpenStreetView-5M, in a folder (`osv5m:FOLDER`) or at its hub (`osv5m:hub`); see `ingest`.

    Photos in zips are unpacked into OUT/images, others stay where they are.
    """
    options.refuse_unused("osv5m", source)
    if options.check == "none":
        raise UsageError(f"{source}: check none needs widths and heights, which OSV-5M does not list; choose header")
    where, out, consent = source.removeprefix(osv5m.PREFIX), Path(out), Consent(options.confirm)
    dataset: osv5m.Dataset
    if where == "hub":
        dataset = hub = HubDataset()
        hub.ask(consent)
    else:
        dataset = osv5m.DiskDataset(Path(where))
    listed, has_split = osv5m.listed(dataset, options.selection(region), where)
    places = osv5m.find(dataset, set(listed.rows["file"].to_pylist()))
    listed = place(listed, places, dataset, out, consent, f"OSV-5M in {where}, {osv5m.LICENCE}")
    rule = split if split is not None or has_split else SplitRule()
    return _fill_listed(listed, out, source, out, rule, options)


def online(
    source: str,
    *,
    out: Path | str,
    region: Region | None = None,
    split: SplitRule | None = None,
    options: Options = _PLAIN,
) -> PhotoTable:
    """Fill a photo table from Panoramax or Mapillary; photos are fetched into OUT/images, those there are not again."""
    options.refuse_unused("online", source)
    from cellcode.photos.sources import online as services

    out = Path(out)
    wanted = services.Options(
        politeness=options.politeness,
        max_photos=options.max_photos,
        since=options.since,
        until=options.until,
        min_width_px=options.min_width_px,
        min_quality=options.min_quality,
        max_accuracy_m=options.max_accuracy_m,
        panoramas=options.panoramas,
    )
    offer = services.estimate(source, region, wanted, out)
    Consent(options.confirm).ask(offer.describe(), offer.photos - offer.present, offer.bytes)
    items = services.items(source, region, out, wanted)
    rule = split or SplitRule()
    return fill(in_batches(items), root=out, source=source, out=out, rule=rule, allow_missing=options.allow_missing)


def _fill_listed(
    listed: Listed, root: Path, source: str, out: Path, rule: SplitRule | None, options: Options
) -> PhotoTable:
    """Look at the photos of a list and write the table."""
    unmeasured = Batch(listed.rows.slice(0, 0), listed.rejects, listed.left_out)
    measured = measure(listed.rows, listed.numbers, root, options.check, source)
    batches = chain([unmeasured], measured)
    return fill(batches, root=root, source=source, out=out, rule=rule, allow_missing=options.allow_missing)


def _is_shards(path: Path) -> bool:
    """Tell whether a folder holds shards and no photos."""
    return bool(webdataset.shard_files(path)) and not any(each.suffix.lower() in PHOTOS for each in path.rglob("*"))
