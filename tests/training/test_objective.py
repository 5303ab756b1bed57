import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from cellcode.config import Config, LossConfig
from cellcode.geography import distance, s2
from cellcode.model.prototypes.whole import Prototypes
from cellcode.training.loop.memory import TileMemory
from cellcode.training.loop.objective import Objective, Places

Kind = Literal["multi_similarity", "softmax"]
KINDS: tuple[Kind, ...] = ("multi_similarity", "softmax")
PLACE = (48.85, 2.35)
LEVEL = 15  # cells of about 300 m
DIM = 8


def _config(**loss: object) -> Config:
    return Config(loss=LossConfig.model_validate({"kind": "multi_similarity", "beta": 10.0, **loss}))


def _places(seed: int, count: int, reach_m: float = 900.0) -> Places:
    rng = np.random.default_rng(seed)
    lat, lon = distance.offset(*PLACE, rng.uniform(-reach_m, reach_m, count), rng.uniform(-reach_m, reach_m, count))
    vectors = torch.from_numpy(rng.normal(size=(count, DIM))).float()
    return Places(torch.nn.functional.normalize(vectors, dim=1).requires_grad_(), lat, lon)


def _beside(places: Places, seed: int, move_m: float) -> Places:
    """Other vectors at positions up to `move_m` from given ones."""
    rng = np.random.default_rng(seed)
    count = len(places.lat_deg)
    lat, lon = distance.offset(
        places.lat_deg, places.lon_deg, rng.uniform(-move_m, move_m, count), rng.uniform(-move_m, move_m, count)
    )
    return Places(_places(seed, count).embeddings, lat, lon)


def _joined(first: Places, second: Places) -> Places:
    return Places(
        torch.cat([first.embeddings, second.embeddings]),
        np.concatenate([first.lat_deg, second.lat_deg]),
        np.concatenate([first.lon_deg, second.lon_deg]),
    )


def _prototypes(config: Config) -> Prototypes:
    lat, lon = (_places(9, 60).lat_deg, _places(9, 60).lon_deg)
    torch.manual_seed(0)
    return Prototypes(np.unique(s2.cell_ids(lat, lon, LEVEL)), DIM, config.model.interpolation_radius_cells)


def _row_loss(positives: list[float], negatives: list[float], loss: LossConfig) -> float:
    """One row of the multi-similarity or of the contrastive softmax loss, from the cosines of its pairs."""
    if loss.kind == "softmax":
        if not positives or not negatives:
            return 0.0
        inside = sum(math.exp(loss.scale * s) for s in positives)
        return -math.log(inside / (inside + sum(math.exp(loss.scale * s) for s in negatives)))
    pull = sum(math.exp(-loss.alpha * (s - loss.threshold)) for s in positives)
    push = sum(math.exp(loss.beta * (s - loss.threshold)) for s in negatives)
    return math.log(1 + pull) / loss.alpha + math.log(1 + push) / loss.beta


def _apart_m(places: Places, row: int, lat_deg: float, lon_deg: float) -> float:
    return float(distance.haversine_m(places.lat_deg[row], places.lon_deg[row], lat_deg, lon_deg))


def _between_places(rows: Places, columns: Places, near_m: float, far_m: float, loss: LossConfig) -> list[float]:
    """Loss of each row against others by distance; a pair of a thing with itself is left out."""
    made = []
    for i in range(len(rows.lat_deg)):
        positives, negatives = [], []
        for j in range(len(columns.lat_deg)):
            if columns is rows and i == j:
                continue
            cosine = float(rows.embeddings[i].detach() @ columns.embeddings[j].detach())
            apart_m = _apart_m(rows, i, columns.lat_deg[j], columns.lon_deg[j])
            if apart_m < near_m:
                positives.append(cosine)
            elif apart_m > far_m:
                negatives.append(cosine)
        made.append(_row_loss(positives, negatives, loss))
    return made


def _to_prototypes(places: Places, prototypes: Prototypes, config: Config) -> list[float]:
    loss = config.loss
    everyone = prototypes.all().detach()
    centres = list(zip(*s2.cell_centers(prototypes.ids), strict=True))
    near_m = loss.near_prototype_cells * s2.mean_edge_m(LEVEL)
    rows, weights = prototypes.neighbours(places.lat_deg, places.lon_deg)
    made = []
    for i, vector in enumerate(places.embeddings.detach()):
        cosines = [float(vector @ one) for one in everyone]
        if loss.kind == "softmax":
            total = math.log(sum(math.exp(loss.scale * s) for s in cosines))
            pairs = zip(rows[i].tolist(), weights[i].tolist(), strict=True)
            made.append(-sum(weight * (loss.scale * cosines[row] - total) for row, weight in pairs))
            continue
        mixed = torch.zeros(DIM)
        for row, weight in zip(rows[i].tolist(), weights[i].tolist(), strict=True):
            mixed += weight * everyone[row]
        own = float(vector @ mixed) / (float(mixed.norm()) or 1)
        far = [s for s, centre in zip(cosines, centres, strict=True) if _apart_m(places, i, *centre) > near_m]
        # Where no prototype is near, there is nothing to be drawn to.
        made.append(_row_loss([own] if float(weights[i].sum()) else [], far, loss))
    return made


def _check(made: Tensor, expected: list[float], weight: float) -> None:
    assert made.shape == (len(expected),)
    torch.testing.assert_close(made.detach(), weight * torch.tensor(expected), atol=2e-5, rtol=1e-4)
    assert len({round(value, 4) for value in expected}) > 3  # the cases differ


@pytest.mark.parametrize("kind", KINDS)
def test_photo_to_prototype_is_that_of_loops_over_all_prototypes(kind: Kind) -> None:
    config = _config(kind=kind, query_prototype=0.7)
    prototypes, photos = _prototypes(config), _places(0, 12, 600)
    made = Objective(config, prototypes)(photos, None)
    assert set(made) == {"query_prototype"}
    _check(made["query_prototype"], _to_prototypes(photos, prototypes, config), 0.7)


@pytest.mark.parametrize("kind", KINDS)
def test_photo_to_tile_is_that_of_loops_over_all_tiles(kind: Kind) -> None:
    config = _config(kind=kind, query_aerial=1.3)
    photos = _places(1, 10)
    tiles = _beside(photos, 2, 70.0)
    made = Objective(config, None)(photos, tiles)
    assert set(made) == {"query_aerial"}
    loss = config.loss
    expected = _between_places(photos, tiles, loss.positive_aerial_m, loss.near_aerial_m, loss)
    _check(made["query_aerial"], expected, 1.3)


@pytest.mark.parametrize("kind", KINDS)
def test_tile_to_prototype_is_that_of_loops_over_all_prototypes(kind: Kind) -> None:
    config = _config(kind=kind, query_prototype=0, query_aerial=0, aerial_prototype=0.4)
    prototypes, photos = _prototypes(config), _places(3, 12, 600)
    tiles = _beside(photos, 4, 60.0)
    made = Objective(config, prototypes)(photos, tiles)
    assert set(made) == {"aerial_prototype"}
    _check(made["aerial_prototype"], _to_prototypes(tiles, prototypes, config), 0.4)


@pytest.mark.parametrize("kind", KINDS)
def test_photo_to_photo_is_that_of_loops_over_all_other_photos(kind: Kind) -> None:
    config = _config(kind=kind, query_prototype=0, query_query=0.6)
    anchors = _places(5, 8, 60)
    photos = _joined(anchors, _beside(anchors, 6, 6.0))
    made = Objective(config, None)(photos, None)
    assert set(made) == {"query_query"}
    loss = config.loss
    _check(made["query_query"], _between_places(photos, photos, loss.positive_query_m, loss.near_query_m, loss), 0.6)


def test_the_papers_three_pairs_are_on_by_default_and_a_weight_of_zero_switches_one_off() -> None:
    photos = _places(0, 6)
    tiles = _beside(photos, 1, 50.0)
    names = {"query_prototype", "query_aerial", "aerial_prototype"}
    assert set(Objective(Config(), _prototypes(Config()))(photos, tiles)) == names
    for off in names:
        config = _config(**{off: 0})
        assert set(Objective(config, _prototypes(config))(photos, tiles)) == names - {off}


@pytest.mark.parametrize("kind", KINDS)
def test_without_prototypes_or_tiles_their_pairs_are_left_out(kind: Kind) -> None:
    photos = _places(0, 6)
    config = _config(kind=kind)
    assert set(Objective(config, None)(photos, _beside(photos, 1, 50.0))) == {"query_aerial"}
    assert set(Objective(config, _prototypes(config))(photos, None)) == {"query_prototype"}


def test_prototypes_near_the_photo_are_no_negatives() -> None:
    """A prototype at the mask's edge counts or does not, according to the width of the mask."""
    photos = _places(0, 1, 10)
    narrow, wide = (_config(near_prototype_cells=cells) for cells in (0.0, 50.0))
    prototypes = _prototypes(narrow)
    everyone, none = (
        float(Objective(config, prototypes)(photos, None)["query_prototype"].detach()) for config in (narrow, wide)
    )
    rows, weights = prototypes.neighbours(photos.lat_deg, photos.lon_deg)
    vector = photos.embeddings[0].detach()
    own = float(vector @ prototypes.interpolate(rows, weights)[0].detach())
    cosines = (prototypes.all() @ vector).tolist()
    assert none == pytest.approx(_row_loss([own], [], wide.loss), abs=1e-5)
    assert everyone == pytest.approx(_row_loss([own], cosines, narrow.loss), abs=1e-5)
    assert everyone > none + 1e-3


@pytest.mark.parametrize(("east_m", "kind"), [(60.0, "positive"), (150.0, "ignored"), (300.0, "negative")])
def test_a_tile_is_positive_ignored_or_negative_by_its_distance(east_m: float, kind: str) -> None:
    config = _config(query_prototype=0)
    photo = _places(0, 1)
    lat, lon = distance.offset(photo.lat_deg, photo.lon_deg, np.array([east_m]), np.zeros(1))
    tile = Places(_places(1, 1).embeddings, lat, lon)
    cosine = float(photo.embeddings[0].detach() @ tile.embeddings[0].detach())
    positives, negatives = [cosine] * (kind == "positive"), [cosine] * (kind == "negative")
    made = Objective(config, None)(photo, tile)["query_aerial"]
    assert float(made.detach()) == pytest.approx(_row_loss(positives, negatives, config.loss), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_random_tiles_are_negatives_of_photos_and_need_no_prototype(kind: Kind) -> None:
    config = _config(kind=kind)
    photos = _places(0, 6, 300)
    tiles = _beside(photos, 1, 50.0)
    far = distance.offset(photos.lat_deg[:4], photos.lon_deg[:4], np.full(4, 3000.0), np.zeros(4))
    random_tiles = Places(_places(2, 4).embeddings, *far)
    prototypes = _prototypes(config)
    alone = Objective(config, prototypes)(photos, tiles)
    made = Objective(config, prototypes)(photos, _joined(tiles, random_tiles), random_tiles=4)
    torch.testing.assert_close(made["query_prototype"], alone["query_prototype"])
    torch.testing.assert_close(made["aerial_prototype"], alone["aerial_prototype"])
    assert len(made["aerial_prototype"]) == len(tiles.lat_deg)
    loss = config.loss
    everyone = _joined(tiles, random_tiles)
    expected = _between_places(photos, everyone, loss.positive_aerial_m, loss.near_aerial_m, loss)
    _check(made["query_aerial"], expected, 1.0)
    assert (made["query_aerial"] > alone["query_aerial"]).all()


def test_a_tile_from_anywhere_that_shows_the_place_is_no_negative() -> None:
    config = _config()
    photos = _places(0, 3, 300)
    tiles = _beside(photos, 1, 50.0)
    random_tile = Places(_places(2, 1).embeddings, photos.lat_deg[:1], photos.lon_deg[:1])
    alone = Objective(config, None)(photos, tiles)["query_aerial"]
    made = Objective(config, None)(photos, _joined(tiles, random_tile), random_tiles=1)["query_aerial"]
    expected = _between_places(photos, _joined(tiles, random_tile), 80.0, 250.0, config.loss)
    torch.testing.assert_close(made.detach(), torch.tensor(expected), atol=2e-5, rtol=1e-4)
    assert made[0] > alone[0]  # one more positive to come near to


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_far_from_every_prototype_has_a_finite_loss_and_gradient(kind: Kind) -> None:
    config = _config(kind=kind)
    prototypes = _prototypes(config)
    lost = Places(_places(0, 2).embeddings, np.array([10.0, 48.85]), np.array([20.0, 2.35]))
    loss = Objective(config, prototypes)(lost, None)["query_prototype"]
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert prototypes.weight.grad is not None
    assert torch.isfinite(prototypes.weight.grad).all()
    if kind == "softmax":
        assert loss[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_against_the_gradient_lowers_every_pair(kind: Kind) -> None:
    config = _config(kind=kind, query_query=0.5)
    anchors = _places(0, 6, 300)
    photos = _joined(anchors, _beside(anchors, 2, 6.0))
    tiles = _beside(photos, 1, 50.0)
    prototypes = _prototypes(config)
    before = Objective(config, prototypes)(photos, tiles)
    for loss in before.values():
        assert (loss.detach() >= 0).all()
    for name, loss in before.items():
        leaves = [photos.embeddings, tiles.embeddings, prototypes.weight]
        gradients = torch.autograd.grad(loss.sum(), leaves, retain_graph=True, allow_unused=True)
        length = math.sqrt(sum(float((g**2).sum()) for g in gradients if g is not None))
        assert length > 1e-3
        moved = [
            leaf.detach() - (0.01 / length * g if g is not None else 0)
            for leaf, g in zip(leaves, gradients, strict=True)
        ]
        changed = Prototypes(prototypes.ids, DIM, config.model.interpolation_radius_cells)
        changed.weight.data = moved[2]
        after = Objective(config, changed)(
            Places(moved[0], photos.lat_deg, photos.lon_deg), Places(moved[1], tiles.lat_deg, tiles.lon_deg)
        )
        assert after[name].sum() < loss.detach().sum(), name


@pytest.mark.parametrize("kind", KINDS)
def test_photos_against_codes_are_photos_against_tiles_plus_prototypes(kind: Kind) -> None:
    config = _config(kind=kind, query_cell=1.0)
    anchors = _places(0, 5, 300)
    photos, tiles = anchors, _beside(anchors, 1, 20.0)
    prototypes = _prototypes(config)
    made = Objective(config, prototypes)(photos, tiles)["query_cell"]
    index, weight = prototypes.neighbours(tiles.lat_deg, tiles.lon_deg)
    codes = Places(tiles.embeddings + prototypes.interpolate(index, weight), tiles.lat_deg, tiles.lon_deg)
    expected = _between_places(photos, codes, config.loss.positive_aerial_m, config.loss.near_aerial_m, config.loss)
    _check(made, expected, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_photos_are_compared_with_the_last_tiles_and_codes_of_earlier_batches_too(kind: Kind) -> None:
    config, size = _config(kind=kind, query_cell=1.0), 7
    prototypes, memory = _prototypes(config), TileMemory(size, DIM, torch.device("cpu"))
    objective, rule = Objective(config, prototypes, memory), config.loss
    batches = [_places(seed, 5, 300) for seed in range(3)]
    tiles = [_beside(photos, 10 + seed, 20.0) for seed, photos in enumerate(batches)]
    assert torch.equal(
        objective(batches[0], tiles[0])["query_aerial"],
        Objective(config, prototypes)(batches[0], tiles[0])["query_aerial"],
    )
    objective(batches[1], tiles[1])
    made = objective(batches[2], tiles[2])
    last = _joined(tiles[0], tiles[1])
    kept = Places(last.embeddings[-size:], last.lat_deg[-size:], last.lon_deg[-size:])

    def codes(places: Places) -> Places:
        near = prototypes.interpolate(*prototypes.neighbours(places.lat_deg, places.lon_deg))
        return Places(places.embeddings + near, places.lat_deg, places.lon_deg)

    for name, of in (("query_aerial", lambda places: places), ("query_cell", codes)):
        limits_m = rule.positive_aerial_m, rule.near_aerial_m
        own, earlier = (np.array(_between_places(batches[2], of(each), *limits_m, rule)) for each in (tiles[2], kept))
        _check(made[name], ((own + earlier) / 2).tolist(), 1.0)
    made["query_aerial"].sum().backward()
    assert tiles[0].embeddings.grad is None
    assert tiles[1].embeddings.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_symmetric_loss_is_the_mean_of_both_directions_without_tiles_from_anywhere(kind: Kind) -> None:
    """Against loops over pairs: photos look for tiles, tiles of photos look for photos; near ones count for neither."""
    config = _config(kind=kind, symmetric=True, query_aerial=1.4)
    photos = _places(1, 10)
    tiles = _beside(photos, 2, 70.0)
    random_tiles = _places(3, 3, 2000)
    made = Objective(config, None)(photos, _joined(tiles, random_tiles), random_tiles=3)
    assert set(made) == {"query_aerial", "aerial_query"}
    near_m, far_m = config.loss.positive_aerial_m, config.loss.near_aerial_m
    _check(made["query_aerial"], _between_places(photos, _joined(tiles, random_tiles), near_m, far_m, config.loss), 0.7)
    _check(made["aerial_query"], _between_places(tiles, photos, near_m, far_m, config.loss), 0.7)
    gradients = torch.autograd.grad(made["aerial_query"].sum(), [photos.embeddings, tiles.embeddings])
    assert all((gradient.abs().sum(1) > 0).any() for gradient in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_one_photo_a_tile_makes_the_symmetric_loss_that_of_the_transposed_similarities(kind: Kind) -> None:
    """CLIP's loss: pairs far apart, so that every photo has its tile and all others are wrong."""
    photos = _places(1, 6, 30_000)
    tiles = Places(_places(2, 6).embeddings, photos.lat_deg, photos.lon_deg)
    config = _config(kind=kind, symmetric=True)
    made = Objective(config, None)(photos, tiles)
    total = (made["query_aerial"].mean() + made["aerial_query"].mean()).detach()
    if kind == "softmax":
        logits = config.loss.scale * photos.embeddings.detach() @ tiles.embeddings.detach().T
        target = torch.arange(6)
        both = [torch.nn.functional.cross_entropy(matrix, target) for matrix in (logits, logits.T)]
        torch.testing.assert_close(total, sum(both) / 2)
    exchanged = Objective(config, None)(tiles, photos)
    torch.testing.assert_close(total, (exchanged["query_aerial"].mean() + exchanged["aerial_query"].mean()).detach())


@pytest.mark.parametrize("tau_m", [40.0, 75.0, 400.0])
def test_haversine_labels_are_those_of_pigeon_brought_to_a_sum_of_one(tau_m: float) -> None:
    config = _config(kind="softmax", prototype_labels="haversine", haversine_m=tau_m, scale=12.0)
    photos = _places(0, 12, 600)
    ids = np.union1d(_prototypes(config).ids, s2.cell_ids(photos.lat_deg, photos.lon_deg, LEVEL))
    prototypes = Prototypes(ids, DIM, config.model.interpolation_radius_cells)
    made = Objective(config, prototypes)(photos, None)["query_prototype"]
    centres = list(zip(*s2.cell_centers(prototypes.ids), strict=True))
    own = prototypes.lookup(s2.cell_ids(photos.lat_deg, photos.lon_deg, LEVEL))
    expected = []
    for i, vector in enumerate(photos.embeddings.detach()):
        cosines = (prototypes.all().detach() @ vector).tolist()
        total = math.log(sum(math.exp(12.0 * s) for s in cosines))
        apart_m = [_apart_m(photos, i, *centre) for centre in centres]
        labels = [math.exp(-(d - apart_m[own[i]]) / tau_m) for d in apart_m]
        expected.append(-sum(y * (12.0 * s - total) for y, s in zip(labels, cosines, strict=True)) / sum(labels))
    _check(made, expected, 1.0)
    made.sum().backward()
    assert prototypes.weight.grad is not None
    assert (prototypes.weight.grad.abs().sum(1) > 0).all()


def test_haversine_labels_of_a_place_far_from_every_prototype_are_none() -> None:
    config = _config(kind="softmax", prototype_labels="haversine")
    lost = Places(_places(0, 2).embeddings, np.array([10.0, 48.85]), np.array([20.0, 2.35]))
    loss = Objective(config, _prototypes(config))(lost, None)["query_prototype"]
    assert loss[0] == 0
    assert loss[1] > 0
