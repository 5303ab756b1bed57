"""cellcode evaluate."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    database: Annotated[Path, Argument(help="A cell-code database.")],
    photos: Annotated[Path, Argument(help="A photo table.")],
    out: Annotated[Path, Option(help="Folder for report.json, report.html and predictions.parquet.")],
    split: Annotated[str, Option(help="Split that is tested.")] = "test",
) -> None:
    """Measure recall and error beside baselines on the same photos."""
    from cellcode.evaluation import evaluate

    print(evaluate.run(database, photos, out=out, split=split).table())
    print(out / "report.html")
