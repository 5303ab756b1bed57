"""Answers as frozen dataclasses, on the standard library alone: those of `cellcode.search` and of the service."""

from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
Source = Path | str | bytes | BinaryIO  # of a photo: a path, the bytes of a file, or a file
FACTS = ("radius_50_m", "radius_90_m", "in_region", "inside_probability", "mean_lat", "mean_lon")  # of `Answer.to_json`


def name_of(photo: Source, other: str = "photo") -> str:
    """Return what an answer calls a photo: its path as given, or `other` where it has none."""
    # Names of files that are not UTF-8 are spelled with backslashes, so that they can be printed and written.
    return str(photo).encode("utf-8", "backslashreplace").decode() if isinstance(photo, Path | str) else other


@dataclass(frozen=True)
class Candidate:
    """A cell that may hold the photo's position.

    Attributes:
        lat, lon, cell: its centre in degrees, and its S2 token.
        score: similarity of the photo and the cell's code.
        probability: share of the posterior over all cells searched.
    """

    lat: float
    lon: float
    cell: str
    score: float
    probability: float


@dataclass(frozen=True)
class Searched:
    """How an answer came about.

    Attributes:
        method: "exact": every cell was compared, or shown to be worse; "two_stage": quantised codes chose candidates; other
            searchers have names of their own.
        cells: how many cells could have been the answer.
        exact: no cell better than the ones given can have been missed.
        scored_again: first-stage entries whose codes were compared; 0 without a first stage.
        missing: shards whose cells were not searched, by name.
    """

    method: str
    cells: int
    exact: bool
    scored_again: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metadata:
    """Position in the file's EXIF in degrees, and its distance from the answer; never used for the answer."""

    lat: float
    lon: float
    heading_deg: float | None
    distance_m: float


@dataclass(frozen=True)
class Heat:
    """The posterior as S2 cells of mixed levels that do not overlap, and the share that they leave out."""

    tokens: tuple[str, ...]
    mass: tuple[float, ...]
    rest: float


@dataclass(frozen=True)
class Failure:
    """A photo that could not be located.

    Attributes:
        message, action: the reason and what to do, a sentence each.
        code: stable, one of those that docs/serving.md lists.
    """

    file: str
    message: str
    code: str = "photo_unreadable"
    action: str = "check the file"

    def to_json(self) -> dict[str, Any]:
        """Return the object that `cellcode locate --json` prints."""
        return {"file": self.file, "error": self.message}


@dataclass(frozen=True)
class Answer:
    """Where a photo was taken, or several of one place; the answer is the first of the candidates.

    Attributes:
        file: the photo; of several photos the one whose place it is, the first.
        candidates: the best cells, best first. For several photos a score is the mean of their similarities to the code.
        radius_50_m, radius_90_m: circles around the answer that held the true position of this share of the validation photos,
            which were located one by one; None where the database was built with too few of them to tell.
        in_region: the photo looks like one taken inside the region, as 95 % of validation photos do: by `inside_probability`,
            or by the best score where the database has none; None where it was built without validation photos.
        inside_probability: that the photo was taken inside the region, if half of all photos were; None where the database
            was built without out-of-region photos.
        mean_lat, mean_lon: mean of the posterior over the best cells, in degrees: a compromise, not a place that looks right.
        search: how the cells were found, and whether all of them were searched.
        heading_deg, metadata, heat: from the service only, where they were given or requested.
        files, unreadable: of several photos those the answer is made from, and those left out; empty for a single photo.
    """

    file: str
    candidates: tuple[Candidate, ...]
    radius_50_m: float | None
    radius_90_m: float | None
    in_region: bool | None
    inside_probability: float | None
    mean_lat: float
    mean_lon: float
    search: Searched
    heading_deg: float | None = None
    metadata: Metadata | None = None
    heat: Heat | None = None
    files: tuple[str, ...] = ()
    unreadable: tuple[Failure, ...] = ()

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

    @property
    def cell(self) -> str:
        """S2 token of the answer."""
        return self.best.cell

    @property
    def score(self) -> float:
        """Score of the answer."""
        return self.best.score

    @property
    def probability(self) -> float:
        """Probability of the answer's cell."""
        return self.best.probability

    def to_json(self) -> dict[str, Any]:
        """Return the object that `cellcode locate --json` prints; of several photos `files` and `unreadable` replace `file`."""
        several = {"files": list(self.files), "unreadable": [each.to_json() for each in self.unreadable]}
        return {
            **(several if self.files else {"file": self.file}),
            **asdict(self.best),
            **{name: getattr(self, name) for name in FACTS},
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "search": {**asdict(self.search), "missing": list(self.search.missing)},
        }


@dataclass(frozen=True)
class Claim:
    """A claimed place among the cells; None where no cell of the database holds it.

    Attributes:
        rank: of its cell, 1 for the best.
        percentile: how many percent of all cells score lower.
        probability: of its cell, in the posterior.
        support: how many times better the photo fits the place with the cells around it than an average place.
    """

    lat: float
    lon: float
    cell: str | None
    score: float | None
    rank: int | None
    percentile: float | None
    probability: float | None
    support: float | None = None


@dataclass(frozen=True)
class Verification:
    """How plausible a claimed place is.

    Attributes:
        verdict: plausible, implausible, outside_database or not_sure; `reason` says why in one sentence.
        distance_m, distances_m: from the claim to the answer, and to each of its candidates.
        within: "50" or "90": the smallest circle of the answer that holds the claim; None: neither does.
    """

    verdict: str
    reason: str
    claim: Claim
    distance_m: float
    within: str | None
    distances_m: tuple[float, ...]
    answer: Answer

    def to_json(self) -> dict[str, Any]:
        """Return the object that `cellcode verify --json` prints."""
        return {
            **vars(self),
            "claim": asdict(self.claim),
            "distances_m": list(self.distances_m),
            "answer": self.answer.to_json(),
        }


@dataclass(frozen=True)
class Cell:
    """A cell of the database; `polygon` is GeoJSON, `aerial` the address of its crop where there is imagery."""

    cell: str
    level: int
    lat: float
    lon: float
    polygon: dict[str, Any]
    has_prototype: bool
    has_aerial: bool
    training_photos: int
    aerial: str | None


@dataclass(frozen=True)
class Served:
    """The database that is served. `bounds` are west, south, east, north; `limits` what a request may hold."""

    name: str
    identity: str
    version: str
    levels: dict[str, int]
    cell_edge_m: float
    cells: dict[str, int]
    bounds: tuple[float, ...]
    training_photos: int
    licences: tuple[str, ...]
    attributions: tuple[str, ...]
    tells_outside: bool
    keys_needed: bool
    limits: dict[str, int]


def answer_of(value: dict[str, Any], name: str) -> Answer:
    """Return the answer of its JSON, under the name that the photo has here."""
    unreadable = tuple(failure_of(each, each["file"]) for each in value.get("unreadable", ()))
    return replace(made(Answer, {**value, "file": name, "unreadable": ()}), unreadable=unreadable)


def failure_of(value: dict[str, Any], name: str) -> Failure:
    """Return the failure of its JSON, under the name that the photo has here."""
    return made(Failure, {"file": name, **value["error"]})


def made(kind: type[T], value: Any) -> T:
    """Make a dataclass of JSON, by the types of its fields; keys that it does not have are passed over."""
    return _of(kind, value)  # type: ignore[no-any-return]


def _of(kind: Any, value: Any) -> Any:
    if isinstance(kind, UnionType):
        return None if value is None else _of(next(each for each in get_args(kind) if each is not NoneType), value)
    if get_origin(kind) is tuple:
        return tuple(_of(get_args(kind)[0], each) for each in value)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _of(hint, value[name]) for name, hint in hints.items() if name in value})  # type: ignore[operator]
    return value
