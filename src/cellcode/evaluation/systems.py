"""The systems of a table, all on the same queries: cell codes, each of their terms alone, image retrieval, bounds, chance."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from cellcode.config import EvaluationConfig
from cellcode.evaluation.metrics import Result, by_chance, ranked
from cellcode.geography import distance, s2
from cellcode.geography.s2.projection import to_xyz
from cellcode.index.codeset import CodeSet
from cellcode.photos import PhotoTable
from cellcode.progress import Meter
from cellcode.search import CodeSearcher, Failure, Locator, Searcher
from cellcode.types import Float32, Float64, Ids, Int64

logger = logging.getLogger(__name__)
SAMPLE = 4096  # cells that stand for all of them in the expectation of chance
PART = 512  # photos read, or queries compared with all gallery photos, at once
MOST_PAIRS = 1 << 24  # distances at once
TIMED, REPEATS = 64, 5
ID_BYTES = 8  # where an answer is: the id of its cell, for a photo that of its leaf cell


def embed(locator: Locator, files: Sequence[Path], description: str) -> tuple[Float32, Int64, list[str], float]:
    """Read and embed photos: (M, D) of those that can be read, their numbers (M,), and the reasons of the others.

    Last, the encoder's milliseconds per photo, of the fastest part. 35,000 decoded photos at once would take a gigabyte.
    """
    embedded, good, reasons, paces_ms = [np.empty((0, locator.database.code_set.dim), np.float32)], [], [], []
    with ThreadPoolExecutor(locator.threads) as threads, Meter(description, len(files)) as meter:
        for first in range(0, len(files), PART):
            made = list(threads.map(locator.pixels, files[first : first + PART]))
            pixels = [each for each in made if not isinstance(each, Failure)]
            if pixels:
                started = time.perf_counter()
                embedded.append(locator.embed(np.stack(pixels)))
                paces_ms.append(1000 * (time.perf_counter() - started) / len(pixels))
            good += [first + row for row, each in enumerate(made) if not isinstance(each, Failure)]
            reasons += [each.message for each in made if isinstance(each, Failure)]
            meter.advance(len(made))
    return np.concatenate(embedded), np.array(good, np.int64), reasons, min(paces_ms, default=0.0)


def evaluate_systems(
    locator: Locator, queries: Float32, table: PhotoTable, gallery: PhotoTable, rule: EvaluationConfig
) -> Iterator[Result]:
    """Yield the result of each system that the database allows.

    Args:
        queries: (N, D), the tested photos of `table` as the ground encoder sees them.
        gallery: training photos, for image retrieval and its bound; may be empty.
    """
    database, most = locator.database, max(rule.ranks)
    truth = (table.lat_deg, table.lon_deg)

    def score(name: str, searcher: Searcher, size: int) -> Result:
        k = min(most, searcher.count())
        ids = searcher.search(queries, k).cell_ids
        pace_ms = _pace_ms(lambda part: searcher.search(part, k), queries)
        return ranked(name, _to_cells(truth, ids), rule.ranks, rule.radii_m, size, cells=ids, ms_per_query=pace_ms)

    # The database is measured as it is searched, with its first stage where it has one.
    yield score("hybrid", locator.searcher, database.bytes)
    (aerial, prototypes), facts = database.terms(), database.facts
    for name, term, has in (("prototypes", prototypes, facts.has_prototype), ("aerial", aerial, facts.has_aerial)):
        if term is not None and has.any():
            rows = np.flatnonzero(has)
            # A term is searched in float16: what it takes on disk, with its id.
            codes = CodeSet(np.asarray(database.ids[rows]), np.asarray(term[rows]))
            yield score(name, CodeSearcher(codes, database.level), len(rows) * (2 * codes.dim + ID_BYTES))
    if len(gallery):
        yield from _image_retrieval(locator, queries, truth, gallery, rule)
        apart_m = _to_nearest(truth, (gallery.lat_deg, gallery.lon_deg))
        yield ranked("nearest_photo", apart_m[:, None], rule.ranks, rule.radii_m, 0)
    yield ranked("nearest_cell", to_nearest_cell(truth, database.ids)[:, None], rule.ranks, rule.radii_m, 0)
    rng = np.random.default_rng(0)
    ids = database.ids if len(database.ids) <= SAMPLE else np.sort(rng.permutation(database.ids)[:SAMPLE])
    # In parts and in float32: that many distances at once take gigabytes on the way.
    parts = [
        _to_cells((truth[0][first : first + PART], truth[1][first : first + PART]), ids[None]).astype(np.float32)
        for first in range(0, len(queries), PART)
    ]
    yield by_chance(np.concatenate(parts), rule.ranks, rule.radii_m)


def to_nearest_cell(truth: tuple[Float64, Float64], ids: Ids) -> Float64:
    """Return the distance in metres of each position, (N,) degrees, to the nearest centre of the cells."""
    return _to_nearest(truth, s2.cell_centers(ids))


def _image_retrieval(
    locator: Locator, queries: Float32, truth: tuple[Float64, Float64], gallery: PhotoTable, rule: EvaluationConfig
) -> Iterator[Result]:
    """Yield the nearest training photos by the same encoder; the answer is a photo's own position."""
    embedded, rows, unreadable, _ = embed(locator, gallery.files, "reading the gallery")
    if unreadable:
        text = "%d of %d training photos cannot be read: image retrieval %s; the first: %s"
        left = "uses the others" if len(rows) else "is left out"
        logger.warning(text, len(unreadable), len(gallery), left, unreadable[0])
    if not len(rows):
        return
    # As narrow as codes are kept, and widened for the search as codes are.
    codes = torch.from_numpy(embedded).half().float()
    k = min(max(rule.ranks), len(rows))

    def search(part: Float32) -> Int64:
        return np.asarray((torch.from_numpy(part) @ codes.T).topk(k, dim=1).indices.numpy())

    found = np.concatenate([search(queries[first : first + PART]) for first in range(0, len(queries), PART)])
    lat, lon = gallery.lat_deg[rows[found]], gallery.lon_deg[rows[found]]
    apart_m = distance.haversine_m(truth[0][:, None], truth[1][:, None], lat, lon)
    size, pace_ms = len(rows) * (2 * codes.shape[1] + ID_BYTES), _pace_ms(search, queries)
    yield ranked("image_retrieval", apart_m, rule.ranks, rule.radii_m, size, ms_per_query=pace_ms)


def _pace_ms(search: Callable[[Float32], object], queries: Float32) -> float:
    batch, times = queries[:TIMED], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        search(batch)
        times.append(time.perf_counter() - started)
    return round(1000 * float(np.median(times)) / len(batch), 4)


def _to_cells(truth: tuple[Float64, Float64], ids: Ids) -> Float64:
    lat, lon = (values.reshape(ids.shape) for values in s2.cell_centers(ids.ravel()))
    return np.asarray(distance.haversine_m(truth[0][:, None], truth[1][:, None], lat, lon))


def _to_nearest(truth: tuple[Float64, Float64], places: tuple[Float64, Float64]) -> Float64:
    """Distance of each position to the nearest place: the nearest along the chord is the nearest on the sphere."""
    here, there = (torch.from_numpy(np.stack(to_xyz(*each), axis=1)) for each in (truth, places))
    exactly, step = "donot_use_mm_for_euclid_dist", max(1, MOST_PAIRS // len(there))
    nearest = [
        torch.cdist(here[first : first + step], there, compute_mode=exactly).argmin(dim=1)
        for first in range(0, len(here), step)
    ]
    rows = torch.cat(nearest).numpy()
    return distance.haversine_m(*truth, places[0][rows], places[1][rows])
