"""Names of extension points: built-ins, entry points, `module:Name`; and what a file from a stranger may import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from cellcode import plugins
from cellcode.errors import PluginError, UsageError
from cellcode.plugins import Registry


class Shape:
    """What the plug-ins of these tests make."""


class Square(Shape):
    def __init__(self, edge: float = 1.0) -> None:
        self.edge = edge


def round_shape() -> Shape:
    return Shape()


def untyped():  # type: ignore[no-untyped-def]
    return Shape()


HERE = __name__
SHAPES = Registry("shape", "cellcode.tests.shapes", Shape, {"square": f"{HERE}:Square", "side:": f"{HERE}:Square"})
BARE = Registry("shape", "cellcode.tests.shapes", Shape, {}, bare=True)


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, and no module named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.ENVIRONMENT, "")
    monkeypatch.setitem(sys.modules, HERE, sys.modules.get(HERE) or sys.modules[Square.__module__])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _write(name: str, text: str) -> None:
    Path(f"{name}.py").write_text(f"from {HERE} import Shape\n{text}", encoding="utf-8")


def test_a_built_in_comes_by_its_name_and_a_prefix_takes_what_follows() -> None:
    assert isinstance(SHAPES.make("square", edge=2.0), Square)
    assert SHAPES.find("side:3.5").argument == "3.5"


def test_a_module_of_the_working_directory_is_a_plugin() -> None:
    _write("triangles", "class Triangle(Shape):\n    pass\n\ndef make(n=3):\n    return Triangle()\n")
    assert type(SHAPES.make("triangles:Triangle")).__name__ == "Triangle"
    assert type(SHAPES.make("triangles:make", 5)).__name__ == "Triangle"
    assert SHAPES.find("triangles:Triangle?n=5").argument == "n=5"


def test_a_module_alone_is_enough_where_it_has_one_class() -> None:
    _write("one", "class Only(Shape):\n    pass\n")
    found = BARE.find("one:some/folder")
    assert found.argument == "some/folder"
    assert found.factory.__name__ == "Only"
    _write("two", "class A(Shape):\n    pass\n\nclass B(Shape):\n    pass\n")
    with pytest.raises(PluginError, match="2 classes of the kind"):
        BARE.find("two:some/folder")


def test_an_installed_entry_point_comes_by_its_name(tmp_path: Path) -> None:
    _write("hexagons", "class Hexagon(Shape):\n    pass\n")
    info = tmp_path / "hexagons-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hexagons\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[cellcode.tests.hexagons]\nhexagon = hexagons:Hexagon\n")
    sys.path.insert(0, str(tmp_path))
    assert entry_points(group="cellcode.tests.hexagons")
    shapes = Registry("shape", "cellcode.tests.hexagons", Shape, {})
    assert type(shapes.make("hexagon")).__name__ == "Hexagon"
    shapes.require_allowed("hexagon", "a run")
    assert shapes.find("hexagon:6").argument == "6"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere:Name", "no module nowhere"),
        ("broken:Name", r"importing broken raised NameError"),
        ("lacks:Name", r"importing lacks raised ModuleNotFoundError .*absent_package"),
        ("good:Nothing", "has no Nothing"),
        ("good:number", "expected a subclass of .*Shape"),
        ("good:Other", "not the class Other"),
        ("good:fails", r"building it raised ValueError \(three sides\)"),
        ("good:wrong", "expected a .*Shape, and it returned a int"),
        ("os:system", "expected a subclass of .*Shape"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named_in_one_sentence(text: str, message: str) -> None:
    _write("broken", "undefined_name\n")
    _write("lacks", "import absent_package\n")
    _write(
        "good",
        "number = 3\nclass Other:\n    pass\ndef fails():\n    raise ValueError('three sides')\n\ndef wrong():\n    return 1\n",
    )
    with pytest.raises(PluginError, match=message) as raised:
        SHAPES.make(text)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown shape circle; valid names: square, side:"):
        SHAPES.find("circle")


@pytest.mark.parametrize("text", ["os:system", "triangles:Triangle", f"{HERE}:untyped"])
def test_a_file_from_a_stranger_imports_nothing(text: str) -> None:
    _write("triangles", "open('imported', 'w')\n")
    with pytest.raises(PluginError, match=r"town\.cells requires the shape .* --plugin"):
        SHAPES.require_allowed(text, "town.cells")
    assert not Path("imported").exists()


def test_a_module_that_the_user_names_may_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugins.ENVIRONMENT, "others, shapes")
    SHAPES.require_allowed("shapes.flat:Triangle", "a run")
    with pytest.raises(PluginError):
        SHAPES.require_allowed("shapesque:Triangle", "a run")
    plugins.allow("shapesque")
    SHAPES.require_allowed("shapesque:Triangle", "a run")
    assert plugins.allowed() == ["others", "shapes", "shapesque"]


def test_what_the_users_own_program_has_imported_may_be_used_if_it_says_what_it_is() -> None:
    SHAPES.require_allowed(f"{HERE}:Square", "a run")
    SHAPES.require_allowed(f"{HERE}:round_shape", "a run")


def test_an_entry_point_that_is_not_installed_is_named() -> None:
    with pytest.raises(PluginError, match=r"requires the shape hexagon, .*install the package"):
        SHAPES.require_allowed("hexagon", "a run")


def test_the_option_works_behind_any_command() -> None:
    code = "import sys; from cellcode import cli; cli.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "presets"]
    done = subprocess.run([*command, "--plugin"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--plugin needs the name of a module" in done.stderr
    subprocess.run([*command, "--plugin=x", "--plugin", "y"], capture_output=True, check=True)
