from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cellcode.errors import UsageError
from cellcode.geography.distance import EARTH_RADIUS_M, haversine_m
from cellcode.photos.table.photo_table import SCHEMA, PhotoTable
from cellcode.photos.table.splits import SplitRule, assign, blocks, by_date, by_position
from cellcode.types import Float64, Int64


def _town(count: int, seed: int = 0, lat0: float = 48.0, lon0: float = 2.0) -> tuple[Float64, Float64]:
    """Photos along 4 x 4 km, denser in the middle."""
    rng = np.random.default_rng(seed)
    north, east = rng.normal(0, 1500, (2, count)).clip(-4000, 4000)
    step = np.deg2rad(EARTH_RADIUS_M)
    lon = lon0 + east / step / np.cos(np.deg2rad(lat0))
    return lat0 + north / step, (lon + 180) % 360 - 180


def _table(lat: Float64, lon: Float64, days: Int64 | None = None) -> PhotoTable:
    """Days count from 1 January 2024; -1 is unknown."""
    moments: list[Any] = [None] * len(lat)
    if days is not None:
        noon = np.datetime64("2024-01-01T12:00:00", "ms")
        moments = [None if day < 0 else (noon + np.timedelta64(int(day), "D")).item() for day in days]
    return PhotoTable(
        pa.Table.from_pylist(
            [
                {
                    **dict.fromkeys(SCHEMA.names),
                    "file": f"{row}.jpg",
                    "lat_deg": lat[row],
                    "lon_deg": lon[row],
                    "captured_at": moments[row],
                    "split": "none",
                    "source": "list",
                    "width_px": 48,
                    "height_px": 32,
                }
                for row in range(len(lat))
            ],
            SCHEMA,
        ),
        Path(),
    )


@pytest.mark.parametrize(("lat0", "lon0"), [(48.0, 2.0), (-33.0, 179.99), (85.0, -180.0), (0.0, 0.0)])
def test_no_block_is_shared_between_train_and_test(lat0: float, lon0: float) -> None:
    lat, lon = _town(3000, 1, lat0, lon0)
    tested = by_position(lat, lon, block_m=250, share=0.2, seed=0)
    block = blocks(lat, lon, 250)
    assert not set(block[tested]) & set(block[~tested])
    assert 0.15 < tested.mean() < 0.25


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_share_is_met_within_the_largest_block(share: float, seed: int) -> None:
    lat, lon = _town(2000, 2)
    tested = by_position(lat, lon, block_m=300, share=share, seed=seed)
    largest = np.unique(blocks(lat, lon, 300), return_counts=True)[1].max()
    assert abs(tested.sum() - share * 2000) <= largest / 2


def test_choice_of_blocks_does_not_depend_on_the_order_of_the_photos() -> None:
    lat, lon = _town(2000, 3)
    order = np.random.default_rng(4).permutation(2000)
    tested = by_position(lat, lon, block_m=200, share=0.2, seed=7)
    np.testing.assert_array_equal(by_position(lat[order], lon[order], block_m=200, share=0.2, seed=7), tested[order])


def test_seed_changes_the_choice() -> None:
    lat, lon = _town(2000, 3)
    first, second = (by_position(lat, lon, block_m=200, share=0.2, seed=seed) for seed in (0, 1))
    assert (first != second).any()
    np.testing.assert_array_equal(first, by_position(lat, lon, block_m=200, share=0.2, seed=0))


@pytest.mark.parametrize(("lat0", "lon0"), [(48.0, 2.0), (-70.0, 180.0), (0.0, 0.0), (89.9, 33.0)])
def test_blocks_are_compact_and_of_the_stated_size(lat0: float, lon0: float) -> None:
    lat, lon = _town(4000, 5, lat0, lon0) if lat0 < 89 else (np.full(500, 89.99), np.linspace(-180, 180, 500))
    block = blocks(lat, lon, 500)
    edges_m = []
    for number in np.unique(block):
        rows = block == number
        apart = haversine_m(lat[rows][:, None], lon[rows][:, None], lat[rows], lon[rows])
        assert apart.max() <= 500 * np.hypot(1, 1.6)  # evenly divided parallels near a pole make columns wider
        edges_m.append(apart.max())
    assert max(edges_m) > 300


def test_photos_on_both_sides_of_the_antimeridian_are_split_evenly_into_blocks() -> None:
    lon = np.array([179.9999, -179.9999, 180.0, -180.0])
    block = blocks(np.full(4, 10.0), lon, 100)
    assert block[2] == block[3]  # one meridian with two names
    assert block[1] == block[3]
    assert block[0] != block[1]


def test_only_the_last_days_are_tested() -> None:
    days = np.array(
        ["2024-01-01T23:59", "2024-01-03T00:00", "2024-01-02T10:00", "NaT", "2024-01-03T23:59"], "datetime64[ms]"
    )
    assert by_date(days).tolist() == [False, True, False, False, True]
    assert by_date(days, dates=2).tolist() == [False, True, True, False, True]


@pytest.mark.parametrize("days", [["2024-01-01", "2024-01-01"], ["NaT"], []])
def test_split_by_date_needs_more_days_than_it_tests(days: list[str]) -> None:
    with pytest.raises(UsageError, match="needs more capture days"):
        by_date(np.array(days, "datetime64[ms]"))


def test_assign_by_position_tests_whole_blocks_and_notes_the_rule() -> None:
    lat, lon = _town(1000, 6)
    rule = SplitRule(kind="position", block_m=200, test_share=0.3, seed=2)
    table = assign(_table(lat, lon), rule)
    expected = by_position(lat, lon, block_m=200, share=0.3, seed=2)
    assert table.split.tolist() == np.where(expected, "test", "train").tolist()
    assert table.notes is not None
    assert table.notes["split_rule"] == {
        "kind": "position",
        "block_m": 200,
        "test_share": 0.3,
        "test_dates": 1,
        "buffer_m": 0.0,
        "seed": 2,
    }


def test_assign_by_date_leaves_out_undated_photos(caplog: pytest.LogCaptureFixture) -> None:
    lat, lon = _town(6)
    table = assign(_table(lat, lon, np.array([0, 3, -1, 2, 3, 1])), SplitRule(kind="date", test_dates=2))
    assert table.split.tolist() == ["train", "test", "none", "test", "test", "train"]
    assert "1 photos without a date" in caplog.text


def test_assign_by_both_shares_neither_blocks_nor_days() -> None:
    lat, lon = _town(2000, 7)
    days = np.random.default_rng(8).integers(-1, 10, 2000)
    table = assign(_table(lat, lon, days), SplitRule(kind="both", block_m=300, test_share=0.4, test_dates=4))
    block, split = blocks(lat, lon, 300), table.split
    in_block, on_day = by_position(lat, lon, block_m=300, share=0.4, seed=0), days >= 6
    expected = np.where(in_block & on_day, "test", np.where(~in_block & ~on_day & (days >= 0), "train", "none"))
    assert split.tolist() == expected.tolist()
    assert {"train", "test", "none"} == set(split)
    assert not set(block[split == "train"]) & set(block[split == "test"])
    assert not set(days[split == "train"]) & set(days[split == "test"])


def test_assign_none_trains_on_everything() -> None:
    table = assign(_table(*_town(50)), SplitRule(kind="none", buffer_m=100))
    assert (table.split == "train").all()


@pytest.mark.parametrize("kind", ["position", "date", "both"])
@pytest.mark.parametrize(("lat0", "lon0"), [(48.0, 2.0), (-60.0, 180.0), (89.99, 10.0)])
def test_buffer_keeps_training_photos_away_from_tested_ones(lat0: float, lon0: float, kind: Any) -> None:
    lat, lon = _town(600, 9, lat0, lon0)
    lat = np.minimum(lat, 90)
    days = np.random.default_rng(10).integers(0, 12, 600)
    options: dict[str, Any] = {"kind": kind, "block_m": 400, "test_share": 0.4, "test_dates": 5}
    without = assign(_table(lat, lon, days), SplitRule(**options)).split
    split = assign(_table(lat, lon, days), SplitRule(**options, buffer_m=150)).split
    apart = haversine_m(lat[:, None], lon[:, None], lat, lon)
    nearest = np.where(without == "test", apart, np.inf).min(axis=1)
    expected = np.where((without == "train") & (nearest < 150), "none", without)
    assert split.tolist() == expected.tolist()
    assert (split != without).any()
    assert apart[split == "train"][:, split == "test"].min() >= 150


def test_rows_and_other_columns_are_left_as_they_were() -> None:
    table = _table(*_town(100), np.arange(100) % 3)
    made = assign(table, SplitRule())
    assert made.rows.drop(["split"]).equals(table.rows.drop(["split"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "random"},
        {"block_m": 0},
        {"block_m": -5},
        {"block_m": float("nan")},
        {"test_share": -0.1},
        {"test_share": 1.1},
        {"test_share": float("nan")},
        {"test_dates": 0},
        {"buffer_m": -1},
        {"buffer_m": float("nan")},
    ],
    ids=str,
)
def test_rule_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="split"):
        SplitRule(**wrong)
