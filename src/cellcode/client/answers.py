"""What the service answers, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A cell that may hold the photo's position; as `cellcode.search.Candidate`."""

    lat: float
    lon: float
    cell: str
    score: float
    probability: float


@dataclass(frozen=True)
class Searched:
    """How the cells were found; as `cellcode.search.Searched`."""

    method: str
    cells: int
    exact: bool
    scored_again: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metadata:
    """What the file's EXIF says, in degrees, and how far that is from the answer; never used for it."""

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
    """A photo that was not located: why, and what to do."""

    file: str
    code: str
    message: str
    action: str


@dataclass(frozen=True)
class Answer:
    """Where a photo was taken; the attributes of `cellcode.search.Answer`, and what only the service tells.

    Attributes:
        metadata: None where the file has no position.
        heat: None unless it was asked for.
        files, unreadable: of several photos of one place: those the answer is made from, and those left out.
    """

    file: str
    lat: float
    lon: float
    cell: str
    score: float
    probability: float
    radius_50_m: float
    radius_90_m: float
    in_region: bool | None
    inside_probability: float | None
    mean_lat: float
    mean_lon: float
    candidates: tuple[Candidate, ...]
    search: Searched
    heading_deg: float | None = None
    metadata: Metadata | None = None
    heat: Heat | None = None
    files: tuple[str, ...] = ()
    unreadable: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claimed place among the cells; None where no cell of the database holds it.

    Attributes:
        rank: of its cell, 1 for the best.
        percentile: how many percent of all cells score lower.
        probability: of its cell, in the posterior.
        support: how many times more likely the photo makes the place and the cells around it than they were before.
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
        verdict: plausible, implausible, outside_database or not_sure.
        reason: one sentence.
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
    answer = made(Answer, {**value, "file": name, "unreadable": ()})
    return dataclasses.replace(answer, unreadable=unreadable)


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
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _of(hint, value[name]) for name, hint in hints.items() if name in value})  # type: ignore[operator]
    return value
