"""Photos from online services: what they have in a region, what of it would be fetched, and fetching it."""

from cellcode.photos.online.download import items, offer
from cellcode.photos.online.offer import Offer
from cellcode.photos.online.options import Options

__all__ = ["Offer", "Options", "items", "offer"]
