import numpy as np
import pytest

from cellcode import Locator, build
from cellcode.database import Calibration, Database
from cellcode.database.calibration import radii
from cellcode.database.calibration.regressions import Imputation, Inside, features
from cellcode.database.calibration.similarity import Terms
from cellcode.errors import InputError
from cellcode.geography import Region, distance, s2
from cellcode.index.codeset import CodeSet
from cellcode.photos import PhotoTable
from cellcode.runs import Run, Validation
from cellcode.simulation import Simulation

IDS = Region.bbox(3.0, 52.0, 3.06, 52.04).cells(16)
DIM = 32


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def _photos(codes: np.ndarray, count: int, seed: int) -> Validation:
    """Photos anywhere in a cell, that resemble its code."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(IDS), count)
    lat, lon = s2.cell_centers(IDS[rows])
    lat, lon = distance.offset(lat, lon, *rng.uniform(-40, 40, (2, count)))
    return Validation(lat, lon, _unit(codes[rows] + 0.22 * rng.standard_normal((count, DIM))))


@pytest.mark.parametrize("temperature", [0.02, 0.06, 0.2])
def test_circles_hold_the_share_of_other_photos_that_they_promise(temperature: float) -> None:
    """Also where the posterior is far too sure, or not sure enough."""
    codes = _unit(np.random.default_rng(0).standard_normal((len(IDS), DIM))).astype(np.float16)
    code_set = CodeSet(IDS, codes, longest=1.01)
    made = radii.fit(Calibration(temperature=temperature), code_set, _photos(codes, 800, 1), None, 16, 0)
    other = _photos(codes, 800, 2)
    scores = other.queries @ codes.astype(np.float32).T
    rest, lat, lon = radii.everywhere(IDS), *s2.cell_centers(IDS)
    inside = []
    for photo, row in enumerate(scores):
        order = np.argsort(-row)[: radii.REACH]
        mass = np.exp((row - row.max()) / temperature)
        within = radii.held(lat[order], lon[order], (mass / mass.sum())[order], rest, s2.mean_edge_m(16))
        error_m = distance.haversine_m(other.lat_deg[photo], other.lon_deg[photo], lat[order[0]], lon[order[0]])
        inside.append([error_m <= radii.radius_m(share, *within) for share in (made.share_50, made.share_90)])
    half, most = np.mean(inside, axis=0)
    assert half == pytest.approx(0.5, abs=0.06)
    assert most == pytest.approx(0.9, abs=0.04)


def test_few_photos_do_not_promise_more_than_they_tell() -> None:
    """The circle that holds 90 % must be that of the worst of 10 photos: 9 of 10 of the next ones are better than it."""
    codes = _unit(np.random.default_rng(0).standard_normal((len(IDS), DIM))).astype(np.float16)
    code_set, calibration = CodeSet(IDS, codes, longest=1.01), Calibration(temperature=0.06)
    photos = _photos(codes, 10, 1)
    made = radii.fit(calibration, code_set, photos, None, 16, 0)
    alone = [  # share of a photo: both figures of ten copies of it
        radii.fit(
            calibration, code_set, Validation(*(np.repeat(v[[n]], 10, 0) for v in vars(photos).values())), None, 16, 0
        )
        for n in range(10)
    ]
    shares = sorted(each.share_50 for each in alone)
    assert made.share_90 == pytest.approx(shares[9])
    assert made.share_50 == pytest.approx(shares[5])


def test_out_of_region_photos_without_validation_photos_are_reported_as_unused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    codes = _unit(np.random.default_rng(0).standard_normal((len(IDS), DIM))).astype(np.float16)
    photos = _photos(codes, 9, 1)
    made = radii.fit(Calibration(), CodeSet(IDS, codes, longest=1.01), photos, photos.queries, 16, 0)
    assert made == Calibration()
    assert "9 validation photos lie in the database, 10 are needed" in caplog.text


def test_cells_that_stand_for_some_rows_are_among_them() -> None:
    slices = np.array([[3, 5], [10, 11], [40, 60]])
    lat, lon = radii.everywhere(IDS, slices)
    rows = np.concatenate([np.arange(*each) for each in slices])
    np.testing.assert_array_equal(s2.cell_ids(lat, lon, 16), IDS[rows])
    assert len(radii.everywhere(IDS, slices[:0])[0]) == 0


def test_out_of_region_photos_are_distinguished_from_those_of_the_region() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.standard_normal((2, DIM)) * 0.1
    scores = {
        "inside": np.sort(rng.normal(0.8, 0.1, (900, 120)))[:, ::-1],
        "outside": np.sort(rng.normal(0.77, 0.1, (900, 120)))[:, ::-1],
    }
    queries = {
        name: _unit(centre + rng.standard_normal((900, DIM))) for name, centre in (("inside", near), ("outside", far))
    }
    seen = {name: features(queries[name], scores[name].astype(np.float32)) for name in scores}
    made = Inside.fit(seen["inside"][:400], seen["outside"][:400])
    kept = {name: made.probability(queries[name][400:], scores[name][400:].astype(np.float32)) for name in scores}
    assert (kept["inside"][:, None] > kept["outside"]).mean() > 0.8
    assert (kept["inside"] >= made.threshold).mean() == pytest.approx(0.95, abs=0.04)
    # A probability is one: of the photos that are told 70 % about 70 % are inside, where there are as many of both.
    told, truth = np.concatenate([kept["inside"], kept["outside"]]), np.repeat([1, 0], 500)
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = (told >= low) & (told <= low + 0.25)
        assert chosen.sum() > 30
        assert truth[chosen].mean() == pytest.approx(told[chosen].mean(), abs=0.15)
    longer = made.probability(3 * queries["inside"][400:], 3 * scores["inside"][400:].astype(np.float32))
    np.testing.assert_allclose(longer, kept["inside"], atol=1e-5)


def test_a_guessed_prototype_is_the_ridge_regression_of_the_others() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((DIM, DIM)) / DIM**0.5
    aerial = _unit(rng.standard_normal((1000, DIM)))
    prototypes = _unit(aerial @ truth + 0.1 * rng.standard_normal(aerial.shape))
    has = np.arange(1000) < 800
    made = Imputation.fit(Terms(aerial, np.where(has[:, None], prototypes, 0), np.ones(1000, bool), has))
    assert made is not None
    guessed = made.of(aerial[~has])
    # Ridge regression is least squares with a row for each weight that wants it to be 0.
    seen = np.concatenate([np.hstack([aerial[has], np.ones((800, 1))]), (1e-3 * 800) ** 0.5 * np.eye(DIM + 1)])
    expected = np.linalg.lstsq(seen, np.concatenate([prototypes[has], np.zeros((DIM + 1, DIM))]), rcond=None)[0]
    np.testing.assert_allclose(guessed, aerial[~has] @ expected[:-1] + expected[-1], atol=1e-4)
    assert (_unit(guessed) * prototypes[~has]).sum(axis=1).mean() > 0.8
    queries = _unit(rng.standard_normal((5, DIM)))
    turned, constant = made.transposed(queries)
    np.testing.assert_allclose(turned @ aerial[~has].T + constant[:, None], queries @ guessed.T, atol=1e-5)
    assert Imputation.fit(Terms(aerial, prototypes, np.ones(1000, bool), np.arange(1000) < 20)) is None


def test_a_database_remembers_what_it_was_calibrated_with(
    town: Simulation,
    town_run: Run,
    town_cells: Database,
    town_photos: PhotoTable,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With out-of-region photos (here: some of its own, which nothing can distinguish)."""
    out = tmp_path_factory.mktemp("out-of-region") / "town.cells"
    own = town_photos.of_split("test")
    made = build(town_run, town.aerial_path, out=out, out_of_region=own)
    inside = np.isin(s2.cell_ids(own.lat_deg, own.lon_deg, made.level), made.ids).sum()
    assert f"{inside} of {len(own)} out-of-region photos lie in cells of this database" in caplog.text
    assert made.calibration.inside is not None
    assert len(made.calibration.inside.weights) == made.code_set.dim + 4
    assert Database.open(out).calibration == made.calibration
    answer = Locator(made).locate(town_photos.files[0])
    assert answer.inside_probability is not None
    assert 0 <= answer.inside_probability <= 1
    assert answer.in_region is (answer.inside_probability >= made.calibration.inside.threshold)
    without = Locator(town_cells).locate(town_photos.files[0])
    assert without.inside_probability is None
    assert without.best == answer.best


def test_too_few_out_of_region_photos_are_refused_before_any_work(
    town: Simulation, town_run: Run, town_photos: PhotoTable, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("few") / "town.cells"
    with pytest.raises(InputError, match="at least 10 are needed"):
        build(town_run, town.aerial_path, out=out, out_of_region=town_photos.select(np.arange(3)))
    assert not out.parent.exists() or not list(out.parent.iterdir())
