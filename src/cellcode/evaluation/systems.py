"""The systems of a table, all on the same queries: cell codes, each of their terms alone, image retrieval, chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from cellcode.config import EvaluationConfig
from cellcode.evaluation.metrics import Result, by_chance, ranked
from cellcode.geography import distance, s2
from cellcode.index.codeset import CodeSet
from cellcode.photos import PhotoTable
from cellcode.photos.pixels import load_pixels
from cellcode.search import CodeSearcher, Locator

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
SAMPLE = 4096  # cells that stand for all of them in the expectation of chance


def evaluate_systems(
    locator: Locator, queries: Float32, table: PhotoTable, gallery: PhotoTable, rule: EvaluationConfig
) -> Iterator[Result]:
    """Yield the result of each system that the database allows.

    Args:
        queries: (N, D), the tested photos of `table` as the ground encoder sees them.
        gallery: training photos, for image retrieval; may be empty.
    """
    database, most = locator.database, max(rule.ranks)
    truth = (table.lat_deg, table.lon_deg)

    def score(name: str, codes: CodeSet, size: int) -> Result:
        hits = CodeSearcher(codes, database.level).search(queries, min(most, len(codes)))
        return ranked(name, _to_cells(truth, hits.cell_ids), rule.ranks, rule.radii_m, size)

    # The database is measured as it is searched, with its first stage where it has one.
    hits = locator.searcher.search(queries, min(most, len(database.ids)))
    yield ranked("hybrid", _to_cells(truth, hits.cell_ids), rule.ranks, rule.radii_m, database.bytes)
    aerial, prototypes = database.terms()
    facts = database.facts
    for name, term, has in (("prototypes", prototypes, facts.has_prototype), ("aerial", aerial, facts.has_aerial)):
        if term is not None:
            rows = np.flatnonzero(has)
            # A term is searched in float16: what it takes on disk, with its id.
            codes = CodeSet(np.asarray(database.ids[rows]), np.asarray(term[rows]))
            yield score(name, codes, len(rows) * (2 * codes.dim + 8))
    if len(gallery):
        yield _image_retrieval(locator, queries, truth, gallery, rule)
    rng = np.random.default_rng(0)
    ids = database.ids if len(database.ids) <= SAMPLE else np.sort(rng.permutation(database.ids)[:SAMPLE])
    yield by_chance(_to_cells(truth, np.broadcast_to(ids, (len(queries), len(ids)))), rule.ranks, rule.radii_m)


def _image_retrieval(
    locator: Locator, queries: Float32, truth: tuple[Float64, Float64], gallery: PhotoTable, rule: EvaluationConfig
) -> Result:
    """Nearest training photos by the same encoder; the answer is a photo's own position."""
    pixels, failures = load_pixels(gallery.files, locator.database.config.photo, description="reading the gallery")
    rows = np.setdiff1d(np.arange(len(gallery)), list(failures))
    codes = torch.from_numpy(locator.embed(pixels[rows])).half()
    similarity = torch.from_numpy(queries) @ codes.float().T
    index = rows[similarity.topk(min(max(rule.ranks), len(rows)), dim=1).indices.numpy()]
    lat, lon = gallery.lat_deg[index], gallery.lon_deg[index]
    apart_m = distance.haversine_m(truth[0][:, None], truth[1][:, None], lat, lon)
    # An embedding in float16 and a position of two float64.
    return ranked("image_retrieval", apart_m, rule.ranks, rule.radii_m, len(rows) * (2 * codes.shape[1] + 16))


def _to_cells(truth: tuple[Float64, Float64], ids: npt.NDArray[np.uint64]) -> Float64:
    lat, lon = (values.reshape(ids.shape) for values in s2.cell_centers(ids.ravel()))
    return np.asarray(distance.haversine_m(truth[0][:, None], truth[1][:, None], lat, lon))
