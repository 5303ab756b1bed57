"""How artefacts are used, and every way in which their files are damaged."""

from __future__ import annotations

import io
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.faults.world import World, draw

from cellcode.cli import info
from cellcode.database.store.shards import open_database
from cellcode.errors import CellcodeError
from cellcode.photos import PhotoTable
from cellcode.photos.packed.shards import PackedPhotos
from cellcode.photos.reading.image import PhotoError, read_image
from cellcode.runs import Run
from cellcode.search import Locator

SMALL_BYTES = 64_000
Use = Callable[[Path, World], str]


def use_table(folder: Path, world: World) -> str:
    """What is read of a photo table: its rows, and its photos where they lie in it."""
    table = PhotoTable.load(folder)
    table.verify()  # as training does
    inside = [path for path in table.files if path.resolve().is_relative_to(folder)]
    pixels = [hash(np.asarray(read_image(path)).tobytes()) for path in inside]
    return f"{table.rows.to_pydict()} {table.root.resolve()} {table.notes} {pixels}"


def use_packed(folder: Path, world: World) -> str:
    """What training reads of packed photos."""
    packed, seen = PackedPhotos.open(folder), []
    for split in ("train", "validation", "test"):
        for name in packed.shards(split).names:
            seen.append(str(packed.rows(split, name).to_pydict()))
            shard = packed.load(split, name)
            seen += [str(hash(shard.image(row))) for row in range(len(shard.index["offset"]))]
    return " ".join([packed.identity, *seen])


def use_run(folder: Path, world: World) -> str:
    """What building reads of a run."""
    run = Run.load(folder)
    parts = [run.ground.state_dict(), run.aerial.state_dict() if run.aerial else {}]
    weights = [value.numpy().tobytes() for each in parts for value in each.values()]
    assert run.prototypes is not None
    arrays = [
        run.prototypes.ids,
        run.prototypes.weight.detach().numpy(),
        *vars(run.facts).values(),
        *vars(run.validation).values(),
    ]
    return str(hash((*weights, *(np.asarray(each).tobytes() for each in arrays), str(run.manifest), str(run.config))))


def use_database(folder: Path, world: World) -> str:
    """Answers to photos, and what `info` prints."""
    photos = sorted((world / "queries").iterdir())[:2]
    with Locator.open(folder) as locator:
        answers = [str(each.to_json()) for each in locator.locate_many(photos)]
    database = open_database(folder)
    tiles, terms = database.tiles(), database.tile_digests()
    kept = [np.asarray(each[:]).tobytes() for each in (tiles, terms) if each is not None]
    return f"{answers} {database.manifest} {database.facts} {hash(tuple(kept))} {shown(folder)}"


def shown(folder: Path) -> str:
    """What `cellcode info` prints."""
    with redirect_stdout(io.StringIO()) as out:
        info.info(folder)
    return out.getvalue()


@dataclass(frozen=True)
class Artefact:
    """What is damaged: a folder of the world, another one of its kind, how it is used, files that nothing depends on."""

    name: str
    other: str
    use: Use
    free: str = "$^"  # a pattern: damage to these files must change nothing, and need not be found

    def __str__(self) -> str:
        return self.name


NOTES = r"(rejects\.csv|log\.jsonl)$"
ARTEFACTS = (
    Artefact("table", "table_b", use_table, NOTES),
    Artefact("unpacked", "table_b", use_table, NOTES),
    Artefact("packed", "packed_b", use_packed),
    Artefact("run", "run_b", use_run, NOTES + r"|^checkpoint/"),
    Artefact("cells", "cells_b", use_database),
    Artefact("staged", "cells_b", use_database),
    Artefact("compressed", "compressed_b", use_database),
    Artefact("grown", "cells_b", use_database),
    Artefact("shards", "shards_b", use_database),
)


def damages(path: Path, other: Path, flips: int, chosen: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """Yield what a file may become: name of the damage, and bytes (None: it is gone)."""
    whole = path.read_bytes()
    yield "cut", whole[: len(whole) // 2]
    yield "emptied", b""
    yield "removed", None
    if other.is_file() and other.read_bytes() != whole:
        yield "of another", other.read_bytes()
    yield "bit in the middle", flipped(whole, len(whole) * 4)
    if len(whole) <= SMALL_BYTES:
        for bit in chosen.sample(range(len(whole) * 8), min(flips, len(whole) * 8)):
            yield f"bit {bit}", flipped(whole, bit)


def flipped(whole: bytes, bit: int) -> bytes:
    """Return bytes with one bit changed."""
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@contextmanager
def damaged(path: Path, content: bytes | None) -> Iterator[None]:
    """Put other bytes in the place of a file for a while; as a new file, because the old one may be mapped to memory."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    try:
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.unlink(missing_ok=True)
        kept.rename(path)


def verdict(call: Callable[[], str], sound: str, names: tuple[str, ...]) -> str:
    """Return "found", "same", or what went wrong."""
    try:
        answer = call()
    except (CellcodeError, PhotoError) as error:
        text = str(error)
        if "\n" in text or not any(name in text for name in names):
            return f"the sentence does not name it: {text}"
        return "found"
    except Exception as error:
        return f"unexpected {type(error).__name__}: {str(error)[:200]}"
    return "same" if answer == sound else "other answer"


def attack(artefact: Artefact, world: World, folder: Path, flips: int) -> tuple[int, list[str]]:
    """Damage every file of an artefact every way; return the number of cases, and what went wrong."""
    shutil.copytree(world / artefact.name, folder)
    other, chosen = world / artefact.other, draw(artefact.name)
    sound, faults, cases = artefact.use(folder, world), list[str](), 0
    free = re.compile(artefact.free)
    with redirect_stdout(io.StringIO()):
        info.info(folder, verify=True)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        for kind, content in damages(path, other / name, flips, chosen):
            cases += 1
            with damaged(path, content):
                # A manifest of another artefact is sound in itself, and one of no known format is none: then what it
                # does not fit is named, or the folder.
                whole = content is None or kind == "of another" or path.suffix == ".json"
                names = (path.name, str(folder)) if whole else (path.name,)
                used = verdict(lambda: artefact.use(folder, world), sound, names)
                checked = verdict(lambda: verified(folder), "", names)
            if used not in ("found", "same"):
                faults.append(f"{artefact}: {name}, {kind}: {used}")
            elif checked != "found" and not (free.search(name) and checked == "same"):
                faults.append(f"{artefact}: {name}, {kind}: used: {used}; info --verify: {checked}")
    return cases, faults


def verified(folder: Path) -> str:
    """Run `info --verify`."""
    with redirect_stdout(io.StringIO()):
        info.info(folder, verify=True)
    return ""
