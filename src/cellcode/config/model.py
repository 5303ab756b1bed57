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
    gem_p: Positive = 3.0
    clusters: int = Field(16, ge=1)
    cluster_dim: int = Field(32, ge=1)
    token_dim: int = Field(64, ge=0)
    sinkhorn_steps: int = Field(3, ge=1)


class EncoderConfig(Frozen):
    """One encoder: a backbone, an aggregation and a projection to `dim`."""

    backbone: str = Field("tiny", description="tiny, efficientnet-lite0, hf:ID_OR_FOLDER, or a plug-in's name")
    options: dict[str, Any] = Field({}, description="keyword arguments of a plug-in backbone, which checks them itself")
    pretrained: bool = True
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
    scale: Positive = 20.0
    alpha: Positive = 2.0
    beta: Positive = 50.0
    threshold: float = 0.5
    query_prototype: float = Field(1.0, ge=0)
    query_aerial: float = Field(1.0, ge=0)
    symmetric: bool = Field(
        False, description="photo-tile pairs also from tile to photo, as Fervers et al. (ECCV 2024)"
    )
    aerial_prototype: float = Field(0.5, ge=0)
    query_cell: float = Field(0.0, ge=0, description="weight of photo-code pairs; not in the paper, our addition")
    prototype_labels: Literal["interpolation", "haversine"] = "interpolation"
    haversine_m: Positive = Field(
        75.0,
        description="a prototype farther than the own one by this has 1/e of its label; for cells of 281 m, our choice",
    )
    near_prototype_cells: float = Field(1.5, ge=0, description="prototypes nearer than this are no negatives")
    near_aerial_m: float = Field(250.0, ge=0, description="tiles nearer than this are no negatives")
    positive_aerial_m: Positive = Field(80.0, description="a tile centred nearer than this to a photo shows its place")
    query_query: float = Field(0.0, ge=0, description="weight of photo pairs; not in the paper, our addition")
    positive_query_m: Positive = 10.0
    near_query_m: Positive = 30.0


class PrototypesConfig(Frozen):
    """How the table of prototypes is held and what a step compares with it; docs/scaling.md.

    A `whole` table is a parameter like any other, and every process has a copy. A `sharded` one is split over the
    processes, its optimiser keeps one moment a row, and a step may look at some rows only.
    """

    table: Literal["whole", "sharded"] = "whole"
    storage: Literal["float32", "bfloat16"] = "float32"
    negatives: Literal["all", "sampled"] = "all"
    share: Share = Field(0.1, description="of all rows, drawn at random in each step")
    most_rows: int = Field(16384, ge=1, description="rows drawn at random in a step are not more than this")
    hard_rows: int = Field(
        0, ge=0, description="for each cell of a batch, rows a step that look like it, from clusters of the prototypes"
    )
    mine_every_steps: int = Field(
        1000, ge=1, description="steps between two clusterings, for `hard_rows` and `training.hard_group_size`"
    )

    @model_validator(mode="after")
    def _only_a_sharded_table_is_sampled(self) -> PrototypesConfig:
        if self.table == "whole" and (self.negatives == "sampled" or self.storage != "float32"):
            raise ValueError("sampled negatives and bfloat16 storage need prototypes.table: sharded")
        return self
