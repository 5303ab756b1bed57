"""The examples of docs/extending that a model is made of, copied out of the project, trained, built, and opened again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.conftest import reseal

from cellcode import build, config, plugins, train
from cellcode.config import Config, EncoderConfig, LossConfig, PrototypesConfig
from cellcode.database import Database
from cellcode.errors import CellcodeError, PluginError, UsageError
from cellcode.geography import distance, s2
from cellcode.model.encoder import Encoder
from cellcode.model.losses import make_loss
from cellcode.model.prototypes.sharded import ShardedPrototypes
from cellcode.model.prototypes.whole import Prototypes
from cellcode.photos import PhotoTable
from cellcode.runs import Run
from cellcode.search.locator import Locator
from cellcode.simulation import Simulation
from cellcode.training.loop.objective import Objective, Places

EXAMPLES = Path(__file__).parents[2] / "docs" / "extending"
ENCODER = {
    "backbone": "backbone_small:Small",
    "options": {"width": 8},
    "aggregation": {"name": "gem_power:GeMPower", "options": {"p": 4}},
}
SETTINGS = {
    "name": "extended",
    "photo": {"width_px": 48, "height_px": 36},
    "tile": {"size_px": 32},
    "model": {"dim": 16, "ground": ENCODER, "aerial": ENCODER},
    "loss": {"kind": "triplet_loss:Triplet", "options": {"margin": 0.3}},
    "training": {"epochs": 1, "batch_size": 64},
    "machine": {"precision": "float32", "device": "cpu"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with copies of the examples and no module allowed."""
    made = tmp_path_factory.mktemp("extending")
    for name in ("backbone_small", "gem_power", "triplet_loss"):
        shutil.copy(EXAMPLES / f"{name}.py", made)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv(plugins.ENVIRONMENT, "")
        yield made
        for name in ("backbone_small", "gem_power", "triplet_loss"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def run(folder: Path, town: Simulation, town_photos: PhotoTable) -> Run:
    return train(config.parse(SETTINGS), town_photos, town.aerial_path, out=folder / "run")


@pytest.fixture(scope="module")
def cells(folder: Path, run: Run, town: Simulation) -> Database:
    return build(run, town.aerial_path, out=folder / "town.cells")


def _cellcode(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cellcode", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_examples_train_and_build_and_locate(run: Run, cells: Database, town: Simulation) -> None:
    losses = [json.loads(line)["loss"] for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert type(run.ground.backbone).__name__ == "Small"
    assert run.ground.backbone.channels == 32
    photo = sorted(town.photos_dir.glob("*.jpg"))[0]
    assert (
        len(Locator.open(cells.folder).locate(photo).candidates) == 5
    )  # this program has imported both modules itself


def test_another_program_opens_them_where_the_user_names_their_modules(
    run: Run, cells: Database, town: Simulation, tmp_path: Path
) -> None:
    """The loss is not needed any more: its module is not there."""
    for name in ("backbone_small", "gem_power"):
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    photo = sorted(town.photos_dir.glob("*.jpg"))[0]
    refused = _cellcode(tmp_path, "locate", cells.folder, photo, "--json")
    assert refused.returncode == 1
    assert "config.yaml requires the backbone backbone_small:Small" in refused.stderr
    assert "--plugin backbone_small" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    allow = ["--plugin", "backbone_small", "--plugin", "gem_power"]
    done = _cellcode(tmp_path, "locate", cells.folder, photo, "--json", *allow)
    assert done.returncode == 0, done.stderr
    expected = Locator.open(cells.folder).locate(photo)
    assert json.loads(done.stdout)["cell"] == expected.candidates[0].cell
    half = _cellcode(tmp_path, "locate", cells.folder, photo, *allow[:2])
    assert "requires the aggregation gem_power:GeMPower" in half.stderr
    absent = _cellcode(tmp_path.parent, "locate", cells.folder, photo, *allow)
    assert absent.returncode == 1
    assert "there is no module backbone_small" in absent.stderr


def test_info_imports_nothing(run: Run, cells: Database, tmp_path: Path) -> None:
    for artefact in (run.folder, cells.folder):
        done = _cellcode(tmp_path, "info", artefact)
        assert done.returncode == 0, done.stderr
    assert "backbone_small:Small, gem_power:GeMPower, 16 dimensions" in _cellcode(tmp_path, "info", run.folder).stdout


@pytest.mark.parametrize("part", ["backbone", "aggregation"])
@pytest.mark.parametrize("name", ["os:system", "evil:Class"])
def test_a_run_or_database_from_a_stranger_imports_nothing(
    wide_run: Run, wide_cells: Database, tmp_path: Path, part: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configurations that name code; checksums and identities are made to fit, as a stranger would."""
    (tmp_path / "evil.py").write_text("open('imported', 'w')\nclass Class: pass\n")
    settings = yaml.safe_load(config.dump(wide_run.config))
    for encoder in ("ground", "aerial"):
        own = settings["model"][encoder]
        (own if part == "backbone" else own["aggregation"])["backbone" if part == "backbone" else "name"] = name
    run = Run(**{**vars(wide_run), "folder": tmp_path / "run", "config": config.parse(settings)}).save()
    with pytest.raises(PluginError, match=rf"run/config\.yaml requires the {part} {name}, .*--plugin"):
        Run.load(run.folder)
    cells = tmp_path / "town.cells"
    shutil.copytree(wide_cells.folder, cells)
    (cells / "config.yaml").write_text(config.dump(run.config))
    reseal(cells)
    with pytest.raises(PluginError, match=rf"town\.cells/config\.yaml requires the {part} {name}, .*--plugin"):
        Locator.open(cells).embed(np.zeros((1, 72, 96, 3), np.uint8))
    if name == "os:system":
        photo = tmp_path / "photo.jpg"
        photo.write_bytes(b"")
        done = _cellcode(tmp_path, "locate", cells, photo)
        assert done.returncode == 1
        assert f"town.cells/config.yaml requires the {part} {name}" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        monkeypatch.setenv(plugins.ENVIRONMENT, "os")  # allowed, it still is no class of the kind, and is not called
        with pytest.raises(PluginError, match=f"{part} os:system: expected a subclass of"):
            Locator.open(cells).embed(np.zeros((1, 72, 96, 3), np.uint8))
    assert not (tmp_path / "imported").exists()


def test_weights_of_another_network_are_refused_in_a_sentence(run: Run, folder: Path, tmp_path: Path) -> None:
    text = (EXAMPLES / "backbone_small.py").read_text().replace("4 * width", "5 * width")
    (tmp_path / "backbone_small.py").write_text(text)
    shutil.copy(EXAMPLES / "gem_power.py", tmp_path)
    words = ("build", run.folder, "--region", "0,0,1,1", "--out", "x.cells")
    done = _cellcode(tmp_path, *words, "--plugin", "backbone_small", "--plugin", "gem_power")
    assert done.returncode == 1
    assert "do not fit the encoder that" in done.stderr
    assert "backbone backbone_small:Small" in done.stderr


def _places(seed: int) -> Places:
    rng = np.random.default_rng(seed)
    lat, lon = distance.offset(48.85, 2.35, *rng.uniform(-900, 900, (2, 12)))
    vectors = torch.from_numpy(rng.normal(size=(12, 8))).float()
    return Places(torch.nn.functional.normalize(vectors, dim=1).requires_grad_(), lat, lon)


def test_the_triplet_loss_of_sharded_prototypes_is_that_of_whole_ones(folder: Path) -> None:
    loss = LossConfig(kind="triplet_loss:Triplet")
    photos, tiles = _places(0), _places(1)
    table = ShardedPrototypes(
        np.unique(s2.cell_ids(photos.lat_deg, photos.lon_deg, 15)), 8, 1.2, PrototypesConfig(table="sharded"), seed=0
    )
    whole = Prototypes(table.ids, 8, 1.2)
    with torch.no_grad():
        whole.weight.copy_(table.weight)
    one, other = (Objective(Config(loss=loss), each)(photos, tiles) for each in (whole, table))
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, atol=1e-5, rtol=1e-5)
        assert "prototype" not in name or (values > 0).any()
    torch.stack([each.mean() for each in other.values()]).sum().backward()  # type: ignore[no-untyped-call]
    assert photos.embeddings.grad is not None
    assert torch.isfinite(photos.embeddings.grad).all()


def test_a_loss_without_sums_is_refused_for_sharded_prototypes_before_photos_are_read(
    folder: Path, tmp_path: Path
) -> None:
    text = (EXAMPLES / "triplet_loss.py").read_text()
    Path("whole_triplet.py").write_text(text[: text.index("    def of_sums")])
    values = {"loss": {"kind": "whole_triplet:Triplet"}, "prototypes": {"table": "sharded"}}
    with pytest.raises(UsageError, match=r"loss whole_triplet:Triplet needs prototypes\.table: whole"):
        train(config.parse(values), tmp_path / "no photos", out=tmp_path / "run")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"backbone": "backbone_small:Small", "options": {"widht": 3}},
            "Small: .* unexpected keyword argument 'widht'",
        ),
        ({"backbone": "backbone_small:Small", "options": {"width": 0}}, "Small: .*at least 1, not 0"),
        ({"backbone": "tiny", "options": {"width": 3}}, "backbone tiny: .* unexpected keyword argument 'width'"),
        ({"backbone": "hf:x", "options": {"a": 3}}, "backbone hf:x: .* unexpected keyword argument 'a'"),
        ({"aggregation": {"name": "gem", "options": {"p": 3}}}, "aggregation gem: .* unexpected keyword argument 'p'"),
        ({"aggregation": {"name": "gem_power:GeMPower", "options": {"p": -1}}}, "GeMPower: .*p must be positive"),
        ({"aggregation": {"name": "gen"}}, "unknown aggregation gen; valid names: mean, gem, flatten"),
    ],
)
def test_options_are_checked_by_whom_they_are_for(folder: Path, block: dict[str, Any], message: str) -> None:
    with pytest.raises(CellcodeError, match=message) as raised:
        Encoder(EncoderConfig.model_validate(block), 8)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("softmax", {"margin": 1}, "loss softmax: .* unexpected keyword argument 'margin'"),
        ("triplet_loss:Triplet", {"margin": -1}, r"raised ValidationError \(margin: Input should be greater than 0\)"),
        ("triplet_loss:Triplet", {"margins": 1}, r"raised ValidationError \(margins: Extra inputs are not permitted\)"),
    ],
)
def test_options_of_a_loss_are_checked(folder: Path, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        make_loss(LossConfig(kind=kind, options=options))
