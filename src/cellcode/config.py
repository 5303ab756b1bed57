"""The configuration: frozen models that are the only source of defaults, YAML files, and `--set a.b=c`.

Everything a paper fixes or leaves open is a field here, so that an experiment is a file and an ablation one override.
An unknown key is an error that names the nearest known one. The resolved configuration is saved in every artefact.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cellcode.errors import InputError, UsageError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Frozen(BaseModel):
    """A configuration block: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LevelsConfig(Frozen):
    """S2 levels. The paper's region scale is 15 and 16; a campus takes 19 and 20."""

    prototype: int = Field(15, ge=0, le=30)
    cell: int = Field(16, ge=0, le=30)

    @model_validator(mode="after")
    def _cells_are_inside_prototypes(self) -> LevelsConfig:
        if self.cell < self.prototype:
            raise ValueError("levels.cell must be at least levels.prototype")
        return self


class PhotoConfig(Frozen):
    """How a ground photo enters its encoder."""

    width_px: int = Field(96, ge=16)
    height_px: int = Field(72, ge=16)
    fit: Literal["stretch", "crop"] = "stretch"


class TileConfig(Frozen):
    """How an aerial tile is cut around a position. The paper's tile is 154 m wide.

    Several `scales` show the same centre, north and pixels over wider ground. Fervers et al. (ECCV 2024) take four of them,
    each twice as wide as the one before: 1, 2, 4, 8.
    """

    size_m: Positive = 154.0
    size_px: int = Field(64, ge=16)
    scales: tuple[Positive, ...] = Field((1.0,), description="widths of a tile's views, as multiples of size_m")

    @field_validator("scales")
    @classmethod
    def _scales_rise(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not scales or any(a >= b for a, b in pairwise(scales)):
            raise ValueError("tile.scales must be at least one number, each larger than the one before")
        return scales


class AggregationConfig(Frozen):
    """From a map of local features to one vector."""

    name: Literal["mean", "gem", "flatten", "optimal_transport"] = "optimal_transport"
    gem_p: Positive = 3.0
    clusters: int = Field(16, ge=1)
    cluster_dim: int = Field(32, ge=1)
    token_dim: int = Field(64, ge=0)
    sinkhorn_steps: int = Field(3, ge=1)


class EncoderConfig(Frozen):
    """One encoder: a backbone, an aggregation and a projection to `dim`."""

    backbone: str = "tiny"
    pretrained: bool = True
    aggregation: AggregationConfig = AggregationConfig()


class ModelConfig(Frozen):
    """The two encoders (same architecture unless told otherwise, separate weights) and the prototypes."""

    dim: int = Field(128, ge=2)
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

    kind: Literal["multi_similarity", "softmax"] = "multi_similarity"
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

    @model_validator(mode="after")
    def _soft_labels_need_a_softmax(self) -> LossConfig:
        if self.prototype_labels == "haversine" and self.kind != "softmax":
            raise ValueError("loss.prototype_labels haversine are labels of a softmax; set loss.kind to softmax")
        return self


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


class AugmentationConfig(Frozen):
    """Random changes of photos and tiles during training; every figure is the end of a uniform range."""

    zoom: Share = 0.1
    shift: Share = 0.05
    rotation_deg: float = Field(3.0, ge=0)
    exposure: Share = 0.25
    white_balance: Share = 0.12
    noise: Share = 0.03
    erase: Share = 0.3
    tile_translation_m: float = Field(60.0, ge=0)
    tile_rotation_deg: float = Field(180.0, ge=0, le=180)
    tile_exposure: Share = 0.15
    tile_white_balance: Share = 0.08
    tile_dates: int = Field(
        1,
        ge=1,
        description="dates of imagery that tiles are drawn from, where a source lists several; 1: none but its own",
    )


class ValidationConfig(Frozen):
    """Photos of the training split that training never sees: they fit kappa and the confidence.

    Nothing of it counts for a photo table that has a split "validation": that is taken as it is.
    """

    block_m: Positive = 50.0
    share: Share = Field(0.05, description="share of position blocks kept out, where other photos of the cell remain")
    withheld_share: Share = Field(0.05, description="share of prototype cells whose photos are all kept out")


class TrainingConfig(Frozen):
    """The loop."""

    regime: Literal["full", "last_blocks", "frozen"] = "full"
    last_blocks: int = Field(2, ge=1)
    cached_views: int = Field(4, ge=1, description="augmented copies of each photo's cached features (frozen parts)")
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(256, ge=2)
    photos_per_place: int = Field(2, ge=1)
    sampling_exponent: Share = Field(
        1.0,
        description="a cell with n photos is drawn in proportion to n to the power of this; 1: photos are drawn evenly, "
        "0: cells",
    )
    hard_group_size: int = Field(
        1, ge=1, description="places of a batch come in groups of this many whose cells look alike; 1: at random"
    )
    random_tiles: int = Field(0, ge=0, description="extra tiles a batch from anywhere in the imagery, as negatives")
    imagery: Literal["kept", "read"] = Field(
        "kept",
        description="kept: the surroundings of cells with photos are read once, into a file of each process; read: each tile "
        "is read out of the imagery when it is wanted, for regions where that file would be too large",
    )
    learning_rate: Positive = 2e-3
    backbone_learning_rate: Positive | None = None
    prototype_learning_rate: Positive = 1e-2
    weight_decay: float = Field(1e-2, ge=0)
    warmup_share: Share = 0.1
    max_grad_norm: Positive = 5.0
    ema_decay: Share = 0.0
    gradient_accumulation: int = Field(1, ge=1, description="batches whose gradients are summed before a step")
    activation_checkpointing: bool = Field(
        False, description="compute activations again for the gradient: memory for time"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_every_steps: int = Field(200, ge=1)
    keep_checkpoints: int = Field(1, ge=1, description="the last ones; the best by validation recall is kept besides")
    validate_every_steps: int = Field(0, ge=0, description="recall of a sample of the validation photos; 0: never")
    log_every_steps: int = Field(10, ge=1)
    tensorboard: bool = Field(False, description="write what is logged for TensorBoard too")
    seed: int = 0


class StreamConfig(Frozen):
    """How packed photos are read in training; it counts for them only."""

    window_shards: int = Field(4, ge=1, description="shards whose photos are shuffled together; twice as many are held")
    threads: int = Field(0, ge=0, description="that decode photos, in each process; 0: one a core")
    damaged_share: Share = Field(0.01, description="photos of an epoch that may be unreadable before training stops")


class BuildConfig(Frozen):
    """From a run to cell codes."""

    upsampling: Literal["copy", "interpolate"] = "interpolate"
    aerial_smoothing_cells: float = Field(
        0.0, ge=0, le=1, description="deviation of the Gaussian that averages aerial embeddings of neighbouring cells"
    )
    batch_size: int = Field(256, ge=1)
    min_imagery_share: Share = 0.5
    kappa: Annotated[float, Field(ge=0)] | None = Field(None, description="given, it is used instead of being fitted")
    unvisited_weight: Share | None = Field(
        None,
        description="weight of validation photos in cells without a prototype; none given: their share, or the nearest at "
        "which photos of both kinds of cells keep what a single term finds",
    )
    impute: bool = Field(
        True, description="cells with imagery only get a prototype guessed from it; not in the paper, our addition"
    )
    keep_terms: bool = True
    shard_depth: int = Field(8, ge=1, le=12, description="a build goes over S2 cells this many levels above the cells")
    first_stage: Literal["auto", "cells", "parents", "none"] = Field(
        "auto",
        description="what quantised codes stand for in the first stage of a search; auto: what searches cheapest",
    )
    first_stage_min_cells: int = Field(200_000, ge=1, description="smaller databases are searched exactly, without one")


class EvaluationConfig(Frozen):
    """What the tables report."""

    radii_m: tuple[Positive, ...] = (100.0, 200.0, 1000.0)
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5, 10, 100)


class Config(Frozen):
    """A complete configuration."""

    name: str = "cellcode"
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


def load(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply `a.b=c` overrides.

    Raises:
        InputError: the file does not exist or is not a YAML mapping.
        UsageError: a key is unknown (the nearest known one is named) or a value is out of its range.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the configuration cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a mapping of configuration keys, not a {type(values).__name__}")
    for override in overrides:
        _apply_override(values, override)
    return parse(values, str(path))


def parse(values: Mapping[str, Any], source: str = "configuration") -> Config:
    """Validate a mapping; `source` is named in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{source}: " + "; ".join(_explain(item) for item in error.errors())) from None


def overridden(config: Config, overrides: Iterable[str], section: str) -> Config:
    """Apply `a.b=c` overrides of one section to a configuration.

    Raises:
        UsageError: a key is unknown or of another section, or a value is out of its range.
    """
    values = config.model_dump(mode="json")
    for override in overrides:
        if not override.startswith(f"{section}."):
            raise UsageError(f"--set {override}: only keys of {section} can be changed here, the rest is the run's")
        _apply_override(values, override)
    return parse(values, "--set")


def dump(config: Config) -> str:
    """Return the complete configuration as YAML; `parse` of it gives an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differences(old: Config, new: Config) -> list[str]:
    """Name what differs between two configurations, as `key: old -> new`."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"--set {override}: expected key=value, for example --set training.epochs=5")
    *parents, last = key.strip().split(".")
    for depth, name in enumerate(parents):
        if values.get(name) is None:  # also a section that the file leaves empty
            values[name] = {}
        values = values[name]
        if not isinstance(values, dict):
            raise UsageError(f"--set {override}: {'.'.join(parents[: depth + 1])} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: {text!r} is not a YAML value") from None


def _explain(item: Any) -> str:
    location: tuple[str | int, ...] = item["loc"]
    dotted = ".".join(str(part) for part in location)
    if item["type"] != "extra_forbidden":
        return f"{dotted or 'configuration'}: {item['msg']}"
    near = difflib.get_close_matches(dotted, _known_keys(Config), n=1, cutoff=0.0)
    return f"unknown key {dotted}; the nearest known key is {near[0]}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
