"""Packed photos in an object store that others wrote, moto's: opened, streamed and trained on as from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import requests

from cellcode import ingest, train
from cellcode.config import Config, parse
from cellcode.errors import InputError
from cellcode.photos import PhotoTable, SplitRule
from cellcode.photos.packed import pack
from cellcode.photos.packed.pack import Packing
from cellcode.photos.packed.shards import PackedPhotos
from cellcode.simulation import Simulation

pytestmark = pytest.mark.peers
PATIENCE_S = 120.0
BUCKET = "packed"


@pytest.fixture(scope="module")
def parts(town: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the town's photos in two packings."""
    folder = tmp_path_factory.mktemp("packed")
    table = ingest(town.photos_dir, out=folder / "table", split=SplitRule(kind="date"))
    west = table.lon_deg < np.median(table.lon_deg)
    for name, chosen in (("east", ~west), ("west", west)):
        pack.run(
            PhotoTable(table.select(chosen).rows, table.root), Packing(shard_photos=32), out=folder / "parts" / name
        )
    return folder / "parts"


@pytest.fixture
def store(moto: str, parts: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address that the packings have been copied to."""
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    requests.put(f"{moto}/{BUCKET}", timeout=PATIENCE_S).raise_for_status()
    public = {"x-amz-acl": "public-read"}
    for path in parts.rglob("*"):
        if path.is_file():
            key = f"{moto}/{BUCKET}/parts/{path.relative_to(parts).as_posix()}"
            requests.put(key, data=path.read_bytes(), headers=public, timeout=PATIENCE_S).raise_for_status()
    return f"s3://{BUCKET}/parts"


@pytest.fixture(scope="module")
def config() -> Config:
    return parse(
        {
            "levels": {"prototype": 16, "cell": 16},
            "photo": {"width_px": 32, "height_px": 32},
            "model": {"dim": 16, "ground": {"aggregation": {"name": "gem"}}},
            "stream": {"window_shards": 2},
            "machine": {"precision": "float32", "device": "cpu"},
            "training": {"epochs": 1, "batch_size": 32, "log_every_steps": 1},
        }
    )


def test_a_store_gives_what_the_folder_gives(store: str, parts: Path) -> None:
    for far, here in ((store, parts), (f"{store}/west", parts / "west")):
        there, own = PackedPhotos.open(far), PackedPhotos.open(here)
        assert there.manifest == own.manifest
        for name in own.shards("train").names:
            one, other = own.load("train", name), there.load("train", name)
            assert bytes(one.data) == bytes(other.data)
            assert one.image(3) == other.image(3)
    with pytest.raises(InputError, match=f"s3://{BUCKET}/nothing"):
        PackedPhotos.open(f"s3://{BUCKET}/nothing")
    with pytest.raises(InputError, match="s3://nobody/nothing"):
        PackedPhotos.open("s3://nobody/nothing")


def test_a_training_from_the_store_is_that_from_the_folder(
    store: str, parts: Path, config: Config, tmp_path: Path
) -> None:
    far, here = (train(config, place, out=tmp_path / name) for place, name in ((store, "far"), (parts, "here")))
    assert far.identity == here.identity
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("far", "here")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) > 3
