"""Search for the start of a path along which several photos were taken."""

import numpy as np

from cellcode.client.answers import Searched
from cellcode.database import Database
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.search.posterior import probabilities
from cellcode.search.searcher import Hits, Searcher, check_k
from cellcode.types import Float32, Float64, Ids

FINER = 2  # levels below the cells: starts are tried at 16 points of a cell, 35 m apart at level 16
REACH = 1000  # cells of each photo that the path is tried from


class SequenceSearcher:
    """A `Searcher` whose queries are sequences: the embeddings of n photos, one after the other, in a row of n * D.

    The path is tried from points inside the candidates: each photo is scored by the cell that it is then in, the scores are
    added and tempered, and a cell's evidence is the mean of exp(score / temperature) over its points. Candidates are the
    best cells of every photo, moved back along the path. Without motion it is the search of the photos' fused query.

    Args:
        database: whose codes are compared.
        searcher: finds the best cells of single photos; it searches this database.
        motion_m: (n, 2) float64, metres of each photo east and north of the start.
        exponent: the sum of the scores is divided by n to this power.

    Raises:
        UsageError: the searcher searches other cells than those of the database.
    """

    def __init__(self, database: Database, searcher: Searcher, motion_m: Float64, exponent: float) -> None:
        self.database, self.searcher, self.motion_m, self.exponent = database, searcher, motion_m, exponent
        if searcher.count() != len(database.ids):
            raise UsageError(
                "relative motion needs the codes of all cells that are searched: open them as one database"
            )

    def count(self, region: Region | None = None) -> int:
        """See `Searcher`."""
        return self.searcher.count(region)

    def search(self, queries: Float32, k: int, region: Region | None = None, temperature: float | None = None) -> Hits:
        """See `Searcher`; at most as many cells as there are candidates are returned, the fewest of any query.

        A score is temperature * log(evidence); `log_mass` counts cells that are no candidates as average cells.
        """
        cells = self.count(region)
        check_k(k, cells, region)
        if temperature is None:
            raise UsageError("sequences are searched with a temperature")
        sequences = queries.reshape(len(queries), len(self.motion_m), -1)
        alone = [self.searcher.search(photos, min(REACH, self.count()), None, temperature) for photos in sequences]
        found = [self._one(photos, hits, region, temperature) for photos, hits in zip(sequences, alone, strict=True)]
        k = min(k, *(len(ids) for ids, _, _ in found))
        order = [np.lexsort((ids, -scores))[:k] for ids, scores, _ in found]
        return Hits(
            np.stack([ids[rows] for (ids, _, _), rows in zip(found, order, strict=True)]),
            np.stack([scores[rows] for (_, scores, _), rows in zip(found, order, strict=True)]).astype(np.float32),
            np.array([mass for _, _, mass in found]),
            Searched("sequence", cells, exact=self.count() <= REACH, missing=alone[0].searched.missing),
        )

    def _one(
        self, photos: Float32, hits: Hits, region: Region | None, temperature: float
    ) -> tuple[Ids, Float64, float]:
        """Return the candidates of one sequence (C,), their scores (C,), and the log of the mass of all cells."""
        cells, whole = self.count(region), self.count()
        starts = self._starts(hits.cell_ids, photos, region)
        floors = _floors(hits, whole, temperature)
        points = s2.descendants(starts, min(self.database.level + FINER, 30))
        lat, lon = (values.reshape(points.shape) for values in s2.cell_centers(points.ravel()))
        total = np.zeros(points.shape)
        for photo, (east_m, north_m), floor in zip(photos, self.motion_m, floors, strict=True):
            total += self._scores(photo, *distance.offset(lat, lon, east_m, north_m), floor)
        scale = 1 / (len(photos) ** self.exponent * temperature)
        log_evidence = np.logaddexp.reduce(scale * total, axis=1) - np.log(points.shape[1])
        others = max(cells - len(starts), 0) * np.exp(scale * floors.sum() - log_evidence.max())
        log_mass = np.logaddexp(
            np.logaddexp.reduce(log_evidence), log_evidence.max() + np.log(others) if others else -np.inf
        )
        return starts, temperature * log_evidence, float(log_mass)

    def _starts(self, best: Ids, photos: Float32, region: Region | None) -> Ids:
        """Return the cells that the path may start in, sorted: the photos' best cells (n, K), moved back."""
        lat, lon = (values.reshape(best.shape) for values in s2.cell_centers(best.ravel()))
        lat, lon = distance.offset(lat, lon, -self.motion_m[:, :1], -self.motion_m[:, 1:])
        starts = s2.cell_ids(lat.ravel(), lon.ravel(), self.database.level)
        if region is not None:  # which may hold none of the best
            inside = self.searcher.search(photos, min(REACH, self.count(region)), region).cell_ids
            starts = np.append(starts, inside.ravel())
        starts = np.unique(starts)
        starts = starts[rows_of_ids(self.database.ids, starts) >= 0]
        if region is not None:
            starts = starts[region.contains(*s2.cell_centers(starts))]
        if not len(starts):
            raise InputError("the path leads out of the database from every cell; check its metres")
        return starts

    def _scores(self, photo: Float32, lat_deg: Float64, lon_deg: Float64, floor: float) -> Float64:
        """Score one photo at points of any shape; `floor` where no cell is."""
        cells, which = np.unique(
            s2.cell_ids(lat_deg.ravel(), lon_deg.ravel(), self.database.level), return_inverse=True
        )
        rows = rows_of_ids(self.database.ids, cells)
        scores = np.full(len(cells), floor)
        scores[rows >= 0] = self.database.code_set.exact[rows[rows >= 0]].astype(np.float32) @ photo
        return np.asarray(scores[which.reshape(lat_deg.shape)])


def _floors(hits: Hits, cells: int, temperature: float) -> Float64:
    """What each photo says of a place that is not among its best cells, or not in the database, as a score (n,).

    It is the mean evidence of the cells beyond the hits; of all cells where there are no others.
    """
    assert hits.log_mass is not None
    rest = cells - hits.cell_ids.shape[1]
    if not rest:
        return np.asarray(temperature * (hits.log_mass - np.log(cells)))
    share = np.clip(1 - probabilities(hits, temperature).sum(axis=1), 1e-9, 1)  # the mass may be an estimate
    return np.asarray(temperature * (hits.log_mass + np.log(share / rest)))
