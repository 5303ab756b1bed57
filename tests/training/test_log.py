import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cellcode.config import Config
from cellcode.photos import PhotoTable
from cellcode.training import train
from cellcode.training.loop.log import Log

Scalars = dict[str, list[tuple[int, float]]]


def _scalars(run: Path) -> Scalars:
    """What TensorBoard itself reads, by name: steps and values."""
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def _lines(run: Path) -> Scalars:
    """The same of log.jsonl."""
    found: Scalars = {}
    for text in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        for name in line.keys() - {"step"}:
            found.setdefault(name, []).append((line["step"], line[name]))
    return found


def _assert_same(board: Scalars, lines: Scalars) -> None:
    assert board.keys() == lines.keys()
    for name, expected in lines.items():
        assert [step for step, _ in board[name]] == [step for step, _ in expected]
        assert [value for _, value in board[name]] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_tensorboard_shows_what_the_log_has(
    small_config: Callable[..., Config], grid_photos: PhotoTable, tmp_path: Path
) -> None:
    config = small_config("training.epochs=1", "training.tensorboard=true", "training.validate_every_steps=2")
    train(config, grid_photos, out=tmp_path)
    lines = _lines(tmp_path)
    assert {"loss", "query_prototype", "seconds", "photos_per_s", "memory_bytes", "validation_recall"} <= lines.keys()
    _assert_same(_scalars(tmp_path), lines)


def test_steps_that_are_taken_again_are_shown_once(tmp_path: Path) -> None:
    with Log(tmp_path, 0, tensorboard=True) as log:
        for step in range(6):
            log.write(step, {"loss": torch.tensor(10.0 + step)}, photos=8)
    with Log(tmp_path, 4, tensorboard=True) as log:
        for step in range(4, 8):
            log.write(step, {"loss": torch.tensor(20.0 + step)}, photos=8)
    board = _scalars(tmp_path)
    assert board["loss"] == [(0, 10), (1, 11), (2, 12), (3, 13), (4, 24), (5, 25), (6, 26), (7, 27)]
    _assert_same(board, _lines(tmp_path))
