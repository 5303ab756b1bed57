import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellcode.config import Config
from cellcode.errors import CellcodeError, MissingExtraError
from cellcode.geography import distance, s2
from cellcode.photos import PhotoTable
from cellcode.training import train
from cellcode.training.loop.log import Log, NanGuard
from cellcode.training.loop.trainer import Trainer, learning_rate_factor, parameter_groups
from cellcode.training.loop.validation import Recall
from cellcode.training.train import prepare

Configure = Callable[..., Config]
Lines = Callable[[Path], list[dict[str, Any]]]


def _trainer(config: Config, photos: PhotoTable, aerial: Path | None, out: Path) -> Trainer:
    trainer = prepare(config, photos, aerial, out=out, resume=False).trainer
    trainer.model.train()
    return trainer


def test_the_learning_rate_warms_up_linearly_to_its_peak() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(11)]
    np.testing.assert_allclose(factors, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1])


def test_the_learning_rate_falls_along_half_a_cosine_to_nearly_zero() -> None:
    factors = np.array([learning_rate_factor(step, 100, 0.1) for step in range(10, 100)])
    expected = [math.cos(math.pi / 2 * (step - 10) / 90) ** 2 for step in range(10, 100)]
    np.testing.assert_allclose(factors, expected, atol=1e-12)
    assert (np.diff(factors) < 0).all()
    assert 0 < factors[-1] < 0.001


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_learning_rate_stays_above_zero_and_reaches_its_peak_once(steps: int, share: float) -> None:
    factors = np.array([learning_rate_factor(step, steps, share) for step in range(steps)])
    assert (factors > 0).all()
    assert factors.max() == 1
    top = int(factors.argmax())
    assert (np.diff(factors[: top + 1]) > 0).all()
    assert (np.diff(factors[top:]) <= 0).all()


def test_every_parameter_has_the_rate_and_decay_of_its_kind(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    config = small_config(
        "training.learning_rate=0.01",
        "training.backbone_learning_rate=0.002",
        "training.prototype_learning_rate=0.03",
        "training.weight_decay=0.5",
    )
    model = _trainer(config, grid_photos, grid_imagery, tmp_path).model
    groups = list(parameter_groups(model, config))
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters()))
    seen = set()
    for name, parameter in model.named_parameters():
        if name == "prototypes.weight":
            expected = (0.03, 0.0)
        else:
            rate = 0.002 if "backbone" in name else 0.01
            expected = (rate, 0.5 if parameter.ndim > 1 else 0.0)
        assert found[id(parameter)] == expected, name
        seen.add(expected)
    assert len(seen) == 5
    assert all(group["peak"] == group["lr"] for group in groups)


def test_the_backbone_learns_at_the_common_rate_where_it_has_none_of_its_own(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    config = small_config("training.learning_rate=0.01")
    model = _trainer(config, grid_photos, None, tmp_path).model
    rates = {group["lr"] for group in parameter_groups(model, config)}
    assert rates == {0.01, config.training.prototype_learning_rate}


def test_frozen_parameters_are_in_no_group(small_config: Configure, grid_photos: PhotoTable, tmp_path: Path) -> None:
    config = small_config("training.regime=frozen")
    model = _trainer(config, grid_photos, None, tmp_path).model
    taught = {id(p) for group in parameter_groups(model, config) for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in taught}
    assert not [name for name in names if "backbone" in name]
    assert {"prototypes.weight", "ground.projection.weight", "ground.projection.bias"} <= names


def test_a_step_is_one_of_adamw_at_the_scheduled_rate(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    """Each weight against Loshchilov and Hutter's update of its clipped gradient, for the first two steps."""
    config = small_config("training.max_grad_norm=0.3", "training.weight_decay=0.2")
    trainer = _trainer(config, grid_photos, None, tmp_path)
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    peaks = {id(p): group["peak"] for group in trainer.optimizer.param_groups for p in group["params"]}
    first: dict[str, torch.Tensor] = {}
    second: dict[str, torch.Tensor] = {}
    for step in range(2):
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.step(step)
        encoders = [
            p.grad for n, p in trainer.model.named_parameters() if n != "prototypes.weight" and p.grad is not None
        ]
        norm = math.sqrt(sum(float((grad.double() ** 2).sum()) for grad in encoders))
        assert norm <= 0.3 * 1.001  # clipped
        factor = learning_rate_factor(step, trainer.steps, config.training.warmup_share)
        for name, p in trainer.model.named_parameters():
            assert p.grad is not None
            first[name] = 0.9 * first.get(name, torch.zeros_like(p)) + 0.1 * p.grad
            second[name] = 0.999 * second.get(name, torch.zeros_like(p)) + 0.001 * p.grad**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            rate = peaks[id(p)] * factor
            expected = before[name] * (1 - rate * decays[id(p)]) - rate * mean / (square.sqrt() + 1e-8)
            torch.testing.assert_close(
                p.detach(), expected, atol=2e-6, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )


def test_a_step_reports_the_mean_loss_of_each_pair_and_their_sum(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    trainer = _trainer(small_config("loss.query_query=0.3"), grid_photos, grid_imagery, tmp_path)
    made = trainer.step(0)
    pairs = {"query_prototype", "query_aerial", "aerial_prototype", "query_query"}
    assert set(made) == pairs | {"loss"}
    assert float(made["loss"]) == pytest.approx(sum(float(made[name]) for name in pairs), abs=1e-4)


def test_the_same_step_draws_the_same_batch_and_changes_whatever_came_before(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    trainer = _trainer(small_config("training.random_tiles=2"), grid_photos, grid_imagery, tmp_path)
    trainer.model.eval()  # no running statistics, so that only the draws can differ
    losses = []
    for _ in range(2):
        losses.append({name: loss.detach() for name, loss in trainer.losses(trainer.batches.take(5)).items()})
        trainer.losses(trainer.batches.take(6))
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name], atol=0, rtol=0)


def test_the_log_has_a_line_every_few_steps_and_one_for_the_last(
    small_config: Configure, grid_photos: PhotoTable, log_lines: Lines, tmp_path: Path
) -> None:
    train(small_config("training.log_every_steps=3"), grid_photos, out=tmp_path)
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [0, 3, 6, 7]
    for line in lines:
        assert set(line) == {"step", "query_prototype", "loss"}
        assert line["loss"] == pytest.approx(line["query_prototype"])
        assert line["loss"] > 0


def test_a_non_finite_loss_stops_the_training_with_one_sentence(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    trainer = _trainer(small_config(), grid_photos, None, tmp_path)
    with torch.no_grad():
        trainer.model.ground.projection.weight.fill_(math.nan)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(CellcodeError, match="the loss of step 4 is not finite"):
        trainer.step(4)
    with np.load(tmp_path / "stopped" / "step-4-process-0.npz") as kept:
        np.testing.assert_array_equal(kept["indices"], trainer.sampler.batch(4))
        assert np.isnan(kept["query_prototype"]).any()
        np.testing.assert_array_equal(kept["photos"], trainer.batches.take(4).photos.inputs)
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, before[name]) or name == "ground.projection.weight"


def test_where_the_device_is_not_waited_for_the_stop_comes_a_step_later_and_before_any_checkpoint(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    """What CUDA does, on a CPU."""
    trainer = _trainer(small_config(), grid_photos, None, tmp_path)
    trainer.nan_guard = NanGuard(tmp_path, trainer.device, late=1)
    with torch.no_grad():
        trainer.model.ground.projection.weight.fill_(math.nan)
    assert math.isnan(trainer.step(4)["loss"])
    with pytest.raises(CellcodeError, match="the loss of step 4 is not finite"):
        trainer.step(5)
    trainer.nan_guard = NanGuard(tmp_path, trainer.device, late=1)
    trainer.step(6)
    with pytest.raises(CellcodeError, match="the loss of step 6 is not finite"):
        trainer._save(7, None)
    assert not (tmp_path / "checkpoint").exists()


def test_the_average_follows_the_weights_exponentially(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    trainer = _trainer(small_config("training.ema_decay=0.25"), grid_photos, None, tmp_path)
    expected: dict[str, torch.Tensor] = {}
    for step in range(4):
        trainer.step(step)
        for name, value in trainer.model.state_dict().items():
            now = value.double() if value.is_floating_point() else value
            kept = min(0.25, (1 + step) / (10 + step)) if step else 0  # the memory grows with the steps taken
            expected[name] = kept * expected.get(name, now) + (1 - kept) * now
    assert trainer.trained is not trainer.model
    for name, value in trainer.trained.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-5)
    moved = trainer.trained.ground.projection.weight - trainer.model.ground.projection.weight
    assert moved.abs().max() > 1e-4


def test_without_an_average_the_model_itself_is_kept(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    trainer = _trainer(small_config(), grid_photos, None, tmp_path)
    assert trainer.trained is trainer.model


def test_a_long_memory_in_a_short_training_does_not_keep_the_start(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    trainer = _trainer(small_config("training.ema_decay=0.999", "training.epochs=5"), grid_photos, None, tmp_path)
    trainer.step(0)
    start = trainer.model.ground.projection.weight.detach().clone()
    for step in range(1, trainer.steps):
        trainer.step(step)
    end = trainer.model.ground.projection.weight.detach()
    assert (trainer.trained.ground.projection.weight - start).norm() > 0.3 * (end - start).norm()


def test_accumulated_batches_are_one_step_along_the_mean_of_their_gradients(
    small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    one = _trainer(small_config("training.max_grad_norm=1000"), grid_photos, None, tmp_path / "one")
    two = _trainer(
        small_config("training.max_grad_norm=1000", "training.gradient_accumulation=2"),
        grid_photos,
        None,
        tmp_path / "two",
    )
    assert two.steps == one.steps // 2
    for trainer in (one, two):
        trainer.model.eval()  # no batch statistics
    sums: dict[str, torch.Tensor] = {}
    for number in (2, 3):
        one.model.zero_grad()
        sum(loss.mean() for loss in one.losses(one.batches.take(number)).values()).backward()  # type: ignore[union-attr]
        for name, p in one.model.named_parameters():
            assert p.grad is not None
            sums[name] = sums.get(name, torch.zeros_like(p)) + p.grad / 2
    two.step(1)
    for name, p in two.model.named_parameters():
        torch.testing.assert_close(p.grad, sums[name], atol=1e-6, rtol=1e-4)


def test_activations_computed_again_give_the_same_step(
    small_config: Configure, grid_photos: PhotoTable, grid_imagery: Path, tmp_path: Path
) -> None:
    made = []
    for again in ("false", "true"):
        config = small_config(f"training.activation_checkpointing={again}")
        trainer = _trainer(config, grid_photos, grid_imagery, tmp_path / again)
        made.append((trainer.step(0), dict(trainer.model.named_parameters())))
    assert made[0][0] == made[1][0]
    for name, p in made[0][1].items():
        torch.testing.assert_close(p, made[1][1][name])


def test_recall_is_logged_and_the_best_checkpoint_kept(
    small_config: Configure, grid_photos: PhotoTable, log_lines: Lines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recalls = iter([0.2, 0.9, 0.5, 0.4])
    monkeypatch.setattr(Recall, "__call__", lambda *_: next(recalls))
    config = small_config("training.validate_every_steps=2", "training.checkpoint_every_steps=2")
    train(config, grid_photos, out=tmp_path)
    logged = {line["step"]: line["validation_recall"] for line in log_lines(tmp_path) if "validation_recall" in line}
    assert logged == {1: 0.2, 3: 0.9, 5: 0.5, 7: 0.4}
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["00000004", "00000008"]


@pytest.mark.parametrize("table", ["whole", "sharded"])
def test_recall_is_the_share_of_photos_whose_best_prototype_is_near(
    table: str, small_config: Configure, grid_photos: PhotoTable, tmp_path: Path
) -> None:
    config = small_config(f"prototypes.table={table}", "training.validate_every_steps=4", "evaluation.radii_m=[150]")
    trainer = prepare(config, grid_photos, out=tmp_path, resume=False).trainer
    recall, ground = trainer.validation, trainer.model.ground.eval()
    assert recall is not None
    prototypes = trainer.table.whole() if trainer.table is not None else trainer.model.prototypes
    assert prototypes is not None
    with torch.no_grad():
        best = (ground(torch.from_numpy(recall.pixels)) @ prototypes.all().T).argmax(dim=1).numpy()
    lat, lon = s2.cell_centers(prototypes.ids[best])
    near = distance.haversine_m(recall.lat_deg, recall.lon_deg, lat, lon) < 150
    assert recall(ground, trainer.table or prototypes) == pytest.approx(near.mean())


def test_tensorboard_without_its_package_names_the_extra(
    small_config: Configure, grid_photos: PhotoTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"cellcode\[tensorboard\]"):
        Log(tmp_path, 0, tensorboard=True)
