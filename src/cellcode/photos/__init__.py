"""Photos: the table of what is known of each, the doors that fill it, safe reading, splits. Knows no models."""

from cellcode.photos import ingest
from cellcode.photos.image import PhotoError, read_image, read_pixels
from cellcode.photos.splits import SplitRule
from cellcode.photos.table import PhotoTable

__all__ = ["PhotoError", "PhotoTable", "SplitRule", "ingest", "read_image", "read_pixels"]
