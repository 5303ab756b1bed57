"""The configuration, block by block: what is trained, how, and what is made of a run; and the rules between blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Frozen(BaseModel):
    """A configuration block: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    remembered_tiles: int = Field(
        0, ge=0, description="tiles of the last batches that are further negatives of photo-tile and photo-code pairs"
    )
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


class AugmentationConfig(Frozen):
    """Random changes of photos and tiles during training; figures are the ends of uniform ranges unless stated."""

    zoom: Share = Field(0.1, description="change of a photo's scale")
    shift: Share = Field(0.05, description="shift of a photo, as a fraction of its width and height")
    rotation_deg: float = Field(3.0, ge=0, description="rotation of a photo about its centre")
    exposure: Share = Field(0.25, description="change of a photo's brightness")
    white_balance: Share = Field(0.12, description="change of each colour channel of a photo")
    noise: Share = Field(0.03, description="deviation of the noise added to a photo, as a fraction of white")
    erase: Share = Field(0.3, description="fraction of photos with a random rectangle covered")
    tile_translation_m: float = Field(60.0, ge=0, description="shift of a tile against the photo's position")
    tile_rotation_deg: float = Field(180.0, ge=0, le=180, description="rotation of a tile about its centre")
    tile_exposure: Share = Field(0.15, description="change of a tile's brightness")
    tile_white_balance: Share = Field(0.08, description="change of each colour channel of a tile")
    tile_dates: int = Field(
        1, ge=1, description="imagery dates to draw tiles from, if the source lists several; 1: only its own"
    )


class ValidationConfig(Frozen):
    """Training photos kept out of training to fit the fusion weight and the confidence.

    Ignored for a photo table that has a split "validation": that split is used.
    """

    block_m: Positive = Field(50.0, description="edge of the position blocks that are kept out as a whole")
    share: Share = Field(0.05, description="fraction of position blocks kept out, in cells with other training photos")
    withheld_share: Share = Field(0.05, description="fraction of prototype cells whose photos are all kept out")


class TrainingConfig(Frozen):
    """The training loop."""

    regime: Literal["full", "last_blocks", "frozen"] = Field(
        "full", description="trained part of the backbones: all, the last blocks, or none"
    )
    last_blocks: int = Field(2, ge=1, description="number of trained blocks with regime last_blocks")
    cached_views: int = Field(
        4, ge=1, description="augmented copies of each photo whose features are cached (regimes with frozen parts)"
    )
    epochs: int = Field(12, ge=1, description="passes over the training photos")
    batch_size: int = Field(64, ge=2, description="photos per batch, over all processes")
    photos_per_place: int = Field(2, ge=1, description="photos of one cell per batch")
    sampling_exponent: Share = Field(
        1.0, description="a cell with n photos is drawn in proportion to n to this power; 1: by photos, 0: by cells"
    )
    hard_group_size: int = Field(
        1,
        ge=1,
        description="hard batches: places come in groups of this size whose cells look alike; 1: random batches",
    )
    random_tiles: int = Field(0, ge=0, description="random negatives: extra tiles per batch from all of the imagery")
    imagery: Literal["kept", "read"] = Field(
        "kept",
        description="kept: imagery around cells with photos is read once into a file per process; read: each tile is read "
        "from the source when needed, for regions where that file would be too large",
    )
    learning_rate: Positive = Field(2e-3, description="peak learning rate of aggregation and projection")
    backbone_learning_rate: Positive | None = Field(
        None, description="peak learning rate of the backbones; null: learning_rate"
    )
    prototype_learning_rate: Positive = Field(1e-2, description="peak learning rate of the prototypes")
    weight_decay: float = Field(1e-2, ge=0, description="weight decay of the encoders (AdamW)")
    warmup_share: Share = Field(0.1, description="fraction of all steps with a rising learning rate")
    max_grad_norm: Positive = Field(5.0, description="gradients are clipped to this norm")
    ema_decay: Share = Field(0.99, description="decay of the moving average of the weights, which is saved; 0: none")
    gradient_accumulation: int = Field(1, ge=1, description="batches whose gradients are summed before a step")
    activation_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    checkpoint_every_steps: int = Field(200, ge=1, description="steps between two checkpoints")
    keep_checkpoints: int = Field(1, ge=1, description="number of latest checkpoints kept, beside the best one")
    validate_every_steps: int = Field(
        0, ge=0, description="steps between two measurements of recall on validation photos; 0: never"
    )
    log_every_steps: int = Field(10, ge=1, description="steps between two lines of the training log")
    tensorboard: bool = Field(False, description="write the training log for TensorBoard too")
    seed: int = Field(0, description="seed of every random choice")


class StreamConfig(Frozen):
    """How packed photos are read in training."""

    window_shards: int = Field(4, ge=1, description="shards whose photos are shuffled together; twice as many are held")
    damaged_share: Share = Field(0.01, description="fraction of an epoch's photos allowed to be unreadable")


class MachineConfig(Frozen):
    """Settings of the machine: no part of a run's identity, and not saved with it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto: CUDA, then Apple's GPU, then the CPU"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="precision of products; auto: bfloat16 where the processor supports it"
    )
    threads: int = Field(0, ge=0, description="threads per process that decode photos and read tiles; 0: one per core")


class BuildConfig(Frozen):
    """From a run to cell codes."""

    upsampling: Literal["copy", "interpolate"] = Field(
        "interpolate", description="prototype of a cell: that of its prototype cell, or interpolated at its centre"
    )
    aerial_smoothing_cells: float = Field(
        0.0, ge=0, le=1, description="deviation of the Gaussian that averages aerial embeddings of neighbouring cells"
    )
    batch_size: int = Field(256, ge=1, description="tiles encoded together")
    min_imagery_share: Share = Field(0.5, description="fraction of a tile that imagery must cover")
    kappa: Annotated[float, Field(ge=0)] | None = Field(
        None, description="fusion weight of the aerial term against the prototype; null: fitted on validation photos"
    )
    unvisited_weight: Share | None = Field(
        None,
        description="weight of validation photos in cells without a prototype; null: their share, or the nearest at which "
        "photos in cells with and without a prototype keep the recall of the better single term",
    )
    impute: bool = Field(
        True, description="give cells with imagery only an imputed prototype; not in the paper, our addition"
    )
    keep_terms: bool = Field(True, description="keep both terms beside the codes, so that the database can grow")
    shard_depth: int = Field(
        8, ge=1, le=12, description="a build is cut into S2 cells this many levels above the cells"
    )
    first_stage: Literal["auto", "cells", "parents", "none"] = Field(
        "auto", description="what the quantised codes of a two-stage search stand for; auto: the cheapest to search"
    )
    first_stage_min_cells: int = Field(
        200_000, ge=1, description="smaller databases are searched exactly, in one stage"
    )


class EvaluationConfig(Frozen):
    """What the tables report."""

    radii_m: tuple[Positive, ...] = Field((100.0, 200.0, 1000.0), description="radii of recall")
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 100), description="ranks of recall")


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
    def _hard_batches_are_found_and_compared(self) -> Config:
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
