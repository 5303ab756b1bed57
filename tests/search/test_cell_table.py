"""The Parquet table of cells, read back by a vector store: DuckDB finds the cells that the exact search finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellcode.cli import main
from cellcode.database import Database
from cellcode.geography import s2
from cellcode.search import DatabaseSearcher, cell_table

TOP = 10


@pytest.fixture(scope="module")
def table(wide_cells: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cell_table.export_parquet(wide_cells, tmp_path_factory.mktemp("table") / "cells.parquet")


def test_it_has_one_row_per_cell(wide_cells: Database, table: Path) -> None:
    read = pq.read_table(table)
    assert read.schema.field("cell").type == pa.uint64()
    assert read.schema.field("code").type == pa.list_(pa.float32(), wide_cells.code_set.dim)
    np.testing.assert_array_equal(read["cell"].to_numpy(), wide_cells.ids)
    assert read["token"].to_pylist() == s2.tokens(wide_cells.ids)
    np.testing.assert_array_equal(
        np.stack([read["lat"].to_numpy(), read["lon"].to_numpy()]), np.stack(s2.cell_centers(wide_cells.ids))
    )
    codes = read["code"].combine_chunks().flatten().to_numpy().reshape(len(read), -1)
    np.testing.assert_array_equal(codes, np.asarray(wide_cells.codes, np.float32))
    facts = json.loads(read.schema.metadata[cell_table.METADATA])
    assert facts["database"] == wide_cells.identity
    assert (facts["level"], facts["dim"]) == (wide_cells.level, wide_cells.code_set.dim)
    assert facts["attributions"] == wide_cells.manifest["attributions"]


def test_it_is_written_in_batches_and_at_once(
    wide_cells: Database, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_table, "BATCH_BYTES", 4 * wide_cells.code_set.dim * 1000)
    small = cell_table.export_parquet(wide_cells, tmp_path / "cells.parquet")
    assert pq.ParquetFile(small).metadata.num_row_groups == -(-len(wide_cells.ids) // 1000)
    assert pq.read_table(small).equals(pq.read_table(table))

    def broken(*_: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(s2, "tokens", broken)
    before = small.read_bytes()
    with pytest.raises(RuntimeError, match="disk is full"):
        cell_table.export_parquet(wide_cells, small)
    assert [path.name for path in tmp_path.iterdir()] == [small.name]
    assert small.read_bytes() == before


def test_duckdb_finds_the_cells_of_the_exact_search(wide_cells: Database, table: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    queries, dim = wide_cells.queries[:20], wide_cells.code_set.dim
    hits = DatabaseSearcher(wide_cells, "exact").search(queries, TOP)
    with duckdb.connect() as store:
        store.execute("CREATE TABLE cells AS SELECT * FROM read_parquet(?)", [str(table)])
        for query, ids, scores in zip(queries, hits.cell_ids, hits.scores, strict=True):
            found = store.execute(
                f"SELECT cell, array_inner_product(code::FLOAT[{dim}], ?::FLOAT[{dim}]) AS score FROM cells "
                f"ORDER BY score DESC, cell LIMIT {TOP}",
                [query.tolist()],
            ).fetchall()
            assert [cell for cell, _ in found] == ids.tolist()
            np.testing.assert_allclose([score for _, score in found], scores, rtol=1e-5)


def test_the_command_writes_and_names_the_file(
    town_cells: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "cells.parquet"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(town_cells.folder), "--to", "parquet", "--out", str(out)])
    assert not ended.value.code
    assert capsys.readouterr().out == f"{out}\n"
    assert pq.ParquetFile(out).metadata.num_rows == len(town_cells.ids)
