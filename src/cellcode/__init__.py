"""Visual geo-localization: a photo taken on the ground goes in, a place on the map comes out.

    from cellcode import build, evaluate, ingest, locate, train

    photos = ingest("my_photos/", out="town/photos")
    run    = train("configs/town.yaml", photos, aerial="town.tif", out="town/run")
    cells  = build(run, aerial="town.tif", out="town/town.cells")
    answer = locate(cells, "photo.jpg")
    report = evaluate(cells, photos, out="town/report")

Names are imported when they are first used, so that `import cellcode` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellcode.aerial import AerialSource, open_source
    from cellcode.config import Config
    from cellcode.database import Database
    from cellcode.database.building.build import build
    from cellcode.errors import CellcodeError, EmptyRegionError, InputError, MissingExtraError, PluginError, UsageError
    from cellcode.evaluation.evaluate import evaluate
    from cellcode.geography import Region
    from cellcode.photos import PhotoError, PhotoTable
    from cellcode.photos.ingest import ingest
    from cellcode.runs import Run
    from cellcode.search import Answer, Locator
    from cellcode.search.locator import locate
    from cellcode.simulation.simulate import simulate
    from cellcode.training.train import train

__version__ = "0.1.0"
_NAMES = {
    "aerial": "AerialSource open_source",
    "search": "Answer Locator",
    "errors": "CellcodeError EmptyRegionError InputError MissingExtraError PluginError UsageError",
    "config": "Config",
    "database": "Database",
    "photos": "PhotoError PhotoTable",
    "geography": "Region",
    "runs": "Run",
    "database.building.build": "build",
    "evaluation.evaluate": "evaluate",
    "photos.ingest": "ingest",
    "search.locator": "locate",
    "simulation.simulate": "simulate",
    "training.train": "train",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
__all__ = [
    "AerialSource", "Answer", "CellcodeError", "Config", "Database", "EmptyRegionError", "InputError", "Locator",
    "MissingExtraError", "PhotoError", "PhotoTable", "PluginError", "Region", "Run", "UsageError", "build",
    "evaluate", "ingest", "locate", "open_source", "simulate", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cellcode' has no attribute {name!r}")
    return getattr(import_module(f"cellcode.{_HOMES[name]}"), name)
