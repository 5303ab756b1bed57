"""A small rendered world, packed, and what it takes to start trainings on it under torchrun."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cellcode import simulate
from cellcode.cli import main
from cellcode.photos import SplitRule, ingest

PATIENCE_S = 240.0  # for what takes a few seconds on a machine that does nothing else
CONFIG = """
name: scale
levels: {prototype: 16, cell: 18}
photo: {width_px: 32, height_px: 32}
tile: {size_m: 80, size_px: 32}
model:
  dim: 16
  ground: {backbone: tiny, aggregation: {name: gem}}
  aerial: {backbone: tiny, aggregation: {name: mean}}
augmentation: {tile_translation_m: 15}
prototypes: {table: sharded, negatives: sampled, share: 0.5, hard_rows: 1, mine_every_steps: 7}
loss: {kind: softmax}
stream: {window_shards: 2}
machine: {precision: float32, device: cpu, threads: 1}
training:
  epochs: 6
  batch_size: 12
  random_tiles: 2
  checkpoint_every_steps: 4
  log_every_steps: 1
"""


@dataclass
class World:
    """Photo table, imagery, configuration and packed photos of a place of 500 m."""

    table: Path
    aerial: Path
    config: Path
    shards: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = simulate(tmp_path_factory.mktemp("scale") / "world", size_km=0.5, photos=160, seed=3)
    ingest(made.photos_dir, out=made.out / "table", split=SplitRule(kind="date"))
    (made.out / "config.yaml").write_text(CONFIG, encoding="utf-8")
    world = World(made.out / "table", made.aerial_path, made.out / "config.yaml", made.out / "shards")
    how = ["--config", str(world.config), "--shard-photos", "12"]
    with pytest.raises(SystemExit) as ended:
        main(["pack", str(world.table), "--out", str(world.shards), *how])
    assert ended.value.code == 0
    return world


@dataclass
class Training:
    """A training that torchrun has started, in a session of its own."""

    process: subprocess.Popen[str]
    out: Path
    text: str = field(default="", init=False)

    def wait(self) -> int:
        """Wait for the end; return torchrun's exit status."""
        self.text = self.process.communicate(timeout=PATIENCE_S)[1]
        return self.process.returncode

    def wait_for_lines(self, count: int) -> None:
        """Wait until the log has so many lines."""
        self._wait_until(lambda: len((self.out / "log.jsonl").read_text(encoding="utf-8").splitlines()) >= count)

    def worker(self, rank: int) -> int:
        """Return the id of the process with a number."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return int(pid)
        raise LookupError(f"torchrun has no process {rank}")

    def kill(self) -> None:
        """End torchrun and all that it started at once."""
        for pid in (self.process.pid, *self._children()):
            os.kill(pid, signal.SIGKILL)
        self.wait()

    def _children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def _wait_until(self, there: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.process.communicate()[1]
            try:
                if there():
                    return
            except FileNotFoundError:
                pass
            time.sleep(0.01)
        raise TimeoutError


Start = Callable[..., Training]


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    """Starts `cellcode train` under torchrun: start(OUT, PROCESSES, *words of the command, torchrun=words of torchrun)."""
    started: list[Training] = []

    def begin(
        out: Path,
        processes: int,
        *words: str,
        photos: Path = world.shards,
        torchrun: tuple[str, ...] = ("--standalone",),
    ) -> Training:
        several = ["-m", "torch.distributed.run", *torchrun, f"--nproc-per-node={processes}", "-m", "cellcode"]
        what = ["train", str(world.config), "--photos", str(photos), "--aerial", str(world.aerial), "--out", str(out)]
        process = subprocess.Popen(
            [sys.executable, *several, *what, *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(Training(process, out))
        return started[-1]

    yield begin
    for training in started:
        if training.process.poll() is None:
            training.kill()
