from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cellcode.config import Config
from cellcode.errors import InputError
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.training import train
from cellcode.training.loop.trainer import Trainer

Configure = Callable[..., Config]
Log = Callable[[Path], list[dict[str, Any]]]
PROTOTYPES_ONLY: list[str] = []
CASES = {
    "prototypes": (PROTOTYPES_ONLY, False),
    "aerial": (["training.random_tiles=3"], True),
    "softmax": (["loss.kind=softmax"], True),
    "remembered tiles": (["loss.remembered_tiles=20"], True),
    "average": (["training.ema_decay=0.6"], False),
    "transport": (["model.ground.aggregation.name=optimal_transport"], False),
    "last_blocks": (["training.regime=last_blocks", "training.last_blocks=1"], True),
    "frozen": (["training.regime=frozen"], True),
}


class Stopped(Exception):
    """Stands for a power cut."""


def _stop_at(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """Let the training die in the step after `last`."""
    take = Trainer.step

    def step(self: Trainer, number: int) -> dict[str, float]:
        if number > last:
            raise Stopped
        return take(self, number)

    monkeypatch.setattr(Trainer, "step", step)


def _interrupted(config: Config, photos: PhotoTable, aerial: Path | None, out: Path, last: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _stop_at(patch, last)
        with pytest.raises(Stopped):
            train(config, photos, aerial, out=out)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_ends_with_the_same_weights_and_log_as_one_never_stopped(
    case: str, small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, log_lines: Log, tmp_path: Path
) -> None:
    overrides, with_aerial = CASES[case]
    config, aerial = small_config(*overrides), grid_imagery if with_aerial else None
    whole = train(config, grid_photos, aerial, out=tmp_path / "whole")
    stopped = tmp_path / "stopped"
    _interrupted(config, grid_photos, aerial, stopped, last=4)
    assert not (stopped / "run.json").exists()
    torch.manual_seed(123)  # whatever happened in between
    np.random.default_rng(5)
    resumed = train(config, grid_photos, aerial, out=stopped, resume=True)
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", stopped))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert resumed.identity == whole.identity
    np.testing.assert_array_equal(resumed.validation.queries, whole.validation.queries)
    lines = log_lines(stopped)
    assert [line["step"] for line in lines] == list(range(8))
    assert lines == log_lines(tmp_path / "whole")


def test_steps_before_the_checkpoint_are_not_taken_again(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    config = small_config()
    _interrupted(config, grid_photos, None, tmp_path, last=4)
    taken: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        take = Trainer.step

        def step(self: Trainer, number: int) -> dict[str, float]:
            taken.append(number)
            return take(self, number)

        patch.setattr(Trainer, "step", step)
        train(config, grid_photos, out=tmp_path, resume=True)
    assert taken == [3, 4, 5, 6, 7]  # a checkpoint every three steps


def test_a_training_can_be_stopped_many_times(
    small_config: Configure, grid_photos: PhotoTable, log_lines: Log, tmp_path: Path
) -> None:
    config = small_config("training.checkpoint_every_steps=1")
    whole = train(config, grid_photos, out=tmp_path / "whole")
    out = tmp_path / "stopped"
    _interrupted(config, grid_photos, None, out, last=1)
    for last in (2, 2, 5):
        with pytest.MonkeyPatch.context() as patch:
            _stop_at(patch, last)
            with pytest.raises(Stopped):
                train(config, grid_photos, out=out, resume=True)
    assert train(config, grid_photos, out=out, resume=True).identity == whole.identity
    assert log_lines(out) == log_lines(tmp_path / "whole")


def test_resuming_what_never_began_or_has_ended_gives_the_same_run(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    config = small_config("training.epochs=1")
    begun = train(config, grid_photos, out=tmp_path, resume=True)
    again = train(config, grid_photos, out=tmp_path, resume=True)
    assert begun.identity == again.identity
    assert Run.load(tmp_path).identity == again.identity


def test_without_resume_a_training_starts_over(
    small_config: Configure, grid_photos: PhotoTable, log_lines: Log, tmp_path: Path
) -> None:
    _interrupted(small_config("training.seed=9"), grid_photos, None, tmp_path / "a", last=6)
    over = train(small_config(), grid_photos, out=tmp_path / "a")
    assert over.identity == train(small_config(), grid_photos, out=tmp_path / "b").identity
    assert log_lines(tmp_path / "a") == log_lines(tmp_path / "b")


def test_a_run_that_is_trained_again_is_no_finished_run_until_it_ends(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    train(small_config("training.epochs=1"), grid_photos, out=tmp_path)
    _interrupted(small_config(), grid_photos, None, tmp_path, last=4)
    with pytest.raises(InputError, match=r"not a finished run.*its training has not finished.*--resume"):
        Run.load(tmp_path)


def test_resuming_with_another_configuration_is_refused_and_the_difference_named(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    _interrupted(small_config(), grid_photos, None, tmp_path, last=4)
    state = (tmp_path / "checkpoint" / "00000003" / "state.safetensors").read_bytes()
    with pytest.raises(InputError) as caught:
        train(small_config("training.epochs=3", "loss.scale=5"), grid_photos, out=tmp_path, resume=True)
    message = str(caught.value)
    assert "training.epochs: 2 -> 3" in message
    assert "loss.scale: 20.0 -> 5.0" in message
    assert "\n" not in message
    assert (tmp_path / "checkpoint" / "00000003" / "state.safetensors").read_bytes() == state


def test_resuming_with_other_photos_is_refused(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    _interrupted(small_config(), grid_photos, None, tmp_path, last=4)
    fewer = grid_photos.select(np.arange(len(grid_photos)) < 35)
    with pytest.raises(InputError, match="another photo table"):
        train(small_config(), fewer, out=tmp_path, resume=True)


def test_resuming_with_other_imagery_is_refused(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    _interrupted(small_config(), grid_photos, None, tmp_path, last=4)
    with pytest.raises(InputError, match="other aerial imagery"):
        train(small_config(), grid_photos, grid_imagery, out=tmp_path, resume=True)


def test_a_log_line_torn_by_the_stop_does_not_prevent_resuming(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    _interrupted(small_config(), grid_photos, None, tmp_path, last=4)
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "lo')
    train(small_config(), grid_photos, out=tmp_path, resume=True)
