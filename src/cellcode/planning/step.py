"""A training step on several processes, derived from the configuration: memory, network and arithmetic of one process.

An image's share is measured with one image. For P prototypes of D numbers of s bytes on W processes, N places (photos, and
tiles compared with prototypes) and R rows that a batch compares them with; docs/scaling.md has the table of these formulas.
"""

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
    images, training = _images(encoder, 1, height_px, width_px), encoder.training
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
            with (counted := _Counted()):
                x = backbone.run(x.detach().requires_grad_(), number, number + 1)
            blocks.append(counted.bytes)
        with (counted := _Counted()):
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


NEIGHBOURS = 9  # prototypes around a place, its own included
MOMENTS = 2  # of AdamW, per weight


@dataclass(frozen=True)
class Device:
    """The device of one process: TFLOP/s sustained, about a third of its data sheet, and the rate of its link to the others."""

    tflops: float = 100.0
    gbit_per_s: float = 100.0


@dataclass(frozen=True)
class Step:
    """What a step takes of one process, by part. Memory and network in bytes, work in operations.

    Attributes:
        photos, tiles: of a step, of all processes.
        rows: of the table, that a batch is compared with in all processes, at most.
        on_device: memory of the device; `on_host`, of the process beside it.
        seconds: if arithmetic and exchange do not overlap.
    """

    processes: int
    photos: int
    tiles: int
    rows: int
    on_device: dict[str, float]
    on_host: dict[str, float]
    network: dict[str, float]
    work: dict[str, float]
    seconds: float

    def lines(self) -> list[tuple[str, str]]:
        """Return names and values to print."""
        parts = [
            ("memory of a device", self.on_device, 1e9, "GB"),
            ("memory of its host", self.on_host, 1e9, "GB"),
            ("received in a step", self.network, 1e9, "GB"),
            ("computed in a step", self.work, 1e12, "TFLOP"),
        ]
        batch = f"{self.photos:,} photos, {self.tiles:,} tiles, at most {self.rows:,} prototypes per batch"
        return [
            ("processes", f"{self.processes}"),
            ("a step", f"{batch}: {self.seconds:.2f} s"),
            *((name, _summed(values, scale, unit)) for name, values, scale, unit in parts if values),
        ]


def derive(
    config: Config, prototypes: int, processes: int, ground: Cost, aerial: Cost | None, device: Device | None = None
) -> Step:
    """Derive a step with P `prototypes`; `aerial` is None without imagery."""
    device, training = device or Device(), config.training
    anchors = training.batch_size // training.photos_per_place
    photos = anchors * training.photos_per_place
    own_tiles = anchors if aerial is not None else 0
    tiles = own_tiles + (training.random_tiles if aerial is not None else 0)
    places = photos + own_tiles if config.loss.query_prototype else 0
    rows = _rows(config, prototypes, places, anchors) if places else 0
    images = [(photos, ground), *([(tiles, aerial)] if aerial is not None else [])]
    weights = sum(each.weights for _, each in images)
    network = _network(config, prototypes, places, weights, processes)
    passes = 4 if training.activation_checkpointing else 3  # the gradient takes twice the forward pass
    encoding = sum(count * cost.flop for count, cost in images) * passes / processes
    work = {"encoders": encoding, "prototypes": 6.0 * config.model.dim * places * rows / processes}
    work = {name: training.gradient_accumulation * value for name, value in work.items()}
    on_device = _on_device(config, prototypes, places, rows, processes) | {
        "encoders and their optimiser": weights * _bytes_per_weight(config),
        "activations": sum(count * (cost.kept_bytes + cost.block_bytes) for count, cost in images) / processes,
    }
    seconds = sum(work.values()) / (device.tflops * 1e12) + 8 * sum(network.values()) / (device.gbit_per_s * 1e9)
    photos, tiles = (training.gradient_accumulation * count for count in (photos, tiles))
    return Step(processes, photos, tiles, rows, on_device, _on_host(config, prototypes), network, work, seconds)


def _bytes_per_weight(config: Config) -> float:
    """Return the bytes per weight of an encoder: itself, gradient (exchanged in place), moments, average, autocast's copy."""
    kept = 2 + MOMENTS + (config.training.ema_decay > 0)
    return 4.0 * kept + (2.0 if config.machine.precision == "bfloat16" else 0.0)


def _summed(values: dict[str, float], scale: float, unit: str) -> str:
    parts = ", ".join(f"{name} {value / scale:.3g}" for name, value in values.items())
    return f"{sum(values.values()) / scale:.3g} {unit}: {parts}"


def _rows(config: Config, prototypes: int, places: int, anchors: int) -> int:
    """Return the most rows that a batch is compared with: those around its places, hard ones and drawn ones."""
    rule = config.prototypes
    if rule.negatives == "all":
        return prototypes
    drawn = max(1, min(round(rule.share * prototypes), rule.most_rows))
    cells = min(places, 2 * anchors)  # photos of a place are in one; its tile, moved, may be in the next
    return min(prototypes, drawn + NEIGHBOURS * places + rule.hard_rows * cells)


def _on_device(config: Config, prototypes: int, places: int, rows: int, processes: int) -> dict[str, float]:
    if not places:
        return {}
    dim, similarities = config.model.dim, 16.0 * places * rows / processes
    if config.prototypes.table == "whole":
        copies = 2 + MOMENTS + (config.training.ema_decay > 0)
        return {"prototypes": 4.0 * prototypes * dim * copies, "similarities": similarities}
    number = 4 if config.prototypes.storage == "float32" else 2
    return {
        "prototypes": prototypes * (dim * number + 8.0) / processes,
        "rows of a step": 12.0 * dim * rows / processes,
        "similarities": similarities,
    }


def _on_host(config: Config, prototypes: int) -> dict[str, float]:
    """Return bytes: S2 ids; for hard rows each prototype's cluster and place in it, for hard batches two sets of clusters."""
    if not config.loss.query_prototype:
        return {}
    each = 8 * (1 + (config.prototypes.hard_rows > 0)) + 2 * 4 * (config.training.hard_group_size > 1)
    return {"ids and clusters": float(each * prototypes)}


def _network(config: Config, prototypes: int, places: int, weights: int, processes: int) -> dict[str, float]:
    """Return the bytes that a process receives in a step. Embeddings and gradients of prototypes go with every batch."""
    if processes == 1:
        return {}
    ring, dim, batches = 2.0 * (processes - 1) / processes, config.model.dim, config.training.gradient_accumulation
    taken = {"gradients of the encoders": ring * 4 * weights}
    if not places:
        return taken
    if config.prototypes.table == "whole":
        return taken | {"gradients of the prototypes": ring * 4 * prototypes * dim}
    embeddings = 8.0 * dim * places + 12 * NEIGHBOURS * places
    return taken | {
        "embeddings and places": batches * embeddings,
        "interpolated prototypes": batches * ring * 8 * dim * places,
        "sums of exponentials": batches * ring * 12 * places,
    }
