import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cellcode import Locator, build, evaluate
from cellcode.database import Database
from cellcode.errors import InputError
from cellcode.evaluation import Report, figures
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.photos.reading.pixels import load_pixels
from cellcode.runs import Run
from cellcode.simulation import Simulation


@pytest.fixture(scope="module")
def report(
    town: Simulation, town_cells: Database, town_photos: PhotoTable, tmp_path_factory: pytest.TempPathFactory
) -> Report:
    elsewhere = town_photos.select(np.arange(0, len(town_photos), 10))
    out = tmp_path_factory.mktemp("report")
    return evaluate(town_cells, town_photos, out=out, aerial=town.aerial_path, out_of_region=elsewhere)


def test_the_report_has_what_the_contract_promises(report: Report) -> None:
    assert report.folder is not None
    values = json.loads((report.folder / "report.json").read_text())
    assert values["photos"] > 0
    assert values["area"] == "same"
    assert {"hybrid", "prototypes", "aerial", "image_retrieval", "chance"} <= set(values["systems"])
    for system in values["systems"].values():
        assert set(system["recall"]) == {"1", "5", "10", "100"}
        assert set(system["recall"]["1"]) == {"100", "200", "1000"}
        assert all(0 <= share <= 1 for by_radius in system["recall"].values() for share in by_radius.values())
        assert system["median_error_m"] > 0
        assert isinstance(system["database_bytes"], int)
        rows = list(system["recall"].values())
        assert all(a[r] <= b[r] for a, b in pairwise(rows) for r in a)


def test_recall_equals_a_search_by_hand(report: Report, town_cells: Database, town_photos: PhotoTable) -> None:
    """Each system from its arrays: terms where a cell has them, the nearest training photo, expected luck."""
    tested, trained = town_photos.of_split("test"), town_photos.of_split("train")
    locator = Locator(town_cells)
    embed = lambda table: locator.embed(load_pixels(table.files, town_cells.config.photo)[0])  # noqa: E731
    # A search holds its codes in half precision, and this little model's embeddings are alike.
    queries, gallery = embed(tested), embed(trained).astype(np.float16)
    aerial, prototypes = town_cells.terms()
    assert aerial is not None
    assert prototypes is not None
    lat, lon = s2.cell_centers(town_cells.ids)
    facts = town_cells.facts
    cells = (lat, lon)
    systems = {
        "hybrid": (town_cells.codes, np.ones(len(lat), bool), cells),
        "aerial": (aerial, facts.has_aerial, cells),
        "prototypes": (prototypes, facts.has_prototype, cells),
        "image_retrieval": (gallery, np.ones(len(gallery), bool), (trained.lat_deg, trained.lon_deg)),
    }
    for name, (codes, has, (at_lat, at_lon)) in systems.items():
        scores = queries @ np.asarray(codes, np.float32).T
        scores[:, ~has] = -np.inf
        best = scores.argmax(axis=1)
        error_m = distance.haversine_m(tested.lat_deg, tested.lon_deg, at_lat[best], at_lon[best])
        by_hand = float((error_m <= 200).mean())
        # Half precision may turn a tie.
        assert report.systems[name]["recall"]["1"]["200"] == pytest.approx(by_hand, abs=2.5 / len(tested)), name


def test_oracles_bound_what_systems_can_reach(report: Report, town_cells: Database, town_photos: PhotoTable) -> None:
    tested, trained = town_photos.of_split("test"), town_photos.of_split("train")
    places = {"nearest_cell": s2.cell_centers(town_cells.ids), "nearest_photo": (trained.lat_deg, trained.lon_deg)}
    for name, place in places.items():
        apart_m = distance.haversine_m(tested.lat_deg[:, None], tested.lon_deg[:, None], *place).min(axis=1)
        assert report.systems[name]["recall"]["1"]["100"] == pytest.approx((apart_m <= 100).mean(), abs=1e-6)
        assert report.systems[name]["median_error_m"] == pytest.approx(np.median(apart_m), abs=0.01)
    for k in ("1", "100"):
        assert (
            report.systems["nearest_photo"]["recall"][k]["200"] >= report.systems["image_retrieval"]["recall"][k]["200"]
        )
        assert report.systems["nearest_cell"]["recall"][k]["200"] >= report.systems["hybrid"]["recall"][k]["200"]


def test_databases_are_counted_at_one_width_and_precision(
    report: Report, town_cells: Database, town_photos: PhotoTable
) -> None:
    """A place of 8 bytes and an embedding of float16, for cells and for photos."""
    photos, cells = len(town_photos.of_split("train")), len(town_cells.ids)
    systems, one = report.systems, 8 + 2 * town_cells.config.model.dim
    assert systems["hybrid"]["database_bytes"] == cells * one
    assert systems["image_retrieval"]["database_bytes"] == photos * one
    assert systems["image_retrieval"]["times_ours"] == pytest.approx(photos / cells, abs=1e-3)
    assert all(systems[name]["ms_per_query"] > 0 for name in ("hybrid", "prototypes", "aerial", "image_retrieval"))
    assert report.values["ms_per_query"]["encoder"] > 0


def test_slices_part_the_photos_by_training_photos_in_their_parent_cell(
    report: Report, town_cells: Database, town_photos: PhotoTable
) -> None:
    tested = town_photos.of_split("test")
    level = town_cells.config.levels
    facts, parents = town_cells.facts, s2.parents(town_cells.ids, level.prototype)
    visited = set(parents[facts.photos > 0].tolist())
    own = s2.cell_ids(tested.lat_deg, tested.lon_deg, level.prototype)
    count = sum(cell in visited for cell in own.tolist())
    assert report.values["slices"] == {"with_training_photos": count, "without_training_photos": len(tested) - count}


def test_predictions_give_the_error_of_every_photo(report: Report, town_photos: PhotoTable) -> None:
    assert report.folder is not None
    rows = pq.read_table(report.folder / "predictions.parquet")
    assert rows.column("file").to_pylist() == town_photos.of_split("test").column("file")
    errors = rows.column("hybrid_error_m").to_numpy()
    assert (errors <= 200).mean() == pytest.approx(report.systems["hybrid"]["recall"]["1"]["200"], abs=1e-6)
    assert np.median(errors) == pytest.approx(report.systems["hybrid"]["median_error_m"], abs=0.01)


def test_the_page_stands_alone(report: Report) -> None:
    assert report.folder is not None
    page = (report.folder / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert len(page) < 6_000_000
    drawn = {path.stem for path in (report.folder / "figures").glob("*.png")}
    assert drawn == set(figures.FIGURES)
    assert page.count("data:image/png") == len(drawn)
    for name in ("hybrid", "prototypes only", "aerial only", "image retrieval", "chance"):
        assert name in page
    assert f"{100 * report.systems['hybrid']['recall']['1']['200']:.1f}" in page


def test_unreadable_photos_are_counted_and_left_out(
    town_cells: Database, town_photos: PhotoTable, tmp_path: Path
) -> None:
    few = town_photos.of_split("test").select(np.arange(6))
    lost = few.with_column("file", [*few.column("file")[:5], "lost.jpg"])
    report = evaluate(town_cells, lost)
    assert report.values["photos"] == 5
    assert "lost.jpg" in report.values["unreadable"][0]


def test_an_empty_split_is_refused(town_cells: Database, town_photos: PhotoTable) -> None:
    with pytest.raises(InputError, match="no photos in its split 'nothing'"):
        evaluate(town_cells, town_photos, split="nothing")


def test_predictions_say_what_they_are_predictions_of(report: Report, town_cells: Database) -> None:
    assert report.folder is not None
    assert named(report.folder)["database"] == town_cells.identity


def named(folder: Path) -> dict[str, str]:
    return dict(json.loads(pq.read_schema(folder / "predictions.parquet").metadata[b"cellcode"]))


def test_photos_that_no_cell_is_near_are_misses_and_one_sentence_says_so(
    report: Report, town_cells: Database, town_photos: PhotoTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = town_photos.of_split("test")
    far = far.with_column("lat_deg", far.lat_deg + 1)
    made = evaluate(town_cells, far, out=tmp_path)
    (said,) = (note for note in made.values["notes"] if "do not overlap" in note)
    assert re.search(r"the nearest is 1[01]\d\.\d km off", said)
    assert said in caplog.text
    assert made.systems["hybrid"]["recall"]["100"]["1000"] == 0
    assert "do not overlap" in (tmp_path / "report.html").read_text()
    assert made.values["area"] == "cross"
    assert report.folder is not None
    here, there = named(tmp_path), named(report.folder)
    assert {key for key in here if here[key] != there[key]} == {"photos"}


def test_a_table_without_dates_and_headings_and_a_database_of_prototypes_still_give_a_report(
    town_run: Run, town_photos: PhotoTable, tmp_path: Path
) -> None:
    ground_only = build(town_run, None, out=tmp_path / "cells")
    bare = town_photos.of_split("test").select(np.arange(30))
    for name in ("captured_at", "heading_deg"):
        bare = bare.with_column(name, [None] * len(bare))
    made = evaluate(ground_only, bare, out=tmp_path / "report")
    notes = " / ".join(made.values["notes"])
    assert "no slice by heading" in notes
    assert "no slice by days from training" in notes
    assert "no figure kappa" in notes
    assert "aerial" not in made.systems
    assert {"spatial_density", "field_of_view"} <= set(made.values["by"])
    assert (tmp_path / "report" / "figures" / "prototype_components.png").is_file()
    assert not (tmp_path / "report" / "figures" / "kappa.png").exists()
    assert "no slice by heading" in (tmp_path / "report" / "report.html").read_text()


def test_confidence_is_in_the_report(report: Report) -> None:
    told = report.values["confidence"]
    assert 0 <= told["ece"] <= 1
    assert told["coverage_50"] <= told["coverage_90"]
    assert 0.2 < told["auroc"] < 0.8  # its photos from elsewhere are of the same town
    assert set(told["refused"]) == {"inside", "elsewhere"}
    everyone = told["accuracy_against_coverage"]["accuracy"][-1]
    assert everyone == pytest.approx(report.systems["hybrid"]["recall"]["1"]["200"], abs=1e-3)
