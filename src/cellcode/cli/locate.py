"""cellcode locate."""

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from cellcode.cli.common import REGION_FORMS


def command(
    database: Annotated[Path, Argument(help="A cell-code database.")],
    photos: Annotated[list[Path], Argument(help="Photos.")],
    top: Annotated[int, Option(help="Number of candidates.")] = 5,
    region: Annotated[str | None, Option(help=f"Search only here: {REGION_FORMS}")] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON object a line.")] = False,
    together: Annotated[bool, Option(help="The photos are of one place: one answer.")] = False,
    motion: Annotated[
        Path | None, Option(help="With --together: CSV of file,east_m,north_m, metres of each photo from the first.")
    ] = None,
) -> None:
    """Say where photos were taken."""
    from cellcode.errors import UsageError
    from cellcode.search import Failure, Locator

    if motion is not None and not together:
        raise UsageError("--motion is of photos that are located together; add --together")
    if together:
        _together(database, photos, motion, top, region, as_json)
        return
    failed = False
    for result in Locator.open(database).locate_many(photos, top=top, region=region):
        failed |= isinstance(result, Failure)
        print(json.dumps(result.to_json(), allow_nan=False) if as_json else describe(result), flush=True)
    if failed:
        raise Exit(1)


def _together(
    database: Path, photos: list[Path], motion: Path | None, top: int, region: str | None, as_json: bool
) -> None:
    """Print one answer for all photos."""
    from cellcode.photos import PhotoError
    from cellcode.search import Locator
    from cellcode.search import together as joint

    motion_m = joint.read_motion(motion, photos) if motion is not None else None
    try:
        answer = joint.locate(Locator.open(database), photos, motion_m=motion_m, top=top, region=region)
    except PhotoError as error:
        if not as_json:
            raise
        print(json.dumps({"files": [str(photo) for photo in photos], "error": str(error)}), flush=True)
        raise Exit(1) from None
    if as_json:
        print(json.dumps(answer.to_json(), allow_nan=False), flush=True)
    else:
        lines = [f"{len(answer.files)} photos together, from {describe(answer)}"]
        if len(answer.files) > 1:
            lines.append("  (the radii hold what was measured on single photos; several are only roughly like them)")
        lines += [f"  left out: {each.error}" for each in answer.unreadable]
        print("\n".join(lines), flush=True)
    if answer.unreadable:
        raise Exit(1)


def describe(result: object) -> str:
    """Return an answer in a few lines for people."""
    from cellcode.search import Answer, Failure

    if isinstance(result, Failure):
        return f"{result.file}: not located; {result.error}"
    assert isinstance(result, Answer)
    sure = {True: "", False: "  NOT SURE: it may lie outside the region", None: ""}[result.in_region]
    lines = [
        f"{result.file}: {result.lat:.6f}, {result.lon:.6f}  (half of such photos are within {result.radius_50_m:.0f} m, "
        f"90 % within {result.radius_90_m:.0f} m){sure}"
    ]
    if result.searched.missing:
        lines.append(f"  not searched: {', '.join(result.searched.missing)}")
    for number, each in enumerate(result.candidates, 1):
        lines.append(
            f"  {number}. {each.lat:.6f}, {each.lon:.6f}  cell {each.cell}  score {each.score:.3f}  "
            f"probability {each.probability:.1%}"
        )
    return "\n".join(lines)
