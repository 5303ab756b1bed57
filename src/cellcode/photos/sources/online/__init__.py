"""Photos from online services: what they have in a region, what of it would be fetched, and fetching it."""

from cellcode.photos.sources.online.download import estimate, items
from cellcode.photos.sources.online.estimates import Estimate
from cellcode.photos.sources.online.options import Options

__all__ = ["Estimate", "Options", "estimate", "items"]
