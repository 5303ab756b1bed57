"""cellcode evaluate."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import Aerial, Cells, Cluster, Device, OutOfRegion, Precision, machine


def command(
    database: Cells,
    photos: Annotated[Path, Argument(help="A photo table.")],
    out: Annotated[Path, Option(help="Folder for report.json, report.html, predictions.parquet and figures.")],
    split: Annotated[str, Option(help="Split to test.")] = "test",
    aerial: Aerial = None,
    out_of_region: OutOfRegion = None,
    cluster: Cluster = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Measure recall, error and confidence beside baselines on the same photos.

    Imagery is shown beside photos in the report. Out-of-region photos should be refused; the report has how many are.
    """
    from cellcode.evaluation.evaluate import evaluate

    report = evaluate(
        database,
        photos,
        out=out,
        split=split,
        aerial=aerial,
        out_of_region=out_of_region,
        machine=machine(device, precision),
        cluster=cluster,
    )
    print(report.table())
    print(out / "report.html")
