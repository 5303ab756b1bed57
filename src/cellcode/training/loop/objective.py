"""The three pairs of the loss: photo-prototype (Q-P), photo-tile (Q-A) and tile-prototype (A-P).

Source: Lindenberger et al. 2025 (the pairs), Wang et al. 2019 (the multi-similarity loss). The softmax losses, the masks
for near cells and the optional photo-photo pair are our choice. Optional too: photo-tile pairs in both directions, after
Fervers et al. 2024 (with our masks, neither decoupled nor with smoothed labels), and the labels of PIGEON. Every
function returns one value per row, so that a bad photo can be found.

With several processes each has the rows of its own photos and tiles; the columns, tiles and photos that they are compared with,
are those of all processes. So the mean over all rows is the loss of one process with the whole batch.
"""

import numpy as np
from torch import Tensor

from cellcode.config import Config
from cellcode.device import send
from cellcode.distributed import collectives
from cellcode.geography import s2
from cellcode.model.checks import require_shape
from cellcode.model.losses import make_loss
from cellcode.model.places import Places
from cellcode.model.prototypes.protocol import Pairing, PrototypeLookup, PrototypeTable
from cellcode.training.loop.memory import TileMemory

__all__ = ["Objective", "Places"]


class Objective:
    """Losses of a batch; without prototypes Q-P and A-P are off."""

    def __init__(self, config: Config, prototypes: PrototypeTable | None, memory: TileMemory | None = None) -> None:
        self.config, self.prototypes, self.pair_loss = config.loss, prototypes, make_loss(config.loss)
        self.memory = memory
        loss = config.loss
        self.pairing = Pairing(
            loss.near_prototype_cells * s2.mean_edge_m(config.levels.prototype),
            loss.haversine_m if loss.prototype_labels == "haversine" else None,
        )

    def __call__(self, photos: Places, tiles: Places | None, random_tiles: int = 0, draw: int = 0) -> dict[str, Tensor]:
        """Return the losses by pair, each with one value per photo or tile.

        The photos' tiles are followed by `random_tiles` tiles from anywhere, which are compared with no prototype and no photo:
        most of them lie where there is none. To the photos they are as any other tile. `draw` is the number of the draw of a
        sharded table's rows, the same in every process.
        """
        losses, weights, memory, codes = {}, self.config, self.memory, None
        own = tiles.first(len(tiles.embeddings) - random_tiles) if tiles is not None else None
        near_photos, near_tiles = self._around(photos, own, draw)
        if near_photos is not None and weights.query_prototype:
            losses["query_prototype"] = weights.query_prototype * self.to_prototypes(photos, near_photos)
        if tiles is not None and weights.query_aerial:
            # Both directions together weigh what one does alone.
            weight = weights.query_aerial / (2 if weights.symmetric else 1)
            remembered = memory.places(memory.embeddings) if memory is not None else None
            losses["query_aerial"] = weight * self.to_tiles(photos, tiles.of_all(), remembered)
            if weights.symmetric and own is not None:
                losses["aerial_query"] = weight * self.to_tiles(own, photos.of_all())
        if own is not None and near_tiles is not None:
            if weights.aerial_prototype:
                losses["aerial_prototype"] = weights.aerial_prototype * self.to_prototypes(own, near_tiles)
            if weights.query_cell:
                codes = Places(own.embeddings + near_tiles.interpolate(), own.lat_deg, own.lon_deg).of_all()
                remembered = memory.places(memory.codes) if memory is not None else None
                losses["query_cell"] = weights.query_cell * self.to_tiles(photos, codes, remembered)
        if weights.query_query:
            losses["query_query"] = weights.query_query * self.between(photos)
        if memory is not None and own is not None:
            memory.add(own.of_all(), codes)
        return losses

    def _around(
        self, photos: Places, tiles: Places | None, draw: int
    ) -> tuple[PrototypeLookup | None, PrototypeLookup | None]:
        """Look up the prototypes around photos and tiles, in one go: its time goes into calls, not into numbers."""
        if self.prototypes is None:
            return None, None
        if tiles is None:
            return self.prototypes.around(photos.lat_deg, photos.lon_deg, draw), None
        lat_deg = np.concatenate([photos.lat_deg, tiles.lat_deg])
        near = self.prototypes.around(lat_deg, np.concatenate([photos.lon_deg, tiles.lon_deg]), draw)
        return near.part(0, len(photos.lat_deg)), near.part(len(photos.lat_deg), len(lat_deg))

    def to_prototypes(self, places: Places, near: PrototypeLookup) -> Tensor:
        """See `PrototypeLookup.loss`; (N,)."""
        return self._checked(near.loss(self.pair_loss, places, self.pairing), len(places.lat_deg))

    def to_tiles(self, photos: Places, tiles: Places, remembered: Places | None = None) -> Tensor:
        """Positives: tiles that show the photo's place. Negatives: all tiles that are not near. (N,).

        With the arguments exchanged it is the other direction of a symmetric loss (Fervers et al., ECCV 2024). With the codes
        that the database would have there in place of tiles, tile plus interpolated prototype, one term learns to make up for
        what the other misses.

        Where tiles are `remembered` the loss is the mean of that over the batch's tiles and over those. They are not compared
        together: what is common to the tiles of one step would tell positives from older negatives.
        """
        limits_m = self.config.positive_aerial_m, self.config.near_aerial_m
        same, near = photos.within(tiles.lat_deg, tiles.lon_deg, *limits_m)
        loss = self._of_pairs(photos.embeddings @ tiles.embeddings.T, same, ~near)
        return loss if remembered is None else (loss + self.to_tiles(photos, remembered)) / 2

    def between(self, photos: Places) -> Tensor:
        """Photos of one place attract, photos of places that are not near repel each other; (N,)."""
        others = photos.of_all()
        limits_m = self.config.positive_query_m, self.config.near_query_m
        same, near = photos.within(others.lat_deg, others.lon_deg, *limits_m)
        same[:, collectives.rank() * len(same) :].fill_diagonal_(False)
        return self._of_pairs(photos.embeddings @ others.embeddings.T, same, ~near)

    def _of_pairs(self, similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        device = similarity.device
        values = self.pair_loss.of_pairs(similarity, send(positives, device), send(negatives, device))
        return self._checked(values, len(similarity))

    def _checked(self, values: Tensor, rows: int) -> Tensor:
        require_shape(f"loss {self.config.kind}", "one value per row", values, rows)
        return values
