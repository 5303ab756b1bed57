"""A town of 80 photos with every kind of input and artefact, each made once by the command that a user would run."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from tests.faults.runner import Runner

CONFIG = """
name: faults
levels: {prototype: 17, cell: 18}
photo: {width_px: 32, height_px: 24}
tile: {size_m: 80.0, size_px: 24}
model:
  dim: 8
  ground: {backbone: tiny, aggregation: {name: gem}}
  aerial: {backbone: tiny, aggregation: {name: gem}}
loss: {query_cell: 0.5, aerial_prototype: 0.1}
training:
  epochs: 2
  batch_size: 16
  random_tiles: 4
  ema_decay: 0.9
  checkpoint_every_steps: 3
  log_every_steps: 1
validation: {share: 0.2, withheld_share: 0.1}
machine: {device: cpu, precision: float32, threads: 1}
build: {aerial_smoothing_cells: 0.6, shard_depth: 3, first_stage_min_cells: 100}
evaluation:
  radii_m: [100, 200, 1000]
  ranks: [1, 5]
"""
SPLIT = ("--split", "position", "--block-m", "60", "--buffer-m", "0")
START = datetime(2024, 7, 6, 8, 0, 0, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """A folder with everything; the names are those of `make`."""

    folder: Path
    middle: tuple[float, float]  # latitude and longitude in degrees

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def half(self) -> str:
        """A region with the western half of the town."""
        return f"-180,-85,{self.middle[1]},85"


def make(folder: Path, runner: Runner) -> World:
    """Make the world in an empty folder: inputs, and artefacts of every kind, most of them twice with other contents."""
    folder.mkdir(parents=True)

    def run(*argv: object) -> None:
        outcome = runner.run(argv, folder)
        if outcome.code:
            raise AssertionError(f"{argv}: {outcome}")

    config = folder / "town.yaml"
    config.write_text(CONFIG)
    (folder / "other.yaml").write_text(CONFIG.replace("epochs: 2", "epochs: 1").replace("name: faults", "name: other"))
    sharded = CONFIG + "prototypes: {table: sharded, negatives: sampled, share: 0.5}\n"
    (folder / "sharded.yaml").write_text(sharded)
    for name, seed in (("town", 3), ("town_b", 4)):
        run("simulate", "--out", name, "--size-km", 0.5, "--photos", 80 if name == "town" else 60, "--seed", seed)
    for name in ("town", "town_b"):
        end = name.removeprefix("town")
        run("ingest", f"{name}/photos", "--out", f"table{end}", *SPLIT)
        run("pack", f"table{end}", "--out", f"packed{end}", "--shard-photos", 16)
    for end, settings in (("", "town"), ("_b", "other")):
        aerial = f"town{end}/aerial.tif"
        run("train", f"{settings}.yaml", "--photos", f"table{end}", "--aerial", aerial, "--out", f"run{end}")
        run("build", f"run{end}", "--aerial", aerial, "--out", f"cells{end}", "--set", "build.first_stage=none")
    run("build", "run", "--aerial", "town/aerial.tif", "--out", "staged", "--set", "build.first_stage=cells")
    inputs(folder)
    rows = list(csv.DictReader((folder / "town/truth.csv").open()))
    world = World(folder, (float(np.median([float(row["lat"]) for row in rows])),
                           float(np.median([float(row["lon"]) for row in rows]))))  # fmt: skip
    run("ingest", "tars", "--out", "unpacked", *SPLIT)
    run("clip", "cells", "--region", world.half, "--out", "west")
    run("clip", "cells", "--region", f"not:{world.half}", "--out", "east")
    run("compress", "cells", "--bytes", 2, "--out", "compressed")
    run("compress", "cells_b", "--bytes", 4, "--out", "compressed_b")
    run("grow", "cells", "--photos", "table_b", "--out", "grown")
    run("split", "cells", "--shards", 2, "--out", "shards")
    run("split", "cells_b", "--shards", 2, "--out", "shards_b")
    (folder / "queries").mkdir()
    for number in range(6):
        shutil.copy(folder / f"town/photos/{number:06d}.jpg", folder / "queries")
    run("locate", "cells", "queries", "--out", "answers.geojson")
    run("export", "cells_b", "--to", "parquet", "--out", "export_b.parquet")
    return world


def inputs(folder: Path) -> None:
    """Write photos of the town as other sources have them: shards of tar, zips, beside a track, and panoramas."""
    rows = list(csv.DictReader((folder / "town/truth.csv").open()))[:24]
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars/00000.tar", "w") as tar:
        for number, row in enumerate(rows):
            facts = json.dumps({"lat": float(row["lat"]), "lon": float(row["lon"])}).encode()
            for name, data in (
                (f"{number:03d}.jpg", (folder / "town" / row["file"]).read_bytes()),
                (f"{number:03d}.json", facts),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (folder / "osv/images/train").mkdir(parents=True)
    with zipfile.ZipFile(folder / "osv/images/train/00.zip", "w") as archive:
        for number, row in enumerate(rows):
            archive.write(folder / "town" / row["file"], f"00/{number}.jpg")
    with (folder / "osv/train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["id", "latitude", "longitude", "thumb_original_url", "sequence", "captured_at", "creator_username"]
        )
        for number, row in enumerate(rows):
            writer.writerow([number, row["lat"], row["lon"], "", f"s{number // 4}", 1700000000000, "someone"])
    points = []
    (folder / "walk").mkdir()
    for number, row in enumerate(rows[:12]):
        moment = START + timedelta(seconds=10 * number)
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif).update({
            ExifTags.Base.DateTimeOriginal: f"{moment:%Y:%m:%d %H:%M:%S}", ExifTags.Base.OffsetTimeOriginal: "+00:00"
        })  # fmt: skip
        with Image.open(folder / "town" / row["file"]) as image:
            image.save(folder / f"walk/{number:02d}.jpg", exif=exif.tobytes())
        lat, lon = float(rows[0]["lat"]) + 1e-4 * number, float(rows[0]["lon"]) + 1e-4 * number
        points.append(f'<trkpt lat="{lat}" lon="{lon}"><time>{moment:%Y-%m-%dT%H:%M:%SZ}</time></trkpt>')
    space = "http://www.topografix.com/GPX/1/1"
    (folder / "walk.gpx").write_text(
        f'<?xml version="1.0"?><gpx version="1.1" xmlns="{space}"><trk><trkseg>{"".join(points)}</trkseg></trk></gpx>'
    )
    (folder / "around").mkdir()
    for number, row in enumerate(rows[:4]):
        panorama(folder / f"around/{number}.jpg", float(row["lat"]), float(row["lon"]), seed=number)


def panorama(path: Path, lat: float, lon: float, seed: int) -> None:
    """Write a small equirectangular panorama with a position."""
    space = 'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
    body = f'<rdf:Description {space} GPano:ProjectionType="equirectangular" GPano:PoseHeadingDegrees="20"/>'
    xmp = (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        f'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{body}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
    noise = np.random.default_rng(seed).integers(0, 256, (64, 128, 3), np.uint8)
    Image.fromarray(noise).save(path, exif=position(lat, lon).tobytes(), xmp=xmp.encode())


def position(lat: float, lon: float) -> Image.Exif:
    """Return EXIF with a position in degrees."""
    exif = Image.Exif()
    gps = ExifTags.GPS
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({
        gps.GPSLatitudeRef: "N" if lat >= 0 else "S", gps.GPSLatitude: (abs(lat), 0.0, 0.0),
        gps.GPSLongitudeRef: "E" if lon >= 0 else "W", gps.GPSLongitude: (abs(lon), 0.0, 0.0),
    })  # fmt: skip
    return exif


def draw(seed: str) -> random.Random:
    """Return a generator that gives the same choices at every run."""
    return random.Random(seed)
