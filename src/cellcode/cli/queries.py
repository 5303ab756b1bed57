"""Commands that ask a database where photos were taken."""

import json
import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from cellcode.cli.common import Aerial, AsJson, Cells, Cluster, Device, Precision, Region, machine

if TYPE_CHECKING:
    from cellcode.search import Locator

logger = logging.getLogger(__name__)


def locate(
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
    from cellcode.photos.sources.folder import photo_files
    from cellcode.search import Locator, answer_files

    if motion is not None and not together:
        raise UsageError("--motion requires --together")
    if out is not None:
        answer_files.check(out)
        if as_json:
            raise UsageError("--json prints and --out writes a file; give one of them")
    # In place of a folder, the photos that `cellcode ingest` would find in it.
    every = [file for path in photos for file in (photo_files(path) if path.is_dir() else [path])]
    with Locator.open(database, cluster=cluster, machine=machine(device, precision)) as locator:
        if together:
            _together(locator, every, motion, top, region, as_json, out)
            return
        counts = _write(locator, every, top, region, out) if out else _print(locator, every, top, region, as_json)
    located, failed = counts
    if out is not None or len(every) > 1:
        _report(located, failed)
    if failed:
        raise Exit(1)


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
    locator: "Locator", photos: list[Path], motion: Path | None, top: int, region: str | None, as_json: bool,
    out: Path | None,
) -> None:  # fmt: skip
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
    missing = [f"  not searched: {', '.join(result.search.missing)}"] if result.search.missing else []
    candidates = [
        f"  {number}. {each.lat:.6f}, {each.lon:.6f}  cell {each.cell}  score {each.score:.3f}  "
        f"probability {each.probability:.1%}"
        for number, each in enumerate(result.candidates, 1)
    ]
    circles = "too few validation photos to say how far off it may be"
    if result.radius_50_m is not None and result.radius_90_m is not None:
        circles = f"half of such photos are within {result.radius_50_m:.0f} m, 90 % within {result.radius_90_m:.0f} m"
    where = f"{result.file}: {result.lat:.6f}, {result.lon:.6f}  ({circles}){sure}"
    return "\n".join([where, *missing, *candidates])


def verify(
    database: Cells,
    photo: Annotated[Path, Argument(help="A photo.")],
    claim: Annotated[str, Option(help="The place to check: LAT,LON in degrees.")],
    as_json: AsJson = False,
    cluster: Cluster = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Report how plausible it is that a photo was taken at a place."""
    from cellcode.search import Locator, claims

    place = claims.parse_claim(claim)
    with Locator.open(database, cluster=cluster, machine=machine(device, precision)) as locator:
        found = claims.verify(locator, photo, *place)
    if as_json:
        print(json.dumps(found.to_json(), allow_nan=False))
        return
    print(f"{photo}: {found.verdict.replace('_', ' ')}. {found.reason}")
    if found.claim.cell is not None:
        print(
            f"  cell {found.claim.cell} scores better than {found.claim.percentile:.1f} % of all cells, "
            f"probability {found.claim.probability:.1%}"
        )
    print(f"  answer {found.answer.lat:.6f}, {found.answer.lon:.6f}, {found.distance_m:.0f} m from the claim")


def serve(
    database: Cells,
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    aerial: Aerial = None,
    keys: Annotated[Path | None, Option(help="File of API keys, one per line.")] = None,
    rate: Annotated[float | None, Option(help="Photos per minute of one key, or of one address.")] = None,
    cors: Annotated[
        list[str] | None, Option(help="Origin of another page that may use the API; repeat for more.")
    ] = None,
    basemap: Annotated[
        str | None,
        Option(
            help="https:// template of the online map that the page offers, by default OpenStreetMap's; none: offer none."
        ),
    ] = None,
    engine: Annotated[str, Option(help="What runs the encoder: torch, or openvino (extra openvino).")] = "torch",
    cluster: Cluster = None,
    overrides: Annotated[
        list[str] | None, Option("--set", help="A limit, as photo_bytes=5000000; repeat for more.")
    ] = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Serve a page and an HTTP API that locate photos."""
    from cellcode.errors import MissingExtraError

    try:
        from cellcode.serving import run, settings
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "cellcode":
            raise
        raise MissingExtraError(error.name or "fastapi", "serve", "the service") from None
    limits = settings.parse(overrides or [], rate_per_minute=rate, cors=cors, basemap=basemap)
    run.serve(
        database, limits, host=host, port=port, aerial=aerial, key_file=keys, engine=engine, cluster=cluster,
        machine=machine(device, precision),
    )  # fmt: skip
