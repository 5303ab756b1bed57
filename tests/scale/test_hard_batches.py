"""Hard batches in two processes that are started and killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cellcode.geography import distance
from cellcode.photos import ingest
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing

pytestmark = pytest.mark.scale
CONFIG = """
levels: {prototype: 17, cell: 18}
photo: {width_px: 32, height_px: 32}
model: {dim: 16, ground: {backbone: tiny, aggregation: {name: gem}}}
loss: {query_query: 0.5}
validation: {block_m: 20, share: 0.1, withheld_share: 0}
prototypes: {mine_every_steps: 3}
stream: {window_shards: 2}
machine: {precision: float32, device: cpu, threads: 1}
training:
  epochs: 6
  batch_size: 16
  sampling_exponent: 0.5
  hard_group_size: 2
  checkpoint_every_steps: 4
"""


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 120 packed photos and the configuration."""
    folder = tmp_path_factory.mktemp("hard")
    rng = np.random.default_rng(0)
    lines = ["file,lat,lon,split"]
    for number in range(120):
        row, column = divmod(number % 48, 8)
        lat, lon = distance.offset(48.85, 2.35, 60 * column, 60 * row)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(folder / f"{number}.jpg")
        split = "validation" if number % 12 == 0 else "train"
        lines.append(f"{number}.jpg,{lat:.8f},{lon:.8f},{split}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = ingest(folder / "list.csv", out=folder / "table")
    pack.run(table, Packing(level=18, shard_photos=12), out=folder / "shards")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def _start(folder: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cellcode"]
    train = ["train", folder / "config.yaml", "--photos", folder / "shards", "--out", out, *more]
    return subprocess.Popen([sys.executable, *several, *map(str, train)], env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_processes_killed_in_the_middle_of_an_epoch_go_on_with_the_batches_they_would_have_had(
    packed_folder: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _start(packed_folder, whole).wait(300) == 0
    process = _start(packed_folder, killed)
    reached = killed / "checkpoint" / "00000020"
    for _ in range(3000):
        if reached.is_dir() or process.poll() is not None:
            break
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (*map(int, workers), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    begun = sorted((killed / "checkpoint").glob("[0-9]*"))[-1]
    kept = {name: value for name, value in load_file(begun / "state.safetensors").items() if name.startswith("alike.")}
    assert len(kept) >= 2
    assert all(value.dtype == torch.int32 and len(value.unique()) > 1 for value in kept.values())
    assert _start(packed_folder, killed, "--resume").wait(300) == 0
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
