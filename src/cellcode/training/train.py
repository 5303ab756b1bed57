"""The training step of the recipe: photos and imagery in, a run out."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cellcode import config as configuration
from cellcode.aerial import AerialSource, open_source
from cellcode.config import Config
from cellcode.errors import InputError
from cellcode.geography import distance, s2
from cellcode.model import collectives
from cellcode.model.encoder import Encoder
from cellcode.model.precision import autocast, choose_device
from cellcode.model.prototypes import Prototypes
from cellcode.model.sharded import ShardedPrototypes
from cellcode.photos import PhotoTable
from cellcode.photos.pixels import load_pixels
from cellcode.photos.shards import PackedPhotos, is_packed
from cellcode.photos.splits import by_position
from cellcode.runs import CellFacts, Run, Validation
from cellcode.training import distribution
from cellcode.training.checkpoint import FOLDER as CHECKPOINT
from cellcode.training.checkpoint import Identity
from cellcode.training.inputs import Cached, Photos, Tiles
from cellcode.training.packed import PackedTraining, unpack
from cellcode.training.sampling import PlaceSampler
from cellcode.training.stream import Stream, StreamedPhotos, StreamedTiles
from cellcode.training.tiles import TileStore
from cellcode.training.trainer import Model, Trainer
from cellcode.training.validation import MOST, Recall

CACHE = "cache"
STRANGERS_PER_CELL = 2  # cells without photos kept for tiles from anywhere, for each cell with photos
STRANGERS_M = 5000.0  # how far around the photos' box they are looked for


def run(
    config: Config | Path | str,
    photos: PhotoTable | Path | str,
    aerial: AerialSource | Path | str | None = None,
    *,
    out: Path | str,
    resume: bool = False,
    imagery_cache: Path | None = None,
) -> Run:
    """Train two encoders and the prototypes of the cells where photos were taken.

    Args:
        config: a configuration, or the path of one.
        photos: a photo table, or packed photos in a folder or a store; its split "train" is used. Its split "validation"
            fits the calibration; without photos in it, part of "train" of a table is kept out for that.
        aerial: imagery; None trains prototypes only.
        out: the run's folder.
        resume: continue from the checkpoint in `out`, as if never stopped.
        imagery_cache: folder that keeps the imagery read, for other trainings of the same cells and tiles.

    Raises:
        InputError: no training photos, no imagery where they are, or a checkpoint of something else.
    """
    config = config if isinstance(config, Config) else configuration.load(config)
    with distribution.joined(config.training.device) as device, distribution.only_first_speaks():
        prepared = prepare(config, photos, aerial, out=out, resume=resume, imagery_cache=imagery_cache, device=device)
        prepared.trainer.fit(resume)
        made = _finish(prepared)
        if not collectives.rank():
            shutil.rmtree(prepared.trainer.folder / CACHE, ignore_errors=True)
        return made if made is not None else Run.load(out)


def _finish(prepared: Prepared) -> Run | None:
    """Write the run. With several processes the first one does it, and the others get None when it is there."""
    trainer, training, validation = prepared.trainer, prepared.training, prepared.validation
    trained, config = trainer.trained.eval().cpu(), trainer.config
    prototypes = trained.prototypes if trainer.table is None else trainer.table.whole()
    if collectives.rank():
        collectives.barrier()
        return None
    made = Run(
        folder=trainer.folder,
        config=config,
        ground=trained.ground,
        aerial=trained.aerial,
        prototypes=prototypes,
        facts=_facts(training, config.levels.cell),
        validation=_embed_validation(validation, trained.ground, config),
        manifest=_manifest(training, prepared.source),
    ).save()
    print(
        f"trained on {len(training)} photos in {len(made.facts.ids)} cells, {len(validation)} kept for validation; "
        f"run {made.identity} in {trainer.folder}",
        file=sys.stderr,
    )
    collectives.barrier()
    return made


@dataclass(frozen=True)
class Prepared:
    """A trainer with everything it was made from."""

    trainer: Trainer
    training: PhotoTable | PackedTraining
    validation: PhotoTable
    source: AerialSource | None


def prepare(
    config: Config | Path | str,
    photos: PhotoTable | Path | str,
    aerial: AerialSource | Path | str | None = None,
    *,
    out: Path | str,
    resume: bool,
    imagery_cache: Path | None = None,
    device: torch.device | None = None,
) -> Prepared:
    """Check the ingredients, read photos and imagery and set up the trainer; see `run` for the arguments.

    Args:
        device: of this process; None: the configuration's.
    """
    config = config if isinstance(config, Config) else configuration.load(config)
    folder = Path(out)
    source = open_source(aerial) if aerial is not None else None
    training, validation = _photos(photos, config, _cache(folder))
    _require_supervision(config, training, source)
    if not collectives.rank():
        _clear(folder, resume)
    collectives.barrier()
    device = device or choose_device(config.training.device)
    if isinstance(training, PhotoTable):
        pixels, training = decode(training, config, "reading training photos")
    torch.manual_seed(config.training.seed)
    model = make_model(config, training, source is not None).to(device)
    sampler: PlaceSampler | Stream
    if isinstance(training, PhotoTable):
        inputs = make_inputs(config, model, pixels, training, source, _cache(folder), device, imagery_cache)
        sampler = make_sampler(config, training)
    else:
        sampler = training.stream(config)
        inputs = _streamed(config, sampler, training, source, _cache(folder), device, imagery_cache)
    cells = len(np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, config.levels.prototype)))
    imagery = source.identity if source is not None else None
    identity = Identity(config, _digest(training), imagery, len(training), cells)
    trainer = Trainer(
        config,
        model,
        inputs.photos,
        inputs.tiles,
        sampler,
        folder,
        identity,
        device,
        make_table(config, training, device),
        _recall(validation, config),
    )
    return Prepared(trainer, training, validation, source)


def _photos(
    photos: PhotoTable | Path | str, config: Config, cache: Path
) -> tuple[PhotoTable | PackedTraining, PhotoTable]:
    """Return the photos to train on, from a table or packed, and those to validate with, whose files are at hand."""
    if isinstance(photos, PhotoTable):
        return split_validation(photos, config)
    if not is_packed(photos):
        return split_validation(PhotoTable.load(Path(photos)), config)
    packed = PackedPhotos.open(photos)
    return PackedTraining.of(packed, config), unpack(packed, "validation", cache / "validation")


def _cache(folder: Path) -> Path:
    """Return where this process keeps what it computes once, such as the imagery that it cuts tiles from."""
    return folder / CACHE / str(collectives.rank())


def _clear(folder: Path, resume: bool) -> None:
    """Remove what an earlier training left; its checkpoint and log stay when they are to be continued."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").unlink(missing_ok=True)
    if not resume:
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        (folder / "log.jsonl").unlink(missing_ok=True)


def split_validation(table: PhotoTable, config: Config) -> tuple[PhotoTable, PhotoTable]:
    """Return the photos to train on and those to validate with.

    The latter are the table's split "validation". Without one they are carved out of the training split, by position, and
    some prototype cells lose all their photos to it, so that calibration sees photos of places that no photo taught.
    """
    validation, table = table.of_split("validation"), table.of_split("train")
    if not len(table):
        raise InputError("the photo table has no photos in its split 'train'; ingest with a split, or a larger folder")
    if len(validation):
        print(
            f"{len(validation)} photos of the split 'validation' are used; the configuration's is ignored",
            file=sys.stderr,
        )
        return table, validation
    rule, seed = config.validation, config.training.seed
    cells = s2.cell_ids(table.lat_deg, table.lon_deg, config.levels.prototype)
    distinct = np.unique(cells)
    count = round(rule.withheld_share * len(distinct))
    withheld = np.isin(cells, np.random.default_rng([seed, 3]).permutation(distinct)[:count])
    blocks = by_position(table.lat_deg, table.lon_deg, block_m=rule.block_m, share=rule.share, seed=seed)
    chosen = withheld | blocks
    if chosen.all():
        raise InputError("validation takes every training photo; lower validation.share or validation.block_m")
    return table.select(~chosen), table.select(chosen)


def make_model(config: Config, training: PhotoTable | PackedTraining, has_aerial: bool) -> Model:
    """Encoders with fresh or pretrained weights, and a prototype for every prototype cell with a training photo."""
    prototypes = None
    if config.loss.query_prototype and config.prototypes.table == "whole":
        ids = np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, config.levels.prototype))
        prototypes = Prototypes(ids, config.model.dim, config.model.interpolation_radius_cells)
    ground = Encoder(config.model.ground, config.model.dim)
    aerial = Encoder(config.model.aerial, config.model.dim, len(config.tile.scales)) if has_aerial else None
    return Model(ground, aerial, prototypes)


def make_table(config: Config, training: PhotoTable | PackedTraining, device: torch.device) -> ShardedPrototypes | None:
    """Give the same prototypes as a table split over processes, where the configuration says so."""
    if not config.loss.query_prototype or config.prototypes.table == "whole":
        return None
    ids = np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, config.levels.prototype))
    model, seed = config.model, config.training.seed
    return ShardedPrototypes(ids, model.dim, model.interpolation_radius_cells, config.prototypes, seed, device)


def _recall(validation: PhotoTable, config: Config) -> Recall | None:
    """Give the recall of a sample of the validation photos within the middle one of the evaluation's radii."""
    if not config.training.validate_every_steps or not config.loss.query_prototype or not len(validation):
        return None
    chosen = np.zeros(len(validation), bool)
    chosen[np.random.default_rng([config.training.seed, 7]).permutation(len(validation))[:MOST]] = True
    pixels, sample = decode(validation.select(chosen), config, "reading validation photos")
    radii_m = config.evaluation.radii_m
    return Recall(pixels, sample.lat_deg, sample.lon_deg, radii_m[len(radii_m) // 2])


@dataclass(frozen=True)
class Samples:
    """What the encoders of a training are fed."""

    photos: Photos | Cached | StreamedPhotos
    tiles: Tiles | Cached | None


def make_inputs(
    config: Config,
    model: Model,
    pixels: npt.NDArray[np.uint8],
    training: PhotoTable,
    source: AerialSource | None,
    cache: Path,
    device: torch.device,
    imagery_cache: Path | None = None,
) -> Samples:
    """Give photos (N, H, W, 3) and, with imagery, tiles around them; parts that a regime freezes are cached in `cache`."""
    photos = Photos(pixels, training.lat_deg, training.lon_deg, config, device)
    tiles = None
    if source is not None:
        cells = store_cells(training, source, config)
        store = _tile_store(source, cells, config, cache, imagery_cache)
        tiles = Tiles(store, training.lat_deg, training.lon_deg, _own_strangers(config), device)
    if config.training.regime == "full":
        return Samples(photos, tiles)
    cached_photos = _freeze(photos, len(training), model.ground, config, cache / "photos.npy")
    if tiles is None or model.aerial is None:
        return Samples(cached_photos, None)
    return Samples(cached_photos, _freeze(tiles, len(training), model.aerial, config, cache / "tiles.npy"))


def _streamed(
    config: Config,
    stream: Stream,
    training: PackedTraining,
    source: AerialSource | None,
    cache: Path,
    device: torch.device,
    imagery_cache: Path | None,
) -> Samples:
    """Give photos that are read as they are needed and, with imagery, tiles around them."""
    photos = StreamedPhotos(stream, config, device)
    if source is None:
        return Samples(photos, None)
    store = _tile_store(source, store_cells(training, source, config), config, cache, imagery_cache)
    return Samples(photos, StreamedTiles(store, stream, _own_strangers(config), device))


def _own_strangers(config: Config) -> Config:
    """Return the configuration with the share of the tiles from anywhere that each process draws."""
    count = -(-config.training.random_tiles // collectives.world())
    return config.model_copy(update={"training": config.training.model_copy(update={"random_tiles": count})})


def _tile_store(
    source: AerialSource, cells: npt.NDArray[np.uint64], config: Config, cache: Path, shared: Path | None
) -> TileStore:
    reach_m, dates = config.augmentation.tile_translation_m, config.augmentation.tile_dates
    if shared is None:
        return TileStore(source, cells, config.tile, reach_m, cache / "imagery.npy", dates=dates)
    what = f"{source.identity} {config.tile.model_dump_json()} {reach_m}" + (f" {dates}" if dates > 1 else "")
    name = hashlib.sha256(what.encode() + cells.tobytes()).hexdigest()[:16]
    return TileStore(source, cells, config.tile, reach_m, shared / f"{name}.npy", True, dates)


def _freeze(inputs: Photos | Tiles, count: int, encoder: Encoder, config: Config, path: Path) -> Cached:
    """Freeze the encoder's first blocks and cache what they make of every sample."""
    training = config.training
    blocks = len(encoder.backbone.blocks)
    start = blocks if training.regime == "frozen" else max(0, blocks - training.last_blocks)
    encoder.freeze(start)
    return Cached(inputs, count, encoder, start, training.cached_views, path, training.precision)


def make_sampler(config: Config, training: PhotoTable) -> PlaceSampler:
    """Batches of photos that share a cell of the database."""
    cells, rule = s2.cell_ids(training.lat_deg, training.lon_deg, config.levels.cell), config.training
    return PlaceSampler(cells.view(np.int64), rule.batch_size, rule.photos_per_place, rule.seed)


def store_cells(training: PhotoTable | PackedTraining, source: AerialSource, config: Config) -> npt.NDArray[np.uint64]:
    """Cells whose imagery training needs: those with photos and, for tiles from anywhere, some of the others."""
    level = config.levels.cell
    cells = np.unique(s2.cell_ids(training.lat_deg, training.lon_deg, level))
    if not config.training.random_tiles or config.training.regime != "full":
        return cells
    rng = np.random.default_rng([config.training.seed, 4])
    west, south, east, north = _near(training, source)
    wanted = STRANGERS_PER_CELL * len(cells)
    lat_deg, lon_deg = rng.uniform(south, north, 4 * wanted), rng.uniform(west, east, 4 * wanted)
    covered = source.covers(lat_deg, lon_deg)
    others = np.setdiff1d(s2.cell_ids(lat_deg[covered], lon_deg[covered], level), cells)
    return np.union1d(cells, rng.permutation(others)[:wanted])


def _near(training: PhotoTable | PackedTraining, source: AerialSource) -> tuple[float, float, float, float]:
    """Return the part of the imagery's bounds around the photos: a service has a whole country, which would all be fetched."""
    west, south, east, north = source.bounds
    lat_deg, lon_deg = training.lat_deg, training.lon_deg
    low_lat, low_lon = distance.offset(lat_deg.min(), lon_deg.min(), -STRANGERS_M, -STRANGERS_M)
    high_lat, high_lon = distance.offset(lat_deg.max(), lon_deg.max(), STRANGERS_M, STRANGERS_M)
    if west > east or low_lon > high_lon:  # across the antimeridian
        return source.bounds
    return (
        max(float(low_lon), west),
        max(float(low_lat), south),
        min(float(high_lon), east),
        min(float(high_lat), north),
    )


def _require_supervision(config: Config, training: PhotoTable | PackedTraining, source: AerialSource | None) -> None:
    """Refuse, before any work, a training that has nothing to learn from."""
    loss = config.loss
    if source is None:
        if not (loss.query_prototype or loss.query_query):
            raise InputError("training without aerial imagery needs prototypes: loss.query_prototype is 0")
        return
    if not (loss.query_prototype or loss.query_query or loss.query_aerial):
        raise InputError(
            "there is nothing to learn: loss.query_prototype, loss.query_aerial and loss.query_query are 0"
        )
    covered = source.covers(training.lat_deg, training.lon_deg)
    if not covered.any():
        raise InputError("no training photo lies in the aerial imagery; check the photos' region and the raster's CRS")
    if not covered.all():
        what = "training photos" if isinstance(training, PhotoTable) else "cells with training photos"
        print(f"{(~covered).sum()} of {len(covered)} {what} lie outside the imagery", file=sys.stderr)


def decode(table: PhotoTable, config: Config, description: str) -> tuple[npt.NDArray[np.uint8], PhotoTable]:
    """Read photos; those that cannot be read any more are left out and counted."""
    pixels, failures = load_pixels(table.files, config.photo, description=description)
    if failures:
        first = next(iter(failures.values()))
        print(f"{len(failures)} of {len(table)} photos left out; the first: {first}", file=sys.stderr)
        good = np.setdiff1d(np.arange(len(table)), list(failures))
        if not len(good):
            raise InputError(f"none of the {len(table)} photos can be read; the first: {first}")
        pixels, table = pixels[good], table.select(good)
    return pixels, table


def _embed_validation(table: PhotoTable, ground: Encoder, config: Config) -> Validation:
    queries = np.empty((0, config.model.dim), np.float32)
    pixels, failures = load_pixels(table.files, config.photo, description="reading validation photos")
    if failures:  # the training is done: whatever they are, it is not thrown away
        print(f"{len(failures)} of {len(table)} validation photos cannot be read any more", file=sys.stderr)
    good = np.setdiff1d(np.arange(len(table)), list(failures))
    pixels, table = pixels[good], table.select(good)
    if len(table):
        with torch.inference_mode(), autocast(config.training.precision, torch.device("cpu")):
            parts = [ground(torch.from_numpy(pixels[i : i + 256])) for i in range(0, len(pixels), 256)]
        queries = torch.cat(parts).float().numpy()
    return Validation(table.lat_deg, table.lon_deg, queries)


def _facts(training: PhotoTable | PackedTraining, level: int) -> CellFacts:
    if isinstance(training, PackedTraining):
        return training.facts
    return CellFacts.of_photos(training.lat_deg, training.lon_deg, training.captured_at, level)


def _digest(training: PhotoTable | PackedTraining) -> str:
    """Digest of which photos are trained on and where they are."""
    if isinstance(training, PackedTraining):
        return training.packed.identity
    files = "\n".join(str(name) for name in training.column("file")).encode()
    return hashlib.sha256(files + training.lat_deg.tobytes() + training.lon_deg.tobytes()).hexdigest()[:16]


def _manifest(training: PhotoTable | PackedTraining, source: AerialSource | None) -> dict[str, object]:
    licences, attributions = _distinct(training, "licence"), _distinct(training, "attribution")
    if source is not None:
        licences, attributions = sorted({*licences, source.licence}), sorted({*attributions, source.attribution})
    lat_deg, lon_deg = training.lat_deg, training.lon_deg
    return {
        "training_photos": len(training),
        "bounds": [float(lon_deg.min()), float(lat_deg.min()), float(lon_deg.max()), float(lat_deg.max())],
        "licences": [text for text in licences if text],
        "attributions": [text for text in attributions if text],
        "imagery": source.identity if source is not None else None,
    }


def _distinct(training: PhotoTable | PackedTraining, name: str) -> list[str]:
    if isinstance(training, PackedTraining):
        return list(training.packed.manifest[f"{name}s"])
    return sorted({str(value) for value in training.column(name) if value is not None})
