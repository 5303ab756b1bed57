"""cellcode locate --cluster: a folder of shards on a Ray of its own, which ends with the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellcode.database import Database, split
from cellcode.photos import PhotoTable
from cellcode.search import Locator

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def test_cells_and_scores_are_those_of_the_whole(town_cells: Database, town_photos: PhotoTable, tmp_path: Path) -> None:
    """Masses are summed by each shard, so probabilities and radii are close, not equal."""
    split(town_cells, 2, out=tmp_path / "shards")
    files = [str(file) for file in town_photos.of_split("test").files[:8]]
    done = subprocess.run(
        [sys.executable, "-m", "cellcode", "locate", str(tmp_path / "shards"), *files, "--json", "--cluster", "local"],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole = [each.to_json() for each in Locator(town_cells).locate_many(files)]
    for ours, alone in zip(map(json.loads, done.stdout.splitlines()), whole, strict=True):
        for name in ("file", "cell", "score", "lat", "lon", "in_region"):
            assert ours[name] == alone[name]
        for one, other in zip(ours["candidates"], alone["candidates"], strict=True):
            assert (one["cell"], one["score"]) == (other["cell"], other["score"])
            assert one["probability"] == pytest.approx(other["probability"], rel=1e-3)
        assert ours["radius_90_m"] == pytest.approx(alone["radius_90_m"], rel=1e-2)
