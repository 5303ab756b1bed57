"""Several photos as one query, against brute force over all cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from experiments.together import places, recall_by_count

from cellcode.database import Database, split
from cellcode.errors import InputError, UsageError
from cellcode.evaluation.confidence import calibration_error, reliability
from cellcode.geography import Region, distance, s2
from cellcode.photos import PhotoError
from cellcode.search import Locator, ShardedSearcher, together
from cellcode.search.together import EXPONENT, answer_embeddings, fuse_queries


@pytest.fixture(scope="module")
def locator(wide_cells: Database) -> Locator:
    return Locator(wide_cells)


def walk(cells: Database, photos: int, step_m: float, seed: int = 4) -> tuple[np.ndarray, np.ndarray, int]:
    """Embeddings of photos eastwards from the centre of a cell, their motion, and the row of that cell."""
    rng = np.random.default_rng(seed)
    row = int(rng.integers(len(cells.ids)))
    lat, lon = s2.cell_centers(cells.ids[row : row + 1])
    motion = np.stack([np.arange(photos) * step_m, np.zeros(photos)], axis=1)
    at = s2.cell_ids(*distance.offset(lat, lon, motion[:, 0], motion[:, 1]), cells.level)
    rows = np.minimum(np.searchsorted(cells.ids, at), len(cells.ids) - 1)
    made = np.asarray(cells.codes[rows]).astype(np.float32)
    made = made / np.linalg.norm(made, axis=1, keepdims=True) + 0.25 * rng.standard_normal(made.shape)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32), motion, row


def brute_force(cells: Database, queries: np.ndarray, exponent: float) -> np.ndarray:
    """Posterior of all cells: the product of the photos' likelihoods, tempered."""
    scores = (np.asarray(cells.codes).astype(np.float64) @ queries.T.astype(np.float64)).sum(axis=1)
    shares = np.exp(scores / len(queries) ** exponent / cells.calibration.temperature)
    return np.asarray(shares / shares.sum())


@pytest.mark.parametrize("exponent", [0.0, EXPONENT, 1.0])
def test_photos_of_a_place_give_the_tempered_product_of_their_posteriors(locator: Locator, exponent: float) -> None:
    queries, _, _ = walk(locator.database, 3, 0.0)
    answer = answer_embeddings(locator, queries, exponent=exponent)
    expected = brute_force(locator.database, queries, exponent)
    best = int(expected.argmax())
    assert answer.best.cell == s2.tokens(locator.database.ids[best : best + 1])[0]
    assert answer.best.probability == pytest.approx(expected[best], rel=2e-2)
    mean = float((np.asarray(locator.database.codes[best]).astype(np.float32) @ queries.T).mean())
    assert answer.best.score == pytest.approx(mean, abs=1e-3)


def test_one_photo_together_is_one_photo(locator: Locator) -> None:
    queries, _, _ = walk(locator.database, 1, 0.0)
    alone = locator.answers(["photo 1"], queries, 5, None)[0]
    answer = answer_embeddings(locator, queries)
    assert answer.candidates == alone.candidates
    assert (answer.radius_50_m, answer.in_region) == (alone.radius_50_m, alone.in_region)
    np.testing.assert_array_equal(fuse_queries(queries), queries[0])


def test_without_motion_a_sequence_is_a_place(locator: Locator) -> None:
    queries, _, _ = walk(locator.database, 3, 0.0)
    place, still = (answer_embeddings(locator, queries, motion_m=motion) for motion in (None, np.zeros((3, 2))))
    assert [each.cell for each in still.candidates] == [each.cell for each in place.candidates]
    for one, other in zip(still.candidates, place.candidates, strict=True):
        assert one.probability == pytest.approx(other.probability, rel=0.05)
        assert one.score == pytest.approx(other.score, abs=1e-3)


def test_motion_is_used(locator: Locator) -> None:
    """Photos 300 m apart are of four cells: only their path tells where the first is."""
    right = {"place": 0, "path": 0, "wrong path": 0}
    for seed in range(12):
        queries, motion, row = walk(locator.database, 4, 300.0, seed)
        for name, moved in (("place", None), ("path", motion), ("wrong path", -motion)):
            answer = answer_embeddings(locator, queries, motion_m=moved)
            lat, lon = s2.cell_centers(locator.database.ids[row : row + 1])
            right[name] += distance.haversine_m(lat[0], lon[0], answer.lat, answer.lon) < 150
    assert right["path"] >= 9
    assert right["path"] > right["place"] + 2
    assert right["path"] > right["wrong path"] + 2


def test_a_path_can_be_searched_in_a_region(locator: Locator) -> None:
    queries, motion, row = walk(locator.database, 3, 200.0)
    lat, lon = (float(each[0]) for each in s2.cell_centers(locator.database.ids[row : row + 1]))
    region = Region.cap(lat + 0.02, lon, 500)  # which does not hold the truth
    for moved in (None, motion):
        answer = answer_embeddings(locator, queries, motion_m=moved, region=region)
        assert region.contains(
            np.array([each.lat for each in answer.candidates]), np.array([each.lon for each in answer.candidates])
        ).all()
        assert 0 < sum(each.probability for each in answer.candidates) <= 1 + 1e-6


def test_any_searcher_serves(locator: Locator, tmp_path: Path) -> None:
    shards = split(locator.database, 3, out=tmp_path / "shards")
    sharded = Locator(locator.database, ShardedSearcher.open([each.folder for each in shards]))
    queries, motion, _ = walk(locator.database, 3, 200.0)
    for moved in (None, motion):
        one, other = (answer_embeddings(each, queries, motion_m=moved) for each in (locator, sharded))
        assert one.best.cell == other.best.cell
    part = Locator(locator.database, ShardedSearcher.open([shards[0].folder]))
    with pytest.raises(UsageError, match="one database"):
        answer_embeddings(part, queries, motion_m=motion)


def test_bad_photos_are_named_and_the_others_used(town_cells: Database, tmp_path: Path) -> None:
    town = Locator(town_cells)
    photos = sorted(town_cells.folder.parent.glob("photos/*.jpg"))[:2]
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    both = together.locate(town, photos)
    assert both.files == tuple(map(str, photos))
    answer = together.locate(town, [photos[0], empty, photos[1]], motion_m=[(0, 0), (9, 9), (0, 0)])
    assert answer.files == both.files
    assert answer.best.cell == both.best.cell
    assert [each.file for each in answer.unreadable] == [str(empty)]
    late = together.locate(town, [empty, photos[0]], motion_m=[(0, 0), (9, 9)])
    assert (late.file, late.files) == (str(empty), (str(photos[0]),))  # the place is the first's, seen or not
    assert list(answer.to_json())[:2] == ["files", "unreadable"]
    with pytest.raises(PhotoError, match=r"none of 1 photos.*empty"):
        together.locate(town, [empty])
    with pytest.raises(UsageError, match="motion"):
        together.locate(town, photos, motion_m=[(0, 0)])
    with pytest.raises(UsageError, match="no photos"):
        together.locate(town, [])


def test_a_motion_file_says_what_is_wrong(tmp_path: Path) -> None:
    path, files = tmp_path / "motion.csv", [Path("x/a.jpg"), Path("x/b.jpg")]
    path.write_text("file,east_m,north_m\nb.jpg,15,0\nx/a.jpg,5,-1\n")
    np.testing.assert_array_equal(together.read_motion(path, files), [[0, 0], [10, 1]])
    for text, said in (
        ("file,east_m\n", "north_m"),
        ("file,east_m,north_m\na.jpg,1,far\n", "line 2"),
        ("file,east_m,north_m\na.jpg,1,2\n", "0 lines for .*b.jpg"),
        ("file,east_m,north_m\na.jpg,1,2\na.jpg,1,2\n", "2 lines for .*a.jpg"),
        ("east_m,north_m,file\n1,2\n", "line 2: it names no file"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            together.read_motion(path, files)
    path.write_text("file,east_m,north_m\na.jpg,1,2\n")
    with pytest.raises(InputError, match=r"one line for x/a\.jpg and y/a\.jpg"):
        together.read_motion(path, [Path("x/a.jpg"), Path("y/a.jpg")])
    path.write_text("file,east_m,north_m\nx/a.jpg,1,2\ny/a.jpg,4,6\n")
    np.testing.assert_array_equal(together.read_motion(path, [Path("y/a.jpg"), Path("x/a.jpg")]), [[0, 0], [-3, -4]])


def test_most_photos_are_more_than_half(wide_cells: Database) -> None:
    queries, _, _ = walk(wide_cells, 2, 0.0)
    scores = (np.asarray(wide_cells.codes).astype(np.float32) @ queries.T).max(axis=0)
    between = replace(wide_cells.calibration, outside_score=float(scores.mean()))
    town = Locator(replace(wide_cells, calibration=between))
    assert [each.in_region for each in town.answers(["a", "b"], queries, 1, None)].count(True) == 1
    assert answer_embeddings(town, queries).in_region is False


def test_recall_rises_with_photos_of_the_same_groups(locator: Locator) -> None:
    cells, rng = locator.database, np.random.default_rng(2)
    rows = np.repeat(rng.choice(len(cells.ids), 10, replace=False), 4)
    codes = np.asarray(cells.codes[rows]).astype(np.float32)
    queries = codes / np.linalg.norm(codes, axis=1, keepdims=True) + 0.35 * rng.standard_normal(codes.shape)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    lat, lon = s2.cell_centers(cells.ids[rows])
    for along in (False, True):
        made = recall_by_count(locator, queries, lat, lon, places(lat, lon), counts=(1, 2, 4), along=along)
        assert [(row["photos"], row["groups"], row["answers"]) for row in made] == [
            (1, 10, 40),
            (2, 10, 20),
            (4, 10, 10),
        ]
        assert made[-1]["recall"] > made[0]["recall"]
    assert calibration_error(reliability(np.full(100, 0.25), np.arange(100) % 4 == 0, 1)) == pytest.approx(0)
