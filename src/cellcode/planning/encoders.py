"""What an image costs an encoder, measured with one image: operations, and memory kept for the gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cellcode.config import Config
from cellcode.device import autocast
from cellcode.model.encoder import Encoder

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Cost:
    """What an image of one encoder costs.

    Attributes:
        flop: additions and multiplications of a forward pass.
        kept_bytes: memory kept for the gradient.
        block_bytes: the part of it kept for one block at a time only, with activation checkpointing.
        weights: numbers in the encoder.
    """

    flop: float
    kept_bytes: float
    block_bytes: float
    weights: int


def costs(config: Config, with_imagery: bool) -> tuple[Cost, Cost | None]:
    """Return what an image costs the ground encoder and, with imagery, a tile the aerial one.

    Raises:
        MissingExtraError: the configuration's backbone needs a package that is not installed.
    """
    photo, tile, model = config.photo, config.tile, config.model
    ground = cost(Encoder(model.ground, model.dim), photo.height_px, photo.width_px, config)
    if not with_imagery:
        return ground, None
    aerial = Encoder(model.aerial, model.dim, len(tile.scales))
    return ground, cost(aerial, tile.size_px, tile.size_px, config)


def cost(encoder: Encoder, height_px: int, width_px: int, config: Config) -> Cost:
    """Pass one and two images through an encoder on the CPU, in the configuration's precision.

    The memory per image is the difference, so that weights and their copies do not count. Operations of attention are counted
    as plain products of matrices.
    """
    encoder.train()
    again, images = config.training.activation_checkpointing, _images(encoder, 2, height_px, width_px)
    one, two = (_kept(encoder, images[:count], again, config.machine.precision) for count in (1, 2))
    return Cost(
        flop=flop(encoder, height_px, width_px),
        kept_bytes=float(two[0] - one[0]),
        block_bytes=float(two[1] - one[1]) if again else 0.0,
        weights=sum(p.numel() for p in encoder.parameters()),
    )


def flop(encoder: Encoder, height_px: int, width_px: int) -> float:
    """Return the operations of an image's forward pass."""
    images = _images(encoder, 1, height_px, width_px)
    training = encoder.training
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder.eval()(images)
    encoder.train(training)
    return float(counter.get_total_flops())


def _images(encoder: Encoder, count: int, height_px: int, width_px: int) -> Tensor:
    scales = (encoder.scales,) if encoder.scales > 1 else ()
    device = encoder.projection.weight.device
    return torch.zeros((count, *scales, height_px, width_px, 3), dtype=torch.uint8, device=device)


def _kept(encoder: Encoder, images: Tensor, again: bool, precision: str) -> tuple[int, int]:
    """Return the bytes that a forward pass keeps, and those of the block that keeps most; `again`: inputs of blocks only."""
    backbone, blocks = encoder.backbone, list[int]()
    with autocast(precision, CPU):
        x, inputs = encoder.prefix(images, 0), 0
        x = x.flatten(0, 1) if encoder.scales > 1 else x
        for number in range(len(backbone.blocks)):
            inputs += x.untyped_storage().nbytes()
            counted = _Counted()
            with counted:
                x = backbone.run(x.detach().requires_grad_(), number, number + 1)
            blocks.append(counted.bytes)
        counted = _Counted()
        with counted:
            vectors = encoder.aggregation(backbone.features(x.detach().requires_grad_()))
            encoder.projection(vectors.reshape(-1, encoder.projection.in_features))
    return (inputs if again else sum(blocks)) + counted.bytes, max(blocks)


class _Counted(saved_tensors_hooks):
    """Counts the memory of what is saved for the gradient, each piece once."""

    def __init__(self) -> None:
        self._seen: dict[int, Tensor] = {}  # held, so that no address is used twice
        super().__init__(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._seen.values())

    def _keep(self, tensor: Tensor) -> Tensor:
        self._seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor
