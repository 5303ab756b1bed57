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

from cellcode.client.answers import Answer
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region
from cellcode.photos import PhotoError
from cellcode.search.locator import Locator, Source, name_of
from cellcode.search.sequences import SequenceSearcher
from cellcode.types import Float32, Float64

# Scores of n photos are added and divided by n to this power: 0 multiplies their posteriors, 1 takes their geometric mean. Our
# choice: on 1,794 validation photos of the 8 km trial world, in level-16 cells with at least 4 (8) of them, the mean log of
# the posterior within 200 m of the truth is highest at 0.75 for groups of 4: -2.58 against -4.00 at 0 and -2.70 at 1 (of 8:
# -3.01, -7.91, -3.10).
EXPONENT = 0.75


def fuse_queries(queries: Float32, exponent: float = EXPONENT) -> Float32:
    """Make one query of the photos of one place: the sum of theirs over n ** exponent.

    Scores are linear in the query, so any search of it scores every cell with the tempered sum of the photos' scores.

    Args:
        queries: (n, D) float32, embeddings of unit length.
        exponent: 0 multiplies the photos' posteriors, 1 takes their geometric mean.

    Returns:
        (D,) float32.
    """
    return np.asarray(queries.sum(axis=0) / len(queries) ** exponent, np.float32)


def locate(
    locator: Locator,
    photos: Sequence[Source],
    *,
    motion_m: npt.ArrayLike | None = None,
    top: int = 5,
    region: Region | Path | str | None = None,
    exponent: float = EXPONENT,
) -> Answer:
    """Locate several photos together.

    Args:
        photos: paths, bytes or files; those that cannot be read are named in the answer, and the others used.
        motion_m: (n, 2) metres east and north of each photo from the first, from odometry or a track; the answer is the
            place of the first. None: all were taken within about a cell.
        top: number of candidates.
        region: only cells with their centre inside are considered.
        exponent: see `fuse_queries`.

    Raises:
        PhotoError: none of them can be read.
        InputError: no cell lies in the region.
        UsageError: no photo, a motion that does not fit them, or `top` is below 1.
    """
    if not photos:
        raise UsageError("there are no photos to locate together; give at least one")
    motion = _checked(motion_m, len(photos)) if motion_m is not None else None
    every = [
        name_of(photo) if isinstance(photo, Path | str) else f"photo {row + 1}" for row, photo in enumerate(photos)
    ]
    _, queries, failed = locator.read(photos)
    failures = tuple(replace(each, file=every[row]) for row, each in failed.items())
    used = [row for row in range(len(photos)) if row not in failed]
    if not used:
        raise PhotoError(f"none of {len(photos)} photos can be read: {'; '.join(each.message for each in failures)}")
    answer = answer_embeddings(
        locator,
        queries,
        motion_m=motion[used] if motion is not None else None,
        names=[every[row] for row in used],
        top=top,
        region=region,
        exponent=exponent,
    )
    # A motion is relative to the first photo, whether it can be read or not.
    return replace(answer, file=every[0] if motion is not None else answer.file, unreadable=failures)


def answer_embeddings(
    locator: Locator,
    queries: Float32,
    *,
    motion_m: npt.ArrayLike | None = None,
    names: Sequence[str] | None = None,
    top: int = 5,
    region: Region | Path | str | None = None,
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
    """Read a CSV with file, east_m, north_m: metres of each photo from the first.

    Args:
        files: the photos; a line belongs to the one with the same path, or else with the same name.

    Returns:
        (n, 2) float64, in the order of the files, relative to the first.

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
            raise InputError(
                f"{path} has one line for {photo_of[own[0]]} and {name}; it needs one for each photo, with its whole path"
            )
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
