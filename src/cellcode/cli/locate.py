"""cellcode locate."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from cellcode.cli.common import AsJson, Cells, Cluster, Device, Precision, Region, machine

if TYPE_CHECKING:
    from cellcode.search import Locator

logger = logging.getLogger(__name__)


def command(
    database: Cells,
    photos: Annotated[list[Path], Argument(help="Photos, or folders that are searched for them.")],
    top: Annotated[int, Option(help="Number of candidates.")] = 5,
    region: Region = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None, Option(help="Write to this .geojson, .csv or .parquet instead; resumes when run again.")
    ] = None,
    together: Annotated[bool, Option(help="The photos are of one place: one answer.")] = False,
    motion: Annotated[
        Path | None, Option(help="With --together: CSV of file,east_m,north_m, metres of each photo from the first.")
    ] = None,
    cluster: Cluster = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Locate photos."""
    from cellcode.errors import UsageError
    from cellcode.search import Locator, answer_files

    if motion is not None and not together:
        raise UsageError("--motion requires --together")
    if out is not None:
        answer_files.check(out)
        if as_json:
            raise UsageError("--json prints and --out writes a file; give one of them")
    every = list(_photos(photos))
    with Locator.open(database, cluster=cluster, machine=machine(device, precision)) as locator:
        if together:
            _together(locator, every, motion, top, region, as_json, out)
            return
        if out is None:
            located, failed = _print(locator, every, top, region, as_json)
        else:
            located, failed = _write(locator, every, top, region, out)
    if out is not None or len(every) > 1:
        _report(located, failed)
    if failed:
        raise Exit(1)


def _photos(given: list[Path]) -> Iterator[Path]:
    """Yield the files given, and in place of each folder the photos that `cellcode ingest` would find in it."""
    from cellcode.photos.sources.folder import photo_files

    for path in given:
        yield from photo_files(path) if path.is_dir() else [path]


def _print(locator: "Locator", photos: list[Path], top: int, region: str | None, as_json: bool) -> tuple[int, int]:
    """Print each answer; return how many photos were located and how many could not be read."""
    from cellcode.progress import Meter
    from cellcode.search import Failure

    failed = 0
    # On a terminal the answers themselves show how far it is, and a bar would be drawn through them.
    shown = len(photos) > 1 and not sys.stdout.isatty()
    with Meter("locating", len(photos)) if shown else nullcontext() as meter:
        for result in locator.locate_many(photos, top=top, region=region):
            failed += isinstance(result, Failure)
            print(json.dumps(result.to_json(), allow_nan=False) if as_json else describe(result), flush=True)
            if meter:
                meter.advance()
    return len(photos) - failed, failed


def _write(locator: "Locator", photos: list[Path], top: int, region: str | None, out: Path) -> tuple[int, int]:
    """Write all answers to a file, print its name; return as `_print`."""
    from cellcode.search.answer_files import locate_to, partial_path

    try:
        counts = locate_to(out, locator, photos, top=top, region=region)
    except KeyboardInterrupt:
        if partial_path(out).exists():
            logger.info("answers so far are in %s; the same command resumes", partial_path(out))
        raise
    print(out)
    return counts


def _report(located: int, failed: int) -> None:
    logger.info("located %d photo%s, %d could not be read", located, "s" * (located != 1), failed)


def _together(
    locator: "Locator",
    photos: list[Path],
    motion: Path | None,
    top: int,
    region: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Print or write one answer for all photos."""
    from cellcode.photos import PhotoError
    from cellcode.search import answer_files
    from cellcode.search import together as joint

    motion_m = joint.read_motion(motion, photos) if motion is not None else None
    try:
        answer = joint.locate(locator, photos, motion_m=motion_m, top=top, region=region)
    except PhotoError as error:
        if not as_json:
            raise
        print(json.dumps({"files": [str(photo) for photo in photos], "error": str(error)}), flush=True)
        raise Exit(1) from None
    if out is not None:
        answer_files.write(out, [answer.to_json(), *(each.to_json() for each in answer.unreadable)], top)
        print(out)
        _report(len(answer.files), len(answer.unreadable))
    elif as_json:
        print(json.dumps(answer.to_json(), allow_nan=False), flush=True)
    else:
        lines = [f"{len(answer.files)} photos together, from {describe(answer)}"]
        if len(answer.files) > 1:
            lines.append("  (the radii were measured on single photos; for several they are approximate)")
        lines += [f"  left out: {each.message}" for each in answer.unreadable]
        print("\n".join(lines), flush=True)
    if answer.unreadable:
        raise Exit(1)


def describe(result: object) -> str:
    """Return an answer in a few lines for people."""
    from cellcode.search import Answer, Failure

    if isinstance(result, Failure):
        return f"{result.file}: not located; {result.message}"
    assert isinstance(result, Answer)
    sure = {True: "", False: "  NOT SURE: it may lie outside the region", None: ""}[result.in_region]
    lines = [
        f"{result.file}: {result.lat:.6f}, {result.lon:.6f}  (half of such photos are within {result.radius_50_m:.0f} m, "
        f"90 % within {result.radius_90_m:.0f} m){sure}"
    ]
    if result.search.missing:
        lines.append(f"  not searched: {', '.join(result.search.missing)}")
    for number, each in enumerate(result.candidates, 1):
        lines.append(
            f"  {number}. {each.lat:.6f}, {each.lon:.6f}  cell {each.cell}  score {each.score:.3f}  "
            f"probability {each.probability:.1%}"
        )
    return "\n".join(lines)
