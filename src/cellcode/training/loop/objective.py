"""The three pairs of the loss: photo-prototype (Q-P), photo-tile (Q-A) and tile-prototype (A-P).

Source: Lindenberger et al. 2025 (the pairs), Wang et al. 2019 (the multi-similarity loss). The softmax losses, the masks
for near cells and the optional photo-photo pair are our choice. Optional too: photo-tile pairs in both directions, after
Fervers et al. 2024 (with our masks, neither decoupled nor with smoothed labels), and the labels of PIGEON. Every
function returns one value per row, so that a bad photo can be found.

With several processes each has the rows of its own photos and tiles; the columns, tiles and photos that they are compared with,
are those of all processes. So the mean over all rows is the loss of one process with the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cellcode.config import Config, LossConfig
from cellcode.device import send
from cellcode.distributed import collectives
from cellcode.geography import distance, s2
from cellcode.model.losses import (
    multi_similarity,
    multi_similarity_of_sums,
    softmax_contrast,
    softmax_towards,
    softmax_towards_of_sums,
)
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.training.loop.prototype_lookup import Around, AroundSharded, Near, around
from cellcode.types import Float64


@dataclass(frozen=True)
class Places:
    """Embeddings (N, D), unit length, and where they belong: lat_deg, lon_deg float64 (N,)."""

    embeddings: Tensor
    lat_deg: Float64
    lon_deg: Float64


class Objective:
    """Losses of a batch.

    Args:
        config: loss weights and masks.
        prototypes: None switches Q-P and A-P off.
    """

    def __init__(self, config: Config, prototypes: Prototypes | ShardedPrototypes | None) -> None:
        self.config, self.prototypes = config.loss, prototypes
        self.near_prototype_m = config.loss.near_prototype_cells * s2.mean_edge_m(config.levels.prototype)
        if isinstance(prototypes, Prototypes):
            self._lat_deg, self._lon_deg = s2.cell_centers(prototypes.ids)

    def __call__(self, photos: Places, tiles: Places | None, strangers: int = 0, draw: int = 0) -> dict[str, Tensor]:
        """Return the losses by pair, each with one value per photo or tile.

        Args:
            photos: the batch's photos.
            tiles: their tiles, followed by `strangers` tiles from anywhere, which ask for no prototype and no photo: most of
                them lie where there is none. To the photos they are as any other tile.
            draw: number of the draw of a sharded table's rows; the same in every process.
        """
        losses, weights = {}, self.config
        own = _first(tiles, len(tiles.embeddings) - strangers) if tiles is not None else None
        near_photos, near_tiles = self._around(photos, own, draw)
        if near_photos is not None and weights.query_prototype:
            losses["query_prototype"] = weights.query_prototype * self.to_prototypes(photos, near_photos)
        if tiles is not None and weights.query_aerial:
            # Both directions together weigh what one does alone.
            weight = weights.query_aerial / (2 if weights.symmetric else 1)
            losses["query_aerial"] = weight * self.to_tiles(photos, _of_all(tiles))
            if weights.symmetric and own is not None:
                losses["aerial_query"] = weight * self.to_tiles(own, _of_all(photos))
        if own is not None and near_tiles is not None:
            if weights.aerial_prototype:
                losses["aerial_prototype"] = weights.aerial_prototype * self.to_prototypes(own, near_tiles)
            if weights.query_cell:
                losses["query_cell"] = weights.query_cell * self.to_codes(photos, own, near_tiles)
        if weights.query_query:
            losses["query_query"] = weights.query_query * self.between(photos)
        return losses

    def _around(self, photos: Places, tiles: Places | None, draw: int) -> tuple[Near | None, Near | None]:
        """Look up the prototypes around photos and tiles, in one go: its time goes into calls, not into numbers."""
        if self.prototypes is None:
            return None, None
        if tiles is None:
            return around(self.prototypes, photos.lat_deg, photos.lon_deg, draw), None
        lat_deg = np.concatenate([photos.lat_deg, tiles.lat_deg])
        near = around(self.prototypes, lat_deg, np.concatenate([photos.lon_deg, tiles.lon_deg]), draw)
        return near.part(0, len(photos.lat_deg)), near.part(len(photos.lat_deg), len(lat_deg))

    def to_prototypes(self, places: Places, near: Near) -> Tensor:
        """Positive: the prototype interpolated at the position. Negatives: all prototypes that are not near. (N,).

        The softmax takes soft labels instead; see `_towards_prototypes`.
        """
        if isinstance(near, AroundSharded):
            return self._to_sharded(places, near)
        if self.config.kind == "softmax":
            return self._towards_prototypes(places, near)
        own = near.interpolate()  # N x D
        everyone = near.prototypes.all()  # P x D
        similarity = torch.cat(
            [(places.embeddings * own).sum(1, keepdim=True), places.embeddings @ everyone.T], dim=1
        )  # N x (1 + P)
        far = ~_within(places, self._lat_deg, self._lon_deg, self.near_prototype_m)[0]
        first = torch.zeros(similarity.shape, dtype=torch.bool)
        first[:, 0] = near.any()  # a position without a prototype near it has no positive
        others = torch.cat([torch.zeros(len(far), 1, dtype=torch.bool), far], dim=1)
        return _loss(similarity, first, others, self.config)

    def _towards_prototypes(self, places: Places, near: Around) -> Tensor:
        """Soft labels of the prototypes around the position; no prototype is masked. (N,).

        They are the interpolation weights, or those of `_haversine_labels`. A position without a prototype near it has none.
        """
        similarity = places.embeddings @ near.prototypes.all().T  # N x P
        if self.config.prototype_labels == "haversine":
            targets = self._haversine_labels(places) * near.any()[:, None]
            return softmax_towards(similarity, send(targets, similarity.device), self.config.scale)
        targets = torch.zeros_like(similarity, dtype=torch.float32)
        targets.scatter_add_(1, send(near.index, similarity.device), send(near.weight, similarity.device))
        return softmax_towards(similarity, targets, self.config.scale)

    def _to_sharded(self, places: Places, near: AroundSharded) -> Tensor:
        """As `to_prototypes`, from sums over the rows that each process looks at; (N,)."""
        config, table = self.config, near.table
        everywhere = _of_all(places)
        mine = slice(collectives.rank() * len(places.lat_deg), (collectives.rank() + 1) * len(places.lat_deg))
        weight = send(near.weight, near.mean.device)
        if config.kind == "softmax":
            log_sum = table.log_sum(near.selection, everywhere.embeddings, config.scale)[mine]
            # The labels are the weights of the mean, so that what they attract is linear in it.
            attraction = (places.embeddings * near.mean).sum(dim=1)
            return softmax_towards_of_sums(attraction, weight.sum(dim=1), log_sum, config.scale)
        (close,) = _within(everywhere, *table.centers(near.selection), self.near_prototype_m)
        shift = -config.beta * config.threshold
        push = table.log_sum(near.selection, everywhere.embeddings, config.beta, shift, close, plus_one=True)[mine]
        own = (places.embeddings * near.interpolate()).sum(dim=1)
        return multi_similarity_of_sums(
            own, send(near.any(), own.device), push, config.alpha, config.beta, config.threshold
        )

    def _haversine_labels(self, places: Places) -> Tensor:
        """Smoothed labels of PIGEON (Haas et al., CVPR 2024, eq. 2), (N, P) float32.

        exp(-(d_j - d_own) / tau) for the distances d from the photo to the centres of the cells; tau is `haversine_m`. We let
        them sum to 1, which cancels d_own, so that a photo beside many prototypes weighs no more than another (our choice).
        """
        apart_m = torch.from_numpy(
            distance.haversine_m(places.lat_deg[:, None], places.lon_deg[:, None], self._lat_deg, self._lon_deg)
        )
        return torch.softmax(-apart_m / self.config.haversine_m, dim=1).float()

    def to_tiles(self, photos: Places, tiles: Places) -> Tensor:
        """Positives: tiles that show the photo's place. Negatives: all tiles that are not near. (N,).

        With the arguments exchanged it is the other direction of a symmetric loss (Fervers et al., ECCV 2024).
        """
        limits_m = self.config.positive_aerial_m, self.config.near_aerial_m
        same, near = _within(photos, tiles.lat_deg, tiles.lon_deg, *limits_m)
        similarity = photos.embeddings @ tiles.embeddings.T  # N x T
        return _loss(similarity, same, ~near, self.config)

    def to_codes(self, photos: Places, tiles: Places, near: Near) -> Tensor:
        """As `to_tiles`, with the codes the database would have there: tile plus interpolated prototype. (N,).

        Each term alone learns to answer by itself; this pair lets one make up for what the other misses.
        """
        codes = tiles.embeddings + near.interpolate()
        return self.to_tiles(photos, _of_all(Places(codes, tiles.lat_deg, tiles.lon_deg)))

    def between(self, photos: Places) -> Tensor:
        """Photos of one place attract, photos of places that are not near repel each other; (N,)."""
        others = _of_all(photos)
        limits_m = self.config.positive_query_m, self.config.near_query_m
        same, near = _within(photos, others.lat_deg, others.lon_deg, *limits_m)
        same[:, collectives.rank() * len(same) :].fill_diagonal_(False)
        similarity = photos.embeddings @ others.embeddings.T
        return _loss(similarity, same, ~near, self.config)


def _first(places: Places, count: int) -> Places:
    return Places(places.embeddings[:count], places.lat_deg[:count], places.lon_deg[:count])


def _of_all(places: Places) -> Places:
    """Gather the places of all processes, in their order; each has as many."""
    if collectives.world() == 1:
        return places
    lat_deg, lon_deg = collectives.gather_array(np.stack([places.lat_deg, places.lon_deg], axis=1)).T
    return Places(collectives.gather(places.embeddings), lat_deg, lon_deg)


def _loss(similarity: Tensor, positives: Tensor, negatives: Tensor, config: LossConfig) -> Tensor:
    device = similarity.device
    if config.kind == "softmax":
        return softmax_contrast(similarity, send(positives, device), send(negatives, device), config.scale)
    return multi_similarity(
        similarity, send(positives, device), send(negatives, device), config.alpha, config.beta, config.threshold
    )


def _within(places: Places, lat_deg: Float64, lon_deg: Float64, *limits_m: float) -> list[Tensor]:
    """See `distance.within_m`, from places (N,) to positions (M,)."""
    found = distance.within_m(places.lat_deg, places.lon_deg, lat_deg, lon_deg, *limits_m)
    return [torch.from_numpy(each) for each in found]
