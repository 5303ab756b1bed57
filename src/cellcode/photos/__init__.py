"""Photos: the table of what is known of each, the doors that fill it, safe reading, splits. Knows no models."""

from cellcode.photos.ingest import IncompleteError, ingest
from cellcode.photos.reading.image import PhotoError, read_image, read_pixels
from cellcode.photos.sources.options import Options as IngestOptions
from cellcode.photos.table.photo_table import PhotoTable
from cellcode.photos.table.splits import SplitRule

__all__ = [
    "IncompleteError",
    "IngestOptions",
    "PhotoError",
    "PhotoTable",
    "SplitRule",
    "ingest",
    "read_image",
    "read_pixels",
]
