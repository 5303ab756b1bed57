import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import reseal
from torch import Tensor, nn

from cellcode import integrity
from cellcode.config import Config, MachineConfig, TrainingConfig
from cellcode.errors import InputError
from cellcode.training.loop import checkpoints
from cellcode.training.loop.checkpoints import Identity, State

OWN = Identity(Config(), "photos-a", "aerial-a")


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return network


def _optimizer(network: nn.Module, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=0.01, fused=fused)


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, begin: int, end: int) -> None:
    for step in range(begin, end):
        torch.manual_seed(step)
        optimizer.zero_grad()
        network(torch.randn(6, 3, 5, 5)).square().sum().backward()
        optimizer.step()


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_after_a_restored_checkpoint_are_those_of_the_original(tmp_path: Path, fused: bool) -> None:
    """Weights in channels-last order, as the encoders hold them: the moments have to come back in the same order."""
    network = _network(0)
    optimizer = _optimizer(network, fused)
    _train(network, optimizer, 0, 4)
    checkpoints.save(tmp_path, 4, State({"model": network}, optimizer), OWN)
    saved = _copied(network)
    _train(network, optimizer, 4, 7)

    restored = _network(1)
    again = _optimizer(restored, fused)
    assert checkpoints.load(tmp_path, State({"model": restored}, again), OWN) == 4
    assert _same(_copied(restored), saved)
    _train(restored, again, 4, 7)
    for name, value in network.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name


def test_several_modules_keep_apart_what_is_theirs(tmp_path: Path) -> None:
    model, average = _network(0), _network(1)
    optimizer = _optimizer(model, False)
    checkpoints.save(tmp_path, 1, State({"model": model, "average": average}, optimizer), OWN)
    first, second = _network(2), _network(3)
    checkpoints.load(tmp_path, State({"model": first, "average": second}, _optimizer(first, False)), OWN)
    assert _same(_copied(first), _copied(model))
    assert _same(_copied(second), _copied(average))
    assert not _same(_copied(first), _copied(second))


def test_without_a_checkpoint_training_begins_at_step_0_and_nothing_is_changed(tmp_path: Path) -> None:
    network = _network(0)
    before = _copied(network)
    assert checkpoints.load(tmp_path, State({"model": network}, _optimizer(network, False)), OWN) == 0
    assert _same(_copied(network), before)


def test_learning_rates_are_those_of_the_new_optimizer(tmp_path: Path) -> None:
    network = _network(0)
    checkpoints.save(tmp_path, 1, State({"model": network}, _optimizer(network, False)), OWN)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.5, weight_decay=0.3)
    checkpoints.load(tmp_path, State({"model": network}, optimizer), OWN)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0.3)]


def test_a_save_that_is_stopped_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network(0)
    optimizer = _optimizer(network, False)
    checkpoints.save(tmp_path, 1, State({"model": network}, optimizer), OWN)
    saved = _copied(network)
    _train(network, optimizer, 0, 1)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(integrity, "write_json", stopped)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 2, State({"model": network}, optimizer), OWN)
    restored = _network(1)
    assert checkpoints.load(tmp_path, State({"model": restored}, _optimizer(restored, False)), OWN) == 1
    assert _same(_copied(restored), saved)
    assert [path.name for path in (tmp_path / checkpoints.FOLDER).iterdir()] == ["00000001"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(OWN, photos="photos-b"), "another photo table"),
        (replace(OWN, aerial="aerial-b"), "other aerial imagery"),
        (replace(OWN, aerial=None), "other aerial imagery"),
        (replace(OWN, config=Config(training=TrainingConfig(seed=5))), "training.seed: 0 -> 5"),
        (replace(OWN, config=Config(name="other")), "name: cellcode -> other"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_the_difference_named(
    tmp_path: Path, other: Identity, named: str
) -> None:
    network = _network(0)
    checkpoints.save(tmp_path, 1, State({"model": network}, _optimizer(network, False)), OWN)
    fresh = _network(1)
    before = _copied(fresh)
    with pytest.raises(InputError) as caught:
        checkpoints.load(tmp_path, State({"model": fresh}, _optimizer(fresh, False)), other)
    assert named in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _same(_copied(fresh), before)


def test_machine_settings_are_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    network = _network(0)
    checkpoints.save(tmp_path, 1, State({"model": network}, _optimizer(network, False)), OWN)
    kept = (tmp_path / checkpoints.FOLDER / "00000001" / "state.json").read_text(encoding="utf-8")
    assert "machine" not in kept
    elsewhere = replace(OWN, config=Config(machine=MachineConfig(device="cuda", precision="bfloat16", threads=3)))
    fresh = _network(1)
    assert checkpoints.load(tmp_path, State({"model": fresh}, _optimizer(fresh, False)), elsewhere) == 1


def test_a_checkpoint_with_keys_of_earlier_versions_is_resumed(tmp_path: Path) -> None:
    network = _network(0)
    own = replace(OWN, config=Config(training=TrainingConfig(gradient_accumulation=3)))
    checkpoints.save(tmp_path, 1, State({"model": network}, _optimizer(network, False)), own)
    path = tmp_path / checkpoints.FOLDER / "00000001" / "state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    training = state["config"]["training"]
    training["accumulation"] = training.pop("gradient_accumulation")
    training["device"] = "cuda"
    reseal(path.parent, config=state["config"])
    fresh = _network(1)
    assert checkpoints.load(tmp_path, State({"model": fresh}, _optimizer(fresh, False)), own) == 1


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    network = _network(0)
    checkpoints.save(tmp_path, 1, State({"model": network}, _optimizer(network, False)), OWN)
    names = sorted(path.name for path in (tmp_path / checkpoints.FOLDER / "00000001").iterdir())
    assert names == ["state.json", "state.safetensors"]


def test_the_last_ones_are_kept_and_the_best(tmp_path: Path) -> None:
    network = _network(0)
    state = State({"model": network}, _optimizer(network, False))
    for step, score in ((1, 0.3), (2, 0.8), (3, None), (4, 0.5), (5, None)):
        checkpoints.save(tmp_path, step, state, OWN, keep=2, score=score)
    assert sorted(path.name for path in (tmp_path / checkpoints.FOLDER).iterdir()) == [
        "00000002",
        "00000004",
        "00000005",
    ]
    assert checkpoints.load(tmp_path, state, OWN) == 5


def test_what_a_power_cut_left_is_not_picked_up(tmp_path: Path) -> None:
    network = _network(0)
    state = State({"model": network}, _optimizer(network, False))
    checkpoints.save(tmp_path, 1, state, OWN)
    whole = tmp_path / checkpoints.FOLDER / "00000001"
    shutil.copytree(whole, tmp_path / checkpoints.FOLDER / checkpoints._PARTIAL)
    shutil.copytree(whole, tmp_path / checkpoints.FOLDER / "00000002")
    (tmp_path / checkpoints.FOLDER / "00000002" / "state.json").unlink()
    assert checkpoints.load(tmp_path, state, OWN) == 1
    checkpoints.save(tmp_path, 2, state, OWN)  # and is no obstacle
    assert checkpoints.load(tmp_path, state, OWN) == 2
    assert sorted(path.name for path in whole.parent.iterdir()) == ["00000002"]


def test_a_damaged_checkpoint_is_told_apart_from_none(tmp_path: Path) -> None:
    network = _network(0)
    state = State({"model": network}, _optimizer(network, False))
    before = _copied(network)
    checkpoints.save(tmp_path, 1, state, OWN)
    folder = tmp_path / checkpoints.FOLDER / "00000001"
    tensors, facts = (folder / "state.safetensors").read_bytes(), (folder / "state.json").read_text()
    advice = ".*remove its folder to resume from an earlier one"
    for content, said in (
        (b"torn", rf"state\.safetensors is truncated \(4 of {len(tensors)} bytes\)"),
        (
            bytes([*tensors[:-1], tensors[-1] ^ 1]),
            r"state\.safetensors is not the file that its manifest was written for",
        ),
    ):
        (folder / "state.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=said + advice):
            checkpoints.load(tmp_path, state, OWN)
    (folder / "state.safetensors").write_bytes(b"torn")
    reseal(folder)  # as if it had been written so
    with pytest.raises(InputError, match="00000001 is damaged" + advice):
        checkpoints.load(tmp_path, state, OWN)
    (folder / "state.safetensors").write_bytes(tensors)
    for changed in (facts.replace('"step": 1', '"step": 9'), facts.replace('"format"', '"Format"')):
        (folder / "state.json").write_text(changed)
        with pytest.raises(InputError, match=r"state\.json (was changed|is not the manifest)" + advice):
            checkpoints.load(tmp_path, state, OWN)
    assert _same(_copied(network), before)
    checkpoints.save(tmp_path, 2, state, OWN, keep=1)  # a damaged one is in no one's way
    assert checkpoints.load(tmp_path, state, OWN) == 2


def test_a_checkpoint_of_the_first_release_has_no_digests_and_resumes(tmp_path: Path) -> None:
    network = _network(0)
    state = State({"model": network}, _optimizer(network, False))
    checkpoints.save(tmp_path, 7, state, OWN)
    path = tmp_path / checkpoints.FOLDER / "00000007" / "state.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    added = ("format", "version", "files", "digest")
    path.write_text(json.dumps({key: value for key, value in facts.items() if key not in added}), encoding="utf-8")
    assert checkpoints.load(tmp_path, state, OWN) == 7


def test_a_checkpoint_without_a_number_is_refused_rather_than_begun_again(tmp_path: Path) -> None:
    """Before checkpoints had numbers, state.json lay in the folder itself."""
    folder = tmp_path / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"step": 700}', encoding="utf-8")
    network = _network(0)
    state = State({"model": network}, _optimizer(network, False))
    with pytest.raises(InputError, match=r"earlier version.*train without --resume") as refused:
        checkpoints.load(tmp_path, state, OWN)
    assert "\n" not in str(refused.value)
    checkpoints.save(tmp_path, 800, state, OWN)  # a training that began over
    assert checkpoints.load(tmp_path, state, OWN) == 800
