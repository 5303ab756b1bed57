"""What a photo is answered with, as objects and as the JSON of the contract."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cellcode.search.searcher import Searched


@dataclass(frozen=True)
class Candidate:
    """A cell that may hold the photo's position.

    Attributes:
        lat, lon: its centre in degrees.
        cell: its S2 token.
        score: similarity of the photo and the cell's code.
        probability: share of the posterior over all cells searched.
    """

    lat: float
    lon: float
    cell: str
    score: float
    probability: float


@dataclass(frozen=True)
class Answer:
    """Where a photo was taken, as far as its pixels tell.

    Attributes:
        file: the photo.
        candidates: the best cells, best first; the answer is the first.
        radius_50_m, radius_90_m: circles around the answer that hold the true position of this share of photos, as measured
            on validation photos.
        in_region: the photo looks like one taken inside, as 95 % of validation photos do: by `inside_probability`, or where
            the database has none by the best score; None where no validation photos told.
        inside_probability: that the photo was taken inside, if half of all photos were; None where the database was built
            without photos from elsewhere.
        mean_lat, mean_lon: mean of the posterior over the best cells, in degrees: a compromise, not a place that looks right.
        searched: how the cells were found, and whether all of them were searched.
    """

    file: str
    candidates: tuple[Candidate, ...]
    radius_50_m: float
    radius_90_m: float
    in_region: bool | None
    inside_probability: float | None
    mean_lat: float
    mean_lon: float
    searched: Searched

    @property
    def best(self) -> Candidate:
        """The answer's cell."""
        return self.candidates[0]

    @property
    def lat(self) -> float:
        """Latitude of the answer in degrees."""
        return self.best.lat

    @property
    def lon(self) -> float:
        """Longitude of the answer in degrees."""
        return self.best.lon

    def to_json(self) -> dict[str, Any]:
        """Return the object that `cellcode locate --json` prints."""
        return {
            "file": self.file,
            **asdict(self.best),
            "radius_50_m": self.radius_50_m,
            "radius_90_m": self.radius_90_m,
            "in_region": self.in_region,
            "inside_probability": self.inside_probability,
            "mean_lat": self.mean_lat,
            "mean_lon": self.mean_lon,
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "search": {**asdict(self.searched), "missing": list(self.searched.missing)},
        }


@dataclass(frozen=True)
class Failure:
    """A photo that could not be read, and why."""

    file: str
    error: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that `cellcode locate --json` prints."""
        return asdict(self)
