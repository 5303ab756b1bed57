"""The ingest step of the recipe: photos from a folder, a list, an archive, a service or a plug-in become a photo table."""

import logging
from pathlib import Path
from typing import Any

from cellcode.files import locked_folder
from cellcode.geography import Region
from cellcode.photos.options import IngestOptions
from cellcode.photos.sources.consent import require_consent
from cellcode.photos.sources.registry import open_source
from cellcode.photos.table.photo_table import PhotoTable
from cellcode.photos.table.splits import SplitRule
from cellcode.photos.table.versions import remove_superseded
from cellcode.photos.table.writer import collect, write

logger = logging.getLogger(__name__)


def ingest(
    source: Path | str,
    *,
    out: Path | str,
    region: Region | Path | str | None = None,
    split: SplitRule | str | None = None,
    options: IngestOptions | None = None,
    **more: Any,
) -> PhotoTable:
    """Write a photo table.

    Args:
        source: a folder of photos; a .csv, .parquet, .geoparquet or .geojson list; `osv5m:FOLDER` or `osv5m:hub`;
            `webdataset:FOLDER` or a folder of .tar shards; `panoramax:` or `mapillary:`; a plug-in as `module:ARGUMENT`,
            `module:Name?ARGUMENT` or `NAME:ARGUMENT` of an entry point.
        out: folder of the table, and of the photos that are fetched or unpacked.
        region: photos outside it are left out; text as on the command line, see `Region.parse`.
        split: a rule, or its kind; None keeps the source's own split, and splits by position where there is none.
        more: single options, in place of `options` or changing some of them: `max_photos=100`.

    Raises:
        InputError: the source cannot be read, or none of its photos can be used.
        IncompleteError: the table is written, but photos are missing that another run may get.
        UsageError: the source is unknown, an option has no meaning for it, or a large download is not confirmed.
        PluginError: a plug-in cannot be used.
    """
    options = IngestOptions(**{**dict(options or {}), **more})
    rule = SplitRule(kind=split) if isinstance(split, str) else split
    where = Region.of(region)
    with locked_folder(Path(out)):
        return _ingest(str(source), Path(out), where, rule, options)


def _ingest(
    source: str, out: Path, region: Region | None, rule: SplitRule | None, options: IngestOptions
) -> PhotoTable:
    opened = open_source(source, out=out, region=region, options=options)
    if licences := [f"licence {name}: {count:,} photos" for name, count in opened.licences().items()]:
        logger.info("%s: %s", source, "; ".join(licences))
    if (estimate := opened.estimate()) is not None:
        require_consent(options.confirm, estimate.describe(), estimate.photos - estimate.present, estimate.bytes)
    photos = collect(opened.batches(), None if opened.selects else options.max_photos)
    if rule is None and not opened.has_split:
        rule = SplitRule()
    table = write(photos, root=opened.root, source=source, out=out, rule=rule, allow_missing=options.allow_missing)
    remove_superseded(out, table.files)
    return table
