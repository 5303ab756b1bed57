"""Levels, photos, tiles, encoders, losses, prototypes: what is trained."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cellcode.config.base import Frozen, Positive, Share


class LevelsConfig(Frozen):
    """S2 levels. The paper's region scale is 15 and 16; a campus takes 19 and 20."""

    prototype: int = Field(15, ge=0, le=30, description="level of the prototypes; 15: cells of about 281 m")
    cell: int = Field(16, ge=0, le=30, description="level of the cell codes; 16: cells of about 140 m")

    @model_validator(mode="after")
    def _cells_are_inside_prototypes(self) -> LevelsConfig:
        if self.cell < self.prototype:
            raise ValueError("levels.cell must be at least levels.prototype")
        return self


class PhotoConfig(Frozen):
    """How a ground photo enters its encoder."""

    width_px: int = Field(64, ge=16, description="width of a photo as its encoder sees it")
    height_px: int = Field(48, ge=16, description="height of a photo as its encoder sees it")
    fit: Literal["stretch", "crop"] = Field(
        "stretch", description="photos of another shape are stretched, or cropped to their middle"
    )


class TileConfig(Frozen):
    """How an aerial tile is cut around a position. The paper's tile is 154 m wide.

    Several `scales` show the same centre, north and pixels over wider ground. Fervers et al. (ECCV 2024) take four of them,
    each twice as wide as the one before: 1, 2, 4, 8.
    """

    size_m: Positive = Field(154.0, description="width of a tile on the ground")
    size_px: int = Field(64, ge=16, description="width of a tile in pixels")
    scales: tuple[Positive, ...] = Field((1.0,), description="widths of a tile's views, as multiples of size_m")

    @field_validator("scales")
    @classmethod
    def _scales_rise(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not scales or any(a >= b for a, b in pairwise(scales)):
            raise ValueError("tile.scales must be at least one number, each larger than the one before")
        return scales


class AggregationConfig(Frozen):
    """From a map of local features to one vector."""

    name: str = Field("optimal_transport", description="mean, gem, flatten, optimal_transport, or a plug-in's name")
    options: dict[str, Any] = Field({}, description="keyword arguments of a plug-in, which checks them itself")
    gem_p: Positive = Field(3.0, description="gem: power of the generalised mean before training")
    clusters: int = Field(16, ge=1, description="optimal_transport: number of clusters")
    cluster_dim: int = Field(32, ge=1, description="optimal_transport: dimension of the features of a cluster")
    token_dim: int = Field(64, ge=0, description="optimal_transport: dimension of the global token; 0: none")
    sinkhorn_steps: int = Field(3, ge=1, description="optimal_transport: iterations of the assignment")


class EncoderConfig(Frozen):
    """One encoder: a backbone, an aggregation and a projection to `dim`."""

    backbone: str = Field("tiny", description="tiny, efficientnet-lite0, hf:ID_OR_FOLDER, or a plug-in's name")
    options: dict[str, Any] = Field({}, description="keyword arguments of a plug-in backbone, which checks them itself")
    pretrained: bool = Field(True, description="start from published weights, if the backbone has any")
    aggregation: AggregationConfig = AggregationConfig()


class ModelConfig(Frozen):
    """The two encoders, which share no weights, and how prototypes are interpolated."""

    dim: int = Field(128, ge=2, description="dimension of embeddings, prototypes and codes")
    ground: EncoderConfig = EncoderConfig()
    aerial: EncoderConfig = EncoderConfig()
    interpolation_radius_cells: float = Field(
        1.2, ge=0, le=1.2, description="support of the kernel around a position, in cell widths; 0: own cell only"
    )


class LossConfig(Frozen):
    """The loss over the three pairs; a weight of 0 switches a pair off.

    "multi_similarity" is the paper's, with `alpha`, `beta` and `threshold`. "softmax" is ours: the cross-entropy of
    similarities times `scale`, towards the interpolation weights of the prototypes and towards the tiles of the place.
    Its `prototype_labels` may be "haversine" instead, the smoothed labels of PIGEON (Haas et al., CVPR 2024).
    """

    kind: str = Field("softmax", description="multi_similarity, softmax, or a plug-in's name")
    options: dict[str, Any] = Field({}, description="keyword arguments of a plug-in, which checks them itself")
    scale: Positive = Field(20.0, description="softmax: factor of the similarities (inverse temperature)")
    alpha: Positive = Field(2.0, description="multi_similarity: weight of positive pairs")
    beta: Positive = Field(50.0, description="multi_similarity: weight of negative pairs")
    threshold: float = Field(0.5, description="multi_similarity: similarity at which pairs are neutral")
    query_prototype: float = Field(1.0, ge=0, description="weight of photo-prototype pairs")
    query_aerial: float = Field(1.0, ge=0, description="weight of photo-tile pairs")
    symmetric: bool = Field(
        False, description="compare photo-tile pairs also from tile to photo, as Fervers et al. (ECCV 2024)"
    )
    aerial_prototype: float = Field(0.5, ge=0, description="weight of tile-prototype pairs")
    query_cell: float = Field(0.0, ge=0, description="weight of photo-code pairs; not in the paper, our addition")
    prototype_labels: Literal["interpolation", "haversine"] = Field(
        "interpolation", description="softmax: target over the prototypes, by interpolation weight or by distance"
    )
    haversine_m: Positive = Field(
        75.0,
        description="haversine labels: a prototype this much farther than the nearest has 1/e of its label; for cells of 281 m",
    )
    near_prototype_cells: float = Field(1.5, ge=0, description="prototypes nearer than this are not negatives")
    near_aerial_m: float = Field(250.0, ge=0, description="tiles nearer than this are not negatives")
    positive_aerial_m: Positive = Field(80.0, description="tiles centred nearer than this are positives")
    query_query: float = Field(0.0, ge=0, description="weight of photo pairs; not in the paper, our addition")
    positive_query_m: Positive = Field(10.0, description="photos nearer than this are positives of photo pairs")
    near_query_m: Positive = Field(30.0, description="photos nearer than this are not negatives of photo pairs")


class PrototypesConfig(Frozen):
    """How the table of prototypes is held and what a step compares with it; docs/scaling.md.

    A `whole` table is a parameter like any other, and every process has a copy. A `sharded` one is split over the
    processes, its optimiser keeps one moment per row, and a step may compare some rows only.
    """

    table: Literal["whole", "sharded"] = Field("whole", description="a copy per process, or split over the processes")
    storage: Literal["float32", "bfloat16"] = Field("float32", description="precision of the rows of a sharded table")
    negatives: Literal["all", "sampled"] = Field("all", description="rows that a step compares: all, or a sample")
    share: Share = Field(0.1, description="sampled: fraction of all rows drawn at random in each step")
    most_rows: int = Field(16384, ge=1, description="sampled: largest number of rows drawn at random in a step")
    hard_rows: int = Field(0, ge=0, description="sampled: hard negatives per cell of a batch, rows that look like it")
    mine_every_steps: int = Field(
        1000, ge=1, description="steps between two clusterings, for `hard_rows` and `training.hard_group_size`"
    )

    @model_validator(mode="after")
    def _only_a_sharded_table_is_sampled(self) -> PrototypesConfig:
        if self.table == "whole" and (self.negatives == "sampled" or self.storage != "float32"):
            raise ValueError("sampled negatives and bfloat16 storage need prototypes.table: sharded")
        return self
