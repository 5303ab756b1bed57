"""Databases that grow: new photos and new imagery change what they are of, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cellcode import build
from cellcode.aerial import AerialSource, open_source
from cellcode.aerial.protocol import Crop
from cellcode.database import Database, clip, compress, grow, reimage
from cellcode.database.building.embedding import embed
from cellcode.database.editing.new_prototypes import fit
from cellcode.errors import InputError
from cellcode.geography import Region, distance, s2
from cellcode.model.prototypes.whole import Prototypes
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.simulation import Simulation


@pytest.fixture(scope="module")
def everything(town_photos: PhotoTable) -> PhotoTable:
    """All photos of the town, offered for growing."""
    return town_photos.with_column("split", ["train"] * len(town_photos))


def bare(cells: Database) -> tuple[int, np.ndarray]:
    """Prototype level, and its cells that have none."""
    level = cells.config.levels.prototype
    parents = s2.parents(cells.ids, level)
    return level, np.setdiff1d(parents, parents[cells.facts.has_prototype])


@pytest.fixture(scope="module")
def newcomers(town_cells: Database, everything: PhotoTable) -> PhotoTable:
    """Photos in cells without a prototype."""
    level, without = bare(town_cells)
    own = s2.cell_ids(everything.lat_deg, everything.lon_deg, level)
    return everything.select(np.isin(own, without))


@pytest.fixture(scope="module")
def grown(town_cells: Database, newcomers: PhotoTable, tmp_path_factory: pytest.TempPathFactory) -> Database:
    return grow(town_cells, newcomers, out=tmp_path_factory.mktemp("grown") / "grown.cells")


def test_cells_without_photos_gain_a_prototype_and_the_others_stay(
    town_cells: Database, grown: Database, newcomers: PhotoTable
) -> None:
    level, _ = bare(town_cells)
    own = s2.cell_ids(newcomers.lat_deg, newcomers.lon_deg, level)
    touched = np.isin(s2.parents(town_cells.ids, level), own)
    assert touched.any()
    assert not touched.all()
    np.testing.assert_array_equal(grown.ids, town_cells.ids)
    np.testing.assert_array_equal(grown.facts.has_prototype, town_cells.facts.has_prototype | touched)
    np.testing.assert_array_equal(grown.codes[~touched], town_cells.codes[~touched])
    assert (np.asarray(grown.codes[touched]) != np.asarray(town_cells.codes[touched])).any(axis=1).all()
    before, after = town_cells.terms()[1], grown.terms()[1]
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after[~touched], before[~touched])
    np.testing.assert_allclose(np.linalg.norm(after[touched].astype(np.float32), axis=1), 1, atol=2e-3)
    aerial, aerial_now = town_cells.terms()[0], grown.terms()[0]
    assert aerial is not None
    assert aerial_now is not None
    np.testing.assert_array_equal(aerial_now, aerial)
    assert grown.calibration == town_cells.calibration
    grown.verify()


def test_facts_and_manifest_tell_of_the_photos(town_cells: Database, grown: Database, newcomers: PhotoTable) -> None:
    own = s2.cell_ids(newcomers.lat_deg, newcomers.lon_deg, grown.level)
    counted = np.array([(own == cell).sum() for cell in grown.ids])
    np.testing.assert_array_equal(grown.facts.photos, town_cells.facts.photos + counted)
    days = newcomers.captured_at.astype("datetime64[D]")
    cell = int(np.argmax(counted))
    assert grown.facts.first_date[cell] == days[own == grown.ids[cell]].min()
    assert grown.facts.last_date[cell] == days[own == grown.ids[cell]].max()
    assert grown.manifest["training_photos"] == town_cells.manifest["training_photos"] + len(newcomers)
    assert grown.manifest["made_from"]["how"] == "grow"
    assert grown.manifest["made_from"]["databases"] == [town_cells.identity]
    assert grown.identity != town_cells.identity


def test_a_prototype_that_is_there_counts_by_its_photos(
    town_cells: Database, everything: PhotoTable, tmp_path: Path
) -> None:
    level = town_cells.config.levels.prototype
    busy = town_cells.ids[np.argmax(town_cells.facts.photos)]
    parent = s2.parents(np.array([busy]), level)
    photos = everything.select(np.isin(s2.cell_ids(everything.lat_deg, everything.lon_deg, level), parent))

    def moved(table: PhotoTable, name: str) -> float:
        made, rows = (grow(town_cells, table, out=tmp_path / name), np.isin(s2.parents(town_cells.ids, level), parent))
        old, new = (np.asarray(each.terms()[1])[rows].astype(np.float32) for each in (town_cells, made))
        return float(np.linalg.norm(old - new, axis=1).max())

    few, many = moved(photos.select(np.arange(1)), "few"), moved(photos, "many")
    assert 0 < few < many


def test_cells_that_are_missing_are_added_in_a_region(
    town_cells: Database, newcomers: PhotoTable, grown: Database, tmp_path: Path
) -> None:
    own = s2.cell_ids(newcomers.lat_deg, newcomers.lon_deg, town_cells.level)
    lost = own[:1]
    fewer = clip(town_cells, Region.of_cells(town_cells.ids[town_cells.ids != lost]), out=tmp_path / "fewer")
    made = grow(fewer, newcomers, Region.of_cells(np.union1d(lost, own)), out=tmp_path / "made")
    np.testing.assert_array_equal(made.ids, town_cells.ids)
    row = int(np.searchsorted(made.ids, lost[0]))
    assert (made.facts.has_prototype[row], made.facts.has_aerial[row]) == (True, False)
    assert made.facts.photos[row] == (own == lost[0]).sum()
    np.testing.assert_array_equal(np.asarray(made.terms()[0])[row], 0)
    assert np.linalg.norm(np.asarray(made.codes)[row].astype(np.float32)) > 0
    made.verify()


def test_a_new_prototype_is_near_its_photos_and_no_answer_to_all_others() -> None:
    rng = np.random.default_rng(0)
    ids = Region.bbox(3.0, 52.0, 3.03, 52.02).cells(15)
    common = rng.standard_normal(32) * 2.0  # what all embeddings share
    places = rng.standard_normal((len(ids), 32))
    lat, lon = s2.cell_centers(np.repeat(ids, 12))
    made = np.repeat(places, 12, axis=0) + common + 0.5 * rng.standard_normal((len(lat), 32))
    queries = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    new = np.arange(len(ids)) == 7
    own = np.repeat(np.arange(len(ids)), 12)
    table = Prototypes(ids, 32, 1.2)
    weights = np.asarray(places / np.linalg.norm(places, axis=1, keepdims=True), np.float32)
    with torch.no_grad():
        table.weight.copy_(torch.from_numpy(weights))
    before = table.weight.detach().clone()
    fit(table, new, queries[own == 7], lat[own == 7], lon[own == 7], queries[own != 7], int((own != 7).sum()), 20.0)
    np.testing.assert_array_equal(table.weight.detach()[~new], before[~new])
    best = (queries @ table.all().detach().numpy().T).argmax(axis=1)
    assert (best[own == 7] == 7).mean() > 0.8
    assert (best[own != 7] == 7).mean() < 0.05
    mean = queries[own == 7].mean(axis=0)  # the mean embedding instead would take photos from others
    hub = np.column_stack([queries @ weights[~new].T, queries @ mean / np.linalg.norm(mean)])
    assert (hub[own != 7].argmax(axis=1) == hub.shape[1] - 1).mean() > 0.3


def test_what_cannot_be_used_is_said(
    town_cells: Database, newcomers: PhotoTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = newcomers.with_column("lat_deg", newcomers.lat_deg + 5)
    with pytest.raises(InputError, match=r"none of .* lies in a cell"):
        grow(town_cells, away, out=tmp_path / "away")
    gone = newcomers.select(np.arange(4)).with_column("file", ["no.jpg"] * 4)
    with pytest.raises(InputError, match=r"none of 4 photos can be read.*no\.jpg"):
        grow(town_cells, gone, out=tmp_path / "gone")
    with pytest.raises(InputError, match="another --out"):
        grow(town_cells, newcomers, out=town_cells.folder)
    packed = compress(town_cells, out=tmp_path / "packed", code_bytes=4)
    with pytest.raises(InputError, match="compressed"):
        grow(packed, newcomers, out=tmp_path / "no")
    lat = newcomers.lat_deg.copy()
    lat[0] += 5
    names = newcomers.column("file")
    names[1] = "no.jpg"
    caplog.clear()
    made = grow(town_cells, newcomers.with_column("lat_deg", lat).with_column("file", names), out=tmp_path / "part")
    said = caplog.text
    assert names[0] in said
    assert "1 photos lie in no cell" in said
    assert "no.jpg" in said
    assert made.manifest["made_from"]["photos"] == len(newcomers) - 2


def test_a_database_without_terms_cannot_grow(
    town: Simulation, town_run: Run, newcomers: PhotoTable, tmp_path: Path
) -> None:
    cells = build(town_run, town.aerial_path, out=tmp_path / "short", overrides=["build.keep_terms=false"])
    with pytest.raises(InputError, match="keep_terms"):
        grow(cells, newcomers, out=tmp_path / "grown")


class Darker(AerialSource):
    """The same imagery in other light; an `AerialSource`."""

    def __init__(self, source: AerialSource) -> None:
        self.source, self.identity, self.date = source, "darker", "2025-05-01"
        self.attribution, self.licence, self.bounds = "somebody else", "CC-BY-4.0", source.bounds

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        crop = self.source.read(lat_deg, lon_deg, size_m, size_px, bearing_deg)
        return replace(crop, pixels=crop.pixels // 2, date=self.date)

    def footprint(self) -> Region:
        return self.source.footprint()


@pytest.mark.parametrize("smoothing", [0.0, 0.6])
def test_new_imagery_changes_the_cells_of_the_region_alone(
    smoothing: float, town: Simulation, town_run: Run, tmp_path: Path
) -> None:
    """Inside, the terms are those of a build from the new imagery; outside, everything is as it was."""
    settings = [f"build.aerial_smoothing_cells={smoothing}"]
    old = build(town_run, town.aerial_path, out=tmp_path / "old", overrides=settings)
    darker = Darker(open_source(town.aerial_path))
    oracle = build(town_run, darker, out=tmp_path / "oracle", overrides=settings)
    lat, lon = s2.cell_centers(old.ids)
    region = Region.bbox(float(np.median(lon)), float(lat.min()) - 1, float(lon.max()) + 1, float(lat.max()) + 1)
    made = reimage(old, town_run, darker, region, out=tmp_path / "made")
    inside = region.contains(lat, lon)
    around = s2.all_neighbors(old.ids)
    reach = np.isin(around, old.ids[inside]).any(axis=1) if smoothing else np.zeros(len(inside), bool)
    interior = inside & ~np.isin(around, old.ids[~inside]).any(axis=1) if smoothing else inside
    np.testing.assert_array_equal(made.ids, old.ids)
    for value in (0, 1):
        before, after, new = (np.asarray(each.terms()[value]) for each in (old, made, oracle))
        np.testing.assert_array_equal(after[~inside & ~reach], before[~inside & ~reach])
        np.testing.assert_allclose(after[interior].astype(np.float32), new[interior].astype(np.float32), atol=2e-3)
    assert (np.asarray(made.codes) != np.asarray(old.codes)).any(axis=1)[inside].all()
    np.testing.assert_array_equal(np.asarray(made.codes)[~inside & ~reach], np.asarray(old.codes)[~inside & ~reach])
    digests, before_digests = made.tile_digests(), old.tile_digests()
    assert digests is not None
    assert before_digests is not None
    np.testing.assert_array_equal(digests != before_digests, inside)
    np.testing.assert_array_equal(made.facts.imagery_date[inside], np.datetime64("2025-05-01"))
    np.testing.assert_array_equal(made.facts.photos, old.facts.photos)
    assert "somebody else" in made.manifest["attributions"]
    assert "CC-BY-4.0" in made.manifest["licences"]
    assert made.manifest["imagery"]["date"] == "2025-05-01"
    made.verify()


def test_imagery_needs_the_encoder_of_the_database(
    town: Simulation, town_cells: Database, wide_run: Run, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="aerial encoder"):
        reimage(town_cells, wide_run, town.aerial_path, out=tmp_path / "made")


def test_a_database_of_an_earlier_version_takes_new_imagery_from_its_own_run(
    town: Simulation, town_cells: Database, town_run: Run, tmp_path: Path
) -> None:
    """Its digest of the aerial encoder was computed in another way, so its tiles are encoded again."""
    manifest = town_cells.manifest | {"aerial_encoder": "0123456789abcdef"}
    region = Region.of_cells(town_cells.ids[:3])
    made = reimage(replace(town_cells, manifest=manifest), town_run, town.aerial_path, region, out=tmp_path / "made")
    np.testing.assert_allclose(made.codes.astype(float), town_cells.codes.astype(float), atol=2e-3)


def test_imagery_is_built_as_the_database_was(town: Simulation, town_run: Run, tmp_path: Path) -> None:
    """Not as the run says: here the database asks for whole tiles."""
    old = build(town_run, town.aerial_path, out=tmp_path / "old", overrides=["build.min_imagery_share=1"])
    half = Holed(open_source(town.aerial_path))
    with pytest.raises(
        InputError, match=r"no tile of the region has at least 100% imagery; check --aerial and --region"
    ):
        reimage(old, town_run, half, out=tmp_path / "made")
    levels = town_run.config.levels.model_copy(update={"cell": old.level - 1})
    coarser = replace(town_run, config=town_run.config.model_copy(update={"levels": levels}))
    with pytest.raises(InputError, match=f"of level {old.level - 1}, those of .* of level {old.level}"):
        reimage(old, coarser, half, out=tmp_path / "made")


class Holed(Darker):
    """Imagery with a pixel missing in every tile."""

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        crop = super().read(lat_deg, lon_deg, size_m, size_px, bearing_deg)
        mask = crop.mask.copy()
        mask[0, 0] = False
        return replace(crop, mask=mask)


def test_a_database_of_prototypes_alone_takes_imagery_with_all_that_belongs_to_it(
    town: Simulation, town_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ["build.aerial_smoothing_cells=0.6"]
    bare = build(town_run, None, out=tmp_path / "bare", overrides=settings)
    assert bare.tile_digests() is None
    caplog.clear()
    made = reimage(bare, town_run, town.aerial_path, out=tmp_path / "made")
    assert "their weights are not calibrated" in caplog.text
    oracle = build(town_run, town.aerial_path, out=tmp_path / "oracle", overrides=settings)
    rows = np.flatnonzero(np.isin(made.ids, oracle.ids))
    other = np.searchsorted(oracle.ids, made.ids[rows])
    one, all_tiles = made.tile_digests(), oracle.tile_digests()
    assert one is not None
    assert all_tiles is not None
    assert (one[rows] != 0).any()
    np.testing.assert_array_equal(one[rows], all_tiles[other])
    for mine, theirs in ((made.tiles(), oracle.tiles()), (made.terms()[0], oracle.terms()[0])):
        np.testing.assert_allclose(
            np.asarray(mine)[rows].astype(np.float32), np.asarray(theirs)[other].astype(np.float32), atol=2e-3
        )
    assert made.manifest["codes"]["aerial_error"] >= oracle.manifest["codes"]["aerial_error"]
    caplog.clear()
    reimage(made, town_run, town.aerial_path, out=tmp_path / "again")
    assert "not calibrated" not in caplog.text
    made.verify()


def test_a_cell_that_is_added_takes_part_in_the_prototype_that_is_there(
    town_cells: Database, everything: PhotoTable, tmp_path: Path
) -> None:
    """It becomes what it would have become if it had been there."""
    level = town_cells.config.levels.prototype
    parents = s2.parents(town_cells.ids, level)
    parent = parents[np.argmax(town_cells.facts.photos)]
    family = town_cells.ids[parents == parent]
    assert len(family) > 1
    busy = town_cells.ids[np.argmax(town_cells.facts.photos)]
    lost = family[family != busy][:1]
    own = s2.cell_ids(everything.lat_deg, everything.lon_deg, town_cells.level)
    photo = everything.select(np.flatnonzero(own == busy)[:1])
    fewer = clip(town_cells, Region.of_cells(np.setdiff1d(town_cells.ids, lost)), out=tmp_path / "fewer")
    made = grow(fewer, photo, Region.of_cells(family), out=tmp_path / "made")
    prototypes = np.asarray(made.terms()[1]).astype(np.float32)
    rows = np.searchsorted(made.ids, np.array([lost[0], *family[family != lost[0]]]))
    before = np.asarray(town_cells.terms()[1])[np.searchsorted(town_cells.ids, made.ids[rows])].astype(np.float32)
    assert (prototypes[rows[0]] * before[1:].mean(axis=0)).sum() > 0.9  # one photo changes little
    assert made.facts.has_prototype[rows[0]]


def test_old_prototypes_are_compared_with_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is fitted is a minimum of the loss, by its definition."""
    rng = np.random.default_rng(0)
    ids = Region.bbox(3.0, 52.0, 3.1, 52.06).cells(15)
    weights = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((len(ids), 32)).astype(np.float32)))
    new = np.isin(np.arange(len(ids)), [7, 8])
    lat, lon = s2.cell_centers(np.repeat(ids[new], 12))
    lat, lon = distance.offset(lat, lon, *rng.uniform(-100, 100, (2, 24)))
    photos, others = (
        torch.nn.functional.normalize(rows + 0.1 * torch.from_numpy(rng.standard_normal(rows.shape).astype(np.float32)))
        for rows in (weights[new].repeat_interleave(12, 0), weights[~new])
    )
    made = []
    for entries in (1 << 24, len(ids) * 5):
        monkeypatch.setattr("cellcode.database.editing.new_prototypes.MAX_ENTRIES", entries)
        table = Prototypes(ids, 32, 1.2)
        with torch.no_grad():
            table.weight.copy_(weights)
        fit(table, new, photos.numpy(), lat, lon, others.numpy(), len(others), 20.0)
        made.append(table)
    np.testing.assert_allclose(made[0].all().detach(), made[1].all().detach(), atol=1e-4)

    index, weight = made[0].neighbours(lat, lon)

    def loss(rows: torch.Tensor) -> float:
        every = weights.clone()
        every[torch.from_numpy(new)] = torch.nn.functional.normalize(rows)
        target = torch.zeros(len(photos), len(ids)).scatter_add_(1, index, weight)
        fitting = -(target * (20 * photos @ every.T).log_softmax(1)).sum(1).mean()
        share = (20 * others @ every.T).softmax(1)[:, torch.from_numpy(new)].sum(1)
        return float(fitting - (1 - share).log().mean() * len(others) / len(photos))

    found = made[0].all().detach()[torch.from_numpy(new)]
    best = loss(found)
    for _ in range(20):
        moved = found + 0.1 * torch.from_numpy(rng.standard_normal(found.shape).astype(np.float32))
        assert loss(moved) > best - 1e-3


def test_photos_of_other_splits_alone_are_refused(town_cells: Database, newcomers: PhotoTable, tmp_path: Path) -> None:
    tested = newcomers.with_column("split", ["test"] * len(newcomers))
    with pytest.raises(InputError, match=rf"none of {len(tested)} photos is of the split train.*--split none"):
        grow(town_cells, tested, out=tmp_path / "no")


def test_photos_are_decoded_in_chunks(
    town_cells: Database, newcomers: PhotoTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [newcomers.files[0], Path("no.jpg"), *newcomers.files[1:5]]
    whole = embed(town_cells.encoder(), town_cells.config, files)
    monkeypatch.setattr("cellcode.database.building.embedding.CHUNK", 2)
    chunks = embed(town_cells.encoder(), town_cells.config, files)
    np.testing.assert_allclose(chunks[0], whole[0], atol=1e-2)  # batches of another size, perhaps in bfloat16
    np.testing.assert_array_equal(chunks[1], [0, 2, 3, 4, 5])
    np.testing.assert_array_equal(whole[1], chunks[1])
    assert list(chunks[2]) == [1]
