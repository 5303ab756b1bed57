"""What a step does on a device never waits for it: on torch's device "meta", whose numbers cannot be read, it still runs."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellcode.config import Config, LossConfig, PrototypesConfig
from cellcode.geography import distance, s2
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.training.loop.objective import Objective, Places

META = torch.device("meta")
DIM, PLACES = 8, 12


def _places(seed: int) -> Places:
    rng = np.random.default_rng(seed)
    lat_deg, lon_deg = distance.offset(48.85, 2.35, *rng.uniform(-2000, 2000, (2, PLACES)))
    vectors = torch.randn(PLACES, DIM, device=META, requires_grad=True)
    return Places(F.normalize(vectors, dim=1), lat_deg, lon_deg)


SOFTMAX = {"kind": "softmax", "query_cell": 0.5, "symmetric": True, "query_query": 0.3}
HAVERSINE = {"kind": "softmax", "prototype_labels": "haversine"}  # a configuration refuses it for a sharded table
CASES = [("whole", HAVERSINE)] + [
    (table, loss) for table in ("whole", "all", "sampled") for loss in (SOFTMAX, {"kind": "multi_similarity"})
]


@pytest.mark.parametrize(("table", "loss"), CASES)
def test_losses_gradients_and_updates_of_prototypes_read_nothing_back(table: str, loss: dict[str, Any]) -> None:
    photos, tiles = _places(0), _places(1)
    ids = np.unique(s2.cell_ids(photos.lat_deg, photos.lon_deg, 15))
    rule = PrototypesConfig()
    prototypes: Prototypes | ShardedPrototypes = Prototypes(ids, DIM, 1.2).to(META)
    if table != "whole":
        rule = PrototypesConfig(table="sharded", negatives="all" if table == "all" else "sampled", share=0.5)
        prototypes = ShardedPrototypes(ids, DIM, 1.2, rule, 0, META)
    config = Config(loss=LossConfig(**loss), prototypes=rule)
    losses = Objective(config, prototypes)(photos, tiles, random_tiles=2)
    torch.stack([each.mean() for each in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    if isinstance(prototypes, ShardedPrototypes):
        prototypes.update(0.1, 0)


def test_the_check_finds_what_it_is_for() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(torch.zeros(1, device=META))
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device=META)[torch.ones(3, device=META) > 0]
