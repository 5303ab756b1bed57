"""cellcode verify."""

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import AsJson, Cells, Cluster, Device, Precision, machine


def command(
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
    answer = found.answer
    print(f"  answer {answer.lat:.6f}, {answer.lon:.6f}, {found.distance_m:.0f} m from the claim")
