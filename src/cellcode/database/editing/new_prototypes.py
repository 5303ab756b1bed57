"""Prototypes of cells that training never saw, fitted to the embeddings of their photos with everything else as it is.

All of this is our choice. The mean embedding of a cell's photos is no prototype: embeddings share a large common part, which
trained prototypes do not have, so that such a cell becomes the answer to every photo. Instead the loss of training is minimised
over the new prototypes alone, with photos from all over the region as negatives.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellcode.model.prototypes.whole import Prototypes
from cellcode.progress import Meter
from cellcode.types import Bools, Float32, Float64

STEPS, LEARNING_RATE = 150, 0.02
PHOTOS, OTHERS = 4096, 2048  # of a step
MAX_ENTRIES = 1 << 24  # photos x old prototypes that are compared at once


def fit(
    prototypes: Prototypes,
    new: Bools,
    queries: Float32,
    lat_deg: Float64,
    lon_deg: Float64,
    others: Float32,
    stand_for: int,
    scale: float,
) -> None:
    """Fit some rows of a table in place.

    Minimised over the new rows is the cross-entropy of softmax(scale * similarity) towards the interpolation weights of each
    photo, plus -log(1 - share of the new rows) for each photo of the others. It begins at the kernel-weighted mean of the
    photos' embeddings less the mean of the others.

    Args:
        new: (P,), the rows to fit; the others stay.
        queries, lat_deg, lon_deg: embeddings, (n, D) of unit length, and positions of the photos.
        others: (m, D) embeddings of photos from all over the region; they may be of the new cells as well. m may be 0.
        stand_for: how many photos of the region `others` are a sample of: those that the old rows were trained on.
    """
    index, weight = prototypes.neighbours(lat_deg, lon_deg)
    fixed, moving = torch.from_numpy(np.flatnonzero(~new)), torch.from_numpy(np.flatnonzero(new))
    place = torch.full((len(new),), -1)
    place[moving] = torch.arange(len(moving))
    column = place[index]  # -1: an old row, whose share of the target changes nothing
    photos, rest = torch.from_numpy(np.array(queries)), torch.from_numpy(np.array(others))
    old = F.normalize(prototypes.weight.detach()[fixed], dim=1)
    # Old rows stay, and so does what they add to the sum of each softmax.
    photos_old, rest_old = _log_sum(scale * photos, old), _log_sum(scale * rest, old)
    mean = rest.mean(dim=0) if len(rest) else torch.zeros(photos.shape[1])
    rows = F.normalize(_means(column, weight, photos - mean, len(moving)), dim=1).requires_grad_()
    weight = weight * (column >= 0)
    optimiser = torch.optim.Adam([rows], lr=LEARNING_RATE)
    random = torch.Generator().manual_seed(0)
    with Meter("fitting prototypes", STEPS) as meter:
        for _ in range(STEPS):
            unit = F.normalize(rows, dim=1)
            some = torch.randperm(len(photos), generator=random)[:PHOTOS]
            logits = scale * photos[some] @ unit.T
            target = torch.zeros_like(logits).scatter_add_(1, column[some].clamp(min=0), weight[some])
            total = torch.logaddexp(photos_old[some], logits.logsumexp(dim=1))
            loss = (total - (target * logits).sum(dim=1)).mean()
            if len(rest) and len(old):
                # A training of everything would weight the region's photos and the new ones by their numbers.
                drawn = torch.randperm(len(rest), generator=random)[:OTHERS]
                away = torch.logsumexp(scale * rest[drawn] @ unit.T, dim=1) - rest_old[drawn]
                loss = loss + F.softplus(away).mean() * (stand_for / len(photos))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            meter.advance()
    with torch.no_grad():
        prototypes.weight[moving] = F.normalize(rows, dim=1)


def _log_sum(scaled: Tensor, old: Tensor) -> Tensor:
    """Log of the sum of exp(product) over old rows, (n,), some photos at a time; -inf where there are none."""
    step = max(1, MAX_ENTRIES // max(len(old), 1))
    return torch.cat([torch.logsumexp(part @ old.T, dim=1) for part in torch.split(scaled, step)])


def _means(column: Tensor, weight: Tensor, photos: Tensor, count: int) -> Tensor:
    """Sum the photos of each new row by their weights, (count, D)."""
    total = torch.zeros(count, photos.shape[1])
    for slot in range(column.shape[1]):
        own = column[:, slot] >= 0
        total.index_add_(0, column[own, slot], weight[own, slot, None] * photos[own])
    return total
