"""Put docs/extending.md together from the pieces and the tested examples in docs/extending/.

    python tools/extending_page.py             write the page
    python tools/extending_page.py --check     exit 1 if the page is not what would be written

The line `<!-- example: NAME.py -->` in a piece stands for the code of docs/extending/NAME.py.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "extending"
PAGE = FOLDER.with_suffix(".md")
ORDER = ("introduction.md", "model.md", "aerial.md", "photos.md")
_EXAMPLE = re.compile(r"^<!-- example: (\S+\.py) -->$", re.MULTILINE)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page() -> str:
    """Return the page: the pieces one after the other, their examples filled in."""
    pieces = [(FOLDER / name).read_text(encoding="utf-8").strip() for name in ORDER if (FOLDER / name).is_file()]
    return _EXAMPLE.sub(lambda found: _block(found[1]), "\n\n".join(pieces)) + "\n"


def missing(text: str) -> list[str]:
    """Return the examples whose code the page does not show word for word."""
    shown = {block.strip() for block in _BLOCK.findall(text)}
    return [path.name for path in sorted(FOLDER.glob("*.py")) if path.read_text(encoding="utf-8").strip() not in shown]


def _block(name: str) -> str:
    return f"```python\n{(FOLDER / name).read_text(encoding='utf-8').strip()}\n```"


def main() -> int:
    """Write or check; return the exit status."""
    text = page()
    if lacking := missing(text):
        print(f"{PAGE.name} does not show {', '.join(lacking)}; add <!-- example: {lacking[0]} -->", file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is not up to date; run python tools/extending_page.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
