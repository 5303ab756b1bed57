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
) -> None:
    """Say where photos were taken."""
    from cellcode.search import Failure, Locator

    failed = False
    for result in Locator.open(database).locate_many(photos, top=top, region=region):
        failed |= isinstance(result, Failure)
        print(json.dumps(result.to_json(), allow_nan=False) if as_json else describe(result), flush=True)
    if failed:
        raise Exit(1)


def describe(result: object) -> str:
    """Return an answer in a few lines for people."""
    from cellcode.search import Answer, Failure

    if isinstance(result, Failure):
        return f"{result.file}: not located; {result.error}"
    assert isinstance(result, Answer)
    sure = {True: "", False: "  NOT SURE: it may lie outside the region", None: ""}[result.in_region]
    lines = [
        f"{result.file}: {result.lat:.6f}, {result.lon:.6f}  (half of the probability within {result.radius_50_m:.0f} m, "
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
