"""Checkpoints: everything a stopped training needs to go on as if never stopped. Never pickle.

    RUN/checkpoint/state.safetensors    weights, buffers, averages and the optimiser's moments
    RUN/checkpoint/state.json           step, configuration, digest of the photo table

The learning rate, the batch and every random draw are functions of seed and step, so they need no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.errors import InputError
from cellcode.files import atomic_folder, read_json, write_json

FOLDER = "checkpoint"


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to."""

    config: Config
    photos: str
    aerial: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the keys kept in state.json."""
        return {"config": self.config.model_dump(mode="json"), "photos": self.photos, "aerial": self.aerial}


def save(run: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, own: Identity) -> None:
    """Write the checkpoint of a step; the previous one stays until the new one is whole."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {
            f"{name}.{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, value in module.state_dict().items()
        }
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, value in moments.items()
        }
    with atomic_folder(run / FOLDER) as folder:
        save_file(tensors, folder / "state.safetensors")
        write_json(folder / "state.json", {"step": step, **own.as_json()})


def load(run: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, own: Identity) -> int:
    """Restore the checkpoint of `run` and return its step; 0 if there is none.

    Raises:
        InputError: the checkpoint belongs to another configuration, photo table or imagery; the difference is named.
    """
    folder = run / FOLDER
    if not (folder / "state.json").is_file():
        return 0
    state = read_json(folder / "state.json")
    _compare(run, state, own)
    tensors = load_file(folder / "state.safetensors")
    for name, module in modules.items():
        start = len(name) + 1
        module.load_state_dict({key[start:]: value for key, value in tensors.items() if key.startswith(f"{name}.")})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, moment = key.split(".")
            if value.ndim:  # in the parameter's own memory layout, which the fused update takes for granted
                value = torch.empty_like(parameters[int(number)]).copy_(value)
            moments.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["step"])


def _compare(run: Path, state: dict[str, Any], own: Identity) -> None:
    advice = "train it with what it began with, or without --resume to start over"
    if state["photos"] != own.photos:
        raise InputError(f"{run} was begun with another photo table; {advice}")
    if state["aerial"] != own.aerial:
        raise InputError(f"{run} was begun with other aerial imagery; {advice}")
    theirs = configuration.parse(state["config"], f"{run}/{FOLDER}/state.json")
    changed = configuration.differences(theirs, own.config)
    if changed:
        raise InputError(f"{run} was begun with another configuration ({'; '.join(changed[:5])}); {advice}")
