"""The last step of the recipe: a photo and a database in, an answer out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from cellcode.database import Database
from cellcode.database.calibration import radii
from cellcode.database.calibration.in_region import RANKS
from cellcode.database.calibration.radii import REACH
from cellcode.errors import UsageError
from cellcode.geography import Region, s2
from cellcode.geography.s2 import ranges
from cellcode.photos import PhotoError, PhotoSpec, read_pixels
from cellcode.search import engines
from cellcode.search.answer import Answer, Candidate, Failure
from cellcode.search.posterior import mean_position, probabilities
from cellcode.search.searcher import DatabaseSearcher, Searcher, check_k, ranges_of
from cellcode.types import Float32, Float64, UInt8

BATCH = engines.BATCH
FEW = 64  # sample cells in a region; with fewer its own cells are sampled
Source = Path | str | bytes | BinaryIO


class Locator:
    """Answers photos from a database.

        answer = Locator.open("town.cells").locate("photo.jpg")

    Args:
        database: an open database.
        searcher: how its codes are searched; None: a `DatabaseSearcher`.
        engine: what runs the encoder, "torch" or "openvino".
        calls: threads that will call `embed` at the same time.

    Raises:
        UsageError, MissingExtraError: see `engines.make`.
    """

    def __init__(
        self, database: Database, searcher: Searcher | None = None, engine: str = "torch", calls: int = 1
    ) -> None:
        self.database = database
        self.searcher = searcher or DatabaseSearcher(database)
        self._centres = radii.everywhere(database.ids)
        self._engine = engines.make(engine, database, calls)

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open the database in a folder.

        Raises:
            InputError: it is none, or damaged; see `Database.open`.
        """
        return cls(Database.open(folder))

    def locate(self, photo: Source, *, top: int = 5, region: Region | str | None = None) -> Answer:
        """Locate one photo.

        Args:
            photo: a path, the bytes of a file, or a file.
            top: number of candidates.
            region: only cells with their centre inside are considered.

        Raises:
            PhotoError: it cannot be read; the sentence says why.
            InputError: no cell lies in the region.
            UsageError: `top` is below 1, or the region cannot be understood.
        """
        name = str(photo) if isinstance(photo, Path | str) else "photo"
        return self.answers([name], self.embed(self._read(photo)[None]), top, region)[0]

    def locate_many(
        self, photos: Sequence[Source], *, top: int = 5, region: Region | str | None = None
    ) -> Iterator[Answer | Failure]:
        """Locate photos in batches, in their order; one that cannot be read gives a `Failure` in its place."""
        region = Region.parse(region) if isinstance(region, str) else region
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for first in range(0, len(photos), BATCH):
                batch = photos[first : first + BATCH]
                names = [str(photo) if isinstance(photo, Path | str) else "photo" for photo in batch]
                read = list(threads.map(self._read_or_say, batch))
                good = [row for row, made in enumerate(read) if not isinstance(made, str)]
                answers: dict[int, Answer] = {}
                if good:
                    pixels = np.stack([made for made in read if not isinstance(made, str)])
                    made = self.answers([names[row] for row in good], self.embed(pixels), top, region)
                    answers = dict(zip(good, made, strict=True))
                for row, result in enumerate(read):
                    yield answers[row] if row in answers else Failure(names[row], str(result))

    def embed(self, pixels: UInt8) -> Float32:
        """Embed photos at the encoder's size, (B, height_px, width_px, 3) uint8; returns (B, D) float32, unit length."""
        return self._engine.embed(pixels)

    def _read(self, photo: Source) -> UInt8:
        return read_pixels(photo, PhotoSpec.of(self.database.config.photo))

    def _read_or_say(self, photo: Source) -> UInt8 | str:
        try:
            return self._read(photo)
        except PhotoError as error:
            return str(error)

    def answers(self, names: list[str], queries: Float32, top: int, region: Region | str | None) -> list[Answer]:
        """Answer embedded photos.

        Args:
            names: (B,), for `Answer.file`.
            queries: (B, D) float32; one that stands for several photos need not have unit length.
            top, region: as in `locate`.
        """
        if top < 1:
            raise UsageError(f"top must be at least 1, not {top}")
        region = Region.parse(region) if isinstance(region, str) else region
        calibration = self.database.calibration
        cells = self.searcher.count(region)
        check_k(1, cells, region)
        hits = self.searcher.search(queries, min(max(top, REACH), cells), region, calibration.temperature)
        if hits.log_mass is None:
            raise UsageError(f"{type(self.searcher).__name__} does not tell probabilities; ask it for cells directly")
        shares = probabilities(hits, calibration.temperature)
        lat, lon = (values.reshape(hits.cell_ids.shape) for values in s2.cell_centers(hits.cell_ids.ravel()))
        tokens = np.array(s2.tokens(hits.cell_ids[:, :top].ravel())).reshape(len(names), -1)
        in_region, inside = self._inside(queries, hits.scores if region is None else None)
        rest, cell_m = self._everywhere(region), s2.mean_edge_m(self.database.level)
        answers = []
        for row, name in enumerate(names):
            candidates = tuple(
                Candidate(
                    float(lat[row, k]),
                    float(lon[row, k]),
                    str(token),
                    float(hits.scores[row, k]),
                    float(shares[row, k]),
                )
                for k, token in enumerate(tokens[row])
            )
            within = radii.held(lat[row], lon[row], shares[row], rest, cell_m)
            mean_lat, mean_lon = mean_position(lat[row], lon[row], shares[row])
            answers.append(
                Answer(
                    file=name,
                    candidates=candidates,
                    radius_50_m=radii.radius_m(calibration.share_50, *within),
                    radius_90_m=radii.radius_m(calibration.share_90, *within),
                    in_region=in_region[row],
                    inside_probability=inside[row],
                    mean_lat=mean_lat,
                    mean_lon=mean_lon,
                    searched=hits.searched,
                )
            )
        return answers

    def _inside(self, queries: Float32, scores: Float32 | None) -> tuple[list[bool | None], list[float | None]]:
        """Return for each photo whether it was taken in the region of the database, and how probable that is.

        Args:
            scores: (B, K), the best of the whole database, best first; None: they are searched for.
        """
        calibration, unknown = self.database.calibration, [None] * len(queries)
        inside, outside = calibration.inside, calibration.outside_score
        if queries.shape[1] != self.database.code_set.dim or (inside is None and outside is None):  # a path of photos
            return [*unknown], [*unknown]
        if scores is None:
            most = min(RANKS, self.searcher.count())
            scores = self.searcher.search(queries, most, None, calibration.temperature).scores
        if inside is not None:
            probability = inside.probability(queries, scores)
            return (probability >= inside.threshold).tolist(), probability.tolist()
        assert outside is not None
        return [float(score) >= outside for score in scores[:, 0]], [*unknown]

    def _everywhere(self, region: Region | None) -> tuple[Float64, Float64]:
        """Centres of cells that stand for all that are searched."""
        lat, lon = self._centres
        if region is None:
            return lat, lon
        inside = region.contains(lat, lon)
        if inside.sum() < FEW:  # a small part of a large database
            ids = self.database.ids
            return radii.everywhere(ids, ranges.rows_of_ranges(ids, ranges_of(region, self.database.level)))
        return lat[inside], lon[inside]
