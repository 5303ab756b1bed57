import copy
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cellcode import Locator, client, locate
from cellcode.cli.queries import describe
from cellcode.config import MachineConfig
from cellcode.database import Database
from cellcode.database.calibration.fit import Calibration
from cellcode.database.calibration.regressions import Inside
from cellcode.errors import InputError, UsageError
from cellcode.geography import Region, distance, s2
from cellcode.photos import PhotoError, PhotoTable
from cellcode.search import Answer, Failure, claims, engines


@pytest.fixture(scope="module")
def locator(town_cells: Database) -> Locator:
    return Locator.open(town_cells.folder)


@pytest.fixture(scope="module")
def files(town_photos: PhotoTable) -> list[Path]:
    return town_photos.of_split("test").files


def test_the_answer_is_the_best_code_for_the_embedded_photo(locator: Locator, files: list[Path]) -> None:
    """From the file to the cell, by the definition: decode, embed, largest product, softmax at the temperature."""
    database, config = locator.database, locator.database.config
    with Image.open(files[0]) as image:
        size = (config.photo.width_px, config.photo.height_px)
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    query = locator.embed(pixels[None])[0]
    scores = database.codes.astype(np.float32) @ query
    posterior = np.exp(scores / database.calibration.temperature)
    posterior /= posterior.sum()
    answer = locator.locate(files[0])
    best = int(scores.argmax())
    lat, lon = s2.cell_centers(database.ids[best : best + 1])
    assert (answer.lat, answer.lon) == (lat[0], lon[0])
    assert answer.best.cell == s2.tokens(database.ids[best : best + 1])[0]
    assert answer.best.score == pytest.approx(scores[best], abs=1e-4)
    assert answer.best.probability == pytest.approx(posterior[best], rel=0.02)
    # A cell's mass lies evenly between half an edge before its centre and half an edge beyond.
    apart_m, half_m = distance.haversine_m(lat[0], lon[0], *s2.cell_centers(database.ids)), s2.mean_edge_m(16) / 2
    first = np.maximum(apart_m - half_m, 0)
    calibration = database.calibration
    for share, radius_m in ((calibration.share_50, answer.radius_50_m), (calibration.share_90, answer.radius_90_m)):
        part = np.clip((radius_m - first) / (apart_m + half_m - first), 0, 1)
        assert (posterior * part).sum() == pytest.approx(share, abs=0.01)


def test_radii_that_no_validation_photo_has_measured_are_unknown(locator: Locator, files: list[Path]) -> None:
    """The answers of a database without validation photos promise nothing."""
    database = locator.database
    bare = replace(database.calibration, share_50=Calibration.share_50, share_90=Calibration.share_90)
    unmeasured = copy.copy(locator)
    unmeasured.database = replace(database, calibration=bare)
    answer = unmeasured.locate(files[0])
    assert (answer.radius_50_m, answer.radius_90_m) == (None, None)
    assert [answer.to_json()[name] for name in ("radius_50_m", "radius_90_m")] == [None, None]
    assert "(too few validation photos to say how far off it may be)" in describe(answer)
    found = claims.verify(unmeasured, files[0], answer.lat, answer.lon)
    assert (found.verdict, found.within) == ("not_sure", None)
    assert answer.candidates == locator.locate(files[0]).candidates


def test_candidates_are_ordered_and_as_many_as_asked(locator: Locator, files: list[Path]) -> None:
    answer = locator.locate(files[1], top=12)
    scores = [each.score for each in answer.candidates]
    assert len(scores) == 12
    assert scores == sorted(scores, reverse=True)
    assert len({each.cell for each in answer.candidates}) == 12
    assert answer.radius_50_m <= answer.radius_90_m


def test_path_bytes_and_file_give_the_same_answer(locator: Locator, files: list[Path]) -> None:
    by_path, data = locator.locate(files[0]), files[0].read_bytes()
    for source in (str(files[0]), data, io.BytesIO(data)):
        other = locator.locate(source)
        assert (other.best.cell, other.best.score) == (by_path.best.cell, by_path.best.score)


def test_one_step_of_the_recipe_does_the_same(town_cells: Database, locator: Locator, files: list[Path]) -> None:
    assert locate(town_cells.folder, files[0]).to_json() == locator.locate(files[0]).to_json()


def test_a_region_limits_the_answer_and_the_probabilities_sum_to_one_in_it(locator: Locator, files: list[Path]) -> None:
    lat, lon = s2.cell_centers(locator.database.ids)
    region = Region.bbox(float(lon.min()) - 1e-4, float(lat.min()) - 1e-4, float(np.median(lon)), float(np.median(lat)))
    answer = locator.locate(files[0], top=1000, region=region)
    centers = np.array([[each.lat, each.lon] for each in answer.candidates])
    assert region.contains(centers[:, 0], centers[:, 1]).all()
    assert sum(each.probability for each in answer.candidates) == pytest.approx(1, abs=1e-5)
    text = ",".join(str(value) for value in region.bounds)
    assert locator.locate(files[0], region=text).best == answer.best


@pytest.mark.parametrize("fitted", [True, False])
def test_whether_a_photo_is_inside_does_not_depend_on_the_region_searched(
    town_cells: Database, files: list[Path], fitted: bool
) -> None:
    """It is a question to the whole database, whose best cells may lie elsewhere."""
    weights = (5.0, 3.0, 2.0, *np.linspace(-1, 1, town_cells.code_set.dim), -2.0)
    probability = 0.0
    alone = [Locator(town_cells).locate(file) for file in files[:6]]
    middle = float(np.median([each.best.score for each in alone]))
    changes = {"inside": Inside(weights, 0.5) if fitted else None, "outside_score": middle}
    locator = Locator(replace(town_cells, calibration=replace(town_cells.calibration, **changes)))
    for file in files[:6]:
        whole = locator.locate(file)
        lat, lon = s2.cell_centers(town_cells.ids)
        far = int(np.argmax(distance.haversine_m(lat, lon, whole.lat, whole.lon)))
        part = locator.locate(file, region=Region.cap(float(lat[far]), float(lon[far]), 300))
        assert part.best.cell != whole.best.cell
        assert part.in_region is whole.in_region
        assert part.inside_probability == pytest.approx(whole.inside_probability)
        probability = max(probability, whole.inside_probability or 0.0)
    assert (probability > 0) is fitted


def test_a_small_region_of_a_large_database_has_cells_of_its_own_for_the_rest(wide_cells: Database) -> None:
    """With the best 1,000 cells alone the posterior would end there."""
    region = Region.bbox(3.0, 52.0, 3.01, 52.01)
    locator = Locator(wide_cells)
    inside = region.contains(*s2.cell_centers(wide_cells.ids))
    assert inside.sum() < 1000
    np.testing.assert_array_equal(s2.cell_ids(*locator._everywhere(region), wide_cells.level), wide_cells.ids[inside])


def test_many_photos_keep_their_order_and_bad_ones_cost_only_themselves(
    locator: Locator, files: list[Path], tmp_path: Path
) -> None:
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.write_bytes(b"")
    text.write_text("no photo")
    asked = [files[0], empty, files[1], text, tmp_path / "missing.jpg"]
    results = list(locator.locate_many(asked))
    assert [type(result) for result in results] == [Answer, Failure, Answer, Failure, Failure]
    assert [result.file for result in results] == [str(path) for path in asked]
    assert isinstance(results[1], Failure)
    assert "empty" in results[1].message
    alone = locator.locate(files[1])
    assert isinstance(results[2], Answer)
    assert results[2].best.cell == alone.best.cell


def test_json_has_the_keys_of_the_contract(locator: Locator, files: list[Path]) -> None:
    value = json.loads(json.dumps(locator.locate(files[0], top=2).to_json(), allow_nan=False))
    assert list(value) == [
        "file", "lat", "lon", "cell", "score", "probability", "radius_50_m", "radius_90_m", "in_region",
        "inside_probability", "mean_lat", "mean_lon", "candidates", "search",
    ]  # fmt: skip
    assert len(value["candidates"]) == 2
    assert list(value["candidates"][0]) == ["lat", "lon", "cell", "score", "probability"]
    assert value["candidates"][0]["cell"] == value["cell"]
    assert value["search"] == {
        "method": "exact", "cells": len(locator.database.ids), "exact": True, "scored_again": 0, "missing": [],
    }  # fmt: skip


def test_an_answer_says_how_it_was_found(locator: Locator, files: list[Path]) -> None:
    region = Region.cap(*(float(each[0]) for each in s2.cell_centers(locator.database.ids[:1])), 200)
    searched = locator.locate(files[0], region=region).search
    assert (searched.method, searched.exact, searched.missing) == ("exact", True, ())
    assert searched.cells == region.contains(*s2.cell_centers(locator.database.ids)).sum()


def test_bad_requests_are_refused(locator: Locator, files: list[Path]) -> None:
    with pytest.raises(UsageError, match="top"):
        locator.locate(files[0], top=0)
    with pytest.raises(InputError, match="no cell"):
        locator.locate(files[0], region="100,10,101,11")
    with pytest.raises(PhotoError, match="does not exist"):
        locator.locate("nowhere.jpg")


def test_a_region_is_an_object_text_or_a_file(town_cells: Database, town_photos: PhotoTable, tmp_path: Path) -> None:
    west, south, east, north = town_cells.region_bounds
    part = Region.bbox(west, south, (west + east) / 2, north)
    ring = [[west, south], [(west + east) / 2, south], [(west + east) / 2, north], [west, north], [west, south]]
    (tmp_path / "part.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    photo = town_photos.files[0]
    expected = locate(town_cells, photo, region=part)
    for region in (f"{west},{south},{(west + east) / 2},{north}", tmp_path / "part.geojson"):
        assert locate(str(town_cells.folder), photo, region=region) == expected


def test_device_precision_and_threads_are_the_users(
    town_cells: Database, town_photos: PhotoTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def choose(name: str) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr(engines, "choose_device", choose)
    machine = MachineConfig(device="cpu", precision="float32", threads=1)
    locator = Locator.open(town_cells.folder, machine=machine)
    assert locator.threads == 1
    plain = locate(town_cells, town_photos.files[0])
    answer = locate(town_cells, town_photos.files[0], machine=machine)
    assert asked == ["cpu", "auto", "cpu"]
    assert answer.score == pytest.approx(plain.score, rel=0.05)


def test_search_and_the_client_share_their_answers() -> None:
    assert client.Answer is Answer
    assert client.Failure is Failure
