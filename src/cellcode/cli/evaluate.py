"""cellcode evaluate."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    database: Annotated[Path, Argument(help="A cell-code database.")],
    photos: Annotated[Path, Argument(help="A photo table.")],
    out: Annotated[Path, Option(help="Folder for report.json, report.html, predictions.parquet and figures.")],
    split: Annotated[str, Option(help="Split that is tested.")] = "test",
    aerial: Annotated[
        str | None, Option(help="Imagery that the report shows beside photos, as for `cellcode build`.")
    ] = None,
    elsewhere: Annotated[
        Path | None, Option(help="A photo table from outside the region; its photos should be refused.")
    ] = None,
) -> None:
    """Measure recall, error and confidence beside baselines on the same photos."""
    from cellcode.evaluation import evaluate

    print(evaluate(database, photos, out=out, split=split, aerial=aerial, elsewhere=elsewhere).table())
    print(out / "report.html")
