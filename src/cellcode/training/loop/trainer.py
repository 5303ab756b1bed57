"""The loop (draw a batch, embed photos and tiles, sum the losses, step), its learning rate and its moving average."""

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
from cellcode.training.data.inputs import Batch, Prefetcher
from cellcode.training.data.photos import Feed
from cellcode.training.data.sampling import Miner
from cellcode.training.loop import checkpoints
from cellcode.training.loop.log import Log, NanGuard
from cellcode.training.loop.memory import TileMemory
from cellcode.training.loop.objective import Objective
from cellcode.training.loop.validation import Recall


class Model(nn.Module):
    """Two encoders with separate weights and the prototypes; the last two may be missing."""

    def __init__(self, ground: Encoder, aerial: Encoder | None, prototypes: Prototypes | None) -> None:
        super().__init__()
        self.ground, self.aerial, self.prototypes = ground, aerial, prototypes


@dataclass(frozen=True)
class TrainingSetup:
    """What a `Trainer` is made of; the folder receives checkpoints, log.jsonl and the batch of a non-finite loss."""

    config: Config
    model: Model
    feed: Feed
    folder: Path
    identity: checkpoints.Identity
    device: torch.device
    table: ShardedPrototypes | None = None  # prototypes that are sharded; the model then has none
    validation: Recall | None = None  # of a sample of photos that training does not see; None: it is not measured


class Trainer:
    """Trains a model on photos and, if there are any, tiles.

    With several processes each embeds its share of every batch and sums its gradients with the others'; see `Objective`.
    Nothing in a step waits for the device: losses are read when they are logged.

    Raises:
        UsageError: a batch does not divide by the processes.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        self.config, self.model, self.device = setup.config, setup.model, setup.device
        self.folder, self.identity = setup.folder, setup.identity
        self.sampler, self.photos, self.tiles = setup.feed.sampler, setup.feed.photos, setup.feed.tiles
        self.table, self.validation = setup.table, setup.validation
        training = self.config.training
        places = self.sampler.photos_per_batch // self.sampler.photos_per_place
        if places % (world := collectives.world()):
            text = f"{places} places per batch do not divide by {world} processes"
            raise UsageError(f"{text}; set training.batch_size so that they do")
        self.steps = max(1, training.epochs * self.sampler.steps_per_epoch // training.gradient_accumulation)
        remembered, dim = self.config.loss.remembered_tiles, self.config.model.dim
        self.memory = TileMemory(remembered, dim, self.device) if remembered and self.tiles is not None else None
        self.objective = Objective(self.config, self.table or self.model.prototypes, self.memory)
        self.miner = Miner(self.config, self.table or self.model.prototypes, self.sampler)
        for encoder in (self.model.ground, self.model.aerial):
            if encoder is not None:
                encoder.backbone.recompute = training.activation_checkpointing
        # Fused: on a CPU the plain update takes as long as a small encoder.
        self.optimizer = torch.optim.AdamW(list(parameter_groups(self.model, self.config)), fused=True)
        self.ground = collectives.replicated(self.model.ground)
        self.aerial = collectives.replicated(self.model.aerial) if self.model.aerial is not None else None
        self._clipped = [p for name, p in self.model.named_parameters() if not name.startswith("prototypes")]
        self.batches = Prefetcher(self._draw, self.device, self.steps * training.gradient_accumulation)
        self.nan_guard = NanGuard(self.folder, self.device)
        self.average: AveragedModel | None = None  # exponential moving average of the model, used after training
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
            closing(self.batches),
            Log(self.folder, begin, every.tensorboard) as log,
            Meter("training", self.steps) as meter,
        ):
            meter.advance(begin)
            for step in range(begin, self.steps):
                with log.timed():
                    losses = self.step(step)
                if step % every.log_every_steps == 0 or step == self.steps - 1:
                    log.write(step, losses, self.sampler.photos_per_batch * every.gradient_accumulation)
                    meter.note(f"loss {float(losses['loss']):.3f}")
                meter.advance()
                if self.validation is not None and (step + 1) % every.validate_every_steps == 0:
                    score = self._recall(self.validation)
                    log.write_recall(step, score)
                if (step + 1) % every.checkpoint_every_steps == 0:
                    self._save(step + 1, score)
                    score = None
        self._save(self.steps, score)

    def step(self, step: int) -> dict[str, Tensor]:
        """Take one step and return the mean of each pair's loss and their sum, on the device; see `NanGuard` for errors."""
        training = self.config.training
        torch.manual_seed(self._seed(step))  # for layers that draw, as dropout does
        factor = learning_rate_factor(step, self.steps, training.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.miner.mine_if_due(step)
        self.optimizer.zero_grad(set_to_none=True)
        first, last = step * training.gradient_accumulation, (step + 1) * training.gradient_accumulation - 1
        reported: dict[str, Tensor] = {}
        for number in range(first, last + 1):
            batch = self.batches.take(number)
            with self._without_exchange(number < last):
                for name, value in self._backward(step, batch).items():
                    reported[name] = reported.get(name, 0) + value
        self._update(step, factor)
        return reported

    def _backward(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Add a batch's gradients, and return its share in the means of the step: the loss by pair and their sum."""
        shares = self.config.training.gradient_accumulation * collectives.world()
        losses = self.losses(batch)
        means = torch.stack([loss.mean() for loss in losses.values()])
        total = means.sum()
        summed = collectives.total_(torch.cat([means.detach(), total.detach()[None]])) / shares
        self.nan_guard.note(step, batch, losses, summed[-1])
        (total / shares).backward()  # type: ignore[no-untyped-call]
        return dict(zip([*losses, "loss"], summed, strict=True))

    def _without_exchange(self, wanted: bool) -> ExitStack:
        """Return a context whose gradients stay in this process, if `wanted`: the last batch of a step exchanges them all."""
        stack = ExitStack()
        for encoder in (self.ground, self.aerial):
            if wanted and isinstance(encoder, DistributedDataParallel):
                stack.enter_context(encoder.no_sync())
        return stack

    def _update(self, step: int, factor: float) -> None:
        """Clip the gradients of the encoders, which the backward has exchanged, and update every weight."""
        if self.model.prototypes is not None:
            collectives.sum_gradients(self.model.prototypes.parameters())
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
        return self.objective(photos, tiles, batch.random_tiles, draw=batch.number)

    def _draw(self, number: int) -> Batch:
        """Draw this process's share of a batch: a function of seed, number and process."""
        indices = self.sampler.batch(number)
        share = len(indices) // collectives.world()
        indices = indices[collectives.rank() * share : (collectives.rank() + 1) * share]
        random = torch.Generator().manual_seed(self._seed(number))
        photos = self.photos.draw(indices, random)
        if self.tiles is None:
            return Batch(number, indices, photos)
        anchors = indices[:: self.sampler.photos_per_place]  # the photos of a place share its tile
        tiles = self.tiles.draw(anchors, random)
        return Batch(number, indices, photos, tiles, len(tiles.inputs) - len(anchors))

    def _seed(self, number: int) -> int:
        """Return the seed of the draws of a step or a batch, so that a resumed run draws what it would have drawn."""
        return self.config.training.seed * 1_000_003 + number + (collectives.rank() << 40)

    def _recall(self, validation: Recall) -> float:
        trained = self.trained.eval()
        with autocast(self.config.machine.precision, self.device):
            recall = validation(trained.ground, self.table or trained.prototypes)
        self.model.train()
        return recall

    def _state(self) -> checkpoints.State:
        average = {"average": self.average} if self.average is not None else {}
        memory = {"memory": self.memory} if self.memory is not None else {}
        return checkpoints.State(
            {"model": self.model, **average, **memory}, self.optimizer, self.table, self.sampler.hard
        )

    def _save(self, step: int, score: float | None) -> None:
        """Write a checkpoint. Running statistics, so far of each process's photos, become their mean."""
        self.nan_guard.settle()
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


def parameter_groups(model: nn.Module, config: Config) -> Iterator[dict[str, Any]]:
    """Groups by learning rate and weight decay; vectors (biases, norms), prototypes and classes are not decayed."""
    training = config.training
    backbone_rate = training.backbone_learning_rate or training.learning_rate
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = backbone_rate if ".backbone." in name else training.learning_rate
        key = (rate, training.weight_decay if parameter.ndim > 1 else 0.0)
        if name.startswith(("prototypes.", "classifiers.")):
            key = (training.prototype_learning_rate, 0.0)
        if parameter.requires_grad:
            groups.setdefault(key, []).append(parameter)
    for (peak, decay), parameters in groups.items():
        yield {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}
