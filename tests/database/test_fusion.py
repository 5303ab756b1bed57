import numpy as np
import pytest
import torch

from cellcode.database import Calibration
from cellcode.database.building.fusion import fuse, upsample
from cellcode.database.calibration.regressions import Imputation
from cellcode.geography import Region, s2
from cellcode.model.prototypes.whole import Prototypes

PARENTS = Region.bbox(3.0, 52.0, 3.04, 52.02).cells(15)


def _prototypes(radius_cells: float = 1.25) -> Prototypes:
    torch.manual_seed(0)
    return Prototypes(PARENTS, 8, radius_cells)


def test_upsampling_by_copy_gives_each_child_its_parent() -> None:
    prototypes = _prototypes()
    ids = np.sort(s2.children(PARENTS).ravel())
    codes = upsample(prototypes, ids, "copy")
    table = torch.nn.functional.normalize(prototypes.weight.detach(), dim=1).numpy()
    expected = table[np.searchsorted(PARENTS, s2.parents(ids, 15))]
    np.testing.assert_allclose(codes, expected, atol=1e-6)


def test_upsampling_by_interpolation_is_what_a_photo_at_the_centre_gets() -> None:
    prototypes = _prototypes()
    ids = np.sort(s2.children(PARENTS).ravel())
    codes = upsample(prototypes, ids, "interpolate")
    with torch.no_grad():
        expected = prototypes.interpolate(*prototypes.neighbours(*s2.cell_centers(ids))).numpy()
    np.testing.assert_allclose(codes, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("how", ["copy", "interpolate"])
def test_a_cell_whose_parent_has_no_prototype_gets_none(how: str) -> None:
    """Even with a neighbour that has one: what no photo taught must not look as if one had."""
    ids = np.sort(s2.children(PARENTS).ravel())
    torch.manual_seed(0)
    half = Prototypes(PARENTS[::2], 8, 1.25)
    codes = upsample(half, ids, how)  # type: ignore[arg-type]
    has = np.isin(s2.parents(ids, 15), PARENTS[::2])
    assert (np.abs(codes[~has]) == 0).all()
    np.testing.assert_allclose(np.linalg.norm(codes[has], axis=1), 1, atol=1e-5)


def test_a_score_is_the_weighted_sum_of_two_similarities() -> None:
    """The paper's fusion: z^A + kappa z^P is not renormalised, so a kappa sweep needs only two similarity arrays."""
    rng = np.random.default_rng(0)
    aerial, prototypes, queries = (rng.standard_normal((n, 8)).astype(np.float32) for n in (6, 6, 3))
    has_aerial, has_prototype = np.array([1, 1, 1, 0, 1, 0], bool), np.array([1, 1, 0, 1, 0, 1], bool)
    aerial[~has_aerial], prototypes[~has_prototype] = 0, 0
    calibration = Calibration(kappa=0.6, aerial_only=1.7, prototype_only=0.8)
    scores = queries @ fuse(aerial, prototypes, has_aerial, has_prototype, calibration).T
    for cell in range(6):
        on_aerial = 1.0 if has_prototype[cell] else 1.7
        on_prototype = 0.6 if has_aerial[cell] else 0.8
        expected = on_aerial * (queries @ aerial[cell]) + on_prototype * (queries @ prototypes[cell])
        np.testing.assert_allclose(scores[:, cell], expected, rtol=1e-4, atol=1e-5)


def test_imagery_alone_scores_with_the_prototype_guessed_from_it() -> None:
    rng = np.random.default_rng(1)
    aerial, queries = (rng.standard_normal((n, 8)).astype(np.float32) for n in (4, 3))
    has_prototype = np.array([True, False, False, True])
    guess = Imputation.of_weights(rng.standard_normal((9, 8)).astype(np.float32))
    calibration = Calibration(kappa=0.5, aerial_only=1.3, imputed=0.4, imputation=guess)
    prototypes = aerial[::-1] * has_prototype[:, None]
    scores = queries @ fuse(aerial, prototypes, np.ones(4, bool), has_prototype, calibration).T
    for cell in range(4):
        guessed = aerial[cell] @ guess.weights[:8] + guess.weights[8]
        expected = aerial[cell] + 0.5 * prototypes[cell] if has_prototype[cell] else 1.3 * aerial[cell] + 0.4 * guessed
        np.testing.assert_allclose(scores[:, cell], queries @ expected, rtol=1e-4, atol=1e-5)
