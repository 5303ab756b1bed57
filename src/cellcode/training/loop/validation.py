"""Photos that training does not see: the recall of a sample of them on the way, and their embeddings at the end."""

import logging
from dataclasses import dataclass

import numpy as np
import torch

from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.geography import distance, s2
from cellcode.model import inference
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.protocol import PrototypeTable
from cellcode.photos import PhotoTable
from cellcode.photos.reading.pixels import load_pixels
from cellcode.runs import Validation
from cellcode.training.data.photos import decode
from cellcode.types import Float64, UInt8

logger = logging.getLogger(__name__)
MOST = 1000  # photos: a recall of one half is then known to 3 points
BATCH = 256


@dataclass(frozen=True)
class Recall:
    """Share of photos, the same in every process, whose best prototype is of a cell with its centre within `radius_m`."""

    pixels: UInt8
    lat_deg: Float64
    lon_deg: Float64
    radius_m: float
    precision: str

    @torch.no_grad()
    def __call__(self, ground: Encoder, prototypes: PrototypeTable | None) -> float:
        """Search for every photo; each process searches its own rows."""
        assert prototypes is not None
        device = ground.projection.weight.device
        queries = inference.embed(ground, self.pixels, self.precision, device, BATCH)
        score, row = prototypes.best(torch.from_numpy(queries).to(device))
        scores, rows = (collectives.gather_array(each.cpu().numpy()[None]) for each in (score, row))
        best = rows[scores.argmax(axis=0), np.arange(len(self.pixels))]
        lat_deg, lon_deg = s2.cell_centers(prototypes.ids[best])
        return float((distance.haversine_m(self.lat_deg, self.lon_deg, lat_deg, lon_deg) < self.radius_m).mean())


def recall_of_sample(validation: PhotoTable, config: Config) -> Recall | None:
    """Return the recall of a sample of the validation photos within the middle one of the evaluation's radii."""
    if not config.training.validate_every_steps or not config.loss.query_prototype or not len(validation):
        return None
    chosen = np.zeros(len(validation), bool)
    chosen[np.random.default_rng([config.training.seed, 7]).permutation(len(validation))[:MOST]] = True
    pixels, sample = decode(validation.select(chosen), config, "reading validation photos")
    radii_m = config.evaluation.radii_m
    return Recall(pixels, sample.lat_deg, sample.lon_deg, radii_m[len(radii_m) // 2], config.machine.precision)


def embed_validation(table: PhotoTable, ground: Encoder, config: Config) -> Validation:
    """Embed all validation photos with the trained encoder, for the calibration of a database."""
    queries = np.empty((0, config.model.dim), np.float32)
    pixels, failures = load_pixels(table.files, config.photo, description="reading validation photos")
    if failures:  # the training is done, and is kept whatever they are
        logger.warning("%d of %d validation photos can no longer be read", len(failures), len(table))
    good = np.setdiff1d(np.arange(len(table)), list(failures))
    pixels, table = pixels[good], table.select(good)
    if len(table):
        queries = inference.embed(ground, pixels, config.machine.precision, torch.device("cpu"), BATCH)
    return Validation(table.lat_deg, table.lon_deg, queries)
