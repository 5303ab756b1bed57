"""Cell codes: one vector for each cell from its aerial embedding and its prototype."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from cellcode.database.calibration.fit import Calibration
from cellcode.geography import s2
from cellcode.model.prototypes.whole import Prototypes
from cellcode.types import Bools, Float16, Float32, Ids


def upsample(prototypes: Prototypes, ids: Ids, how: Literal["copy", "interpolate"]) -> Float32:
    """Give each cell a prototype through the S2 hierarchy (method, grade A; the choice between the two is ours).

    "copy" takes the parent's; "interpolate" takes the one that training would use for a photo at the cell's centre. Cells
    are of one level at or below the prototypes'.

    Returns:
        (N, D) float32 of unit length; zeros for cells whose own parent is not in the table, even if a neighbour is.
    """
    codes = np.zeros((len(ids), prototypes.weight.shape[1]), np.float32)
    rows = prototypes.lookup(s2.parents(ids, prototypes.level))
    has = rows >= 0
    if not has.any():
        return codes
    with torch.inference_mode():
        chosen = F.normalize(prototypes.weight[torch.from_numpy(rows[has])], dim=1)
        if how == "interpolate":
            index, weight = prototypes.neighbours(*s2.cell_centers(ids[has]))
            # A kernel narrower than the way to the parent's centre reaches no prototype: the parent's own is left.
            reached = (weight.sum(dim=1) > 0)[:, None]
            chosen = torch.where(reached, prototypes.interpolate(index, weight), chosen)
    codes[has] = chosen.float().cpu().numpy()
    return codes


def fuse(
    aerial: npt.NDArray[np.floating] | None,
    prototypes: npt.NDArray[np.floating] | None,
    has_aerial: Bools,
    has_prototype: Bools,
    calibration: Calibration,
) -> Float32:
    """Combine the terms of each cell; not renormalised, so that a score is the weighted sum of two similarities.

    Both terms: z^A + kappa z^P (the paper). One term: a factor times it, and where there is imagery alone a weight times
    the prototype imputed from it (ours; see `calibration.fit` and `regressions`). For the arguments see `Terms`.
    """
    on_aerial, on_prototypes = calibration.factors(has_aerial, has_prototype)
    parts = [
        factor[:, None] * torch.from_numpy(np.array(term)).float().numpy()  # torch converts float16 four times faster
        for factor, term in ((on_aerial, aerial), (on_prototypes, prototypes))
        if term is not None
    ]
    codes = np.asarray(sum(parts[1:], start=parts[0]), np.float32)
    lone = has_aerial & ~has_prototype
    if calibration.imputation is not None and aerial is not None and lone.any():
        codes[lone] += np.float32(calibration.imputed) * calibration.imputation.of(aerial[lone])
    return codes


def row_error(rows: Float32, narrow: Float16) -> float:
    """Largest euclidean distance of a row from its float16 copy: no score of a unit query changes by more."""
    return float(np.linalg.norm(rows - narrow.astype(np.float32), axis=1).max(initial=0.0))
