from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import reseal, unseal

from cellcode import integrity
from cellcode.database import Database, clip, compress
from cellcode.database.store.layout import KIND
from cellcode.database.store.rows import Facts
from cellcode.errors import InputError
from cellcode.geography import Region
from cellcode.runs import Run
from cellcode.search import DatabaseSearcher

Replace = Callable[..., Path]


@pytest.fixture
def copy(mixed: Database, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mixed.folder, tmp_path / "copy.cells"))


@pytest.fixture
def searchable(wide_cells: Database, tmp_path: Path) -> Path:
    """A copy of a database with a first stage."""
    return Path(shutil.copytree(wide_cells.folder, tmp_path / "wide.cells"))


def replaced(folder: Path, name: str, content: Any) -> Path:
    """Put other bytes or another array in the place of a file, with a manifest that fits."""
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    reseal(folder)
    return folder


def test_every_file_is_in_the_manifest(mixed: Database) -> None:
    present = {str(path.relative_to(mixed.folder)) for path in mixed.folder.rglob("*") if path.is_file()}
    assert present == {*mixed.manifest["files"], "manifest.json"}
    mixed.verify()


def test_codes_are_mapped_not_read(mixed: Database) -> None:
    for array in (mixed.ids, mixed.codes, mixed.code_set.coarse, mixed.terms()[0]):
        assert isinstance(getattr(array, "base", None), np.memmap)


def test_nothing_is_written_through_a_mapping(copy: Path) -> None:
    opened = Database.open(copy)
    assert isinstance(opened.codes, np.ndarray)
    opened.codes[:] = 0
    opened.verify()


EVERY = (
    "cells.parquet", "codes.npy", "codes_int8.npy", "config.yaml", "ground.safetensors", "ids.npy", "queries.npy",
    "terms/aerial.npy", "terms/prototypes.npy", "terms/tiles.npy", "tile_digests.npy",
)  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_a_file_that_is_missing_or_of_another_length_is_named(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-3])
    with pytest.raises(InputError, match=rf"{name} is truncated \({len(data) - 3} of {len(data)} bytes\)"):
        Database.open(copy)
    (copy / name).write_bytes(data + b"more")
    with pytest.raises(InputError, match=rf"{name} is longer than it was written"):
        Database.open(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing"):
        Database.open(copy)


@pytest.mark.parametrize("name", ["first_stage.faiss", "first_stage_directions.npy", "first_stage_starts.npy"])
def test_a_truncated_first_stage_is_named(searchable: Path, name: str) -> None:
    data = (searchable / name).read_bytes()
    (searchable / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=rf"{name} is truncated"):
        Database.open(searchable)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "config.yaml"])
def test_a_flipped_bit_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-5] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(InputError, match=rf"{name} is not the file that its manifest was written for; copy or build"):
        Database.open(copy)


def test_a_flipped_bit_between_the_samples_of_a_large_file_is_found_by_verify(
    searchable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 samples of 4 kB are a tenth of these codes: opening does not see the rest, if it takes them for large."""
    path = searchable / "codes.npy"
    data = bytearray(path.read_bytes())
    data[4096 + (len(data) - 16 * 4096) // 30] ^= 1
    path.write_bytes(bytes(data))
    said = r"codes\.npy is not the file that its manifest was written for; copy or build the database again"
    with pytest.raises(InputError, match=said):
        Database.open(searchable)
    monkeypatch.setattr(integrity, "SMALL_BYTES", 1 << 16)
    opened = Database.open(searchable)
    with pytest.raises(InputError, match=said):
        opened.verify()


def test_a_setting_changed_by_hand_is_found(copy: Path) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("name: wide", "name: wild"))
    with pytest.raises(InputError, match=r"config\.yaml is not the file that its manifest was written for"):
        Database.open(copy)


def test_ids_out_of_order_are_found(copy: Path) -> None:
    ids = np.load(copy / "ids.npy")
    ids[[3, 4]] = ids[[4, 3]]
    with pytest.raises(InputError, match=r"ids\.npy is not in the order of its cells"):
        Database.open(replaced(copy, "ids.npy", ids)).verify()
    ids[4] = ids[3]
    with pytest.raises(InputError, match="not in the order"):
        Database.open(replaced(copy, "ids.npy", np.sort(ids))).verify()


def _open_all(folder: Path) -> None:
    opened = Database.open(folder)
    _ = opened.code_set, opened.facts, opened.tiles(), opened.tile_digests(), opened.terms(), opened.queries
    DatabaseSearcher(opened).search(np.ones((1, 32), np.float32), 1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ids.npy", lambda a: a[:-1]),
        ("ids.npy", lambda a: a.astype(np.int64)),
        ("ids.npy", lambda a: a[:, None]),
        ("codes.npy", lambda a: a[1:]),
        ("codes.npy", lambda a: a[:, :-1]),
        ("codes.npy", lambda a: a.astype(np.float32)),
        ("codes.npy", lambda a: a.ravel()),
        ("codes_int8.npy", lambda a: a[:, :-1]),
        ("codes_int8.npy", lambda a: a.astype(np.uint8)),
        ("terms/aerial.npy", lambda a: a[:-1]),
        ("terms/prototypes.npy", lambda a: a.astype(np.float64)),
        ("terms/tiles.npy", lambda a: a[:, 1:]),
        ("tile_digests.npy", lambda a: a[:-1]),
        ("queries.npy", lambda a: a[:, :-1]),
        ("queries.npy", lambda a: a.astype(np.float64)),
    ],
)
def test_an_array_of_another_shape_or_type_than_promised_is_named(
    copy: Path, name: str, change: Callable[[Any], Any]
) -> None:
    replaced(copy, name, change(np.load(copy / name)))
    with pytest.raises(InputError, match=rf"{name} holds .* values, not the .* that its manifest promises"):
        _open_all(copy)


@pytest.mark.parametrize("name", [name for name in EVERY if name.endswith(".npy")])
@pytest.mark.parametrize(
    "content", [b"", b"no array" * 50, np.array([{"a": 1}, None], object)], ids=["empty", "text", "pickle"]
)
def test_a_file_that_is_no_array_is_named_and_nothing_is_unpickled(
    copy: Path, name: str, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(copy, name, content)
    for loader in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, loader, lambda *given, **named: pytest.fail("unpickled"))
    with pytest.raises(InputError, match=name):
        _open_all(copy)


def test_a_table_of_other_cells_is_named(copy: Path, mixed: Database) -> None:
    replaced(copy, "cells.parquet", b"nothing of the kind")
    with pytest.raises(InputError, match=r"cells\.parquet cannot be read"):
        _open_all(copy)
    part = clip(mixed, Region.cap(52.05, 3.1, 300), out=copy.with_name("part.cells"))
    replaced(copy, "cells.parquet", (part.folder / "cells.parquet").read_bytes())
    with pytest.raises(
        InputError, match=rf"cells\.parquet holds other cells than ids\.npy \({len(part.ids)} and {len(mixed.ids)}\)"
    ):
        _open_all(copy)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("first_stage.faiss", lambda data: b"nothing of the kind" * 100),
        ("first_stage.faiss", lambda data: data[:-100]),
        ("first_stage_directions.npy", lambda data: b"nothing"),
        ("first_stage_directions.npy", lambda data: data[:-100]),
        ("first_stage_starts.npy", lambda data: b"nothing"),
        ("first_stage_starts.npy", lambda data: data[:-100]),
    ],
)
def test_a_damaged_first_stage_is_named(
    searchable: Path, wide_cells: Database, name: str, change: Callable[[bytes], bytes]
) -> None:
    replaced(searchable, name, change((searchable / name).read_bytes()))
    opened = Database.open(searchable)
    with pytest.raises(InputError, match=name):
        DatabaseSearcher(opened, "two_stage").search(wide_cells.queries[:1], 1)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("first_stage_directions.npy", np.zeros((2, 32, 30), np.float32)),
        ("first_stage_directions.npy", np.zeros((32, 32), np.float32)),
        ("first_stage_starts.npy", np.zeros((2, 50), np.uint32)),
        ("first_stage_starts.npy", np.zeros(50, np.float32)),
    ],
)
def test_a_first_stage_that_does_not_fit_is_named(
    searchable: Path, wide_cells: Database, name: str, array: Any
) -> None:
    replaced(searchable, name, array)
    with pytest.raises(InputError, match=r"first_stage"):
        DatabaseSearcher(Database.open(searchable), "two_stage").search(wide_cells.queries[:1], 1)


def test_a_first_stage_that_does_not_end_with_the_cells_is_named(searchable: Path, wide_cells: Database) -> None:
    starts = np.load(searchable / "first_stage_starts.npy")
    starts[-1] += 5
    replaced(searchable, "first_stage_starts.npy", starts)
    with pytest.raises(InputError, match=r"first_stage_starts\.npy"):
        DatabaseSearcher(Database.open(searchable), "two_stage").search(wide_cells.queries[:1], 1)


def test_a_damaged_codebook_is_named(mixed: Database, tmp_path: Path) -> None:
    packed = compress(mixed, 2, out=tmp_path / "packed.cells")
    replaced(packed.folder, "codebook.safetensors", b"nothing of the kind")
    with pytest.raises(InputError, match=r"codebook\.safetensors is not a readable codebook"):
        Database.open(packed.folder)


def test_an_encoder_of_another_model_is_refused(copy: Path, wide_run: Run) -> None:
    torch.manual_seed(1)
    state = {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in wide_run.ground.state_dict().items()
    }
    opened = Database.open(copy)
    save_file({name: value.contiguous() for name, value in state.items()}, copy / "ground.safetensors")
    with pytest.raises(InputError, match="does not belong to this database"):
        opened.encoder()
    with pytest.raises(InputError, match=r"ground\.safetensors is not the file"):
        Database.open(copy)


def test_the_encoder_is_that_of_the_run(mixed: Database, wide_run: Run) -> None:
    photos = torch.randint(256, (2, 24, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(mixed.encoder()(photos), wide_run.ground(photos), atol=0, rtol=0)


@pytest.mark.parametrize("version", [1, 99, None])
def test_another_version_is_refused(copy: Path, version: int | None) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
    with pytest.raises(
        InputError, match=rf"version {version}, this program reads version 3; copy or build the database"
    ):
        Database.open(copy)


def test_a_database_of_the_version_before_digests_opens_and_is_checked_as_far_as_it_says(copy: Path) -> None:
    unseal(copy, 2)
    Database.open(copy).verify()
    path = copy / "terms" / "tiles.npy"
    data = path.read_bytes()
    path.write_bytes(bytes([*data[:-1], data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"tiles\.npy is not the file"):
        Database.open(copy)


def test_a_changed_value_of_the_manifest_is_found(copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    for key in ("temperature", "level", "dim", "licences"):
        changed = text.replace(f'"{key}', f'"{key[:-1]}', 1)
        assert changed != text
        (copy / "manifest.json").write_text(changed)
        with pytest.raises(
            InputError, match=r"manifest\.json was changed or damaged after it was written; copy or build"
        ):
            Database.open(copy)
    (copy / "manifest.json").write_text(json.dumps(json.loads(text)))  # spelled otherwise
    Database.open(copy)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "cellcode-photos"}', "not json", ""])
def test_another_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"is not the manifest of a cellcode-database|is not valid JSON"):
        Database.open(copy)


@pytest.mark.parametrize("key", ["cells", "dim", "codes", "search", "files", "calibration", "levels", "bounds", "run"])
def test_a_manifest_without_a_key_is_refused(copy: Path, key: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest[key]
    KIND.write(copy / "manifest.json", manifest)
    with pytest.raises(InputError, match=rf"manifest\.json does not say {key}"):
        Database.open(copy)


@pytest.mark.parametrize(
    "name",
    ["ids.npy", "codes.npy", "codes_int8.npy", "cells.parquet", "config.yaml", "ground.safetensors", "queries.npy"],
)
def test_a_manifest_that_does_not_name_a_needed_file_is_refused(copy: Path, name: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"][name]
    KIND.write(copy / "manifest.json", manifest)
    with pytest.raises(InputError, match=rf"manifest\.json does not name {name}"):
        Database.open(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": {"ids.npy": 7}},
        {"cells": {}},
        {"cells": 5},
        {"dim": "wide"},
        {"dim": None},
        {"calibration": {"kappa": 1, "more": 2}},
        {"calibration": None},
    ],
    ids=str,
)
def test_a_manifest_whose_values_make_no_sense_is_named(copy: Path, changes: dict[str, Any]) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    KIND.write(copy / "manifest.json", manifest | changes)
    with pytest.raises(InputError, match=r"manifest\.json (is damaged \(|does not name )"):
        Database.open(copy)


def test_a_table_of_as_many_other_cells_is_named(copy: Path, mixed: Database) -> None:
    moved = mixed.facts.table(np.asarray(mixed.ids) + np.uint64(2))
    buffer = io.BytesIO()
    pq.write_table(moved, buffer)
    replaced(copy, "cells.parquet", buffer.getvalue())
    with pytest.raises(InputError, match=r"cells\.parquet holds other cells than ids\.npy"):
        _ = Database.open(copy).facts


def test_facts_come_with_the_ids_of_their_cells(mixed: Database) -> None:
    ids, facts = Facts.load(mixed.folder / "cells.parquet")
    np.testing.assert_array_equal(ids, mixed.ids)
    np.testing.assert_array_equal(facts.photos, mixed.facts.photos)
