"""Checkpoints: everything a stopped training needs to resume as if never stopped. Never pickle.

    RUN/checkpoint/00000500/                one for each of the last steps kept, and the best one
        state.safetensors                   weights, buffers, averages and the optimiser's moments; clusters that order batches
        rows-0-2750.safetensors             rows 0..2749 of a sharded table and their state, a file for each process
        state.json                          step, configuration, digests of photo table, imagery and files; comes last

The learning rate and every random draw are functions of seed and step, so they need no state, and so are batches, given the
clusters by which `sampling` orders them. The folder is written under a temporary name by all processes and renamed when
all are done; an incomplete one has no such name and is never read.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.distributed import collectives
from cellcode.errors import InputError, OutputError, unreadable
from cellcode.files import read_json, remove_folder, replace_folder, writing
from cellcode.integrity import DIGEST, Kind, describe
from cellcode.model.prototypes.clusters import Clusters
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.training.data.sampling import HardBatches

FOLDER = "checkpoint"
KIND = Kind("cellcode-checkpoint", 1, unsealed=(), advice="remove its folder to resume from an earlier one")
_STATE, _TENSORS = "state.json", "state.safetensors"
_PARTIAL = ".partial.cellcode-00000000"  # one name for all processes, and a temporary one
_LABELS = "alike."  # prefix of the clusters of hard batches; older checkpoints have the name


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: configuration, digests of photos and imagery, numbers of photos and prototype cells.

    Machine settings are no part of it: a training may resume on another device, in another precision.
    """

    config: Config
    photos: str
    aerial: str | None
    photo_count: int = 0
    cells: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the keys kept in state.json."""
        return {**vars(self), "config": self.config.model_dump(mode="json", exclude={"machine"})}


@dataclass
class State:
    """What is kept: modules by name, the optimiser of their parameters, a sharded table, and the clusters of hard batches."""

    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    table: ShardedPrototypes | None = None
    hard: HardBatches | None = None


def save(run: Path, step: int, state: State, own: Identity, keep: int = 1, score: float | None = None) -> None:
    """Write the checkpoint of a step, and then remove older ones but the last `keep` and the one of the highest score.

    Raises:
        InputError: it could not be written, as on a full disk; existing checkpoints stay as they are.
    """
    partial, finished, first = run / FOLDER / _PARTIAL, run / FOLDER / f"{step:08d}", collectives.rank() == 0
    advice = "earlier checkpoints are intact: train with --resume"
    try:
        with writing(finished):
            if first:
                remove_folder(partial)
                partial.mkdir(parents=True)
            collectives.barrier()
            if state.table is not None:
                save_file(*_rows(state.table, partial))
            if first:
                save_file(_tensors(state), partial / _TENSORS)
            collectives.barrier()
            if first:
                files = describe(partial, sorted(path.name for path in partial.iterdir()))
                KIND.write(partial / _STATE, {"step": step, "score": score, **own.as_json(), "files": files})
                replace_folder(partial, finished)
                _prune(run, keep)
    except OutputError as error:
        raise OutputError(f"{error}; {advice}") from None
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{finished} could not be written ({error}); {advice}") from None
    finally:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
    collectives.barrier()


def load(run: Path, state: State, own: Identity) -> int:
    """Restore the latest checkpoint of `run` and return its step; 0 if there is none.

    Raises:
        InputError: it belongs to another configuration, photo table or imagery, which is named, or to an earlier version.
    """
    folders = _finished(run)
    if not folders:
        if (run / FOLDER / _STATE).exists():
            reason = "whose checkpoints had no number, and cannot be resumed; train without --resume to start over"
            raise InputError(f"{run / FOLDER} was written by an earlier version of cellcode, {reason}")
        return 0
    facts = _read_state(folder := folders[-1])
    _compare(run, facts, own)
    # Every process reads the tensors; which rows it reads is its own affair, and each file is checked by one.
    numbered = enumerate(facts["files"].items())
    own_share = (each for number, each in numbered if number % collectives.world() == collectives.rank())
    KIND.verify(folder, dict(own_share))
    try:
        tensors = load_file(folder / _TENSORS)
        if state.table is not None:
            _restore_rows(folder, state.table)
    except (OSError, SafetensorError) as error:
        raise unreadable(folder, error, f"{folder} is damaged ({error}); {KIND.advice}") from None
    for name, module in state.modules.items():
        module.load_state_dict(_below(f"{name}.", tensors))
    _restore_moments(_below("optimizer.", tensors), state.optimizer)
    if state.hard is not None:
        state.hard.labels = {int(batch): value.numpy() for batch, value in _below(_LABELS, tensors).items()}
    return int(facts["step"])


def _read_state(folder: Path) -> dict[str, Any]:
    facts = read_json(folder / _STATE)
    if isinstance(facts, dict) and facts.keys().isdisjoint(("format", DIGEST)):
        return facts | {"files": {}}  # of 0.1.0, which kept no digests; damage cannot remove two keys
    return KIND.checked(facts, folder / _STATE)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _finished(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    found = (run / FOLDER).glob(f"[0-9]*/{_STATE}")
    return sorted(path.parent for path in found if path.parent.name.isdigit())


def _prune(run: Path, keep: int) -> None:
    folders = _finished(run)
    scores = dict[Path, float]()
    for folder in folders:
        with suppress(InputError):  # a damaged one is not the best
            if (score := _read_state(folder).get("score")) is not None:
                scores[folder] = score
    best = max(scores, key=lambda folder: scores[folder], default=None)
    for folder in folders[:-keep]:
        if folder != best:
            remove_folder(folder)


def _tensors(state: State) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, module in state.modules.items():
        tensors |= {f"{name}.{key}": _copy(value) for key, value in module.state_dict().items()}
    for number, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": _copy(value) for key, value in moments.items()}
    if state.hard is not None:
        tensors |= {f"{_LABELS}{batch}": torch.from_numpy(labels) for batch, labels in state.hard.labels.items()}
    return tensors


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _restore_moments(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, moment = key.split(".")
        if value.ndim:  # in the parameter's own memory layout, which the fused update assumes
            value = torch.empty_like(parameters[int(number)]).copy_(value)
        moments.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _rows(table: ShardedPrototypes, folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Return what is kept of this process's rows, and the file for it; on a CPU nothing is copied."""
    state = table.optimizer
    tensors = {"weight": table.weight.cpu(), "square": state.square.cpu(), "count": state.count.cpu()}
    if table.clusters is not None:
        tensors["cluster"] = torch.from_numpy(table.clusters.of_row[table.start : table.stop])
    return tensors, folder / f"rows-{table.start}-{table.stop}.safetensors"


def _restore_rows(folder: Path, table: ShardedPrototypes) -> None:
    """Read this process's rows, whoever wrote them: the files are mapped to memory and only their parts are read."""
    state = table.optimizer
    kept = {"weight": table.weight, "square": state.square, "count": state.count}
    clusters = torch.zeros(len(table.ids), dtype=torch.int32)
    covered, clustered = 0, False
    for path in folder.glob("rows-*.safetensors"):
        start, stop = (int(text) for text in path.stem.split("-")[1:])
        first, last = max(start, table.start), min(stop, table.stop)
        with safe_open(path, "pt") as file:
            if clustered := "cluster" in file.keys():  # noqa: SIM118 - not a mapping
                clusters[start:stop] = file.get_tensor("cluster")
            if first < last:
                covered += last - first
                for name, tensor in kept.items():
                    rows = file.get_slice(name)[first - start : last - start]
                    tensor[first - table.start : last - table.start] = rows
    if covered != table.stop - table.start:
        raise InputError(f"{folder} lacks rows of the prototypes; {KIND.advice}")
    if clustered:
        table.clusters = Clusters.of(clusters.numpy(), int(np.max(clusters.numpy())) + 1)


def _compare(run: Path, facts: dict[str, Any], own: Identity) -> None:
    advice = "train with the same ones, or without --resume to start over"
    if facts["photos"] != own.photos:
        then = f"{facts['photo_count']} photos in {facts['cells']} prototype cells"
        now = f"now {own.photo_count} in {own.cells}"
        raise InputError(f"{run} was started with another photo table ({then}, {now}); {advice}")
    if facts["aerial"] != own.aerial:
        raise InputError(f"{run} was started with other aerial imagery; {advice}")
    theirs = configuration.parse_saved(facts["config"], f"{run}/{FOLDER}/{_STATE}")
    if changed := configuration.differences(theirs, own.config):
        raise InputError(f"{run} was started with another configuration ({'; '.join(changed[:5])}); {advice}")
