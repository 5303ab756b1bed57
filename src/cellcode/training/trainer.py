"""The loop: draw a batch, embed photos and tiles, sum the losses, step. Everything around it is in other files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cellcode.config import Config
from cellcode.errors import CellcodeError
from cellcode.model.encoder import Encoder
from cellcode.model.precision import autocast
from cellcode.model.prototypes import Prototypes
from cellcode.progress import Meter
from cellcode.training import checkpoint
from cellcode.training.inputs import Inputs
from cellcode.training.objective import Objective
from cellcode.training.sampling import PlaceSampler


class Model(nn.Module):
    """Two encoders with separate weights and the prototypes; the last two may be missing."""

    def __init__(self, ground: Encoder, aerial: Encoder | None, prototypes: Prototypes | None) -> None:
        super().__init__()
        self.ground, self.aerial, self.prototypes = ground, aerial, prototypes


@dataclass
class Trainer:
    """Trains `model` on photos and, if there are any, tiles.

    Attributes:
        average: exponential moving average of the model, used after training; None when `training.ema` is 0.
        folder: receives checkpoints and log.jsonl.
    """

    config: Config
    model: Model
    photos: Inputs
    tiles: Inputs | None
    sampler: PlaceSampler
    folder: Path
    identity: checkpoint.Identity
    device: torch.device

    def __post_init__(self) -> None:
        """Set up the objective, the optimiser and the average."""
        training = self.config.training
        self.steps = training.epochs * self.sampler.steps_per_epoch
        self.objective = Objective(self.config, self.model.prototypes)
        # Fused: on a CPU the plain update takes as long as a small encoder.
        self.optimizer = torch.optim.AdamW(list(parameter_groups(self.model, self.config)), fused=True)
        self.average: AveragedModel | None = None
        if training.ema:
            self.average = AveragedModel(self.model, multi_avg_fn=moving_average(training.ema), use_buffers=True)

    @property
    def trained(self) -> Model:
        """The model to keep: the average if there is one."""
        if self.average is None:
            return self.model
        module = self.average.module
        assert isinstance(module, Model)
        return module

    def fit(self, resume: bool) -> None:
        """Run all steps, from the checkpoint if `resume`."""
        every = self.config.training
        kept: dict[str, nn.Module] = {"model": self.model}
        if self.average is not None:
            kept["average"] = self.average
        begin = checkpoint.load(self.folder, kept, self.optimizer, self.identity) if resume else 0
        log = self.folder / "log.jsonl"
        _keep_lines(log, begin)
        self.model.train()
        with log.open("a", encoding="utf-8") as lines, Meter("training", self.steps) as meter:
            meter.advance(begin)
            for step in range(begin, self.steps):
                started = time.perf_counter()
                losses = self.step(step)
                if step % every.log_every_steps == 0 or step == self.steps - 1:
                    record = {"step": step, **losses, "seconds": round(time.perf_counter() - started, 4)}
                    lines.write(json.dumps(record) + "\n")
                    lines.flush()
                    meter.note(f"loss {losses['loss']:.3f}")
                meter.advance()
                if (step + 1) % every.checkpoint_every_steps == 0:
                    checkpoint.save(self.folder, step + 1, kept, self.optimizer, self.identity)
        checkpoint.save(self.folder, self.steps, kept, self.optimizer, self.identity)

    def step(self, step: int) -> dict[str, float]:
        """Take one step and return the mean of each pair's loss and their sum."""
        # Every draw of a step comes from this seed: a resumed run draws what the uninterrupted one would have.
        torch.manual_seed(self.config.training.seed * 1_000_003 + step)
        factor = learning_rate_factor(step, self.steps, self.config.training.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        losses = self.losses(step)
        total = torch.stack([loss.mean() for loss in losses.values()]).sum()
        if not torch.isfinite(total):
            raise CellcodeError(f"the loss of step {step} is not finite; lower training.learning_rate and train again")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        encoders = [p for name, p in self.model.named_parameters() if not name.startswith("prototypes")]
        nn.utils.clip_grad_norm_(encoders, self.config.training.gradient_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        means = {name: round(float(loss.mean().detach()), 5) for name, loss in losses.items()}
        return means | {"loss": round(float(total.detach()), 5)}

    def losses(self, step: int) -> dict[str, Tensor]:
        """Embed the batch of a step and return its losses by pair."""
        indices = self.sampler.batch(step)
        # One tile a place is enough: the photos of a place share it.
        anchors = indices[:: self.sampler.photos_per_place]
        with autocast(self.config.training.precision, self.device):
            photos = self.photos.embed(self.model.ground, indices)
            tiles = None
            if self.tiles is not None and self.model.aerial is not None:
                tiles = self.tiles.embed(self.model.aerial, anchors)
        strangers = len(tiles.embeddings) - len(anchors) if tiles is not None else 0
        return self.objective(photos, tiles, strangers)


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return an exponential moving average whose memory grows with the steps taken, up to `decay`.

    A constant decay would let the random start weigh in the result of a short training.
    """

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        if average[0].is_floating_point():  # AveragedModel groups tensors by type
            torch._foreach_lerp_(list(average), list(current), 1 - kept)
        else:
            torch._foreach_copy_(list(average), list(current))

    return update


def learning_rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Linear warm-up, then half a cosine down to zero; in 0..1."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: Model, config: Config) -> Iterator[dict[str, Any]]:
    """Groups by learning rate and weight decay; vectors (biases, norms), prototypes and classes are not decayed."""
    training = config.training
    backbone_rate = training.backbone_learning_rate or training.learning_rate
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(("prototypes.", "classifiers.")):
            key = (training.prototype_learning_rate, 0.0)
        else:
            rate = backbone_rate if ".backbone." in name else training.learning_rate
            key = (rate, training.weight_decay if parameter.ndim > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    for (peak, decay), parameters in groups.items():
        yield {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}


def _keep_lines(log: Path, begin: int) -> None:
    """Drop the log lines of steps that will be taken again."""
    if log.is_file():
        lines = log.read_text(encoding="utf-8").splitlines()
        # The stop may have torn the last line.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] < begin]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
