"""The data of a training: photos to train on and to validate with, whether they suffice, and their facts for the run."""

import logging
from pathlib import Path

import numpy as np

from cellcode.aerial import AerialSource
from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.photos import PhotoTable
from cellcode.photos.packed.shards import PackedPhotos, is_packed
from cellcode.photos.table.splits import by_position
from cellcode.training.data.photos import PackedTraining, TablePhotos, TrainingPhotos, unpack
from cellcode.types import Bools, Float64

logger = logging.getLogger(__name__)


def photos_of(photos: PhotoTable | Path | str, config: Config, cache: Path) -> tuple[TrainingPhotos, PhotoTable]:
    """Return the photos to train on, and a table of those to validate with; if packed they are unpacked into `cache`.

    Photos that belong to a table are compared with their digests before; packed ones as they are read.
    """
    if not isinstance(photos, PhotoTable) and is_packed(photos):
        packed = PackedPhotos.open(photos)
        return PackedTraining.of(packed, config), unpack(packed, "validation", cache / "validation")
    table = PhotoTable.of(photos)
    if not collectives.rank():
        table.verify()
    training, validation = split_validation(table, config)
    return TablePhotos(training), validation


def split_validation(table: PhotoTable, config: Config) -> tuple[PhotoTable, PhotoTable]:
    """Return the photos to train on and those to validate with.

    The latter are the split "validation". Without one they are taken out of the training split, by position, and some prototype
    cells lose all their photos to it, so that calibration sees photos of places without training photos.

    Raises:
        InputError: there is nothing to train on.
    """
    validation, table = table.of_split("validation"), table.of_split("train")
    if not len(table):
        raise InputError("the photo table has no photos in its split 'train'; ingest with a split, or a larger folder")
    if len(validation):
        logger.info("%d photos of the split 'validation' are used; the configuration's is ignored", len(validation))
        return table, validation
    chosen = set_apart(table.lat_deg, table.lon_deg, config)
    return table.select(~chosen), table.select(chosen)


def set_apart(lat_deg: Float64, lon_deg: Float64, config: Config) -> Bools:
    """Choose validation photos from those at these positions, (N,) bool; raises InputError if it would be all of them."""
    rule, seed = config.validation, config.training.seed
    cells = s2.cell_ids(lat_deg, lon_deg, config.levels.prototype)
    distinct = np.random.default_rng([seed, 3]).permutation(np.unique(cells))
    withheld = np.isin(cells, distinct[: round(rule.withheld_share * len(distinct))])
    chosen = withheld | by_position(lat_deg, lon_deg, block_m=rule.block_m, share=rule.share, seed=seed)
    if chosen.all():
        raise InputError("validation takes every training photo; lower validation.share or validation.block_m")
    return chosen


def require_supervision(config: Config, training: TrainingPhotos, source: AerialSource | None) -> None:
    """Refuse, before any work, a training that has nothing to learn from.

    Raises:
        InputError: no loss is switched on, or no photo lies in the imagery.
    """
    loss = config.loss
    if source is None:
        if not (loss.query_prototype or loss.query_query):
            raise InputError("training without aerial imagery needs prototypes: loss.query_prototype is 0")
        if config.training.hard_group_size > 1 and not loss.query_query:
            compared = (
                "photos of a batch are compared with its tiles, or with each other if loss.query_query is above 0"
            )
            raise InputError(f"training.hard_group_size has no effect without aerial imagery: {compared}")
        return
    if not (loss.query_prototype or loss.query_query or loss.query_aerial):
        raise InputError(
            "there is nothing to learn: loss.query_prototype, loss.query_aerial and loss.query_query are 0"
        )
    covered = source.covers(training.lat_deg, training.lon_deg)
    if not covered.any():
        raise InputError("no training photo lies in the aerial imagery; check the photos' region and the raster's CRS")
    if not covered.all():
        collectives.warn(logger, f"{(~covered).sum()} of {len(covered)} {training.noun} lie outside the imagery")


def manifest(training: TrainingPhotos, source: AerialSource | None) -> dict[str, object]:
    """Return the entries of a run's manifest about its data: where it comes from, and under which licences."""
    licences, attributions = training.distinct("licence"), training.distinct("attribution")
    if source is not None:
        licences, attributions = sorted({*licences, source.licence}), sorted({*attributions, source.attribution})
    lat_deg, lon_deg = training.lat_deg, training.lon_deg
    return {
        "training_photos": len(training),
        "bounds": [float(lon_deg.min()), float(lat_deg.min()), float(lon_deg.max()), float(lat_deg.max())],
        "licences": [text for text in licences if text],
        "attributions": [text for text in attributions if text],
        "imagery": source.identity if source is not None else None,
    }
