"""Makes docs/results.md: `python -m experiments`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option


def command(
    out: Annotated[
        Path | None,
        Option(
            help="Folder that keeps worlds, runs and databases; default: runs/results, with --quick runs/rehearsal."
        ),
    ] = None,
    docs: Annotated[
        Path | None, Option(help="Folder for results.md, results.json and figures/; default: --out.")
    ] = None,
    campus: Annotated[
        Path | None, Option(help="Folder with the photos.csv of a real campus; without it those tables are left out.")
    ] = None,
    quick: Annotated[bool, Option("--quick", help="A rehearsal in minutes; its numbers mean nothing.")] = False,
) -> None:
    """Make all tables and figures of docs/results.md from nothing: about an hour and a half on two cores."""
    from experiments import results

    out = out or Path("runs/rehearsal" if quick else "runs/results")
    where = docs or out
    results.run(out, where, quick=quick, campus_photos=campus)
    print(where / "results.md")


if __name__ == "__main__":
    typer.run(command)
