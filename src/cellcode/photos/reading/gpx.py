"""GPX tracks: where a camera was at a time.

Read with our own few lines rather than a library: only times and positions are needed, as arrays, and a file from anyone goes
through defusedxml.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import numpy.typing as npt
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from cellcode.errors import InputError, UsageError
from cellcode.geography.distance import haversine_m
from cellcode.geography.s2 import projection
from cellcode.types import Float64, Int64

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
        """Read the tracks of GPX files. Waypoints, routes and track points without a time are ignored.

        Raises:
            InputError: a file cannot be read, is no GPX, or has no track point with a time.
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
    try:
        root = parse(path).getroot()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:  # the last: an unknown encoding
        raise InputError(f"{path} is damaged or no GPX file ({error}); export the track again") from None
    if _name(root) != "gpx":
        raise InputError(f"{path} is not a GPX file: it begins with <{_name(root)}>")
    parts = [list(_points(element, path)) for element in root.iter() if _name(element) == "trkseg"]
    if not any(parts):
        raise InputError(f"{path} has no track point with a time; a route or waypoints cannot place photos by time")
    return [_segment(points) for points in parts if points]


def _points(segment: Element, path: Path) -> Iterator[tuple[int, float, float]]:
    """Yield time, latitude and longitude of the points of a segment that have a time."""
    for point in segment:
        text = next((child.text for child in point if _name(child) == "time"), None) or ""
        if _name(point) != "trkpt" or not text.strip():
            continue
        try:
            time = datetime.fromisoformat(text.strip())
            lat, lon = float(point.get("lat", "")), float(point.get("lon", ""))
        except ValueError:
            raise InputError(f"{path}: a track point of {text} has no usable time, lat and lon") from None
        if not (abs(lat) <= 90 and abs(lon) <= 180):
            raise InputError(f"{path}: the track point of {text} is at {lat}, {lon}, which is not on the globe")
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time  # GPX is in UTC
        yield round(time.timestamp() * 1000), lat, lon


def _segment(points: list[tuple[int, float, float]]) -> Segment:
    """Sort points by time; of several at one time, the first counts."""
    times, first = np.unique(np.array([point[0] for point in points], np.int64), return_index=True)
    places = np.array([point[1:] for point in points], np.float64)[first]
    return Segment(times, places[:, 0], places[:, 1])


def _name(element: Element) -> str:
    """Name without namespace: GPX 1.0 and 1.1 differ in it, and some devices leave it out. A comment has none."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
