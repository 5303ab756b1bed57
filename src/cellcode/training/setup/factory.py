"""The model and the prototypes of a training, as the configuration requires them."""

import torch

from cellcode.config import Config
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.training.data.photos import TrainingPhotos
from cellcode.training.loop.trainer import Model


def make_model(config: Config, training: TrainingPhotos, has_aerial: bool) -> Model:
    """Return encoders with fresh or pretrained weights, and a prototype for every prototype cell with a training photo."""
    prototypes = None
    if config.loss.query_prototype and config.prototypes.table == "whole":
        ids = training.cells(config.levels.prototype)
        prototypes = Prototypes(ids, config.model.dim, config.model.interpolation_radius_cells)
    ground = Encoder(config.model.ground, config.model.dim)
    aerial = Encoder(config.model.aerial, config.model.dim, len(config.tile.scales)) if has_aerial else None
    return Model(ground, aerial, prototypes)


def make_table(config: Config, training: TrainingPhotos, device: torch.device) -> ShardedPrototypes | None:
    """Return the same prototypes as a table split over processes, where the configuration requires it."""
    if not config.loss.query_prototype or config.prototypes.table == "whole":
        return None
    ids, model, seed = training.cells(config.levels.prototype), config.model, config.training.seed
    return ShardedPrototypes(ids, model.dim, model.interpolation_radius_cells, config.prototypes, seed, device)
