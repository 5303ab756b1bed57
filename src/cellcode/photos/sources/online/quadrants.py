"""All photos of a region from a service that gives a few at most and no next page: boxes are split while they are full."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, product
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from cellcode.http import RemoteError

SMALLEST_DEG = 1e-5  # about a metre: a box that is still full is not split further
_FAULTY_DEG = 5e-4  # a box that the server fails at is asked in quarters down to this side
_REFUSED_DEG = 1e-3  # no server finds a smaller box too large
_MIN_LIMIT = 10
_FAULTS_IN_A_ROW = 5
_SUSPECTS = 4


@dataclass(frozen=True)
class Box:
    """A box in degrees that does not cross the antimeridian."""

    west: float
    south: float
    east: float
    north: float

    def __str__(self) -> str:
        """Return west,south,east,north as services read it; neighbours round their common edge alike."""
        return ",".join(f"{edge:.9f}" for edge in (self.west, self.south, self.east, self.north))

    @property
    def side_deg(self) -> float:
        """The longer side."""
        return max(self.east - self.west, self.north - self.south)

    @property
    def area_deg2(self) -> float:
        """Sides multiplied, as services state their limit."""
        return (self.east - self.west) * (self.north - self.south)

    def quarters(self) -> list[Box]:
        """Return the four boxes of half the sides."""
        lons = pairwise((self.west, (self.west + self.east) / 2, self.east))
        lats = pairwise((self.south, (self.south + self.north) / 2, self.north))
        return [Box(west, south, east, north) for (south, north), (west, east) in product(lats, lons)]


@dataclass(frozen=True)
class Answer:
    """Photos of a box as the service describes them; `whole`: it said itself that there are no more."""

    photos: list[dict[str, Any]]
    whole: bool = False


@dataclass(frozen=True)
class Gap:
    """A box of which not all photos are known, and why."""

    box: Box
    reason: str


Ask = Callable[[Box, int], Answer]


class Search:
    """A search of a region, box by box.

    A box is asked in quarters where the answer is full, where the server finds it too large (400), or where it fails at it
    again and again. Each photo is given once, also where boxes touch.

    Args:
        ask: requests photos of a box, at most the given number; each has an "id".
        shape: the region; x = longitude, y = latitude, in -180..180 degrees, cut at the antimeridian.
        limit: number of photos requested at once; halved where the server refuses it.
        max_area_deg2: no larger box is requested.
    """

    def __init__(self, ask: Ask, shape: BaseGeometry, *, limit: int, max_area_deg2: float = math.inf) -> None:
        self._ask, self._shape, self._limit, self._max_area = ask, shape, limit, max_area_deg2
        self._cap = limit  # an answer of this length may have been cut
        self._waiting, self._seen, self._faults = deque[Box](), set[str](), 0
        self._gaps, self._crowded = list[Gap](), list[Gap]()
        self._fullest, self._fullest_boxes = 0, list[Box]()
        shapely.prepare(shape)

    def run(self) -> Iterator[list[dict[str, Any]] | Gap]:
        """Yield photos as they are found, then the boxes that could not be seen through.

        Raises:
            RemoteError: the server refuses to answer, or fails at several boxes in a row.
        """
        yield from self._drain(_start(self._shape))
        gaps = [*self._gaps, *self._crowded]
        # A server may silently return fewer than requested. Then the fullest answers are those that it has cut, and
        # their quarters hold photos that are new.
        suspects, self._cap = self._fullest_boxes, min(self._cap, max(self._fullest, 2))
        known, self._gaps, self._crowded = len(self._seen), [], []
        yield from self._drain(chain.from_iterable(map(Box.quarters, suspects[:_SUSPECTS])))
        if len(self._seen) > known:
            yield from self._drain(chain.from_iterable(map(Box.quarters, suspects[_SUSPECTS:])))
            gaps += self._crowded
        yield from gaps + self._gaps

    def _drain(self, boxes: Iterable[Box]) -> Iterator[list[dict[str, Any]]]:
        self._waiting.extend(boxes)
        while self._waiting:
            box = self._waiting.pop()
            if not self._shape.intersects(shapely.box(box.west, box.south, box.east, box.north)):
                continue
            if box.area_deg2 > self._max_area:
                self._waiting.extend(box.quarters())
                continue
            answer = self._answer(box)
            if answer is None:
                continue
            full = not answer.whole and len(answer.photos) >= min(self._cap, self._limit)
            if full and box.side_deg > SMALLEST_DEG:
                self._waiting.extend(box.quarters())
                continue
            if full:
                self._crowded.append(Gap(box, "more photos at one place than the server gives at once"))
            elif not answer.whole and len(answer.photos) > max(1, self._fullest):
                self._fullest, self._fullest_boxes = len(answer.photos), [box]
            elif not answer.whole and len(answer.photos) == self._fullest > 1:
                self._fullest_boxes.append(box)
            yield self._new(answer.photos)

    def _answer(self, box: Box) -> Answer | None:
        """Ask for a box; None if it was put off in quarters, or given up."""
        refusal: RemoteError | None = None
        for limit in _halves(self._limit):
            try:
                answer = self._ask(box, limit)
            except RemoteError as error:
                if error.reason == "bad request":
                    refusal = error
                    continue
                self._fail(box, error)
                return None
            self._limit, self._faults = limit, 0
            return answer
        assert refusal is not None
        if box.side_deg <= _REFUSED_DEG:
            raise refusal
        self._max_area = box.area_deg2 / 2
        self._waiting.extend(box.quarters())
        return None

    def _fail(self, box: Box, error: RemoteError) -> None:
        """Put a box off to the end in quarters, which are easier to answer, or give it up; raise where no box is answered."""
        if error.reason == "byte budget spent" or (error.lasting and error.reason != "too large"):
            raise error
        self._faults += 1
        if self._faults >= _FAULTS_IN_A_ROW:
            raise error
        if box.side_deg > _FAULTY_DEG:
            self._waiting.extendleft(box.quarters())
        else:
            self._gaps.append(Gap(box, error.reason))

    def _new(self, photos: list[dict[str, Any]]) -> list[dict[str, Any]]:
        named: dict[str, dict[str, Any]] = {}
        for photo in photos:
            named.setdefault(str(photo.get("id")), photo)
        new = [photo for name, photo in named.items() if name not in self._seen]
        self._seen.update(named)
        return new


def _start(shape: BaseGeometry) -> list[Box]:
    """Boxes around the region: one, or one on either side of the antimeridian."""
    west, south, east, north = shape.bounds
    if (west, east) != (-180, 180):
        return [Box(west, south, east, north)]
    halves = [shape.intersection(shapely.box(side, -90, side + 180, 90)) for side in (-180, 0)]
    return [Box(*half.bounds) for half in halves if not half.is_empty]


def _halves(limit: int) -> Iterator[int]:
    yield limit
    while (limit := limit // 2) >= _MIN_LIMIT:
        yield limit
