"""Visual geo-localization: a photo taken on the ground goes in, a place on the map comes out.

    photos = ingest.folder("my_photos/", out="town/photos")
    run    = train.run(config, photos, aerial, out="town/run")
    cells  = build.run(run, aerial, region, out="town/town.cells")
    answer = locate.run(cells, "photo.jpg")
    report = evaluate.run(cells, photos, out="town/report")

Names are imported when they are first used, so that `import cellcode` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellcode.database import Database
    from cellcode.database.building import build
    from cellcode.evaluation import evaluate
    from cellcode.geography import Region
    from cellcode.photos import PhotoTable, ingest
    from cellcode.runs import Run
    from cellcode.search import Locator, locate
    from cellcode.simulation import simulate
    from cellcode.training import train

__version__ = "0.1.0"
__all__ = [
    "Database",
    "Locator",
    "PhotoTable",
    "Region",
    "Run",
    "build",
    "evaluate",
    "ingest",
    "locate",
    "simulate",
    "train",
]
_HOMES = {
    "Database": "database", "Locator": "search", "PhotoTable": "photos", "Region": "geography", "Run": "runs",
    "build": "database.building", "evaluate": "evaluation", "ingest": "photos", "locate": "search", "simulate": "simulation",
    "train": "training",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cellcode' has no attribute {name!r}")
    return getattr(import_module(f"cellcode.{_HOMES[name]}"), name)
