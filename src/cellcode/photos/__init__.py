"""Photos: the table of what is known of each, the sources that fill it, safe reading, splits. Knows no models."""

from cellcode.photos.ingest import ingest
from cellcode.photos.options import IngestOptions
from cellcode.photos.reading.image import PhotoError, PhotoSpec, read_image, read_pixels
from cellcode.photos.table.photo_table import PhotoTable
from cellcode.photos.table.splits import SplitRule
from cellcode.photos.table.writer import IncompleteError

__all__ = [
    "IncompleteError",
    "IngestOptions",
    "PhotoError",
    "PhotoSpec",
    "PhotoTable",
    "SplitRule",
    "ingest",
    "read_image",
    "read_pixels",
]
