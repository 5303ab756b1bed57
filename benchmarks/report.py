"""The rows of a benchmark, as a table and as a file."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


def show(rows: list[Row], path: Path | None) -> None:
    """Print rows (`case`, `value`, `unit` and, for a ratio, `against`), and write them as JSON if a path is given."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for row in rows:
        against = f"  (against {row['against']})" if "against" in row else ""
        print(f"{row['case']:<58} {row['value']:>10.3f} {row['unit']}{against}")
    if path is not None:
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
