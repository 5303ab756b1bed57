"""The layout of src/cellcode: what imports what, and how long files and functions are. `python tools/house.py` prints it."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "tools" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _house(tool: ModuleType, folder: Path, **files: str) -> object:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py" if "__init__" not in name else folder / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tool.House(folder)


def test_packages_import_only_from_packages_above_them(tool: ModuleType) -> None:
    assert tool.House().against_order() == []


def test_nothing_imports_in_a_circle(tool: ModuleType) -> None:
    assert tool.House().circles() == []


def test_files_functions_and_the_whole_stay_within_their_limits(tool: ModuleType) -> None:
    assert tool.House().sizes() == []


def test_public_names_have_a_docstring(tool: ModuleType) -> None:
    assert [name for module in tool.House().modules.values() for name in module.undocumented] == []


def test_the_package_imports_nothing_of_the_experiments_and_benchmarks() -> None:
    names = [path.stem for path in (ROOT / "benchmarks").glob("*.py")]
    wanted = ("experiments", *names)
    for path in (ROOT / "src").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].split(".")[0] not in wanted, f"{path}: {line}"


def test_an_import_against_the_order_is_found_even_inside_a_function(tool: ModuleType, tmp_path: Path) -> None:
    house = _house(tool, tmp_path, search="", geography="def f():\n    from cellcode.search import x\n")
    assert house.against_order() == ["geography imports search"]
    assert house.circles() == []


def test_circles_of_packages_and_of_modules_are_found(tool: ModuleType, tmp_path: Path) -> None:
    late = "def f():\n    import cellcode.photos\n"
    found = _house(
        tool, tmp_path / "a", aerial="from cellcode.photos import x\n", photos=f"{late}import cellcode.aerial\n"
    )
    assert "packages" in found.circles()[0]
    one, other = "from cellcode.photos import two\n", "from cellcode.photos.one import x\n"
    (tmp_path / "b").mkdir()
    found = _house(tool, tmp_path / "b", photos__one=one, photos__two=other)
    assert "modules" in found.circles()[0]


def test_what_is_too_long_or_undocumented_is_named(tool: ModuleType, tmp_path: Path) -> None:
    long = (
        '"""Doc."""\ndef f():\n    """Doc."""\n' + "    x = 1\n" * 60 + "class A:\n    def b(self): ...\n" + "\n" * 300
    )
    house = _house(tool, tmp_path, files=long)
    assert house.sizes() == ["files has 365 lines, at most 350", "files.f has 62 lines, at most 60"]
    assert house.modules["files"].undocumented == ["files.A", "files.A.b"]


def test_the_table_stands_in_the_architecture_page(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tool.BEGIN}\nold\n{tool.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["house.py", "--write", str(page)])
    assert tool.main() == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| geography |" in text
    assert "\nold\n" not in text
    assert tool.BEGIN in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_files_that_the_architecture_page_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("<!-- tools/house.py: begin -->")[0]
    named = re.findall(r"`([a-z_0-9/]+(?:\.py|/))`", text)
    assert len(named) > 30
    for name in named:
        assert any(
            (root / name).exists() for root in (ROOT, ROOT / "src" / "cellcode", ROOT / "tools", ROOT / "tests")
        ), name
