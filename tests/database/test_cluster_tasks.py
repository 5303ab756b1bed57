"""Builds and embeddings over a Ray of this machine, against those of one process; workers that are lost."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellcode import build
from cellcode.aerial import open_source
from cellcode.database import Database
from cellcode.database.building import cluster_tasks
from cellcode.database.building.embedding import embed
from cellcode.distributed.ray_tasks import over_ranges
from cellcode.errors import CellcodeError, InputError, UsageError
from cellcode.geography import Region
from cellcode.photos import PhotoTable
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing
from cellcode.runs import Run

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray of two logical processors that all tests here share."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    settings: dict[str, Any] = {"object_store_memory": 80 << 20, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, _node_ip_address="127.0.0.1", **settings)
    yield "auto"
    ray.shutdown()


def test_a_build_on_a_cluster_gives_the_same_codes(
    cluster: str, wide_run: Run, imagery: Path, area: Region, mixed: Database, tmp_path: Path
) -> None:
    overrides = ["build.shard_depth=2", "build.aerial_smoothing_cells=0.5"]
    made = build(wide_run, imagery, area, out=tmp_path / "cells", overrides=overrides, cluster=cluster)
    np.testing.assert_array_equal(made.ids, mixed.ids)
    np.testing.assert_allclose(np.load(made.folder / "codes.npy"), np.load(mixed.folder / "codes.npy"), atol=2e-3)
    assert made.manifest["cells"] == mixed.manifest["cells"]
    source = open_source(imagery)
    with pytest.raises(UsageError, match="open source"):
        build(wide_run, source, area, out=tmp_path / "cells", cluster=cluster)


def test_photos_are_embedded_a_shard_a_task(
    cluster: str, town_run: Run, town_photos: PhotoTable, tmp_path: Path
) -> None:
    packed = pack.run(town_photos, Packing(shard_photos=64), out=tmp_path / "shards")
    folder = cluster_tasks.embed_photos(town_run, packed, "train", tmp_path / "embedded", cluster)
    names = packed.shards("train").names
    files = [town_photos.root / name for shard in names for name in packed.rows("train", shard)["file"].to_pylist()]
    expected, _, _ = embed(town_run.ground, town_run.config, files, device="cpu")
    made = np.concatenate([np.load(folder / f"{name}.npy") for name in names])
    assert (made * expected).sum(axis=1).min() > 0.999
    kept = (folder / f"{names[1]}.npy").stat().st_mtime_ns
    (folder / f"{names[0]}.npy").unlink()
    cluster_tasks.embed_photos(town_run, packed, "train", tmp_path / "embedded", cluster)
    assert (folder / f"{names[0]}.npy").is_file()
    assert (folder / f"{names[1]}.npy").stat().st_mtime_ns == kept


def test_a_lost_worker_costs_its_range_only(cluster: str, tmp_path: Path) -> None:
    def work(number: int, folder: str) -> int:
        mark = Path(folder) / f"{number}.{len(list(Path(folder).glob(f'{number}.*')))}"
        mark.touch()
        if number == 3 and mark.name == "3.0":
            os._exit(1)
        return number * number

    made = {
        number: result for (number, _), result in over_ranges(work, [(n, str(tmp_path)) for n in range(8)], cluster)
    }
    assert made == {number: number * number for number in range(8)}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(f"{n}.0" for n in range(8)), "3.1"])


def test_an_error_of_a_task_is_the_error_of_the_whole(cluster: str) -> None:
    def refuse(number: int) -> None:
        if number:
            raise InputError(f"range {number} cannot be used")
        raise ValueError("unforeseen")

    with pytest.raises(InputError, match="range 1 cannot"):
        list(over_ranges(refuse, [(1,)], cluster))
    with pytest.raises(CellcodeError, match="ValueError: unforeseen"):
        list(over_ranges(refuse, [(0,)], cluster))
