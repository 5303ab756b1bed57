"""The rows of a benchmark, as a table and as a file."""

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


def run(doc: str | None, quick: str, measure: Callable[[Path, bool], list[Row]]) -> None:
    """Be the command line of a benchmark: measure in a folder that is removed afterwards, and show the rows.

    Args:
        doc: shown by --help.
        quick: what --quick does.
        measure: called with the folder and whether --quick was given.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.quick)
    show(rows, arguments.json)


def show(rows: list[Row], path: Path | None) -> None:
    """Print rows (`case`, `value`, `unit` and, for a ratio, `against`), and write them as JSON if a path is given."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for row in rows:
        against = f"  (against {row['against']})" if "against" in row else ""
        print(f"{row['case']:<58} {row['value']:>10.3f} {row['unit']}{against}")
    if path is not None:
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
