"""Several processes over gloo on this machine, started as torchrun starts them. Under torchrun itself: tests/scale."""

import importlib.util
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.errors import OutputError, UsageError
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.training import train
from cellcode.training.loop import checkpoints
from cellcode.training.loop.trainer import Trainer
from cellcode.training.train import prepare

PEER = Path(__file__).with_name("peer.py")
Configure = Callable[..., Config]
Log = Callable[[Path], list[dict[str, Any]]]
SHARDED = (
    "prototypes.table=sharded",
    "prototypes.negatives=sampled",
    "prototypes.share=0.5",
    "prototypes.hard_rows=1",
    "prototypes.mine_every_steps=3",
    "loss.kind=softmax",
)


def _start(world: int, *arguments: object) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, PEER, *map(str, arguments)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(world)
    ]


def _run(world: int, *arguments: object) -> list[str]:
    processes = _start(world, *arguments)
    texts = [process.communicate(timeout=300)[1] for process in processes]
    for process, text in zip(processes, texts, strict=True):
        assert process.returncode == 0, text
    return texts


@pytest.fixture(scope="session")
def peer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer", PEER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def table(grid_photos: PhotoTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "table"
    grid_photos.save(folder)
    return folder


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.scale)])
def test_several_processes_learn_what_one_learns(world: int, peer: ModuleType, tmp_path: Path) -> None:
    _run(world, "teach", tmp_path / "many")
    for case in peer.CASES:
        one = peer.teach(case)
        with np.load(tmp_path / f"many-{case}.npz") as many:
            for name, value in one.items():
                np.testing.assert_allclose(many[name], value, atol=1e-5, err_msg=f"{case} {name}")
        assert np.ptp(one["losses"], axis=0).max() > 0.01


@pytest.fixture(scope="session")
def two(
    small_config: Configure, table: Path, grid_imagery: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A configuration and what two processes made of it."""
    folder = tmp_path_factory.mktemp("two")
    more = ("training.keep_checkpoints=9", "training.ema_decay=0.9", "training.random_tiles=3")
    path = folder / "config.yaml"
    path.write_text(configuration.dump(small_config(*SHARDED, *more)), encoding="utf-8")
    texts = _run(2, "train", path, table, folder / "run", "", "", grid_imagery)
    assert "trained on 36 photos" in texts[0]
    assert "trained on" not in texts[1]
    return path, folder / "run"


@pytest.mark.scale
def test_what_two_processes_train_is_a_run_that_one_can_continue(
    two: tuple[Path, Path], table: Path, grid_imagery: Path, log_lines: Log, tmp_path: Path
) -> None:
    config, made = two
    lines = log_lines(made)
    assert [line["step"] for line in lines] == list(range(8))
    assert lines[-1]["loss"] < lines[0]["loss"]
    run = Run.load(made)
    assert run.prototypes is not None
    assert not (made / "cache").exists()
    out = tmp_path / "run"
    shutil.copytree(made, out)
    shutil.rmtree(out / "checkpoint" / "00000008")
    assert len(list((out / "checkpoint" / "00000006").glob("rows-*"))) == 2

    resumed = train(config, table, grid_imagery, out=out, resume=True)
    assert [line["step"] for line in log_lines(out)] == list(range(8))
    assert log_lines(out)[:6] == lines[:6]
    assert resumed.prototypes is not None
    # The two ways of drawing augmentations differ, and so do the last two steps; the table is near all the same.
    assert (resumed.prototypes.all() * run.prototypes.all()).sum(dim=1).min() > 0.99


@pytest.mark.scale
def test_when_a_process_is_killed_the_other_stops_naming_it_and_both_resume_to_the_same_end(
    two: tuple[Path, Path], table: Path, grid_imagery: Path, log_lines: Log, tmp_path: Path
) -> None:
    config, whole = two
    out = tmp_path / "run"
    _check_death(_start(2, "train", config, table, out, "", "kill", grid_imagery), "")
    assert [path.name for path in (out / "checkpoint").glob("[!.]*")] == ["00000003"]
    _run(2, "train", config, table, out, "resume", "", grid_imagery)
    assert log_lines(out) == log_lines(whole)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, out))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.scale
def test_when_a_process_fails_the_other_stops_saying_why(
    two: tuple[Path, Path], table: Path, grid_imagery: Path, tmp_path: Path
) -> None:
    processes = _start(2, "train", two[0], table, tmp_path / "run", "", "error", grid_imagery)
    _check_death(processes, "the cat ate photo 7")


def _check_death(processes: list[subprocess.Popen[str]], reason: str) -> None:
    processes[1].wait(timeout=300)
    died = time.monotonic()
    text = processes[0].communicate(timeout=60)[1]
    processes[1].communicate()
    assert time.monotonic() - died < 60
    assert processes[0].returncode == 1
    assert f"process 0 stops because process 1 died: {reason}" in text


def test_batches_that_do_not_divide_by_the_processes_are_refused(
    small_config: Configure, grid_photos: PhotoTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cellcode.distributed.collectives.world", lambda: 3)
    with pytest.raises(UsageError, match="4 places per batch do not divide by 3 processes"):
        prepare(small_config(), grid_photos, out=tmp_path, resume=False)


def test_a_sharded_training_stopped_and_resumed_is_the_one_never_stopped(
    small_config: Configure, grid_photos: PhotoTable, log_lines: Log, tmp_path: Path
) -> None:
    config = small_config(*SHARDED, "training.gradient_accumulation=2", "training.epochs=4")
    train(config, grid_photos, out=tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    stopped = tmp_path / "stopped"
    take = Trainer.step
    with pytest.MonkeyPatch.context() as patch:

        def step(self: Trainer, number: int) -> dict[str, float]:
            if number == 5:
                raise KeyboardInterrupt
            return take(self, number)

        patch.setattr(Trainer, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(config, grid_photos, out=stopped)
    train(config, grid_photos, out=stopped, resume=True)
    made = load_file(stopped / "model.safetensors")
    for name, tensor in whole.items():
        assert torch.equal(tensor, made[name]), name
    assert log_lines(stopped) == log_lines(tmp_path / "whole")


def test_a_full_disk_stops_the_training_and_leaves_the_last_checkpoint(
    small_config: Configure, grid_photos: PhotoTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk's."""
    save = checkpoints.save_file
    written: list[Path] = []

    def fill_up(tensors: dict[str, torch.Tensor], path: Path) -> None:
        written.append(path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if len(written) > 2:  # rows and state of the first checkpoint were written
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            save(tensors, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(checkpoints, "save_file", fill_up)
    config = small_config(*SHARDED)
    with pytest.raises(OutputError, match=r"00000006: the file would be larger than .*earlier checkpoints are intact"):
        train(config, grid_photos, out=tmp_path)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["00000003"]
    monkeypatch.undo()
    assert train(config, grid_photos, out=tmp_path, resume=True).prototypes is not None
