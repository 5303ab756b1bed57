"""Augmentation, validation, the loop and the stream: how it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cellcode.config.base import Frozen, Positive, Share


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
    checkpoint_every_steps: int = Field(200, ge=1)
    keep_checkpoints: int = Field(1, ge=1, description="the last ones; the best by validation recall is kept besides")
    validate_every_steps: int = Field(0, ge=0, description="recall of a sample of the validation photos; 0: never")
    log_every_steps: int = Field(10, ge=1)
    tensorboard: bool = Field(False, description="write what is logged for TensorBoard too")
    seed: int = 0


class StreamConfig(Frozen):
    """How packed photos are read in training; it counts for them only."""

    window_shards: int = Field(4, ge=1, description="shards whose photos are shuffled together; twice as many are held")
    damaged_share: Share = Field(0.01, description="photos of an epoch that may be unreadable before training stops")


class MachineConfig(Frozen):
    """What depends on the machine and not on the run: no part of a run's identity, and not saved with it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: CUDA, then Apple's, then the CPU")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of products; auto: bfloat16 where the processor has it"
    )
    threads: int = Field(
        0, ge=0, description="threads that decode photos and read tiles, in each process; 0: one per core"
    )
