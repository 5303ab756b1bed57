"""What a photo source yields, as rows of the photo table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellcode.geography import Region
from cellcode.photos import IngestOptions
from cellcode.photos.sources import PhotoSource, Reject
from cellcode.photos.sources.folder import FolderSource
from cellcode.photos.sources.protocol import relative_file
from cellcode.photos.sources.registry import open_source
from cellcode.photos.table.photo_table import SCHEMA


def items_of(source: PhotoSource) -> Iterator[dict[str, Any] | Reject]:
    """What a source yields, its photos as rows of the photo table."""
    for item in source.items():
        if isinstance(item, Reject):
            yield item
        else:
            lat, lon = item.position
            place = {"file": relative_file(Path(item.image), source.root), "lat_deg": lat, "lon_deg": lon}  # type: ignore[arg-type]
            yield {**dict.fromkeys(SCHEMA.names), "split": "train", **item.facts, **place}


def read_folder(folder: Path, out: Path | None = None, **options: Any) -> Iterator[dict[str, Any] | Reject]:
    """The photos of a folder."""
    source = FolderSource(str(folder), out=out or folder.parent / "table", options=IngestOptions(**options))
    return items_of(source)


def read_online(spec: str, region: Region | None, out: Path, **options: Any) -> Iterator[dict[str, Any] | Reject]:
    """The photos of a service."""
    return items_of(open_source(spec, out=out, region=region, options=IngestOptions(**options)))
