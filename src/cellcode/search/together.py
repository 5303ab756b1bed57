"""Several photos as one query: of one place, or along a path whose shape is known.

The paper answers single photos; all of this is ours. Photos of one place show the same buildings and fail for the same
reasons, so the product of their posteriors is too sure of itself. The exponent between product and mean is measured.
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellcode.client.answers import Answer, Searched, Source, name_of
from cellcode.database import Database
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, distance, s2
from cellcode.geography.s2.ranges import rows_of_ids
from cellcode.photos import PhotoError
from cellcode.search.locator import Locator, Where
from cellcode.search.searcher import Hits, Searcher, check_k, probabilities
from cellcode.types import Float32, Float64, Ids

FINER = 2  # levels below the cells: starts of a path are tried at 16 points of a cell, 35 m apart at level 16
REACH = 1000  # cells of each photo that a path is tried from
# Scores of n photos are added and divided by n to this power: 0 multiplies their posteriors, 1 takes their geometric mean. Our
# choice: on 1,794 validation photos of the 8 km trial world, in level-16 cells with at least 4 (8) of them, the mean log of
# the posterior within 200 m of the truth is highest at 0.75 for groups of 4: -2.58 against -4.00 at 0 and -2.70 at 1 (of 8:
# -3.01, -7.91, -3.10).
EXPONENT = 0.75


def fuse_queries(queries: Float32, exponent: float = EXPONENT) -> Float32:
    """Make one query, (D,) float32, of the photos of one place: the sum of theirs over n ** exponent.

    Scores are linear in the query, so any search of it scores every cell with the tempered sum of the photos' scores.

    Args:
        queries: (n, D) float32, embeddings of unit length.
        exponent: 0 multiplies the photos' posteriors, 1 takes their geometric mean.
    """
    return np.asarray(queries.sum(axis=0) / len(queries) ** exponent, np.float32)


def locate(
    locator: Locator,
    photos: Sequence[Source],
    *,
    motion_m: npt.ArrayLike | None = None,
    top: int = 5,
    region: Where = None,
    exponent: float = EXPONENT,
) -> Answer:
    """Locate several photos together.

    Args:
        photos: those that cannot be read are named in the answer, and the others used.
        motion_m: (n, 2) metres east and north of each photo from the first, from odometry or a track; the answer is the
            place of the first. None: all were taken within about a cell.
        top, region: as in `Locator.locate`.
        exponent: see `fuse_queries`.

    Raises:
        PhotoError: none of them can be read.
        InputError: no cell lies in the region.
        UsageError: no photo, a motion that does not fit them, or `top` is below 1.
    """
    if not photos:
        raise UsageError("there are no photos to locate together; give at least one")
    motion = _checked(motion_m, len(photos)) if motion_m is not None else None
    every = [name_of(photo, f"photo {row}") for row, photo in enumerate(photos, 1)]
    _, queries, failed = locator.read(photos)
    failures = tuple(replace(each, file=every[row]) for row, each in failed.items())
    used = [row for row in range(len(photos)) if row not in failed]
    if not used:
        raise PhotoError(f"none of {len(photos)} photos can be read: {'; '.join(each.message for each in failures)}")
    moved, names = motion[used] if motion is not None else None, [every[row] for row in used]
    answer = answer_embeddings(locator, queries, motion_m=moved, names=names, top=top, region=region, exponent=exponent)
    # A motion is relative to the first photo, whether it can be read or not.
    return replace(answer, file=every[0] if motion is not None else answer.file, unreadable=failures)


def answer_embeddings(
    locator: Locator,
    queries: Float32,
    *,
    motion_m: npt.ArrayLike | None = None,
    names: Sequence[str] | None = None,
    top: int = 5,
    region: Where = None,
    exponent: float = EXPONENT,
) -> Answer:
    """Answer photos together from their embeddings, (n, D) float32; see `locate`.

    `in_region` is what more than half of the photos say by themselves, `inside_probability` their mean. The radii hold
    shares of the joint posterior that were measured on single photos, so what they promise is rough.

    Args:
        motion_m: as in `locate`, but from any origin: the answer is the place of the origin.
    """
    names = list(names) if names is not None else [f"photo {row + 1}" for row in range(len(queries))]
    region = Region.of(region)
    alone = locator.answers(names, queries, 1, region)
    searcher, asked = locator.searcher, fuse_queries(queries, exponent)[None]
    if motion_m is not None:
        path = _checked(motion_m, len(queries))
        searcher, asked = SequenceSearcher(locator.database, searcher, path, exponent), queries.reshape(1, -1)
    answer = locator.answers(names[:1], asked, top, region, searcher)[0]
    votes = [each.in_region for each in alone if each.in_region is not None]
    odds = [each.inside_probability for each in alone if each.inside_probability is not None]
    scale = len(queries) ** (exponent - 1)
    return replace(
        answer,
        candidates=tuple(replace(each, score=each.score * scale) for each in answer.candidates),
        in_region=2 * sum(votes) > len(votes) if votes else None,
        inside_probability=sum(odds) / len(odds) if odds else None,
        files=tuple(names),
    )


def read_motion(path: Path, files: Sequence[Path]) -> Float64:
    """Read a CSV with file, east_m, north_m: metres of each photo from the first, (n, 2) float64 in the order of the files.

    Args:
        files: the photos; a line belongs to the one with the same path, or else with the same name.

    Raises:
        InputError: it cannot be read, or does not give the place of each photo once.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := {"file", "east_m", "north_m"} - set(reader.fieldnames or ()):
                raise InputError(f"{path} has no column {min(missing)}; it needs file, east_m and north_m")
            lines = [(row["file"] or "", _metres(path, reader.line_num, row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV ({error}); it needs file, east_m and north_m") from None
    photo_of: dict[int, Path] = {}
    for name in files:
        own = [row for row, (text, _) in enumerate(lines) if text == str(name)]
        own = own or [row for row, (text, _) in enumerate(lines) if Path(text).name == name.name]
        if len(own) != 1:
            raise InputError(f"{path} has {len(own)} lines for {name}; it needs one for each photo")
        if own[0] in photo_of:
            both = f"{photo_of[own[0]]} and {name}"
            raise InputError(f"{path} has one line for {both}; it needs one for each photo, with its whole path")
        photo_of[own[0]] = name
    motion = np.array([lines[row][1] for row in photo_of], np.float64)
    return np.asarray(motion - motion[0])


def _metres(path: Path, line: int, row: dict[str, str | None]) -> tuple[float, float]:
    try:
        east, north = float(row["east_m"] or ""), float(row["north_m"] or "")
    except ValueError:
        east = north = float("nan")
    if not row["file"]:
        raise InputError(f"{path}, line {line}: it names no file")
    if not np.isfinite([east, north]).all():
        raise InputError(f"{path}, line {line}: east_m and north_m must be numbers of metres")
    return east, north


def _checked(motion_m: npt.ArrayLike, photos: int) -> Float64:
    motion = np.asarray(motion_m, np.float64)
    if motion.shape != (photos, 2) or not np.isfinite(motion).all():
        raise UsageError(f"the motion must be east and north in metres of each of the {photos} photos, finite numbers")
    return motion


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
        """The candidates of one sequence (C,), their scores (C,), and the log of the mass of all cells."""
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
        beyond = log_evidence.max() + np.log(others) if others else -np.inf
        return starts, temperature * log_evidence, float(np.logaddexp(np.logaddexp.reduce(log_evidence), beyond))

    def _starts(self, best: Ids, photos: Float32, region: Region | None) -> Ids:
        """The cells that the path may start in, sorted: the photos' best cells (n, K), moved back."""
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
        points = s2.cell_ids(lat_deg.ravel(), lon_deg.ravel(), self.database.level)
        cells, which = np.unique(points, return_inverse=True)
        rows = rows_of_ids(self.database.ids, cells)
        scores = np.full(len(cells), floor)
        scores[rows >= 0] = self.database.code_set.exact[rows[rows >= 0]].astype(np.float32) @ photo
        return np.asarray(scores[which.reshape(lat_deg.shape)])


def _floors(hits: Hits, cells: int, temperature: float) -> Float64:
    # What each photo says of a place that is not among its best cells, or not in the database, as a score (n,): the mean
    # evidence of the cells beyond the hits; of all cells where there are no others.
    assert hits.log_mass is not None
    rest = cells - hits.cell_ids.shape[1]
    if not rest:
        return np.asarray(temperature * (hits.log_mass - np.log(cells)))
    share = np.clip(1 - probabilities(hits, temperature).sum(axis=1), 1e-9, 1)  # the mass may be an estimate
    return np.asarray(temperature * (hits.log_mass + np.log(share / rest)))
