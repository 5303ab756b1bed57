"""The posterior as a map: cells of mixed levels that do not overlap, few enough to send and draw."""

import numpy as np

from cellcode.geography import s2
from cellcode.types import Bools, Float64, Ids

STEPS = 40  # halvings of the threshold's logarithm: more than the mass has digits


def aggregate(ids: Ids, mass: Float64, most: int) -> tuple[Ids, Float64]:
    """Merge cells into parents where that hides least, until at most `most` remain.

    A cell is shown as large as its mass stays below a threshold, the smallest one that leaves few enough; cells with more mass
    than that are shown as they are. All cells merged into one lie in it, but it may hold ground without cells.

    Args:
        ids: (N,) cells of one level, without repetition.
        mass: (N,) their share of the posterior.
        most: at least the number of cube faces that the cells lie on.

    Returns:
        ids and mass of what is shown, sorted by id.
    """
    order = np.argsort(ids)
    ids, mass = np.asarray(ids[order]), mass[order]
    if len(ids) <= most:
        return ids, mass
    level = int(s2.levels(ids[:1])[0])
    nodes = [(ids, mass)]
    above: list[Float64] = []  # mass of the parent of each node
    for coarser in range(level - 1, -1, -1):
        parents, first = np.unique(s2.parents(nodes[-1][0], coarser), return_index=True)
        sums = np.add.reduceat(nodes[-1][1], first)
        above.append(np.repeat(sums, np.diff([*first, len(nodes[-1][0])])))
        nodes.append((parents, sums))
    above.append(np.full(len(nodes[-1][0]), np.inf))

    def shown(threshold: float) -> list[Bools]:
        kept = [(sums <= threshold) & (parent > threshold) for (_, sums), parent in zip(nodes, above, strict=True)]
        kept[0] |= mass > threshold
        return kept

    low, high = np.log(max(mass.min(), 1e-300)), np.log(mass.sum() + 1e-300) + 1e-9
    for _ in range(STEPS):
        middle = (low + high) / 2
        if sum(int(kept.sum()) for kept in shown(float(np.exp(middle)))) > most:
            low = middle
        else:
            high = middle
    kept = shown(float(np.exp(high)))
    found = np.concatenate([cells[rows] for (cells, _), rows in zip(nodes, kept, strict=True)])
    sums = np.concatenate([values[rows] for (_, values), rows in zip(nodes, kept, strict=True)])
    order = np.argsort(found)
    return found[order], sums[order]
