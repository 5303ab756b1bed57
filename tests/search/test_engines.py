"""OpenVINO answers as torch does."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cellcode import Locator
from cellcode.database import Database
from cellcode.errors import MissingExtraError, UsageError
from cellcode.photos import PhotoTable
from cellcode.search import engines


@pytest.fixture
def pixels(town_cells: Database) -> np.ndarray:
    size = town_cells.config.photo
    return np.random.default_rng(4).integers(0, 255, (70, size.height_px, size.width_px, 3)).astype(np.uint8)


def test_openvino_embeds_as_torch_does(town_cells: Database, pixels: np.ndarray) -> None:
    pytest.importorskip("openvino")
    ours, theirs = (engines.make(name, town_cells).embed(pixels) for name in ("torch", "openvino"))
    assert theirs.shape == ours.shape
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)
    # Both may use bfloat16, whose products are right to two or three digits.
    assert (ours * theirs).sum(axis=1).min() > 0.995


def test_answers_are_the_same_but_for_rounding(town_cells: Database, town_photos: PhotoTable) -> None:
    pytest.importorskip("openvino")
    files = town_photos.of_split("test").files[:40]
    ours = list(Locator(town_cells).locate_many(files))
    theirs = list(Locator(town_cells, engine="openvino").locate_many(files))
    same = [a.best.cell == b.best.cell for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(same) > 0.85
    assert np.median([abs(a.best.score - b.best.score) for a, b in zip(ours, theirs, strict=True)]) < 0.01


def test_exported_encoder_runs_alone(town_cells: Database, pixels: np.ndarray, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = engines.export_openvino(town_cells, tmp_path / "encoder")
    vectors = openvino.Core().compile_model(path, "CPU")([pixels[:3]])[0]
    ours = engines.make("torch", town_cells).embed(pixels[:3])
    assert (vectors * ours).sum(axis=1).min() > 0.99


def test_an_engine_that_is_none(town_cells: Database) -> None:
    with pytest.raises(UsageError, match="valid engines: torch, openvino"):
        Locator(town_cells, engine="tensorrt")


def test_without_the_extra(town_cells: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"cellcode\[openvino\]"):
        Locator(town_cells, engine="openvino")
