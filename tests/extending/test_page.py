"""docs/extending.md shows the code that the tests run, word for word."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("extending_page", ROOT / "tools" / "extending_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_tool_writes(tool: ModuleType) -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page()


def test_every_example_is_on_the_page_word_for_word(tool: ModuleType) -> None:
    text = tool.PAGE.read_text(encoding="utf-8")
    assert tool.missing(text) == []


def test_an_example_that_the_page_changes_is_named(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pool.py").write_text('"""A pool."""\nSIZE = 2\n', encoding="utf-8")
    (tmp_path / "introduction.md").write_text("# A\n\n<!-- example: pool.py -->\n\nText.\n", encoding="utf-8")
    monkeypatch.setattr(tool, "FOLDER", tmp_path)
    text = tool.page()
    assert '```python\n"""A pool."""\nSIZE = 2\n```\n\nText.\n' in text
    assert tool.missing(text) == []
    assert tool.missing(text.replace("SIZE = 2", "SIZE = 3")) == ["pool.py"]
