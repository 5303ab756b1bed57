"""Photo sources: one file each for folders, lists, WebDataset and OSV-5M; services are in `online`, plug-ins elsewhere.

Each yields photos with positions, or rejects with a reason; `open_source` finds one by its name.
"""

from cellcode.photos.sources.consent import Estimate
from cellcode.photos.sources.protocol import Photo, PhotoSource
from cellcode.photos.table.item import Reject

__all__ = ["Estimate", "Photo", "PhotoSource", "Reject"]
