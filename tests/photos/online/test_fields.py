"""What is read out of a service's description of a photo, and what happens when it says less or nonsense."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.photos.items import read_online

from cellcode.errors import CellcodeError, InputError, UsageError
from cellcode.geography import Region
from cellcode.http import Politeness, RemoteError
from cellcode.photos import IngestOptions
from cellcode.photos.reading.panorama import PanoramaRule
from cellcode.photos.sources.registry import estimate
from cellcode.photos.table.item import Reject
from cellcode.photos.table.photo_table import SCHEMA

QUICK = Politeness(requests_per_s=1e6, tries=2, timeout_s=20.0, patience_s=60.0, first_wait_s=0.001)
EVERYWHERE = Region.bbox(2.9, 50.95, 3.1, 51.1)
Start = Callable[..., Any]
Photos = list[dict[str, Any]]


def fetch(server: Any, out: Path, **options: Any) -> dict[str, Any]:
    """What becomes of each photo, by the service's name for it; a panorama's rows are a list."""
    found: dict[str, Any] = {}
    for item in read_online(server.spec, EVERYWHERE, out, politeness=QUICK, **{"min_width_px": 40, **options}):
        name = item.file.split("/")[1] if isinstance(item, Reject) else Path(item["file"]).stem.split("_")[0]
        found.setdefault(name, []).append(item)
    return {name: rows[0] if len(rows) == 1 else rows for name, rows in found.items()}


def test_mapillary_row(mapillary: Start, town: Photos, tmp_path: Path) -> None:
    photo = town[0]
    row = fetch(mapillary(town[:1]), tmp_path)[photo["id"]]
    assert set(row) <= set(SCHEMA.names)
    assert (row["lat_deg"], row["lon_deg"]) == (photo["lat"], photo["lon"])  # the corrected position
    assert row["heading_deg"] == photo["heading"]
    assert row["captured_at"] == photo["captured_at"].replace(tzinfo=None)
    assert (row["sequence"], row["device"], row["source"]) == (photo["sequence"], "Acme One", "mapillary")
    assert (row["licence"], row["attribution"]) == (
        "CC-BY-SA-4.0",
        "ann on Mapillary, https://www.mapillary.com/app/user/ann",
    )
    assert (row["width_px"], row["height_px"]) == (48, 64)


@pytest.mark.parametrize(("wanted", "size"), [(40, (48, 64)), (60, (96, 64))])
def test_field_of_view_is_that_of_the_pictures_width(
    wanted: int, size: tuple[int, int], mapillary: Start, town: Photos, tmp_path: Path
) -> None:
    """The focal length is in units of the longer side, which of an upright picture is its height."""
    row = fetch(mapillary(town[:1]), tmp_path, min_width_px=wanted)[town[0]["id"]]
    assert (row["width_px"], row["height_px"]) == size
    assert row["fov_deg"] == pytest.approx(math.degrees(2 * math.atan(size[0] / max(size) / 2 / 0.75)))


def test_panoramax_row(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    photo = town[0]
    row = fetch(panoramax(town[:1]), tmp_path)[photo["id"]]
    assert set(row) <= set(SCHEMA.names)
    assert (row["lat_deg"], row["lon_deg"]) == (photo["lat"], photo["lon"])
    assert row["heading_deg"] == round(photo["heading"])
    assert row["fov_deg"] == pytest.approx(70)
    assert row["captured_at"] == photo["captured_at"].replace(tzinfo=None)
    assert (row["sequence"], row["device"], row["source"]) == (photo["sequence"], "Acme One", "panoramax")
    assert (row["licence"], row["attribution"]) == ("etalab-2.0", "bob")
    assert row["accuracy_m"] == photo["accuracy"]


def test_mapillary_without_what_was_computed(mapillary: Start, town: Photos, tmp_path: Path) -> None:
    """Fields are missing where structure from motion did not run; the camera's own are taken then."""
    photo = town[0]
    photo["fields"] = dict.fromkeys(
        ["computed_geometry", "computed_compass_angle", "camera_parameters", "creator", "make", "sequence"]
    )
    row = fetch(mapillary([photo]), tmp_path)[photo["id"]]
    assert (row["lat_deg"], row["lon_deg"]) == (photo["raw_lat"], photo["raw_lon"])
    assert row["heading_deg"] == photo["heading"] + 9
    assert (row["fov_deg"], row["sequence"], row["device"]) == (None, None, "One")
    assert row["attribution"] == "Mapillary contributors, https://www.mapillary.com"


def test_panoramax_with_next_to_nothing(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    photo = town[0]
    photo["properties"] = dict.fromkeys(
        ["datetime", "license", "view:azimuth", "pers:interior_orientation", "quality:horizontal_accuracy"]
    )
    photo["feature"] = {"providers": None, "collection": None}
    row = fetch(panoramax([photo]), tmp_path)[photo["id"]]
    unknown = ("heading_deg", "fov_deg", "captured_at", "sequence", "device", "licence", "attribution", "accuracy_m")
    assert [row[name] for name in unknown] == [None] * len(unknown)


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"computed_compass_angle": "north", "compass_angle": 400.0}, {"heading_deg": None}),
        ({"camera_parameters": []}, {"fov_deg": None}),
        ({"camera_parameters": [0]}, {"fov_deg": None}),
        ({"captured_at": 1e300}, {"captured_at": None}),
        ({"captured_at": 10**400, "quality_score": 10**400}, {"captured_at": None}),
        ({"captured_at": "yesterday"}, {"captured_at": None}),
        ({"make": 7, "model": " "}, {"device": None}),
        ({"creator": []}, {"attribution": "Mapillary contributors, https://www.mapillary.com"}),
    ],
)
def test_nonsense_is_taken_for_unknown(
    fields: dict[str, Any], changed: dict[str, Any], mapillary: Start, town: Photos, tmp_path: Path
) -> None:
    town[0]["fields"] = fields
    row = fetch(mapillary(town[:1]), tmp_path)[town[0]["id"]]
    assert {name: row[name] for name in changed} == changed


def test_a_name_that_leads_out_of_the_folder_is_refused(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    town[0]["feature"] = {"id": "../../escaped"}
    items = list(read_online(panoramax(town[:1]).spec, EVERYWHERE, tmp_path / "deep" / "out", politeness=QUICK))
    assert [item.reason for item in items if isinstance(item, Reject)] == ["an identifier that cannot name a file"]
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_photo_without_a_link_is_told(panoramax: Start, mapillary: Start, town: Photos, tmp_path: Path) -> None:
    town[0]["feature"] = {"assets": {}}
    town[0]["fields"] = {"thumb_1024_url": None, "thumb_original_url": None}
    for number, server in enumerate((panoramax(town[:1]), mapillary(town[:1]))):
        assert fetch(server, tmp_path / str(number))[town[0]["id"]].reason == "no link to a picture"


def test_filters(mapillary: Start, panoramax: Start, town: Photos, tmp_path: Path) -> None:
    town[0]["fields"] = {"quality_score": None}
    found = fetch(mapillary(town[:20]), tmp_path / "m", min_quality=0.5)
    for photo in town[:20]:
        kept = photo["quality"] >= 0.5 and photo is not town[0]
        assert isinstance(found[photo["id"]], Reject) != kept
    assert found[town[0]["id"]].reason == "no quality score"
    found = fetch(panoramax(town[:20]), tmp_path / "p", max_accuracy_m=4.0)
    for photo in town[:20]:
        assert isinstance(found[photo["id"]], Reject) != (photo["accuracy"] <= 4)


def test_the_narrowest_picture_that_is_wide_enough(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    for wanted, width in ((40, 48), (48, 48), (49, 96)):  # "sd" would be blown up: the photo itself is narrower
        properties = {"sensor_array_dimensions": [600, 400], "field_of_view": 70}
        town[0]["properties"] = {"pers:interior_orientation": properties}
        row = fetch(panoramax(town[:1]), tmp_path / str(wanted), min_width_px=wanted)[town[0]["id"]]
        assert row["width_px"] == width
    reject = fetch(panoramax(town[:1]), tmp_path / "none", min_width_px=601)[town[0]["id"]]
    assert reject.reason == "narrower than 601 px"


def test_panoramas_are_cut_or_left_out(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    camera = {"field_of_view": 360, "sensor_array_dimensions": [256, 128]}
    town[0].update(size=(256, 128), heading=90.0, properties={"pers:interior_orientation": camera})
    town[1].update(size=(250, 160), properties={"pers:interior_orientation": camera})
    town[2]["properties"] = {"pers:interior_orientation": {"field_of_view": 190}}
    server, (whole, odd, fisheye) = panoramax(town[:3]), [photo["id"] for photo in town[:3]]
    assert fetch(server, tmp_path)[whole].reason == "a 360 degree photo; --panoramas cuts views out of it"
    rule = PanoramaRule(count=4, fov_deg=90, width_px=64, height_px=48)
    found = fetch(server, tmp_path, panoramas=rule)
    assert [row["heading_deg"] for row in found[whole]] == [90, 180, 270, 0]
    assert {(row["width_px"], row["height_px"], row["fov_deg"]) for row in found[whole]} == {(64, 48, 90)}
    assert "not the shape of a 360 degree photo" in found[odd].reason
    assert found[fisheye].reason == "fisheye, not a perspective photo"
    assert fetch(server, tmp_path, panoramas=rule)[whole] == found[whole]
    assert server.count(f"/pictures/{whole}") == 1


def test_the_views_that_a_part_of_a_panorama_shows(panoramax: Start, town: Photos, tmp_path: Path) -> None:
    """Half of it to the right of its middle, which looks north: of four views, the one to the east."""
    half = {"field_of_view": 360, "sensor_array_dimensions": [512, 256], "visible_area": [256, 0, 0, 0]}
    town[0].update(size=(256, 256), heading=0.0, properties={"pers:interior_orientation": half})
    none = {**half, "visible_area": [256, 0, 250, 0]}
    town[1].update(size=(6, 256), properties={"pers:interior_orientation": none})
    unknown = {"pers:interior_orientation": half, "view:azimuth": None}
    town[2].update(size=(256, 256), properties=unknown)
    rule = PanoramaRule(count=4, fov_deg=90, width_px=64, height_px=48)
    found = fetch(panoramax(town[:3]), tmp_path, panoramas=rule, min_width_px=1)
    assert found[town[0]["id"]]["heading_deg"] == 90
    assert found[town[1]["id"]].reason.startswith("6 x 256 pixels")
    assert found[town[2]["id"]]["heading_deg"] is None


def test_mapillary_spherical_and_fisheye(mapillary: Start, town: Photos, tmp_path: Path) -> None:
    town[0]["fields"] = {"camera_type": "spherical", "camera_parameters": []}
    town[1]["fields"] = {"camera_type": "fisheye"}
    town[2]["fields"] = {"camera_type": None, "is_pano": True}
    found = fetch(mapillary(town[:3]), tmp_path)
    assert [found[photo["id"]].reason for photo in town[:3]] == [
        "a 360 degree photo; --panoramas cuts views out of it",
        "fisheye, not a perspective photo",
        "a 360 degree photo; --panoramas cuts views out of it",
    ]


def test_the_token_goes_to_the_api_alone_and_nowhere_else(
    mapillary: Start, town: Photos, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = mapillary(town[:5])
    fetch(server, tmp_path)
    pictures = [headers for path, _, headers in server.asked if path.startswith("/picture/")]
    assert len(pictures) == 5
    assert not any("Authorization" in headers for headers in pictures)
    assert all(
        headers["Authorization"] == f"OAuth {server.token}" for path, _, headers in server.asked if path == "/images"
    )
    assert not any(server.token in str(query) for _, query, _ in server.asked)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert server.token.encode() not in written
    assert server.token not in "".join(capfd.readouterr())


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_token_that_is_refused(
    status: int, mapillary: Start, town: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mapillary(town)
    server.faults["/images"] = (str(status), 1)
    with pytest.raises(RemoteError, match=rf"refuses the token in MAPILLARY_TOKEN \({status}\)") as caught:
        fetch(server, tmp_path)
    assert server.token not in str(caught.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("token", "words"), [("", "needs an access token"), ("MLY|1\nX-Evil: 1", "characters that no token has")]
)
def test_no_token(token: str, words: str, mapillary: Start, town: Photos, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MAPILLARY_TOKEN", token)
    with pytest.raises(InputError, match=words) as caught:
        fetch(mapillary(town), tmp_path)
    assert "Evil" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["mapillary:https://example.com", "mapillary:http://127.0.0.1.example.com", "panoramax:ftp://x", "other:"]
)
def test_addresses_that_are_none_of_the_service(spec: str, tmp_path: Path) -> None:
    """A token would be sent to whoever wrote the address into a configuration."""
    with pytest.raises(UsageError):
        estimate(spec, EVERYWHERE)


@pytest.mark.parametrize("spec", ["mapillary:", "panoramax:"])
def test_a_region_is_needed(spec: str) -> None:
    with pytest.raises(UsageError, match="needs a region"):
        estimate(spec, None)


@pytest.mark.parametrize(
    "options",
    [
        {"max_photos": 0},
        {"min_quality": 2.0},
        {"max_accuracy_m": 0.0},
        {"since": datetime(2025, 1, 2), "until": datetime(2025, 1, 1)},
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(CellcodeError):
        IngestOptions(**options)
