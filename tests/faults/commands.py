"""Every command that writes, as a user would run it in an empty folder, or over an earlier result."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.faults.runner import Outcome, Runner, snapshot
from tests.faults.world import SPLIT, World


@dataclass(frozen=True)
class Command:
    """A command and what it starts from.

    Attributes:
        argv: {w} stands for the world's folder, {half} for a region.
        before: what lies in the folder already: a name there, and what of the world it is a copy of.
        again: added when the command is run again after a kill.
        artefact: what `cellcode info` can open of what it writes; empty: nothing.
    """

    name: str
    argv: str
    before: dict[str, str] = field(default_factory=dict)
    again: str = ""
    artefact: str = "out"

    def words(self, world: World, *, again: bool = False) -> list[str]:
        """Return the arguments."""
        text = f"{self.argv} {self.again}" if again else self.argv
        return [word.format(w=world.folder, half=world.half) for word in text.split()]

    def prepare(self, world: World, folder: Path) -> None:
        """Make an empty folder with what lies there before."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, source in self.before.items():
            path = world / source
            if path.is_dir():
                shutil.copytree(path, folder / name)
            else:
                shutil.copy(path, folder / name)


_SPLIT = " ".join(SPLIT)
_INGEST = "ingest {w}/%s --out out " + _SPLIT
# The rows of views name their place by its path from the photos, which lie beside them for that reason.
_PANORAMAS = "ingest around --out out --panoramas 4,90,0 " + _SPLIT
_TRAIN = "train {w}/%s.yaml --photos {w}/%s --aerial {w}/town/aerial.tif --out out"
_BUILD = "build {w}/run --aerial {w}/town/aerial.tif --out out --set build.first_stage=%s"
_LOCATE = "locate {w}/cells {w}/queries --out answers.%s"
COMMANDS = (
    Command("simulate", "simulate --out out --size-km 0.5 --photos 12 --seed 5", artefact=""),
    Command("simulate over another", "simulate --out out --size-km 0.5 --photos 12 --seed 5", {"out": "town_b"}, artefact=""),
    Command("ingest a folder", _INGEST % "town/photos"),
    Command("ingest a list", _INGEST % "town/truth.csv"),
    Command("ingest a list over another table", _INGEST % "town/truth.csv", {"out": "table_b"}),
    Command("ingest shards of tar", _INGEST % "tars"),
    Command("ingest zips", "ingest osv5m:{w}/osv --out out " + _SPLIT),
    Command("ingest photos of a track", _INGEST % "walk" + " --gpx {w}/walk.gpx"),
    Command("ingest panoramas", _PANORAMAS, {"around": "around"}),
    Command("ingest panoramas over another table", _PANORAMAS, {"around": "around", "out": "table"}),
    Command("pack", "pack {w}/table --out out --shard-photos 16"),
    Command("pack encoded again", "pack {w}/table --out out --shard-photos 16 --config {w}/town.yaml"),
    Command("train", _TRAIN % ("town", "table"), again="--resume"),
    Command("train from packed photos", _TRAIN % ("town", "packed"), again="--resume"),
    Command("train sharded prototypes", _TRAIN % ("sharded", "table"), again="--resume"),
    Command("train over another run", _TRAIN % ("town", "table"), {"out": "run_b"}),
    Command("build", _BUILD % "none"),
    Command("build with a first stage", _BUILD % "cells"),
    Command("build over another database", _BUILD % "none", {"out": "cells_b"}),
    Command("build that reuses tiles", _BUILD % "none" + " --reuse {w}/staged"),
    Command("clip", "clip {w}/cells --region {half} --out out"),
    Command("clip over another database", "clip {w}/cells --region {half} --out out", {"out": "cells_b"}),
    Command("split", "split {w}/cells --shards 2 --out out"),
    Command("split over other shards", "split {w}/cells --shards 2 --out out", {"out": "shards_b"}),
    Command("merge", "merge {w}/west {w}/east --out out"),
    Command("merge over another database", "merge {w}/west {w}/east --out out", {"out": "cells_b"}),
    Command("compress", "compress {w}/staged --bytes 4 --out out"),
    Command("compress over another database", "compress {w}/cells --bytes 4 --out out", {"out": "cells_b"}),
    Command("grow by photos", "grow {w}/cells --photos {w}/table_b --out out"),
    Command("grow by photos over another", "grow {w}/cells --photos {w}/table_b --out out", {"out": "cells_b"}),
    Command("grow by imagery", "grow {w}/cells --run {w}/run --aerial {w}/town_b/aerial.tif --out out"),
    Command("export a table", "export {w}/cells --to parquet --out out.parquet", artefact=""),
    Command(
        "export a table over another", "export {w}/cells --to parquet --out out.parquet",
        {"out.parquet": "export_b.parquet"}, artefact="",
    ),
    Command("evaluate", "evaluate {w}/cells {w}/table --out out", artefact=""),
    Command("pmtiles", "pmtiles {w}/town/aerial.tif --out out.pmtiles --max-zoom 16 --min-zoom 14", artefact=""),
    Command("locate to GeoJSON", _LOCATE % "geojson", artefact=""),
    Command("locate to CSV", _LOCATE % "csv", artefact=""),
    Command("locate to Parquet", _LOCATE % "parquet", artefact=""),
    Command("locate to GeoJSON over another", _LOCATE % "geojson", {"answers.geojson": "answers.geojson"}, artefact=""),
)  # fmt: skip


def _log(text: str) -> str:
    """Lines of a training without the time and memory that a step took."""
    lines = [json.loads(line) for line in text.splitlines()]
    return json.dumps(
        [{k: v for k, v in each.items() if k not in ("seconds", "photos_per_s", "memory_bytes")} for each in lines]
    )


def _report(text: str) -> str:
    """A report without the time that a query took."""
    return re.sub(r'"ms_per_query": ([^,\n{]+|\{[^}]*\})', "", text)


# Files that hold a time legitimately: compared without it.
NORMALISED: dict[str, Callable[[str], str]] = {"log.jsonl": _log, "report.json": _report}
# Compared by nothing but their presence: report.html shows the time of a query in its tables.
PRESENT = ("report.html",)


def state(folder: Path) -> dict[str, str]:
    """Return a snapshot in which files that hold a time stand without it."""
    files = snapshot(folder)
    for name in files:
        path = folder / name
        if path.name in NORMALISED and path.is_file():
            files[name] = hashlib.sha256(NORMALISED[path.name](path.read_text()).encode()).hexdigest()
        elif path.name in PRESENT:
            files[name] = "present"
    return files


def info_of(command: Command, runner: Runner, folder: Path) -> Outcome | None:
    """Open and verify what a command writes; None: it writes nothing that can be opened."""
    if not command.artefact:
        return None
    seen = runner.run(["info", command.artefact, "--verify"], folder)
    return replace(seen, out=seen.out.replace(str(folder), "."))
