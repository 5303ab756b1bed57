"""The last step of the recipe: a photo and a database in, an answer out."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

from cellcode.client.answers import Answer, Candidate, Failure, Source, name_of
from cellcode.config import MachineConfig
from cellcode.database import Database
from cellcode.database.calibration import radii
from cellcode.database.calibration.radii import REACH
from cellcode.database.calibration.regressions import RANKS
from cellcode.errors import UsageError
from cellcode.geography import Region, s2
from cellcode.geography.s2 import ranges
from cellcode.photos import PhotoError, PhotoSpec, read_pixels
from cellcode.search import engines
from cellcode.search.searcher import DatabaseSearcher, Searcher, check_k, mean_position, probabilities, ranges_of
from cellcode.search.sharded import open_searcher
from cellcode.types import Float32, Float64, UInt8

FEW = 64  # sample cells in a region; with fewer its own cells are sampled
Where = Region | Path | str | None  # cells to search: a region, or what `Region.parse` takes; None: all


class Locator:
    """Answers photos from a database; a context manager, which closes a searcher that `open` started on a cluster.

        answer = Locator.open("town.cells").locate("photo.jpg")

    Args:
        searcher: how the database's codes are searched; None: a `DatabaseSearcher`.
        engine: what runs the encoder, "torch" or "openvino".
        calls: threads that will call `embed` at the same time.
        machine: device and precision of the encoder, and threads that read photos; None: chosen for this machine.

    Raises:
        UsageError, MissingExtraError: see `engines.make`.
    """

    def __init__(
        self,
        database: Database,
        searcher: Searcher | None = None,
        engine: str = "torch",
        calls: int = 1,
        machine: MachineConfig | None = None,
    ) -> None:
        self.database = database
        self.searcher = searcher or DatabaseSearcher(database)
        self.threads = (machine.threads if machine is not None else 0) or os.cpu_count() or 1
        self._spec = PhotoSpec.of(database.config.photo)
        self._centres = radii.everywhere(database.ids)
        self._engine = engines.make(engine, database, calls, machine)
        self._close: Callable[[], None] = lambda: None

    @classmethod
    def open(
        cls,
        cells: Database | Path | str,
        *,
        cluster: str | None = None,
        engine: str = "torch",
        calls: int = 1,
        machine: MachineConfig | None = None,
    ) -> Self:
        """Open a database, its folder, or a folder of shards as `cellcode split` writes it.

        `cluster` and errors are those of `open_searcher`, other arguments of `Locator`.
        """
        database, searcher, close = open_searcher(cells, cluster)
        try:
            locator = cls(database, searcher, engine, calls, machine)
        except BaseException:
            close()
            raise
        locator._close = close
        return locator

    def close(self) -> None:
        """End what `open` started on a cluster; closing twice is harmless."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def locate(self, photo: Source, *, top: int = 5, region: Where = None) -> Answer:
        """Locate one photo.

        Args:
            top: number of candidates.
            region: only cells with their centre inside are considered.

        Raises:
            PhotoError: it cannot be read.
            InputError: no cell lies in the region.
            UsageError: `top` is below 1, or the region cannot be understood.
        """
        return self.answers([name_of(photo)], self.embed_one(photo)[None], top, region)[0]

    def locate_many(
        self, photos: Sequence[Source], *, top: int = 5, region: Where = None
    ) -> Iterator[Answer | Failure]:
        """Locate photos in batches, in their order; one that cannot be read gives a `Failure` in its place."""
        where = Region.of(region)
        for first in range(0, len(photos), engines.BATCH):
            names, queries, failures = self.read(photos[first : first + engines.BATCH])
            answers = iter(self.answers(names, queries, top, where) if names else [])
            for row in range(len(names) + len(failures)):
                yield failures[row] if row in failures else next(answers)

    def read(self, photos: Sequence[Source]) -> tuple[list[str], Float32, dict[int, Failure]]:
        """Read photos in threads: names and embeddings, (M, D) float32, of those that can be read; the others by number."""
        with ThreadPoolExecutor(self.threads) as threads:
            read = list(threads.map(self.pixels, photos))
        failures = {row: made for row, made in enumerate(read) if isinstance(made, Failure)}
        pixels = [made for made in read if not isinstance(made, Failure)]
        names = [name_of(photo) for row, photo in enumerate(photos) if row not in failures]
        return names, self.embed(np.stack(pixels)) if pixels else np.empty((0, 0), np.float32), failures

    def embed(self, pixels: UInt8) -> Float32:
        """Embed photos at the encoder's size, (B, height_px, width_px, 3) uint8; returns (B, D) float32, unit length."""
        return self._engine.embed(pixels)

    def embed_one(self, photo: Source) -> Float32:
        """Read and embed a photo; returns (D,) float32. PhotoError: it cannot be read."""
        return np.asarray(self.embed(read_pixels(photo, self._spec)[None])[0])

    def pixels(self, photo: Source) -> UInt8 | Failure:
        """Return a photo as the encoder takes it, (height_px, width_px, 3) uint8, or why it cannot be read."""
        try:
            return read_pixels(photo, self._spec)
        except PhotoError as error:
            return Failure(name_of(photo), name_of(str(error)))

    def answers(
        self, names: list[str], queries: Float32, top: int, region: Where, searcher: Searcher | None = None
    ) -> list[Answer]:
        """Answer embedded photos.

        Args:
            names: for `Answer.file`.
            queries: (B, D) float32; one that stands for several photos need not have unit length.
            top, region: as in `locate`.
            searcher: used in place of the locator's own.
        """
        if top < 1:
            raise UsageError(f"top must be at least 1, not {top}")
        searcher, region, calibration = searcher or self.searcher, Region.of(region), self.database.calibration
        cells = searcher.count(region)
        check_k(1, cells, region)
        hits = searcher.search(queries, min(max(top, REACH), cells), region, calibration.temperature)
        if hits.log_mass is None:
            raise UsageError(f"{type(searcher).__name__} does not return probabilities; ask it for cells directly")
        in_region, inside = self._inside(queries, hits.scores if region is None else None)
        everywhere, cell_m = self._everywhere(region), s2.mean_edge_m(self.database.level)
        shares = probabilities(hits, calibration.temperature)
        lat, lon = (values.reshape(hits.cell_ids.shape) for values in s2.cell_centers(hits.cell_ids.ravel()))
        tokens = np.array(s2.tokens(hits.cell_ids[:, :top].ravel())).reshape(len(names), -1)
        answers = []
        for row, name in enumerate(names):
            columns = (lat[row], lon[row], tokens[row], hits.scores[row], shares[row])
            within = radii.held(lat[row], lon[row], shares[row], everywhere, cell_m)
            answers.append(
                Answer(
                    name,
                    # The tokens are the fewest: as many as are wanted.
                    tuple(map(Candidate, *(column[: tokens.shape[1]].tolist() for column in columns))),
                    radii.radius_m(calibration.share_50, *within) if calibration.knows_radii else None,
                    radii.radius_m(calibration.share_90, *within) if calibration.knows_radii else None,
                    in_region[row],
                    inside[row],
                    *mean_position(lat[row], lon[row], shares[row]),
                    search=hits.searched,
                )
            )
        return answers

    def _inside(self, queries: Float32, scores: Float32 | None) -> tuple[list[bool | None], list[float | None]]:
        # Of each photo. The scores (B, K) are the best of the whole database, best first; None: they are searched for.
        calibration = self.database.calibration
        inside, outside, unknown = calibration.inside, calibration.outside_score, [None] * len(queries)
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
        inside, ids = region.contains(lat, lon), self.database.ids
        if inside.sum() < FEW:  # a small part of a large database
            return radii.everywhere(ids, ranges.rows_of_ranges(ids, ranges_of(region, self.database.level)))
        return lat[inside], lon[inside]


def locate(
    cells: Database | Path | str,
    photo: Source,
    *,
    top: int = 5,
    region: Where = None,
    machine: MachineConfig | None = None,
) -> Answer:
    """Locate one photo in a database; see `Locator.open` and `locate`. A `Locator` loads the encoder once for many photos."""
    with Locator.open(cells, machine=machine) as locator:
        return locator.locate(photo, top=top, region=region)
