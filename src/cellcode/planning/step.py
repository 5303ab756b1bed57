"""A training step on several processes, derived from the configuration: memory, network and arithmetic of one process.

For P prototypes of D numbers of s bytes on W processes, N places (photos, and tiles compared with prototypes) and R rows that
a batch compares them with. docs/scaling.md has the table of these formulas.
"""

from dataclasses import dataclass

from cellcode.config import Config
from cellcode.planning.encoders import Cost

NEIGHBOURS = 9  # prototypes around a place, its own included
MOMENTS = 2  # of AdamW, per weight


@dataclass(frozen=True)
class Device:
    """The device of one process.

    Attributes:
        tflops: sustained with these encoders, in 10^12 operations per second: about a third of the data sheet.
        gbit_per_s: of its link to the others.
    """

    tflops: float = 100.0
    gbit_per_s: float = 100.0


@dataclass(frozen=True)
class Step:
    """What a step takes of one process, by part. Memory and network in bytes, work in operations.

    Attributes:
        processes: W.
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
    """Derive a step.

    Args:
        prototypes: P.
        ground, aerial: of an image; None without imagery.
    """
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
    return Step(
        processes=processes,
        photos=photos * training.gradient_accumulation,
        tiles=tiles * training.gradient_accumulation,
        rows=rows,
        on_device=_on_device(config, prototypes, places, rows, processes)
        | {
            "encoders and their optimiser": weights * _bytes_per_weight(config),
            "activations": sum(count * (cost.kept_bytes + cost.block_bytes) for count, cost in images) / processes,
        },
        on_host=_on_host(config, prototypes),
        network=network,
        work=work,
        seconds=sum(work.values()) / (device.tflops * 1e12) + 8 * sum(network.values()) / (device.gbit_per_s * 1e9),
    )


def _bytes_per_weight(config: Config) -> float:
    """Return the bytes per weight of an encoder: itself, gradient (exchanged in place), moments, average, autocast's copy."""
    kept = 2 + MOMENTS + (config.training.ema_decay > 0)
    return 4.0 * kept + (2.0 if config.machine.precision == "bfloat16" else 0.0)


def _summed(values: dict[str, float], scale: float, unit: str) -> str:
    """Return a sum and its parts."""
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
