from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags
from tests.photos.items import read_folder

from cellcode.errors import InputError, UsageError
from cellcode.geography.distance import haversine_m
from cellcode.photos.reading.gpx import Track
from cellcode.photos.table.item import Reject

START = datetime(2024, 7, 6, 8, 0, 0, tzinfo=UTC)
Point = tuple[float, float, float]  # seconds after START, latitude, longitude


def _gpx(*segments: Sequence[Point], version: str = "1.1", extra: str = "") -> str:
    def point(seconds: float, lat: float, lon: float) -> str:
        time = (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        return f'<trkpt lat="{lat}" lon="{lon}"><ele>12</ele><time>{time}</time></trkpt>'

    body = "".join("<trkseg>" + "".join(point(*each) for each in segment) + "</trkseg>" for segment in segments)
    space = f"http://www.topografix.com/GPX/{version.replace('.', '/')}"
    return f'<?xml version="1.0"?><gpx version="{version}" xmlns="{space}">{extra}<trk>{body}</trk></gpx>'


def _track(tmp_path: Path, *segments: Sequence[Point], **options: float) -> Track:
    path = tmp_path / "track.gpx"
    path.write_text(_gpx(*segments))
    return Track.read([path], **options)


def _times(*seconds: float) -> np.ndarray[Any, np.dtype[np.datetime64]]:
    start = np.datetime64(START.replace(tzinfo=None), "ms")
    return start + np.array([round(second * 1000) for second in seconds]).astype("timedelta64[ms]")


def test_places_lie_on_the_great_circle_at_their_share_of_the_way(tmp_path: Path) -> None:
    """By definition: the distances to both ends are the shares of the whole distance."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        lat, lon = rng.uniform(-85, 85), rng.uniform(-180, 180)
        other_lat, other_lon = lat + rng.uniform(-4, 4), (lon + rng.uniform(-9, 9) + 180) % 360 - 180
        seconds = rng.uniform(0, 1000)
        track = _track(tmp_path, [(0, lat, lon), (1000, other_lat, other_lon)], max_gap_s=2000, max_gap_m=1e8)
        placed = track.place(_times(seconds))
        whole_m = haversine_m(lat, lon, other_lat, other_lon)
        share = round(seconds * 1000) / 1e6
        assert haversine_m(lat, lon, placed.lat_deg, placed.lon_deg) == pytest.approx(share * whole_m, abs=0.01)
        assert haversine_m(placed.lat_deg, placed.lon_deg, other_lat, other_lon) == pytest.approx(
            (1 - share) * whole_m, abs=0.01
        )
        assert placed.gap_s == pytest.approx(1000)


def test_track_over_the_antimeridian_does_not_go_around_the_earth(tmp_path: Path) -> None:
    track = _track(tmp_path, [(0, -17, 179.9996), (10, -17, -179.9998)])
    placed = track.place(_times(5, 9))
    assert placed.lon_deg == pytest.approx([179.9999, -179.99986])
    assert track.heading_deg(_times(5)) == pytest.approx(90, abs=0.1)


def test_nothing_is_placed_before_after_between_segments_or_without_a_time(tmp_path: Path) -> None:
    track = _track(tmp_path, [(0, 48, 2), (10, 48.0001, 2)], [(20, 48.0002, 2), (30, 48.0003, 2)])
    times = np.append(_times(-0.001, 0, 5, 10, 10.001, 15, 20, 30, 30.001), np.datetime64("NaT"))
    lat, lon, gap_s = track.place(times)
    inside = [False, True, True, True, False, False, True, True, False, False]
    assert (~np.isnan(lat)).tolist() == (~np.isnan(lon)).tolist() == (~np.isnan(gap_s)).tolist() == inside
    assert lat[[1, 2, 3, 6, 7]] == pytest.approx([48, 48.00005, 48.0001, 48.0002, 48.0003])
    assert gap_s[[1, 2, 3]].tolist() == [0, 10, 0]


@pytest.mark.parametrize(
    ("options", "placed"),
    [
        ({}, [True, False, False]),
        ({"max_gap_s": 300}, [True, True, False]),
        ({"max_gap_m": 5000}, [True, False, True]),
        ({"max_gap_s": 10, "max_gap_m": 10}, [False, False, False]),
    ],
)
def test_gaps_that_are_too_long_or_too_wide_place_nothing(
    options: dict[str, float], placed: list[bool], tmp_path: Path
) -> None:
    points = [(0, 48, 2), (30, 48.0005, 2), (230, 48.0006, 2), (260, 48.03, 2)]  # 56 m, 200 s, 3.3 km
    track = _track(tmp_path, points, **options)
    assert (~np.isnan(track.place(_times(15, 100, 245)).lat_deg)).tolist() == placed
    assert not np.isnan(track.place(_times(30, 230)).lat_deg).any()  # on a point there is no gap


def test_offset_of_the_clock_is_added(tmp_path: Path) -> None:
    track = _track(tmp_path, [(0, 48, 2), (60, 48.0006, 2)])
    assert track.place(_times(3600 + 30), clock_offset_s=-3600).lat_deg == pytest.approx(48.0003)
    assert track.place(_times(0), clock_offset_s=12.5).lat_deg == pytest.approx(48.000125)


def test_of_two_tracks_the_denser_one_counts_and_points_in_any_order_are_sorted(tmp_path: Path) -> None:
    for name, points in (("a", [(0, 10, 10), (50, 10.0005, 10)]), ("b", [(30, 20.0002, 20), (20, 20, 20), (20, 5, 5)])):
        (tmp_path / f"{name}.gpx").write_text(_gpx(points, version="1.0" if name == "a" else "1.1"))
    for order in ("ab", "ba"):
        track = Track.read([tmp_path / f"{name}.gpx" for name in order])
        placed = track.place(_times(10, 25, 40))
        assert placed.lat_deg == pytest.approx([10.0001, 20.0001, 10.0004])
        assert placed.gap_s.tolist() == [50, 10, 50]


def test_heading_is_that_of_the_leg_and_unknown_where_the_camera_stands(tmp_path: Path) -> None:
    points = [(0, 48, 2), (10, 48.0005, 2), (20, 48.0005, 2.0007), (30, 48, 2), (40, 48, 2.00001)]
    track = _track(tmp_path, points)
    headings = track.heading_deg(_times(0, 5, 10, 19, 25, 35, 40))
    assert headings[:4] == pytest.approx([0, 0, 90, 90], abs=0.01)
    assert headings[4] == pytest.approx(180 + 43.1, abs=0.5)
    assert np.isnan(headings[5:]).all()


def test_waypoints_routes_and_points_without_time_are_ignored(tmp_path: Path) -> None:
    time = f"<time>{START.isoformat()}</time>"
    extra = f'<wpt lat="1" lon="1">{time}</wpt><rte><rtept lat="2" lon="2">{time}</rtept></rte>'
    text = _gpx([(0, 48, 2), (10, 48.0001, 2)], extra=extra)
    text = text.replace(
        "</trkseg>", '<trkpt lat="9" lon="9"><time/></trkpt><trkpt lat="9" lon="9"/><!-- end --></trkseg>'
    )
    (tmp_path / "a.gpx").write_text(text)
    track = Track.read([tmp_path / "a.gpx"])
    assert [len(segment.time_ms) for segment in track.segments] == [2]


def test_time_zones_in_a_track_are_obeyed_and_none_means_utc(tmp_path: Path) -> None:
    text = _gpx([(0, 48, 2), (10, 48.0001, 2)])
    text = text.replace("2024-07-06T08:00:00Z", "2024-07-06T10:00:00+02:00").replace("08:00:10Z", "08:00:10.000")
    (tmp_path / "a.gpx").write_text(text)
    assert Track.read([tmp_path / "a.gpx"]).place(_times(5)).lat_deg == pytest.approx(48.00005)


WHOLE = _gpx([(0, 48, 2), (10, 48.0001, 2)])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "damaged or no GPX"),
        (WHOLE[:150], "damaged or no GPX"),
        ("lat,lon\n1,2", "damaged or no GPX"),
        ("<kml/>", "begins with <kml>"),
        ('<!DOCTYPE gpx [<!ENTITY a "b">]>' + WHOLE.removeprefix('<?xml version="1.0"?>'), "damaged or no GPX"),
        (WHOLE.replace('lat="48', 'lat="48,'), "left out: 2 without lat and lon in numbers"),
        (WHOLE.replace("time>", "when>"), "no track point with a time"),
        (WHOLE.replace("trkseg", "rte"), "no track point with a time"),
    ],
)
def test_damaged_track_is_refused_in_a_sentence_that_names_it(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "good.gpx").write_text(WHOLE)
    (tmp_path / "bad.gpx").write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        Track.read([tmp_path / "good.gpx", tmp_path / "bad.gpx"])
    assert "bad.gpx" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('lat="48.0005" lon="2"', 'lat="0" lon="0"'),
        ('lat="48.0005"', 'lat="48,0005"'),
        ('lat="48.0005"', 'lat=""'),
        ('lat="48.0005"', ""),
        ('lat="48.0005"', 'lat="4_8"'),
        ('lat="48.0005"', 'lat="nan"'),
        ('lat="48.0005" lon="2"', 'lat="48.0005" lon="360.5"'),
        ("2024-07-06T08:00:50Z", ""),
        ("2024-07-06T08:00:50Z", "2024-07-06"),
        ("2024-07-06T08:00:50Z", "2024-07-05T24:00:00Z"),
        ("2024-07-06T08:00:50Z", "2024-07-06T08:00:60Z"),
        ("2024-07-06T08:00:50Z", "0001-01-01T00:00:00+14:00"),
        ("<time>2024-07-06T08:00:50Z</time>", ""),
    ],
)
def test_point_that_cannot_be_used_is_a_gap(
    right: str, wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A photo beside it gets no position; those of the rest of the track, also after it, do."""
    text = _gpx([(second, 48 + second / 1e5, 2) for second in range(0, 101, 10)])
    assert text.count(right) == 1
    (tmp_path / "a.gpx").write_text(text.replace(right, wrong))
    placed = Track.read([tmp_path / "a.gpx"]).place(_times(5, 35, 45, 55, 65, 95))
    assert (~np.isnan(placed.lat_deg)).tolist() == [True, True, False, False, True, True]
    assert placed.lat_deg[[0, 1, 4, 5]] == pytest.approx([48.00005, 48.00035, 48.00065, 48.00095])
    assert "a.gpx: 1 track points are gaps" in caplog.text


def test_of_a_track_that_is_cut_off_the_beginning_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = _gpx([(second, 48 + second / 1e5, 2) for second in range(0, 101, 10)])
    for end in (text[: text.index("08:01:00")], text.replace("08:01:00", "\x02"), text[: text.index("08:01:00")] + "&"):
        (tmp_path / "a.gpx").write_text(end)
        placed = Track.read([tmp_path / "a.gpx"]).place(_times(45, 55))
        assert placed.lat_deg[0] == pytest.approx(48.00045)
        assert np.isnan(placed.lat_deg[1])
        assert "what comes before is used" in caplog.text


def test_missing_track_and_senseless_gaps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.gpx cannot be read"):
        Track.read([tmp_path / "no.gpx"])
    for gaps in ({"max_gap_s": 0}, {"max_gap_m": float("nan")}):
        with pytest.raises(UsageError, match="above 0"):
            _track(tmp_path, [(0, 48, 2)], **gaps)


def _photo_at(write_photo: Callable[..., Path], path: Path, shown: str, zone: str | None, **options: Any) -> None:
    detail = {ExifTags.Base.DateTimeOriginal: f"2024:07:06 {shown}"}
    detail |= {ExifTags.Base.OffsetTimeOriginal: zone} if zone else {}
    write_photo(path, detail=detail, **{"lat_deg": None, **options})


def test_folder_is_placed_by_a_track_and_the_row_says_so(write_photo: Callable[..., Path], tmp_path: Path) -> None:
    _track(tmp_path, [(0, 48, 2), (60, 48.0006, 2), (120, 48.0006, 2.0005)])
    photos = tmp_path / "photos"
    _photo_at(write_photo, photos / "own.jpg", "10:00:30", "+02:00", lat_deg=-33.0)
    _photo_at(write_photo, photos / "placed.jpg", "10:00:30", "+02:00")
    _photo_at(write_photo, photos / "zoneless.jpg", "10:01:30", None)
    _photo_at(write_photo, photos / "late.jpg", "10:05:00", "+02:00")
    write_photo(photos / "timeless.jpg", None)

    def read(**options: Any) -> dict[str, Any]:
        return {
            item.file if isinstance(item, Reject) else item["file"]: item
            for item in read_folder(photos, gpx=[tmp_path / "track.gpx"], **options)
        }

    got = read()
    assert (got["own.jpg"]["lat_deg"], got["own.jpg"]["source"]) == (-33.0, "folder")
    placed = got["placed.jpg"]
    assert (placed["lat_deg"], placed["lon_deg"]) == pytest.approx((48.0003, 2))
    assert (placed["source"], placed["heading_deg"]) == ("folder+gpx", None)
    assert placed["captured_at"] == datetime(2024, 7, 6, 8, 0, 30)
    assert "no time zone to look up in the track; give --camera-zone" in got["zoneless.jpg"].reason
    assert "the track has no position at its time" in got["late.jpg"].reason
    assert "no time to look up" in got["timeless.jpg"].reason

    zoned = read(camera_zone="+02:00", track_heading=True)
    assert (zoned["zoneless.jpg"]["lat_deg"], zoned["zoneless.jpg"]["lon_deg"]) == pytest.approx((48.0006, 2.00025))
    assert zoned["zoneless.jpg"]["heading_deg"] == pytest.approx(90, abs=0.1)
    assert zoned["placed.jpg"]["heading_deg"] == pytest.approx(0, abs=0.1)

    slow = read(camera_zone="+02:00", clock_offset_s=-240)
    assert slow["late.jpg"]["lon_deg"] == pytest.approx(2)
