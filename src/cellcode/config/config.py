"""The complete configuration, and the rules between its blocks."""

from __future__ import annotations

from pydantic import Field, model_validator

from cellcode.config.base import Frozen
from cellcode.config.database import BuildConfig, EvaluationConfig
from cellcode.config.model import LevelsConfig, LossConfig, ModelConfig, PhotoConfig, PrototypesConfig, TileConfig
from cellcode.config.training import AugmentationConfig, MachineConfig, StreamConfig, TrainingConfig, ValidationConfig


class Config(Frozen):
    """A complete configuration."""

    name: str = Field("cellcode", description="name of the configuration, kept in run and database")
    levels: LevelsConfig = LevelsConfig()
    photo: PhotoConfig = PhotoConfig()
    tile: TileConfig = TileConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    prototypes: PrototypesConfig = PrototypesConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    validation: ValidationConfig = ValidationConfig()
    training: TrainingConfig = TrainingConfig()
    stream: StreamConfig = StreamConfig()
    machine: MachineConfig = MachineConfig()
    build: BuildConfig = BuildConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _distant_labels_need_every_row(self) -> Config:
        if self.loss.prototype_labels == "haversine" and self.prototypes.table == "sharded":
            raise ValueError("loss.prototype_labels haversine needs prototypes.table: whole")
        return self

    @model_validator(mode="after")
    def _places_that_look_alike_are_found_and_compared(self) -> Config:
        training, loss = self.training, self.loss
        if training.hard_group_size == 1:
            return self
        places = training.batch_size // training.photos_per_place
        if places % training.hard_group_size:
            raise ValueError(
                f"training.hard_group_size {training.hard_group_size} does not divide the {places} places of a batch "
                "(training.batch_size / training.photos_per_place)"
            )
        if not loss.query_prototype:
            raise ValueError(
                "training.hard_group_size takes clusters of prototypes, and loss.query_prototype 0 trains none"
            )
        if not (loss.query_aerial or loss.query_cell or loss.query_query):
            raise ValueError(
                "training.hard_group_size needs a loss between photos and tiles of a batch, and loss.query_aerial, "
                "loss.query_cell and loss.query_query are 0"
            )
        return self
