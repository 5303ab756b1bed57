"""Augmentation, validation, the loop, the stream and the machine: how it is trained."""

from typing import Literal

from pydantic import Field

from cellcode.config.base import Frozen, Positive, Share


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
