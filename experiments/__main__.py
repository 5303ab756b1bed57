"""Makes docs/results.md: `python -m experiments`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from cellcode import log
from cellcode.errors import CellcodeError


def command(
    out: Annotated[
        Path | None,
        Option(
            help="Folder that keeps worlds, runs and databases; default: runs/results, of the plan quick runs/rehearsal."
        ),
    ] = None,
    docs: Annotated[
        Path | None, Option(help="Folder for results.md, results.json and figures/; default: --out.")
    ] = None,
    campus: Annotated[
        Path | None, Option(help="Folder with the photos.csv of a real campus; without it those tables are left out.")
    ] = None,
    plan: Annotated[
        Literal["full", "quick"], Option(help="quick: a rehearsal in minutes; its numbers mean nothing.")
    ] = "full",
    only: Annotated[
        str,
        Option(
            help="Stages to make, with what they need: names, beginnings of names or patterns, separated by commas."
        ),
    ] = "",
    show: Annotated[
        bool, Option("--list", help="Print the stages, the state of each and what they took last; make none.")
    ] = False,
) -> None:
    """Make all tables and figures of docs/results.md from nothing: up to two hours on two cores. Resumes what was cut off."""
    from experiments import results

    log.install()
    out = out or Path("runs/rehearsal" if plan == "quick" else "runs/results")
    patterns = [each.strip() for each in only.split(",") if each.strip()]
    try:
        if show:
            print(results.table(out, plan=plan, campus_photos=campus))
            return
        made = results.run(out, docs or out, plan=plan, campus_photos=campus, only=patterns)
    except CellcodeError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    print(made["page"])


if __name__ == "__main__":
    typer.run(command)
