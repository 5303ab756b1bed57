"""Makes docs/results.md: `python -m experiments`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from cellcode import log
from cellcode.errors import CellcodeError


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

    log.install()
    out = out or Path("runs/rehearsal" if quick else "runs/results")
    where = docs or out
    try:
        results.run(out, where, quick=quick, campus_photos=campus)
    except CellcodeError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(where / "results.md")


if __name__ == "__main__":
    typer.run(command)
