"""GPX tracks: where a camera was at a time.

Read with our own few lines rather than a library: only times and positions are needed, as arrays, and a file from anyone goes
through defusedxml.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import numpy.typing as npt
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from cellcode.errors import InputError, UsageError
from cellcode.geography.distance import haversine_m
from cellcode.geography.numbers import parse_number
from cellcode.geography.s2 import projection
from cellcode.types import Float64, Int64

logger = logging.getLogger(__name__)
MAX_GAP_S = 60.0
MAX_GAP_M = 100.0
_MIN_LEG_M = 2.0  # the direction between two points nearer than this is that of their errors


class Placed(NamedTuple):
    """Places on a track, NaN where it has none, and seconds between the track points around each; float64 (N,)."""

    lat_deg: Float64
    lon_deg: Float64
    gap_s: Float64


@dataclass(frozen=True)
class Segment:
    """Track points without a break: times, int64 milliseconds UTC, rising; latitudes and longitudes, float64; (N,) each."""

    time_ms: Int64
    lat_deg: Float64
    lon_deg: Float64

    def gaps(self, start: Int64, end: Int64) -> tuple[Float64, Float64]:
        """Return seconds and metres between points, given by their numbers."""
        metres = haversine_m(self.lat_deg[start], self.lon_deg[start], self.lat_deg[end], self.lon_deg[end])
        return (self.time_ms[end] - self.time_ms[start]) / 1000, metres


@dataclass(frozen=True)
class Track:
    """The segments of one or several GPX files. Between segments nothing is known.

    Attributes:
        max_gap_s, max_gap_m: nothing is known either between two track points that are further apart than this, in time or
            in space: the way between them need not have been straight.
    """

    segments: tuple[Segment, ...]
    max_gap_s: float = MAX_GAP_S
    max_gap_m: float = MAX_GAP_M

    def __post_init__(self) -> None:
        if not (self.max_gap_s > 0 and self.max_gap_m > 0):
            raise UsageError("the largest gaps of a track, in seconds and metres, must be above 0")

    @classmethod
    def read(cls, paths: Iterable[Path | str], max_gap_s: float = MAX_GAP_S, max_gap_m: float = MAX_GAP_M) -> Self:
        """Read the tracks of GPX files. Waypoints and routes are ignored.

        Points without a usable time and position are gaps, and so is all that follows the place where a file is damaged; both
        are logged.

        Raises:
            InputError: a file cannot be read, is no GPX, or has no track point with a time and a position.
        """
        return cls(tuple(segment for path in paths for segment in _read(Path(path))), max_gap_s, max_gap_m)

    def place(self, captured_at: npt.ArrayLike, clock_offset_s: float = 0.0) -> Placed:
        """Return where the camera was: on the great circle between the two track points around each time.

        Of several segments that know of a time, the one whose track points are nearer to each other in time counts.

        Args:
            captured_at: datetime64 (N,), UTC; NaT has no place.
            clock_offset_s: seconds to add to the camera's time to have the true one; negative for a clock that is fast.
        """
        return Placed(*self._look_up(captured_at, clock_offset_s)[:3])

    def heading_deg(self, captured_at: npt.ArrayLike, clock_offset_s: float = 0.0) -> Float64:
        """Return in which direction the track went on, clockwise from north, (N,); arguments as of `place`.

        NaN where there is no place, at the end of a segment, and where the camera stood still.
        """
        return np.asarray(self._look_up(captured_at, clock_offset_s)[3])

    def _look_up(self, captured_at: npt.ArrayLike, clock_offset_s: float) -> Float64:
        """Latitude, longitude, gap and heading at each time, (4, N)."""
        times = np.asarray(captured_at, "datetime64[ms]")
        moments = times.astype(np.int64) + round(clock_offset_s * 1000)
        best = np.full((4, *times.shape), np.nan)
        for segment in self.segments:
            known = ~np.isnat(times) & (moments >= segment.time_ms[0]) & (moments <= segment.time_ms[-1])
            rows = np.flatnonzero(known)
            if rows.size:
                found = self._on(segment, moments[rows])
                better = ~np.isnan(found[2]) & ~(found[2] >= best[2, rows])
                best[:, rows[better]] = found[:, better]
        return best

    def _on(self, segment: Segment, moments: Int64) -> Float64:
        """As `_look_up`, at moments within one segment."""
        after = np.searchsorted(segment.time_ms, moments)  # the first point at or after
        before = np.where(segment.time_ms[after] == moments, after, after - 1)
        gap_s, gap_m = segment.gaps(before, after)
        share = (moments - segment.time_ms[before]) / np.maximum(segment.time_ms[after] - segment.time_ms[before], 1)
        unknown = (gap_s > self.max_gap_s) | (gap_m > self.max_gap_m)
        found = np.stack([*_between(segment, before, after, share), gap_s, self._onward_deg(segment, before)])
        return np.where(unknown, np.nan, found)

    def _onward_deg(self, segment: Segment, before: Int64) -> Float64:
        """Direction from track points to the next ones, NaN where these are too near or over a gap."""
        following = np.minimum(before + 1, len(segment.time_ms) - 1)
        gap_s, gap_m = segment.gaps(before, following)
        unknown = (gap_m < _MIN_LEG_M) | (gap_m > self.max_gap_m) | (gap_s > self.max_gap_s)
        lat1, lat2 = np.deg2rad(segment.lat_deg[before]), np.deg2rad(segment.lat_deg[following])
        turn = np.deg2rad(segment.lon_deg[following] - segment.lon_deg[before])
        east = np.sin(turn) * np.cos(lat2)
        north = np.cos(lat1) * np.sin(lat2) - np.sin(lat1) * np.cos(lat2) * np.cos(turn)
        return np.where(unknown, np.nan, np.rad2deg(np.arctan2(east, north)) % 360)


def _between(segment: Segment, before: Int64, after: Int64, share: Float64) -> tuple[Float64, Float64]:
    """Points at a share of the way on the great circle, by weights of the unit vectors of its ends."""
    start, end = (
        np.stack(projection.to_xyz(segment.lat_deg[at], segment.lon_deg[at]), axis=1) for at in (before, after)
    )
    angle = 2 * np.arcsin(np.clip(np.linalg.norm(end - start, axis=1) / 2, 0, 1))
    safe = np.maximum(angle, 1e-12)  # two points in one place: the weights become those of a straight line
    first, second = np.sin((1 - share) * safe) / np.sin(safe), np.sin(share * safe) / np.sin(safe)
    x, y, z = (first[:, None] * start + second[:, None] * end).T
    return projection.to_degrees(x, y, z)


def _read(path: Path) -> list[Segment]:
    """The segments of a file. A point that cannot be used is a gap: nothing is known between the points around it."""
    parts, gaps, end, root = [list[tuple[int, float, float]]()], Counter[str](), "", ""
    inside = False
    try:
        for event, element in iterparse(path, ("start", "end")):
            name = _name(element)
            root = root or name
            if root != "gpx":
                raise InputError(f"{path} is not a GPX file: it begins with <{root}>")
            if name == "trkseg":
                inside = event == "start"
                parts.append([])
            elif name == "trkpt" and inside and event == "end":
                if isinstance(point := _point(element), str):
                    gaps[point] += 1
                    parts.append([])
                else:
                    parts[-1].append(point)
                element.clear()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:  # the last: an unknown encoding
        end = f"{path} is damaged or no GPX file ({error})"
    counted = ", ".join(f"{count:,} {why}" for why, count in gaps.most_common())
    if not any(parts):
        why = f"left out: {counted}" if counted else "a route or waypoints cannot place photos by time"
        raise InputError(
            f"{end or f'{path} has no track point with a time and a position; {why}'}; export the track again"
        )
    if gaps:
        logger.warning("%s: %s track points are gaps (%s)", path, f"{gaps.total():,}", counted)
    if end:
        logger.warning("%s; what comes before is used", end)
    return [_segment(points) for points in parts if points]


def _point(point: Element) -> tuple[int, float, float] | str:
    """Time, latitude and longitude of a track point, or in a few words what it lacks."""
    text = next((child.text for child in point if _name(child) == "time"), None) or ""
    try:
        lat, lon = parse_number(point.get("lat", "")), parse_number(point.get("lon", ""))
    except ValueError:
        return "without lat and lon in numbers"
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        return "not on the globe"
    if lat == lon == 0:
        return "at 0, 0"
    try:
        time = datetime.fromisoformat(text.strip())
        # A date alone is no time, 24:00 is read by some versions of Python only, and there were no receivers before 1990.
        if not re.search("[T ](?!24)", text.strip()) or time.year < 1990:
            raise ValueError
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time  # GPX is in UTC
        return round(time.timestamp() * 1000), lat, lon
    except (ValueError, OverflowError):
        return "without a usable time"


def _segment(points: list[tuple[int, float, float]]) -> Segment:
    """Sort points by time; of several at one time, the first counts."""
    times, first = np.unique(np.array([point[0] for point in points], np.int64), return_index=True)
    places = np.array([point[1:] for point in points], np.float64)[first]
    return Segment(times, places[:, 0], places[:, 1])


def _name(element: Element) -> str:
    """Name without namespace: GPX 1.0 and 1.1 differ in it, and some devices leave it out. A comment has none."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
