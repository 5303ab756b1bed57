"""Trainings under the real torchrun: resuming after a stop, and what is printed when a process fails."""

import json
import math
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import cellcode
from cellcode import train
from cellcode.photos.packed.shards import PackedPhotos

pytestmark = pytest.mark.scale
Start = Callable[..., Any]
MACHINE = {"seconds", "photos_per_s", "memory_bytes"}
EARLY = 14  # lines of the log, of about 65


def lines_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in MACHINE} for line in lines]


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in (run / "checkpoint").glob("[0-9]*/state.json"))


def root_cause(text: str) -> str:
    """What torchrun says last of all."""
    assert text.rstrip().endswith("=" * 20)
    return text.rsplit("Root Cause", 1)[1]


def assert_no_traceback_of_ours(text: str) -> None:
    assert f'File "{Path(cellcode.__file__).parent}' not in text


@pytest.fixture(scope="module")
def whole(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


def test_a_stream_stopped_in_the_middle_of_an_epoch_goes_on(
    start: Start, world: Any, whole: Path, tmp_path: Path
) -> None:
    """On as many processes to the same end, bit for bit, and on another number of them to one like it."""
    uninterrupted = start(whole, 2)
    assert uninterrupted.wait() == 0, uninterrupted.text
    expected = lines_of(whole)
    per_epoch = len(expected) // 6

    stopped = start(tmp_path / "run", 2)
    stopped.wait_for_lines(EARLY)
    stopped.kill()
    at = checkpoints(tmp_path / "run")[-1]
    assert 0 < at < len(expected)
    assert at % per_epoch
    shutil.copytree(tmp_path / "run", tmp_path / "other")

    same = start(tmp_path / "run", 2, "--resume")
    assert same.wait() == 0, same.text
    assert lines_of(tmp_path / "run") == expected
    one, other = (load_file(run / "model.safetensors") for run in (whole, tmp_path / "run"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())

    three = start(tmp_path / "other", 3, "--resume")
    assert three.wait() == 0, three.text
    made = lines_of(tmp_path / "other")
    assert made[:at] == expected[:at]
    assert [line["step"] for line in made] == [line["step"] for line in expected]
    assert all(math.isfinite(line["loss"]) for line in made)
    late = [sum(line["loss"] for line in each[-20:]) / 20 for each in (made, expected)]
    assert late[0] == pytest.approx(late[1], rel=0.15)
    assert late[0] < made[0]["loss"]


def test_a_killed_process_is_named_last_and_the_training_goes_on(start: Start, world: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training = start(out, 2)
    training.wait_for_lines(EARLY)
    os.kill(training.worker(1), signal.SIGKILL)
    training.process.wait(timeout=60)
    assert training.wait() == 1
    last = root_cause(training.text)
    assert "rank      : 1" in last
    assert "Signal 9 (SIGKILL)" in last
    assert_no_traceback_of_ours(training.text)
    done = checkpoints(out)[-1]
    assert done >= 4
    # One process resumes what two have begun.
    resumed = train(world.config, str(world.shards), world.aerial, out=out, resume=True)
    assert resumed.prototypes is not None
    assert [line["step"] for line in lines_of(out)] == list(range(len(lines_of(out))))


def test_torchrun_that_may_restart_goes_on_from_the_checkpoint(start: Start, tmp_path: Path) -> None:
    training = start(tmp_path / "run", 2, torchrun=("--standalone", "--max-restarts=1"))
    training.wait_for_lines(EARLY)
    before = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    os.kill(training.worker(1), signal.SIGKILL)
    assert training.wait() == 0, training.text
    assert (tmp_path / "run" / "run.json").is_file()
    assert (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()[:4] == before


@pytest.fixture(scope="module")
def damaged(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed photos with a shard of which the end is missing."""
    folder = tmp_path_factory.mktemp("damaged") / "shards"
    shutil.copytree(world.shards, folder)
    name = PackedPhotos.open(folder).shards("train").names[3]
    tar = folder / "train" / f"{name}.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    return folder


def test_damage_that_one_process_finds_is_told_once_and_last(start: Start, damaged: Path, tmp_path: Path) -> None:
    training = start(tmp_path / "run", 2, "--set", "stream.damaged_share=0", photos=damaged)
    assert training.wait() == 1
    assert "train/000003.tar" in training.text
    assert training.text.count("stream.damaged_share") == 1
    assert "cellcode: 1 photos could not be read" in root_cause(training.text).replace("cellcode: 2", "cellcode: 1")
    assert_no_traceback_of_ours(training.text)


def test_damage_within_the_share_is_named_and_survived(start: Start, damaged: Path, tmp_path: Path) -> None:
    training = start(
        tmp_path / "run", 2, "--set", "stream.damaged_share=0.2", "--set", "training.epochs=2", photos=damaged
    )
    assert training.wait() == 0, training.text
    assert "left out: " in training.text
    (last,) = [line for line in training.text.splitlines() if " trained on " in line]
    assert last.endswith("photos could not be read")
    assert "train/000003.tar" in training.text


def test_what_all_processes_meet_is_told_once(start: Start, tmp_path: Path) -> None:
    training = start(tmp_path / "run", 3, photos=tmp_path / "nothing")
    assert training.wait() == 1
    assert training.text.count("is not a photo table") == 1
    assert "is not a photo table" in root_cause(training.text)
    assert_no_traceback_of_ours(training.text)


def test_a_disk_that_one_process_finds_full_leaves_the_last_checkpoint(start: Start, tmp_path: Path) -> None:
    """A limit on the size of files, set from outside in the middle of the training, stands for the disk's."""
    training = start(tmp_path / "run", 2)
    training.wait_for_lines(EARLY)
    before = checkpoints(tmp_path / "run")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(training.worker(1), resource.RLIMIT_FSIZE, (600, hard))
    assert training.wait() == 1
    last = root_cause(training.text)
    assert "rank      : 1" in last
    assert "earlier checkpoints are intact" in last
    assert "the file would be larger than the limit" in training.text
    assert training.text.count("earlier checkpoints are intact") == 1
    assert_no_traceback_of_ours(training.text)
    assert checkpoints(tmp_path / "run")[-1] >= before[-1]


def two_machines(start: Start, out: Path, *words: str, **more: Any) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=scale")
    host = ("--rdzv-conf=is_host=true", "--local-addr=127.0.0.1")
    guest = ("--rdzv-conf=is_host=false", "--local-addr=127.0.0.1")
    return [start(out, 1, *words, torchrun=(*where, *own), **more) for own in (host, guest)]


def test_a_process_killed_on_another_machine_is_missed(start: Start, tmp_path: Path) -> None:
    machines = two_machines(start, tmp_path / "run")
    machines[0].wait_for_lines(EARLY)
    ranks = {rank: machine for machine in machines for rank in (0, 1) if _has(machine, rank)}
    other = next(rank for rank, machine in ranks.items() if machine is machines[1])
    os.kill(machines[1].worker(other), signal.SIGKILL)
    machines[0].process.wait(timeout=60)
    assert machines[0].wait() == 1
    assert f"process {1 - other} stops because process {other} died: no sign of life for 30 s" in root_cause(
        machines[0].text
    )
    machines[1].wait()
    assert "Signal 9 (SIGKILL)" in root_cause(machines[1].text)


def test_a_process_that_fails_on_another_machine_is_quoted(start: Start, damaged: Path, tmp_path: Path) -> None:
    machines = two_machines(start, tmp_path / "run", "--set", "stream.damaged_share=0", photos=damaged)
    for machine in machines:
        assert machine.wait() == 1
        assert "stream.damaged_share" in root_cause(machine.text)
        assert_no_traceback_of_ours(machine.text)


def _has(machine: Any, rank: int) -> bool:
    try:
        machine.worker(rank)
    except LookupError:
        return False
    return True
