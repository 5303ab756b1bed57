"""What one of several processes does in the tests of distribution: python peer.py WORK ARGUMENTS, started as torchrun would."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cellcode import config as configuration
from cellcode import log
from cellcode.config import Config, LossConfig, PrototypesConfig
from cellcode.distributed import collectives, process_group
from cellcode.errors import CellcodeError
from cellcode.geography import distance, s2
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.training import train
from cellcode.training.loop.objective import Objective, Places
from cellcode.training.loop.trainer import Trainer

LEVEL, DIM, PLACES = 15, 8, 12
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all": ({"kind": "softmax", "query_cell": 0.5, "symmetric": True, "query_query": 0.3}, {}),
    "multi_similarity": ({"kind": "multi_similarity", "beta": 10.0}, {}),
    "sampled": ({"kind": "softmax"}, {"negatives": "sampled", "share": 0.2, "hard_rows": 2}),
}


def teach(case: str, steps: int = 4) -> dict[str, np.ndarray]:
    """Train two linear encoders and a table for some steps; losses by step and everything learned."""
    loss, rule = CASES[case]
    config = Config(loss=LossConfig(**loss), prototypes=PrototypesConfig(table="sharded", **rule))
    rng = np.random.default_rng(0)
    lat, lon = distance.offset(48.85, 2.35, *rng.uniform(-2000, 2000, (2, 300)))
    table = ShardedPrototypes(np.unique(s2.cell_ids(lat, lon, LEVEL)), DIM, 1.2, config.prototypes, seed=1)
    if rule.get("hard_rows"):
        table.clusters = table.cluster(table.seed)
    objective = Objective(config, table)
    weights = [torch.from_numpy(rng.normal(size=(6, DIM))).float().requires_grad_() for _ in range(2)]
    losses = []
    for step in range(steps):
        batch = np.random.default_rng([1, step])
        at = batch.integers(0, 300, PLACES)
        inputs = torch.from_numpy(batch.normal(size=(2, PLACES, 6))).float()
        share = PLACES // collectives.world()
        mine = slice(collectives.rank() * share, (collectives.rank() + 1) * share)
        photos, tiles = (
            Places(F.normalize(x[mine] @ w, dim=1), lat[at][mine], lon[at][mine])
            for x, w in zip(inputs, weights, strict=True)
        )
        made = torch.stack([value.mean() for value in objective(photos, tiles, draw=step).values()])
        (made.sum() / collectives.world()).backward()
        collectives.sum_gradients(weights)
        with torch.no_grad():
            for weight in weights:
                assert weight.grad is not None
                weight -= 0.1 * weight.grad
                weight.grad = None
        table.update(0.05, step)
        losses.append(collectives.total_(made.detach().clone()).numpy() / collectives.world())
    learned = {f"weight{i}": w.detach().numpy() for i, w in enumerate(weights)}
    return {"losses": np.array(losses), "table": table.whole().weight.detach().numpy(), **learned}


def main() -> None:
    work, *arguments = sys.argv[1:]
    log.install()
    process_group.BEAT_S, process_group.SILENCE_S = 0.2, 15.0
    try:
        {"teach": _teach, "train": _train}[work](*arguments)
    except CellcodeError as error:
        sys.exit(f"Error: {error}")


def _teach(out: str) -> None:
    with process_group.joined("cpu"):
        for case in CASES:
            made = teach(case)
            if not collectives.rank():
                np.savez(f"{out}-{case}.npz", **made)


def _train(config: str, photos: str, out: str, resume: str = "", die: str = "", aerial: str = "") -> None:
    """Train; `die` is "kill" or "error": process 1 does that before step 5."""
    take = Trainer.step

    def step(self: Trainer, number: int) -> dict[str, float]:
        if die and number == 5 and collectives.rank() == 1:
            if die == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise CellcodeError("the cat ate photo 7")
        return take(self, number)

    Trainer.step = step  # type: ignore[method-assign]
    train(configuration.load(config), Path(photos), aerial or None, out=out, resume=bool(resume))


if __name__ == "__main__":
    main()
