"""Photos: the table of what is known of each, the doors that fill it, safe reading, splits. Knows no models."""

from cellcode.photos import ingest
from cellcode.photos.reading.image import PhotoError, read_image, read_pixels
from cellcode.photos.table.photo_table import PhotoTable
from cellcode.photos.table.splits import SplitRule

__all__ = ["PhotoError", "PhotoTable", "SplitRule", "ingest", "read_image", "read_pixels"]
