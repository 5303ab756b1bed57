"""A served database for the benchmarks: made without training, answered by a real `cellcode serve`, asked over sockets."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cellcode import config as configuration
from cellcode.database import Database, build
from cellcode.geography import Region, s2
from cellcode.model.encoder import Encoder
from cellcode.model.prototypes.whole import Prototypes
from cellcode.runs import CellFacts, Run, Validation

PHOTO_PX = (1280, 960)
VISION_TRANSFORMER = "dinov2-small"


def untrained(folder: Path, backbone: str, level: int, side_deg: float) -> Database:
    """Return a database of cells with prototypes, made for an encoder that nobody trained."""
    side = {"tiny": (64, 48)}.get(backbone, (224, 224))
    name = f"hf:{vision_transformer(folder / 'vit')}" if backbone == VISION_TRANSFORMER else backbone
    settings = configuration.parse(
        {
            "name": "serving",
            "levels": {"prototype": level - 1, "cell": level},
            "photo": {"width_px": side[0], "height_px": side[1]},
            "model": {
                "dim": 128,
                "ground": {"backbone": name, "pretrained": name == backbone, "aggregation": {"name": "gem"}},
            },
        }
    )
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    region = Region.bbox(3.0, 52.0, 3.0 + side_deg, 52.0 + side_deg)
    ids = region.cells(level - 1)
    prototypes = Prototypes(ids, 128, settings.model.interpolation_radius_cells)
    with torch.no_grad():
        prototypes.weight.copy_(torch.from_numpy(rng.standard_normal((len(ids), 128), np.float32)))
    lat, lon = s2.cell_centers(rng.choice(ids, 200))
    with torch.no_grad():
        own = prototypes.interpolate(*prototypes.neighbours(lat, lon)).numpy()
    queries = own + 0.1 * rng.standard_normal(own.shape, np.float32)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    run = Run(
        folder=folder / "run",
        config=settings,
        ground=Encoder(settings.model.ground, 128).eval(),
        aerial=None,
        prototypes=prototypes,
        facts=CellFacts.of_photos(lat, lon, np.full(200, np.datetime64("2024-05-01", "ms")), level),
        validation=Validation(lat, lon, queries),
        manifest={"licences": [], "attributions": [], "bounds": list(region.bounds), "training_photos": 200},
    ).save()
    return build(run, None, region, out=folder / "cells")


def vision_transformer(folder: Path) -> Path:
    """Write the configuration of DINOv2's smallest network; its weights do not matter here."""
    from transformers import Dinov2Config

    Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14).save_pretrained(folder)
    return folder


def jpeg() -> bytes:
    """Return a photo with as much detail as one of a phone, scaled for upload."""
    rng = np.random.default_rng(1)
    width, height = PHOTO_PX
    coarse = Image.fromarray(rng.integers(0, 255, (height // 16, width // 16, 3), np.uint8))
    out = io.BytesIO()
    coarse.resize(PHOTO_PX, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


class Served:
    """A server process. What it logs goes into a file: nobody would empty a pipe, and a full one stops the server."""

    def __init__(self, cells: Path, log: Path, *options: str) -> None:
        command = [str(Path(sys.executable).with_name("cellcode")), "serve", str(cells), "--port", "0", *options]
        with log.open("w") as said:
            self.process = subprocess.Popen(command, stderr=said)
        while not (found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", log.read_text())):
            if self.process.poll() is not None:
                raise SystemExit(f"the server did not start: {log.read_text()}")
            time.sleep(0.05)
        self.port = int(found[1])

    def memory_mb(self) -> float:
        """Resident memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", text)
        assert found is not None
        return int(found[1]) / 1000

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)


def request(photo: bytes, fields: str = "") -> bytes:
    """Return a POST /v1/locate as bytes."""
    part = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n' + photo + b"\r\n"
    body = part + fields.encode() + b"--b--\r\n"
    head = (
        "POST /v1/locate HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Return the status and the bytes of an answer's body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = re.search(r"content-length: (\d+)", head)
    if length is not None:
        return int(head.split()[1]), len(await reader.readexactly(int(length[1])))
    total = 0
    while size := int(await reader.readline(), 16):
        total += len(await reader.readexactly(size + 2)) - 2
    await reader.readline()
    return int(head.split()[1]), total
