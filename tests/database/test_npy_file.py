from pathlib import Path

import numpy as np
import pytest

from cellcode.database.store.rows import RowReader, RowWriter
from cellcode.errors import InputError


@pytest.mark.parametrize(("row", "dtype"), [((), np.uint64), ((5,), np.float16), ((2, 3), np.int8)], ids=str)
@pytest.mark.parametrize("blocks", [[], [0], [1], [3, 0, 1200, 1]], ids=str)
def test_rows_written_in_blocks_are_what_numpy_would_save(
    tmp_path: Path, row: tuple[int, ...], dtype: type, blocks: list[int]
) -> None:
    parts = [np.random.default_rng(count).integers(0, 100, (count, *row)).astype(dtype) for count in blocks]
    with RowWriter(tmp_path / "a.npy", row, dtype) as file:
        for part in parts:
            file.append(part)
    expected = np.concatenate([np.empty((0, *row), dtype), *parts])
    read = np.load(tmp_path / "a.npy", allow_pickle=False)
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == dtype
    np.save(tmp_path / "b.npy", expected)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_rows_are_converted_and_of_the_shape_promised(tmp_path: Path) -> None:
    with RowWriter(tmp_path / "a.npy", (2,), np.float16) as file:
        file.append(np.asfortranarray(np.array([[1.5, 2], [3, 4]])))
        with pytest.raises(ValueError, match="do not fit"):
            file.append(np.zeros((1, 3)))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.array([[1.5, 2], [3, 4]], np.float16))


@pytest.mark.parametrize("rows", [[3], [0, 1, 2, 9], [9, 8, 8, 3, 4, 5], list(range(10)), []])
def test_scattered_rows_are_those_of_the_array(tmp_path: Path, rows: list[int]) -> None:
    values = np.random.default_rng(0).standard_normal((10, 6)).astype(np.float16)
    np.save(tmp_path / "a.npy", values)
    reader = RowReader(tmp_path / "a.npy", np.load(tmp_path / "a.npy", mmap_mode="c"))
    np.testing.assert_array_equal(reader[np.array(rows, np.int64)], values[np.array(rows, np.int64)])
    np.testing.assert_array_equal(reader[2:7], values[2:7])
    assert (len(reader), reader.shape) == (10, (10, 6))


def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 8), np.float16))
    reader = RowReader(tmp_path / "a.npy", np.load(tmp_path / "a.npy", mmap_mode="c"))
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(InputError, match=r"a\.npy was truncated"):
        reader[np.array([90], np.int64)]
