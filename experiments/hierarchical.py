"""A baseline: classification of S2 cells at several levels, which together rank the cells of the finest.

Müller-Budack et al., "Geolocation Estimation of Photos using a Hierarchical Model and Scene Classification" (ECCV 2018),
without its scene classes: one classifier a level on a shared encoder, their cross-entropies summed, and at inference the
probability of a fine cell multiplied by those of the cells that hold it. Cells of fixed levels instead of cells that divide
until few photos are left, and the centre of a cell as the answer, are our choice, as in all our tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.device import autocast, choose_device
from cellcode.errors import InputError, UsageError
from cellcode.files import atomic_folder, read_json, write_json
from cellcode.geography import s2
from cellcode.model import inference
from cellcode.model.encoder import Encoder
from cellcode.photos import PhotoTable
from cellcode.runs import architecture
from cellcode.training.data.inputs import Batch
from cellcode.training.data.photos import TablePhotos
from cellcode.training.loop.checkpoints import Identity
from cellcode.training.loop.objective import Places
from cellcode.training.loop.trainer import Model, Trainer, TrainingSetup
from cellcode.training.setup import data_setup
from cellcode.training.train import CACHE
from cellcode.types import Float64, Ids, UInt8

FORMAT, VERSION = "cellcode-hierarchy", 1
MANIFEST, WEIGHTS, BACKBONE = "hierarchy.json", "hierarchy.safetensors", "backbone"
BATCH = 256


class Hierarchy(Model):
    """A ground encoder and one linear classifier a level.

    Args:
        config: how photos are encoded.
        ground: its encoder.
        classes: of each level, coarse to fine, the cells with training photos, uint64, sorted; every cell lies in one of
            each level before it.
    """

    def __init__(self, config: Config, ground: Encoder, classes: Sequence[Ids]) -> None:
        super().__init__(ground, None, None)
        self.config, self.classes = config, list(classes)
        self.levels = tuple(int(s2.levels(ids[:1])[0]) for ids in classes)
        self.classifiers = nn.ModuleList(nn.Linear(ground.dim, len(ids)) for ids in classes)
        finest = self.classes[-1]
        self._ancestors = [
            np.searchsorted(ids, s2.parents(finest, level)) for ids, level in zip(classes, self.levels, strict=True)
        ]

    @property
    def bytes(self) -> int:
        """What has to be kept to classify: weights and biases of every class in float16, and its cell's id."""
        return sum(len(ids) * (2 * (self.ground.dim + 1) + 8) for ids in self.classes)

    def forward(self, embeddings: Tensor) -> list[Tensor]:
        """Return the logarithms of the class probabilities (B, n) of each level, from embeddings (B, D).

        Embeddings of unit length are scaled by `loss.scale`, as the similarities of the other systems are (our choice).
        """
        scaled = self.config.loss.scale * embeddings
        return [F.log_softmax(classifier(scaled).float(), dim=1) for classifier in self.classifiers]

    def losses(self, photos: Places) -> dict[str, Tensor]:
        """Return the cross-entropy of each level, (B,) each; the photos lie in cells with a class."""
        losses = {}
        for ids, level, logarithms in zip(self.classes, self.levels, self(photos.embeddings), strict=True):
            own = np.searchsorted(ids, s2.cell_ids(photos.lat_deg, photos.lon_deg, level))
            target = torch.from_numpy(own).to(logarithms.device)
            losses[f"level_{level}"] = F.nll_loss(logarithms, target, reduction="none")
        return losses

    def scores(self, embeddings: Tensor) -> Tensor:
        """Return the score (B, n) of each cell of the finest level: log-probabilities summed over it and its ancestors."""
        parts = [made[:, rows] for made, rows in zip(self(embeddings), self._ancestors, strict=True)]
        return torch.stack(parts).sum(dim=0)

    def rank(self, pixels: UInt8, top: int) -> tuple[Float64, Float64]:
        """Return the centres of the most probable cells of the finest level, best first.

        Args:
            pixels: (B, H, W, 3) uint8.
            top: cells a photo; all of them where there are fewer.

        Returns:
            lat_deg and lon_deg, float64 (B, top).
        """
        if top < 1:
            raise UsageError(f"top must be at least 1, not {top}")
        top = min(top, len(self.classes[-1]))
        device = next(self.parameters()).device

        def best(images: Tensor) -> Tensor:
            return self.scores(self.ground(images)).topk(top, dim=1).indices

        rows = np.empty((0, top), np.int64)
        if len(pixels):
            rows = inference.infer(best, pixels, self.config.machine.precision, device, BATCH).numpy()
        lat_deg, lon_deg = s2.cell_centers(self.classes[-1])
        return lat_deg[rows], lon_deg[rows]

    def save(self, folder: Path | str) -> Path:
        """Write the folder, which replaces one that is there, and return it."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        tensors |= {f"classes.{level}": torch.from_numpy(ids.view(np.int64)) for level, ids in self._by_level()}
        with atomic_folder(Path(folder)) as temporary:
            save_file(tensors, temporary / WEIGHTS)
            self.ground.backbone.keep(temporary / BACKBONE)
            settings = self.config.model_dump(mode="json")
            write_json(
                temporary / MANIFEST, {"format": FORMAT, "version": VERSION, "levels": self.levels, "config": settings}
            )
        return Path(folder)

    @classmethod
    def load(cls, folder: Path | str) -> Hierarchy:
        """Open what `save` wrote.

        Raises:
            InputError: the folder holds something else, or a part of it is missing.
        """
        folder = Path(folder)
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
            raise InputError(f"{folder}/{MANIFEST} is not a {FORMAT} of version {VERSION}; train it again")
        config = configuration.parse(manifest["config"], str(folder / MANIFEST))
        try:
            tensors = load_file(folder / WEIGHTS)
        except OSError:
            raise InputError(f"{folder}/{WEIGHTS} cannot be read; train it again") from None
        classes = [tensors.pop(f"classes.{level}").numpy().view(np.uint64) for level in manifest["levels"]]
        model, where = config.model, folder / MANIFEST
        made = cls(config, architecture.rebuilt(model.ground, model.dim, folder / BACKBONE, where), classes)
        made.load_state_dict(tensors)
        return made.eval()

    def _by_level(self) -> list[tuple[int, Ids]]:
        return list(zip(self.levels, self.classes, strict=True))


def default_levels(config: Config) -> tuple[int, ...]:
    """Return the levels of three classifiers, the finest of the prototypes: 12, 14 and 15 for a region."""
    finest = config.levels.prototype
    return tuple(sorted({max(0, finest - 3), max(0, finest - 1), finest}))


def train(config: Config, photos: PhotoTable, levels: Sequence[int] | None = None) -> Hierarchy:
    """Train on the photos, batches, augmentation, optimiser and epochs that `training.train` would.

    Args:
        config: its `model.ground`, `photo`, `augmentation` and `training` count, and `loss.scale`.
        photos: a photo table; as in `training.train`, photos kept for validation are not trained on.
        levels: of the classifiers, coarse to fine; None: those of `default_levels`.

    Raises:
        UsageError: the levels do not rise or are none of S2's.
        InputError: there are no training photos, or none can be read.
    """
    levels = default_levels(config) if levels is None else tuple(levels)
    if not levels or min(levels) < 0 or max(levels) > s2.MAX_LEVEL or any(a >= b for a, b in pairwise(levels)):
        raise UsageError(f"levels {list(levels)}: give S2 levels in 0..{s2.MAX_LEVEL}, each finer than the one before")
    table, _ = data_setup.split_validation(photos, config)
    training = TablePhotos(table).read(config)
    torch.manual_seed(config.training.seed)
    device = choose_device(config.machine.device)
    classes = [training.cells(level) for level in levels]
    model = Hierarchy(config, Encoder(config.model.ground, config.model.dim), classes).to(device)
    with tempfile.TemporaryDirectory(prefix="cellcode-") as name:
        folder = Path(name)
        feed = training.feed(config, model.ground, None, None, folder / CACHE)
        identity = Identity(config, photos="", aerial=None)  # nothing resumes from this folder
        trainer = _Trainer(TrainingSetup(config, model, feed, folder, identity, device))
        trainer.fit(resume=False)
    trained = trainer.trained
    assert isinstance(trained, Hierarchy)
    return trained.eval().cpu()


class _Trainer(Trainer):
    """The loop of training with the losses of a hierarchy."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(self.model, Hierarchy)
        with autocast(self.config.machine.precision, self.device):
            photos = batch.photos.embed(self.ground, self.device)
        return self.model.losses(photos)
