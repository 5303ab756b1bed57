import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cellcode import Locator, evaluate
from cellcode.database import Database
from cellcode.errors import InputError
from cellcode.evaluation import Report
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.photos.pixels import load_pixels


@pytest.fixture(scope="module")
def report(town_cells: Database, town_photos: PhotoTable, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return evaluate.run(town_cells, town_photos, out=tmp_path_factory.mktemp("report"))


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
    for name in ("hybrid", "prototypes only", "aerial only", "image retrieval", "chance"):
        assert name in page
    assert f"{100 * report.systems['hybrid']['recall']['1']['200']:.1f}" in page


def test_unreadable_photos_are_counted_and_left_out(
    town_cells: Database, town_photos: PhotoTable, tmp_path: Path
) -> None:
    few = town_photos.of_split("test").select(np.arange(6))
    lost = few.with_column("file", [*few.column("file")[:5], "lost.jpg"])
    report = evaluate.run(town_cells, lost)
    assert report.values["photos"] == 5
    assert "lost.jpg" in report.values["unreadable"][0]


def test_an_empty_split_is_refused(town_cells: Database, town_photos: PhotoTable) -> None:
    with pytest.raises(InputError, match="no photos in its split 'nothing'"):
        evaluate.run(town_cells, town_photos, split="nothing")
