"""The estimate: arithmetic over what is known of photos, imagery and machine."""

from __future__ import annotations

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
from cellcode.planning.encoders import costs
from cellcode.planning.imagery import tiles, training_windows
from cellcode.planning.pace import Pace, measure
from cellcode.planning.paper import Device, Step, on_paper
from cellcode.planning.photos import Photos
from cellcode.training.setup.imagery import STRANGERS_PER_CELL

COUNTED = 5_000_000  # cells up to which they are counted; the number of more follows from the area
FACTS_BYTES = 12  # of a cell in cells.parquet
FIXED_BYTES = 100_000  # manifest, configuration and the like of a database
MBIT_PER_S = 50.0


@dataclass(frozen=True)
class Plan:
    """What a region takes; sizes in bytes, times in seconds.

    Attributes:
        cells: of the database's level; `prototype_cells` of the prototypes'.
        photos: in the region; `training_photos` are left for training.
        visited_cells: cells of the database with training photos.
        tile_level, tiles: of a tile service; None without imagery, or where it is on this machine.
        disk_bytes: at the same time on the disk, photos and tiles included.
        fetch_s, train_s, build_s: fetching everything, training, building the database.
        step: of a training on several processes. `train_s` is then theirs, and `build_s` that of the device of one of them;
            None: it is all done on this machine.
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
        """Return the plan for people."""
        imagery = "on this machine" if self.tiles is None else f"{self.tiles:,} tiles of zoom {self.tile_level}"
        lines = [
            ("region", f"{self.area_m2 / 1e6:,.1f} km2"),
            (f"cells of level {self.prototype_level}", f"{self.prototype_cells:,}"),
            (f"cells of level {self.level}", f"{self.cells:,}, about {self.visited_cells:,} with training photos"),
            ("photos", f"{self.photos:,} ({self.photos_from}), {self.training_photos:,} of them to train with"),
            ("photos to fetch", size(self.photo_bytes)),
            ("imagery to fetch", f"{imagery}, {size(self.imagery_bytes)}" if self.imagery_bytes else "nothing"),
            ("fetching", duration(self.fetch_s)),
            ("training", duration(self.train_s) + (" on paper, on the processes below" if self.step else "")),
            ("building", duration(self.build_s) + (" on paper, on one of them" if self.step else "")),
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
        mbit_per_s: of the connection.
        tiles_per_s: that the service of the imagery is asked for at most.
        processes: that train, elsewhere; None: this machine does.
        device: of one of them.

    Raises:
        EmptyRegionError: the region is smaller than a cell.
        MissingExtraError: the configuration's backbone needs a package that is not installed.
    """
    config, region = _untrained(config), Region.of(region)
    source = open_source(aerial) if aerial is not None else None
    fetched = with_imagery and (source is None or source.is_remote)
    pace = measure(config, region, with_imagery, None if fetched else source, trains=processes is None)
    asked = tiles(config, region, source) if fetched else None
    dates = len(source.editions(config.augmentation.tile_dates)) if source is not None else 1
    cells, prototypes = count_cells(region, config.levels.cell), count_cells(region, config.levels.prototype)
    visited = photos.cells(prototypes, 0), photos.cells(cells, 1)
    photo_bytes = round(photos.to_fetch * photos.bytes_each)
    kept = database_bytes(config, cells, with_imagery, pace)
    around = dates * kept_cells(config, visited[1]) if with_imagery else 0
    work = training_bytes(config, photos.training, visited[0], around, pace)
    step = None
    training_s, encode_s = train_s(config, photos.training, around, pace), pace.encode_s
    if processes is not None:
        device, (ground, tile) = device or Device(), costs(config, with_imagery)
        step = on_paper(config, visited[0], processes, ground, tile, device)
        training_s = batches(config, photos.training) / config.training.gradient_accumulation * step.seconds
        encode_s = tile.flop / (device.tflops * 1e12) if tile is not None else 0.0
    return Plan(
        area_m2=region.area_m2(),
        prototype_level=config.levels.prototype,
        prototype_cells=prototypes,
        level=config.levels.cell,
        cells=cells,
        photos_from=photos.source,
        photos=photos.count,
        training_photos=photos.training,
        visited_cells=visited[1],
        photo_bytes=photo_bytes,
        tile_level=asked.level if asked else None,
        tiles=asked.count if asked else None,
        imagery_bytes=asked.bytes if asked else 0,
        database_bytes=kept,
        disk_bytes=photo_bytes + (asked.bytes if asked else 0) + work + 2 * kept,  # a build keeps its shards to the end
        fetch_s=fetch_s(photos.to_fetch, photo_bytes, Politeness.requests_per_s, mbit_per_s)
        + (fetch_s(asked.count, asked.bytes, tiles_per_s, mbit_per_s) if asked else 0.0),
        train_s=training_s,
        build_s=cells * (encode_s + pace.crop_s),
        step=step,
    )


def _untrained(config: Config) -> Config:
    """Return the configuration with networks of random weights, which take as long: nothing is fetched to plan."""
    encoders = {name: getattr(config.model, name) for name in ("ground", "aerial")}
    fresh = {
        name: each.model_copy(update={"pretrained": False})
        for name, each in encoders.items()
        if each.backbone.startswith("hf:")
    }
    return config.model_copy(update={"model": config.model.model_copy(update=fresh)})


def count_cells(region: Region, level: int) -> int:
    """Return the cells of a level with their centre in the region; of a country, about how many."""
    estimate = region.count_estimate(level)
    return estimate if estimate > COUNTED else ranges.count(region.ranges(level), level)


def database_bytes(config: Config, cells: int, with_imagery: bool, pace: Pace) -> int:
    """Return the size of a database: float16 codes, int8 codes, the terms, and the ground encoder."""
    dim = config.model.dim
    row = 8 + FACTS_BYTES + 3 * dim
    if config.build.keep_terms:
        terms = int(bool(config.loss.query_prototype)) + with_imagery * (
            1 + int(config.build.aerial_smoothing_cells > 0)
        )
        row += terms * 2 * dim + 8 * with_imagery
    return cells * row + pace.ground_bytes + 4 * dim * (MAX_QUERIES + dim) + FIXED_BYTES


def training_bytes(config: Config, photos: int, prototypes: int, around: int, pace: Pace) -> int:
    """Return what a training needs on the disk: imagery around cells, frozen features, checkpoint and run.

    Args:
        prototypes: how many there are.
        around: windows of imagery, as many as cells and dates.
    """
    windows = around * sum(4 * window.side_px**2 for window in training_windows(config))
    frozen = config.training.cached_views * pace.frozen_bytes * photos if config.training.regime != "full" else 0
    dim, kept = config.model.dim, config.training.keep_checkpoints + int(config.training.validate_every_steps > 0)
    run = pace.encoder_bytes + 4 * dim * prototypes
    # A checkpoint has the weights, two moments and an average; of a sharded table it has the rows and two numbers for each.
    table = (
        16 * dim
        if config.prototypes.table == "whole"
        else dim * (4 if config.prototypes.storage == "float32" else 2) + 8
    )
    return windows + frozen + run + kept * (4 * pace.encoder_bytes + table * prototypes)


def kept_cells(config: Config, visited: int) -> int:
    """Return the cells around which training keeps imagery: those with photos and, for tiles from anywhere, some others."""
    if config.training.imagery == "read":
        return 0
    strangers = config.training.random_tiles > 0 and config.training.regime == "full"
    return visited * (1 + STRANGERS_PER_CELL * int(strangers))


def train_s(config: Config, photos: int, around: int, pace: Pace) -> float:
    """Return the seconds of a training: photos and imagery read, frozen blocks passed, steps taken.

    Args:
        around: windows of imagery, as many as cells and dates.
    """
    frozen = config.training.cached_views * used_photos(config, photos) * pace.freeze_s
    return photos * pace.photo_s + around * pace.window_s + frozen + batches(config, photos) * pace.step_s


def used_photos(config: Config, photos: int) -> float:
    """Return how many photos are left when those for validation are set apart."""
    return photos * (1 - config.validation.share) * (1 - config.validation.withheld_share)


def batches(config: Config, photos: int) -> float:
    """Return the batches of a training."""
    training, used = config.training, used_photos(config, photos)
    together = max(1, training.batch_size // training.photos_per_place) * training.photos_per_place
    return training.epochs * max(1, used // together) if used else 0


def fetch_s(count: int, weight: int, per_s: float, mbit_per_s: float) -> float:
    """Return the seconds that fetching takes at the rate that a service is asked with, or at that of the connection."""
    return max(count / per_s, 8 * weight / (mbit_per_s * 1e6))


def size(count: float) -> str:
    """Return bytes for people."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return a time for people."""
    for unit, scale in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * scale or (unit == "min" and seconds >= 90):
            return f"{seconds / scale:.0f} {unit}" if seconds >= 10 * scale else f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.0f} s"
