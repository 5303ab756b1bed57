"""cellcode evaluate."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cellcode.cli.common import CLUSTER, DATABASE


def command(
    database: Annotated[Path, Argument(help=DATABASE)],
    photos: Annotated[Path, Argument(help="A photo table.")],
    out: Annotated[Path, Option(help="Folder for report.json, report.html, predictions.parquet and figures.")],
    split: Annotated[str, Option(help="Split that is tested.")] = "test",
    aerial: Annotated[
        str | None, Option(help="Imagery that the report shows beside photos, as for `cellcode build`.")
    ] = None,
    out_of_region: Annotated[
        Path | None, Option(help="A photo table from outside the region; its photos should be refused.")
    ] = None,
    cluster: Annotated[str | None, Option(help=CLUSTER)] = None,
) -> None:
    """Measure recall, error and confidence beside baselines on the same photos."""
    from cellcode.evaluation.evaluate import evaluate

    report = evaluate(
        database, photos, out=out, split=split, aerial=aerial, out_of_region=out_of_region, cluster=cluster
    )
    print(report.table())
    print(out / "report.html")
