"""The loop: draw a batch, embed photos and tiles, sum the losses, step. Everything around it is in other files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from cellcode.config import Config
from cellcode.device import autocast
from cellcode.distributed import collectives
from cellcode.errors import UsageError
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.progress import Meter
from cellcode.training.data.hard_batches import Miner
from cellcode.training.data.inputs import Inputs
from cellcode.training.data.prefetch import Ahead, Batch
from cellcode.training.data.sampling import PlaceSampler
from cellcode.training.data.stream import Stream
from cellcode.training.loop import checkpoints
from cellcode.training.loop.log import Log
from cellcode.training.loop.nan_guard import Finite
from cellcode.training.loop.objective import Objective
from cellcode.training.loop.validation import Recall


class Model(nn.Module):
    """Two encoders with separate weights and the prototypes; the last two may be missing."""

    def __init__(self, ground: Encoder, aerial: Encoder | None, prototypes: Prototypes | None) -> None:
        super().__init__()
        self.ground, self.aerial, self.prototypes = ground, aerial, prototypes


@dataclass
class Trainer:
    """Trains `model` on photos and, if there are any, tiles.

    With several processes each embeds its share of every batch and sums its gradients with the others'; see `Objective`.
    Nothing in a step waits for the device: losses are read when they are logged.

    Attributes:
        average: exponential moving average of the model, used after training; None when `training.ema_decay` is 0.
        folder: receives checkpoints, log.jsonl and, should the loss stop being a number, the batch.
        table: prototypes that are sharded; the model then has none.
        validation: tells the recall of a sample of photos that training does not see.
    """

    config: Config
    model: Model
    photos: Inputs
    tiles: Inputs | None
    sampler: PlaceSampler | Stream
    folder: Path
    identity: checkpoints.Identity
    device: torch.device
    table: ShardedPrototypes | None = None
    validation: Recall | None = None

    def __post_init__(self) -> None:
        """Set up the objective, the optimiser and the average."""
        training = self.config.training
        places = self.sampler.photos_per_batch // self.sampler.photos_per_place
        if places % collectives.world():
            raise UsageError(
                f"{places} places a batch do not divide by {collectives.world()} processes; set "
                "training.batch_size so that they do"
            )
        self.steps = max(1, training.epochs * self.sampler.steps_per_epoch // training.gradient_accumulation)
        self.objective = Objective(self.config, self.table or self.model.prototypes)
        self.miner = Miner(self.config, self.table or self.model.prototypes, self.sampler)
        for encoder in (self.model.ground, self.model.aerial):
            if encoder is not None:
                encoder.backbone.recompute = training.activation_checkpointing
        # Fused: on a CPU the plain update takes as long as a small encoder.
        self.optimizer = torch.optim.AdamW(list(parameter_groups(self.model, self.config)), fused=True)
        self.ground = collectives.replicated(self.model.ground)
        self.aerial = collectives.replicated(self.model.aerial) if self.model.aerial is not None else None
        self._clipped = [p for name, p in self.model.named_parameters() if not name.startswith("prototypes")]
        self.ahead = Ahead(self._make, self.device, self.steps * training.gradient_accumulation)
        self.finite = Finite(self.folder, self.device)
        self.average: AveragedModel | None = None
        if training.ema_decay:
            self.average = AveragedModel(self.model, multi_avg_fn=moving_average(training.ema_decay), use_buffers=True)

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
        begin = checkpoints.load(self.folder, self._state(), self.identity) if resume else 0
        self.model.train()
        score = None
        with (
            closing(self.ahead),
            Log(self.folder, begin, every.tensorboard) as log,
            Meter("training", self.steps) as meter,
        ):
            meter.advance(begin)
            for step in range(begin, self.steps):
                with log.timed():
                    losses = self.step(step)
                if step % every.log_every_steps == 0 or step == self.steps - 1:
                    log.write(step, losses, self._photos_a_step())
                    meter.note(f"loss {float(losses['loss']):.3f}")
                meter.advance()
                if self.validation is not None and (step + 1) % every.validate_every_steps == 0:
                    score = self._recall()
                    log.write_recall(step, score)
                if (step + 1) % every.checkpoint_every_steps == 0:
                    self._save(step + 1, score)
                    score = None
        self._save(self.steps, score)

    def step(self, step: int) -> dict[str, Tensor]:
        """Take one step and return the mean of each pair's loss and their sum, on the device.

        Raises:
            CellcodeError: the loss is not finite, of this step or, on CUDA, of the one before.
        """
        training = self.config.training
        torch.manual_seed(self._seed(step))  # for layers that draw, as dropout does
        factor = learning_rate_factor(step, self.steps, training.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.miner.mine_if_due(step)
        self.optimizer.zero_grad(set_to_none=True)
        shares = training.gradient_accumulation * collectives.world()
        reported: dict[str, Tensor] = {}
        for number in range(step * training.gradient_accumulation, (step + 1) * training.gradient_accumulation):
            batch = self.ahead.take(number)
            with self._gradients_kept(number + 1 < (step + 1) * training.gradient_accumulation):
                losses = self.losses(batch)
                means = torch.stack([loss.mean() for loss in losses.values()])
                total = means.sum()
                told = collectives.total_(torch.cat([means.detach(), total.detach()[None]])) / shares
                self.finite.note(step, batch, losses, told[-1])
                (total / shares).backward()  # type: ignore[no-untyped-call]
            for name, value in zip([*losses, "loss"], told, strict=True):
                reported[name] = reported.get(name, 0) + value
        self._update(step, factor)
        return reported

    def _gradients_kept(self, kept: bool) -> ExitStack:
        """Return a context whose gradients stay in this process if `kept`: those of the last batch of a step go with them."""
        stack = ExitStack()
        for encoder in (self.ground, self.aerial):
            if kept and isinstance(encoder, DistributedDataParallel):
                stack.enter_context(encoder.no_sync())
        return stack

    def _update(self, step: int, factor: float) -> None:
        """Clip the gradients of the encoders, which the backward has exchanged, and move every weight."""
        if self.model.prototypes is not None:
            collectives.sum_gradients(list(self.model.prototypes.parameters()))
        nn.utils.clip_grad_norm_(self._clipped, self.config.training.max_grad_norm)
        self.optimizer.step()
        if self.table is not None:
            self.table.update(self.config.training.prototype_learning_rate * factor, step)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Embed this process's share of a batch and return its losses by pair."""
        with autocast(self.config.machine.precision, self.device):
            photos = batch.photos.embed(self.ground, self.device)
            tiles = None
            if batch.tiles is not None and self.aerial is not None:
                tiles = batch.tiles.embed(self.aerial, self.device)
        return self.objective(photos, tiles, batch.strangers, draw=batch.number)

    def _make(self, number: int) -> Batch:
        """Draw this process's share of a batch: a function of seed, number and process."""
        indices = self.sampler.batch(number)
        share = len(indices) // collectives.world()
        indices = indices[collectives.rank() * share : (collectives.rank() + 1) * share]
        random = torch.Generator().manual_seed(self._seed(number))
        photos = self.photos.draw(indices, random)
        if self.tiles is None:
            return Batch(number, indices, photos)
        # One tile a place is enough: the photos of a place share it.
        anchors = indices[:: self.sampler.photos_per_place]
        tiles = self.tiles.draw(anchors, random)
        return Batch(number, indices, photos, tiles, len(tiles.inputs) - len(anchors))

    def _seed(self, number: int) -> int:
        """Return the seed of what a step or a batch draws: a resumed run draws what the uninterrupted one would have."""
        return self.config.training.seed * 1_000_003 + number + (collectives.rank() << 40)

    def _photos_a_step(self) -> int:
        return self.sampler.photos_per_batch * self.config.training.gradient_accumulation

    def _recall(self) -> float:
        assert self.validation is not None
        trained = self.trained.eval()
        with autocast(self.config.machine.precision, self.device):
            recall = self.validation(trained.ground, self.table or trained.prototypes)
        self.model.train()
        return recall

    def _state(self) -> checkpoints.State:
        modules: dict[str, nn.Module] = {"model": self.model}
        if self.average is not None:
            modules["average"] = self.average
        return checkpoints.State(modules, self.optimizer, self.table, self.sampler.alike)

    def _save(self, step: int, score: float | None) -> None:
        """Write a checkpoint. Running statistics, of each process's photos until here, become their mean."""
        self.finite.settle()
        state = self._state()
        for module in state.modules.values():
            collectives.average_(list(module.buffers()))
        checkpoints.save(self.folder, step, state, self.identity, self.config.training.keep_checkpoints, score)


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
