"""The plan: arithmetic over photos, imagery and measured speeds."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellcode.aerial import AerialSource, open_source
from cellcode.config import Config
from cellcode.database.building.write import MAX_QUERIES
from cellcode.geography import Region
from cellcode.geography.s2 import ranges
from cellcode.http import Politeness
from cellcode.planning.material import Photos, tiles, training_windows
from cellcode.planning.pace import Pace, measure
from cellcode.planning.step import Device, Step, costs, derive
from cellcode.training.setup.factory import RANDOM_PER_CELL

COUNTED = 5_000_000  # cells up to which they are counted; a larger number is estimated from the area
FACTS_BYTES = 12  # of a cell in cells.parquet
FIXED_BYTES = 100_000  # manifest, configuration and the like of a database
MBIT_PER_S = 50.0


@dataclass(frozen=True)
class Plan:
    """What a region takes; sizes in bytes, times in seconds.

    Attributes:
        visited_cells: cells of the database with training photos.
        tile_level, tiles: of a tile service; None without imagery, or where it is on this machine.
        disk_bytes: on the disk at the same time, photos and tiles included.
        step: of a training on several processes, whose `train_s` it then is, and `build_s` that of one of their devices; None:
            all is done on this machine.
    """

    area_m2: float
    prototype_level: int
    prototype_cells: int
    level: int
    cells: int
    photos_from: str
    photos: int
    training_photos: int
    visited_cells: int
    photo_bytes: int
    tile_level: int | None
    tiles: int | None
    imagery_bytes: int
    database_bytes: int
    disk_bytes: int
    fetch_s: float
    train_s: float
    build_s: float
    step: Step | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return the plan as text."""
        imagery = "on this machine" if self.tiles is None else f"{self.tiles:,} tiles of zoom {self.tile_level}"
        lines = [
            ("region", f"{self.area_m2 / 1e6:,.1f} km2"),
            (f"cells of level {self.prototype_level}", f"{self.prototype_cells:,}"),
            (f"cells of level {self.level}", f"{self.cells:,}, about {self.visited_cells:,} with training photos"),
            ("photos", f"{self.photos:,} ({self.photos_from}), {self.training_photos:,} of them to train with"),
            ("photos to fetch", size(self.photo_bytes)),
            ("imagery to fetch", f"{imagery}, {size(self.imagery_bytes)}" if self.imagery_bytes else "nothing"),
            ("fetching", duration(self.fetch_s)),
            ("training", duration(self.train_s) + (", derived for the processes below" if self.step else "")),
            ("building", duration(self.build_s) + (", derived for one of them" if self.step else "")),
            ("database", size(self.database_bytes)),
            ("disk needed", f"{size(self.disk_bytes)} of {size(shutil.disk_usage(Path.cwd()).free)} free"),
            *(self.step.lines() if self.step is not None else []),
        ]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines)


def make(
    region: Region | Path | str,
    config: Config,
    photos: Photos,
    aerial: AerialSource | Path | str | None = None,
    *,
    with_imagery: bool = True,
    mbit_per_s: float = MBIT_PER_S,
    tiles_per_s: float = Politeness.requests_per_s,
    processes: int | None = None,
    device: Device | None = None,
) -> Plan:
    """Estimate what a region takes on this machine.

    Args:
        aerial: the imagery; None: that of a service of map tiles, if `with_imagery`.
        mbit_per_s, tiles_per_s: rates of the connection and, at most, of the service of the imagery.
        processes, device: processes that train on other machines, and the device of each; None: this machine trains.

    Raises:
        EmptyRegionError: the region is smaller than a cell.
        MissingExtraError: the backbone needs a package that is not installed.
    """
    config, region = _untrained(config), Region.of(region)
    source = open_source(aerial) if aerial is not None else None
    needed = tiles(config, region, source) if with_imagery and (source is None or source.is_remote) else None
    pace = measure(config, region, with_imagery, None if needed else source, trains=processes is None)
    imagery_bytes = needed.bytes if needed else 0
    imagery_s = fetch_s(needed.count, imagery_bytes, tiles_per_s, mbit_per_s) if needed else 0.0
    cells, prototypes = count_cells(region, config.levels.cell), count_cells(region, config.levels.prototype)
    visited = photos.cells(prototypes, 0), photos.cells(cells, 1)
    photo_bytes = round(photos.to_fetch * photos.bytes_each)
    photos_s = fetch_s(photos.to_fetch, photo_bytes, Politeness.requests_per_s, mbit_per_s)
    around = kept_windows(config, visited[1], source) if with_imagery else 0
    kept = database_bytes(config, cells, with_imagery, pace)
    disk = photo_bytes + imagery_bytes + training_bytes(config, photos.training, visited[0], around, pace)
    step, training_s, encode_s = None, train_s(config, photos.training, around, pace), pace.encode_s
    if processes is not None:
        step, training_s, encode_s = _derived(config, photos.training, visited[0], processes, with_imagery, device)
    return Plan(
        area_m2=region.area_m2(), prototype_level=config.levels.prototype, prototype_cells=prototypes,
        level=config.levels.cell, cells=cells, visited_cells=visited[1],
        photos_from=photos.source, photos=photos.count, training_photos=photos.training, photo_bytes=photo_bytes,
        tile_level=needed.level if needed else None, tiles=needed.count if needed else None, imagery_bytes=imagery_bytes,
        database_bytes=kept, disk_bytes=disk + 2 * kept,  # a build keeps its shards to the end
        fetch_s=photos_s + imagery_s, train_s=training_s, build_s=cells * (encode_s + pace.crop_s), step=step,
    )  # fmt: skip


def _derived(
    config: Config, photos: int, prototypes: int, processes: int, with_imagery: bool, device: Device | None
) -> tuple[Step, float, float]:
    """Return a step on several processes, the seconds of their training, and of one of their devices to embed a tile."""
    device, (ground, tile) = device or Device(), costs(config, with_imagery)
    step = derive(config, prototypes, processes, ground, tile, device)
    training_s = batches(config, photos) / config.training.gradient_accumulation * step.seconds
    return step, training_s, tile.flop / (device.tflops * 1e12) if tile is not None else 0.0


def _untrained(config: Config) -> Config:
    """Return the configuration with networks of random weights, which take as long, so that a plan fetches nothing."""
    fresh = {
        name: each.model_copy(update={"pretrained": False})
        for name, each in (("ground", config.model.ground), ("aerial", config.model.aerial))
        if each.backbone.startswith("hf:")
    }
    return config.model_copy(update={"model": config.model.model_copy(update=fresh)})


def count_cells(region: Region, level: int) -> int:
    """Return the number of cells of a level with their centre in the region; of a large region an estimate."""
    estimate = region.count_estimate(level)
    return estimate if estimate > COUNTED else ranges.count(region.ranges(level), level)


def database_bytes(config: Config, cells: int, with_imagery: bool, pace: Pace) -> int:
    """Return the size of a database: float16 codes, int8 codes, the terms, and the ground encoder."""
    dim = config.model.dim
    row = 8 + FACTS_BYTES + 3 * dim
    if config.build.keep_terms:
        terms = bool(config.loss.query_prototype) + with_imagery * (1 + (config.build.aerial_smoothing_cells > 0))
        row += terms * 2 * dim + 8 * with_imagery
    return cells * row + pace.ground_bytes + 4 * dim * (MAX_QUERIES + dim) + FIXED_BYTES


def training_bytes(config: Config, photos: int, prototypes: int, around: int, pace: Pace) -> int:
    """Return the bytes of a training on the disk: `around` windows of imagery, frozen features, checkpoints and run."""
    windows = around * sum(4 * window.side_px**2 for window in training_windows(config))
    frozen = config.training.cached_views * pace.frozen_bytes * photos if config.training.regime != "full" else 0
    dim, kept = config.model.dim, config.training.keep_checkpoints + int(config.training.validate_every_steps > 0)
    run = pace.encoder_bytes + 4 * dim * prototypes
    # A checkpoint has the weights, two moments and an average; of a sharded table it has the rows and two numbers for each.
    sharded = dim * (4 if config.prototypes.storage == "float32" else 2) + 8
    table = 16 * dim if config.prototypes.table == "whole" else sharded
    return windows + frozen + run + kept * (4 * pace.encoder_bytes + table * prototypes)


def kept_windows(config: Config, visited: int, source: AerialSource | None) -> int:
    """Return how many windows training keeps, one per date: of cells with photos and, for random negatives, some others."""
    if config.training.imagery == "read":
        return 0
    dates = len(source.editions(config.augmentation.tile_dates)) if source is not None else 1
    has_random = config.training.random_tiles > 0 and config.training.regime == "full"
    return dates * visited * (1 + RANDOM_PER_CELL * int(has_random))


def train_s(config: Config, photos: int, around: int, pace: Pace) -> float:
    """Return the seconds of a training: photos and `around` windows read, frozen blocks passed, steps taken."""
    frozen = config.training.cached_views * used_photos(config, photos) * pace.freeze_s
    return photos * pace.photo_s + around * pace.window_s + frozen + batches(config, photos) * pace.step_s


def used_photos(config: Config, photos: int) -> float:
    """Return the number of training photos without those for validation."""
    return photos * (1 - config.validation.share) * (1 - config.validation.withheld_share)


def batches(config: Config, photos: int) -> float:
    """Return the number of batches of a training."""
    training, used = config.training, used_photos(config, photos)
    together = max(1, training.batch_size // training.photos_per_place) * training.photos_per_place
    return training.epochs * max(1, used // together) if used else 0


def fetch_s(count: int, size: int, per_s: float, mbit_per_s: float) -> float:
    """Return the seconds that fetching takes at the service's request rate or at that of the connection, the slower one."""
    return max(count / per_s, 8 * size / (mbit_per_s * 1e6))


def size(count: float) -> str:
    """Return a number of bytes as text."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return a duration as text."""
    for unit, scale in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * scale or (unit == "min" and seconds >= 90):
            return f"{seconds / scale:.0f} {unit}" if seconds >= 10 * scale else f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.0f} s"
