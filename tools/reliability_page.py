"""Show what the fault tests counted, and put it into docs/reliability.md.

python tools/reliability_page.py             print the table of runs/faults.json, which `make test-faults` leaves
python tools/reliability_page.py --write     put it between the markers of docs/reliability.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- tools/reliability_page.py: begin -->", "<!-- tools/reliability_page.py: end -->"
# What is promised for each kind of case that the tests count, and the file that has them.
PROMISES = {
    "kills": ("A killed command, run again, ends with the same bytes and leaves nothing else", "test_kills.py"),
    "locks": ("Two commands never write the same output: the second one says so", "test_locks.py"),
    "damage": ("Damage is found before an answer, or changes nothing", "test_damage.py"),
    "starvation": (
        "Without room, rights, memory or file descriptors: one sentence, nothing half made, and fine when run again",
        "test_starvation.py",
    ),
    "mutated photos": (
        "A damaged photo is used or rejected in a sentence, in bounded time and memory",
        "test_mutations.py",
    ),
    "hostile photos": ("A photo made to do harm is refused, in bounded time and memory", "test_hostile_photos.py"),
    "requests to a service under attack": (
        "The service answers normal requests within 2 s while it is attacked",
        "test_service.py",
    ),
}


def table(counts: dict[str, dict[str, int]]) -> str:
    """Return the table of the page."""
    lines = ["| promise | cases | kept | command |", "|---|---|---|---|"]
    for kind, (promise, file) in PROMISES.items():
        if kind in counts:
            cases, survived = counts[kind]["cases"], counts[kind]["survived"]
            lines.append(f"| {promise} | {cases:,} | {survived:,} | `pytest -m faults tests/faults/{file}` |")
    return "\n".join(lines)


def main() -> int:
    """Print or write; return the exit status: 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=Path, default=ROOT / "runs" / "faults.json")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    counts: dict[str, dict[str, int]] = json.loads(arguments.counts.read_text(encoding="utf-8"))
    if unknown := counts.keys() - PROMISES.keys():
        print(f"no promise for {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    print(table(counts))
    if arguments.write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        PAGE.write_text(f"{before}{BEGIN}\n{table(counts)}\n{after}", encoding="utf-8")
    return int(any(each["survived"] < each["cases"] for each in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
