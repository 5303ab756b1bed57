import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import reseal, unseal

from cellcode.config import Config
from cellcode.errors import InputError
from cellcode.geography import s2
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.whole import Prototypes
from cellcode.runs import CellFacts, Run, Validation
from cellcode.runs.run import DEFINING
from cellcode.types import Datetimes, Float64

CONFIG = Config.model_validate(
    {
        "name": "made",
        "model": {
            "dim": 16,
            "ground": {"aggregation": {"name": "gem", "gem_p": 2}},
            "aerial": {"aggregation": {"name": "mean"}},
        },
        "training": {"learning_rate": 1e-5},
    }
)


def _photos(count: int = 60) -> tuple[Float64, Float64, Datetimes]:
    rng = np.random.default_rng(0)
    when = np.datetime64("2024-03-01T00:00:00", "ms") + rng.integers(0, 20 * 24 * 3600, count) * np.timedelta64(1, "s")
    when[rng.random(count) < 0.3] = np.datetime64("NaT")
    return rng.uniform(48.85, 48.852, count), rng.uniform(2.35, 2.353, count), when


def _run(folder: Path, aerial: bool = True, prototypes: bool = True) -> Run:
    torch.manual_seed(0)
    lat, lon, when = _photos()
    ids = np.unique(s2.cell_ids(lat, lon, CONFIG.levels.prototype + 3))
    queries = np.random.default_rng(1).normal(size=(7, 16)).astype(np.float32)
    return Run(
        folder=folder,
        config=CONFIG,
        ground=Encoder(CONFIG.model.ground, 16).eval(),
        aerial=Encoder(CONFIG.model.aerial, 16).eval() if aerial else None,
        prototypes=Prototypes(ids, 16, CONFIG.model.interpolation_radius_cells) if prototypes else None,
        facts=CellFacts.of_photos(lat, lon, when, 18),
        validation=Validation(lat[:7], lon[:7], queries),
        manifest={
            "licences": ["CC0"],
            "attributions": ["somebody"],
            "bounds": [2.3, 48.8, 2.4, 48.9],
            "training_photos": 60,
        },
    ).save()


def _photo(count: int = 3) -> torch.Tensor:
    return torch.randint(256, (count, 40, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("aerial", [True, False])
@pytest.mark.parametrize("prototypes", [True, False])
def test_a_run_that_is_loaded_is_the_one_that_was_saved(tmp_path: Path, aerial: bool, prototypes: bool) -> None:
    saved = _run(tmp_path, aerial, prototypes)
    loaded = Run.load(str(tmp_path))
    assert loaded.config == saved.config
    assert loaded.identity == saved.identity
    assert loaded.manifest == saved.manifest
    pairs = [(saved.ground, loaded.ground)]
    assert (loaded.aerial is not None) == aerial
    if saved.aerial is not None and loaded.aerial is not None:
        pairs.append((saved.aerial, loaded.aerial))
    for before, after in pairs:
        assert not after.training
        with torch.inference_mode():
            torch.testing.assert_close(after(_photo()), before(_photo()), atol=0, rtol=0)
    assert (loaded.prototypes is not None) == prototypes
    if saved.prototypes is not None and loaded.prototypes is not None:
        np.testing.assert_array_equal(loaded.prototypes.ids, saved.prototypes.ids)
        assert loaded.prototypes.ids.dtype == np.uint64
        assert loaded.prototypes.level == CONFIG.levels.prototype + 3
        torch.testing.assert_close(loaded.prototypes.weight, saved.prototypes.weight, atol=0, rtol=0)
    for part in ("facts", "validation"):
        for name, value in vars(getattr(saved, part)).items():
            again = getattr(getattr(loaded, part), name)
            assert again.dtype == value.dtype, name
            np.testing.assert_array_equal(again, value, err_msg=name)


def test_ground_and_aerial_weights_are_not_mixed_up(tmp_path: Path) -> None:
    loaded = (_run(tmp_path), Run.load(tmp_path))[1]
    assert loaded.aerial is not None
    with torch.inference_mode():
        assert not torch.allclose(loaded.ground(_photo()), loaded.aerial(_photo()), atol=1e-2)


def test_the_manifest_says_what_is_in_the_run(tmp_path: Path) -> None:
    _run(tmp_path)
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["name"]) == ("cellcode-run", 2, "made")
    assert manifest["licences"] == ["CC0"]
    assert manifest["validation_photos"] == 7
    assert manifest["has_aerial"] is True
    assert manifest["prototypes"] == len(np.load(tmp_path / "prototype_ids.npy"))


def test_identity_depends_on_weights_and_configuration_alone(tmp_path: Path) -> None:
    first, second = _run(tmp_path / "a"), _run(tmp_path / "b")
    assert first.identity == second.identity
    with torch.no_grad():
        second.ground.projection.bias[0] += 1e-3
    assert second.save().identity != first.identity


def test_a_run_without_validation_photos_loads_again(tmp_path: Path) -> None:
    run = _run(tmp_path)
    none = Validation(np.empty(0), np.empty(0), np.empty((0, 16), np.float32))
    Run(**{**vars(run), "validation": none}).save()
    assert Run.load(tmp_path).validation.queries.shape == (0, 16)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_changed_or_missing_file_is_refused_in_a_sentence_that_names_it(tmp_path: Path, sealed: bool) -> None:
    run = _run(tmp_path)
    other = _run(tmp_path / "other", aerial=False).folder
    if not sealed:
        unseal(tmp_path, 1, "files")
    assert Run.load(tmp_path).identity == run.identity
    for name in (*DEFINING, "cells.parquet", "validation.npz"):
        content = (tmp_path / name).read_bytes()
        flipped = bytes([*content[:-1], content[-1] ^ 1])
        damaged: dict[str, bytes | None] = {"truncated": content[: len(content) // 2], "missing": None}
        if sealed or name in DEFINING:
            damaged |= {"flipped": flipped}
        if sealed and name == "model.safetensors":  # the other files of the two runs are the same
            damaged |= {"of another run": (other / name).read_bytes()}
        for how, value in damaged.items():
            (tmp_path / name).unlink()
            if value is not None:
                (tmp_path / name).write_bytes(value)
            by_identity = not sealed and name in DEFINING and value is not None
            with pytest.raises(InputError, match=r"belong to its run\.json" if by_identity else name) as caught:
                Run.load(tmp_path)
            assert str(tmp_path) in str(caught.value), how
            assert "\n" not in str(caught.value), how
            (tmp_path / name).write_bytes(content)
    assert Run.load(tmp_path).identity == run.identity


def test_side_files_of_another_run_with_the_same_weights_are_refused(tmp_path: Path) -> None:
    run, folder = _run(tmp_path / "a"), tmp_path / "b"
    days = np.full(4, np.datetime64("2024-03-01", "ms"))
    facts = CellFacts.of_photos(np.full(4, 48.85), np.full(4, 2.35), days, 18)
    shifted = replace(run.validation, lat_deg=run.validation.lat_deg + 0.1)
    other = replace(run, folder=folder, facts=facts, validation=shifted, manifest=dict(run.manifest)).save()
    assert other.identity == run.identity
    for name in ("cells.parquet", "validation.npz", "run.json"):
        own = (run.folder / name).read_bytes()
        (run.folder / name).write_bytes((folder / name).read_bytes())
        with pytest.raises(InputError, match=r"is not the file that its manifest was written for|bytes"):
            Run.load(run.folder)
        (run.folder / name).write_bytes(own)


def test_files_that_do_not_belong_together_are_refused_though_each_is_as_described(tmp_path: Path) -> None:
    _run(tmp_path)
    with (tmp_path / "config.yaml").open("a") as file:
        file.write("# changed\n")
    reseal(tmp_path)
    with pytest.raises(InputError, match=r"its files do not belong to its run\.json"):
        Run.load(tmp_path)


def test_a_run_of_an_earlier_version_that_is_saved_again_has_digests(tmp_path: Path) -> None:
    _run(tmp_path)
    unseal(tmp_path, 1, "files")
    again = Run.load(tmp_path).save()
    assert again.manifest["version"] == 2
    assert Run.load(tmp_path).manifest == again.manifest


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"not a finished run \(no run\.json\); train one first"):
            Run.load(folder)


def test_a_run_that_was_stopped_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(InputError, match="its training has not finished: train again with --resume"):
        Run.load(tmp_path)


def test_a_run_of_another_format_or_version_is_refused(tmp_path: Path) -> None:
    _run(tmp_path)
    for changes, said in (
        ({"format": "cellcode-photos"}, "is not the manifest of a cellcode-run"),
        ({"version": 3}, "is a cellcode-run of version 3, this program reads version 2"),
        ({"version": None}, "is a cellcode-run of version None"),
        ({"version": True}, "is a cellcode-run of version True"),
    ):
        unsealed = json.loads((tmp_path / "run.json").read_text())
        reseal(tmp_path, **changes)
        with pytest.raises(InputError, match=said):
            Run.load(tmp_path)
        (tmp_path / "run.json").write_text(json.dumps(unsealed | changes))
        with pytest.raises(InputError, match=said):
            Run.load(tmp_path)
        (tmp_path / "run.json").write_text(json.dumps(unsealed | {"version": 1}))
        with pytest.raises(InputError, match="was changed or damaged"):
            Run.load(tmp_path)
        (tmp_path / "run.json").write_text(json.dumps(unsealed))


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    _run(tmp_path)
    (tmp_path / "run.json").write_text('{"format": ')
    with pytest.raises(InputError, match=r"run\.json is not valid JSON"):
        Run.load(tmp_path)


def test_saving_that_stops_half_way_leaves_no_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cellcode.runs.run.pq.write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.save()
    with pytest.raises(InputError, match="not a finished run"):
        Run.load(tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("level", [16, 18, 20])
def test_cell_facts_are_those_of_counting_photo_by_photo(level: int) -> None:
    lat, lon, when = _photos(200)
    days: dict[int, set[np.datetime64]] = {}
    photos: dict[int, int] = {}
    for cell, date in zip(s2.cell_ids(lat, lon, level).tolist(), when, strict=True):
        photos[cell] = photos.get(cell, 0) + 1
        days.setdefault(cell, set())
        if not np.isnat(date):
            days[cell].add(date.astype("datetime64[D]"))
    facts = CellFacts.of_photos(lat, lon, when, level)
    assert facts.ids.tolist() == sorted(photos)
    undated = 0
    for row, cell in enumerate(facts.ids.tolist()):
        assert facts.photos[row] == photos[cell]
        assert facts.dates[row] == len(days[cell])
        if days[cell]:
            assert facts.first_date[row] == min(days[cell])
            assert facts.last_date[row] == max(days[cell])
        else:
            undated += 1
            assert np.isnat(facts.first_date[row])
            assert np.isnat(facts.last_date[row])
    assert facts.photos.dtype == facts.dates.dtype == np.dtype("int32")
    assert facts.first_date.dtype == facts.last_date.dtype == np.dtype("datetime64[D]")
    assert undated or level < 20  # cells without any date are among the cases


def test_photos_without_any_date_make_cells_without_dates() -> None:
    lat, lon, when = _photos(20)
    facts = CellFacts.of_photos(lat, lon, np.full_like(when, np.datetime64("NaT")), 18)
    assert facts.photos.sum() == 20
    assert (facts.dates == 0).all()
    assert np.isnat(facts.first_date).all()


def test_a_day_before_1970_is_a_day_like_any_other() -> None:
    when = np.array(["1931-05-04T23:59", "1931-05-04T00:00", "1931-05-05T00:00"], "datetime64[ms]")
    facts = CellFacts.of_photos(np.full(3, 10.0), np.full(3, 20.0), when, 18)
    assert facts.dates.tolist() == [2]
    assert facts.first_date.astype(str).tolist() == ["1931-05-04"]
    assert facts.last_date.astype(str).tolist() == ["1931-05-05"]


def test_a_run_with_a_transformers_backbone_loads_without_the_folder_it_came_from(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    source = tmp_path / "dinov2"
    Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    ).save_pretrained(source)
    parts = CONFIG.model.ground.model_copy(update={"backbone": f"hf:{source}"})
    config = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"ground": parts})})
    replace(_run(tmp_path / "tiny"), folder=tmp_path / "run", config=config, ground=Encoder(parts, 16).eval()).save()
    before = Run.load(tmp_path / "run")
    source.rename(tmp_path / "gone")
    after = Run.load(tmp_path / "run")
    images = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(after.ground(images), before.ground(images))
