"""Measure the layout of src/cellcode, and check its rules.

    python tools/house.py                               print the table
    python tools/house.py --check                       exit 1 where a rule is broken
    python tools/house.py --write docs/architecture.md  print it between the markers of that page

Rules: a package imports only from packages above it in ORDER, and modules do not import each other in a circle when they
are imported; src/cellcode stays below MAX_LINES, every file within MAX_FILE and every function within MAX_FUNCTION lines.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cellcode"
# Lines from above to below, and within a line from left to right.
ORDER = (
    "types errors files log progress integrity plugins device config client",
    "geography",
    "http",
    "distributed",
    "photos",
    "aerial",
    "simulation",
    "model",
    "runs",
    "training",
    "index",
    "database",
    "search",
    "evaluation",
    "planning",
    "serving",
    "cli __main__",
)
MAX_LINES, MAX_FILE, MAX_FUNCTION = 34_500, 350, 60
BEGIN, END = "<!-- tools/house.py: begin -->", "<!-- tools/house.py: end -->"
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Function:
    """A function or method: where it is, and from which line to which."""

    module: str
    name: str
    lines: int


@dataclass
class Module:
    """One file.

    Attributes:
        name: dotted, without `cellcode.`; the package's own `__init__` is named as the package.
        eager: modules that it imports when it is imported itself.
        lazy: modules that it imports inside functions or for type checking.
        undocumented: its public names without a docstring.
    """

    name: str
    path: Path
    lines: int
    functions: list[Function] = field(default_factory=list)
    eager: set[str] = field(default_factory=set)
    lazy: set[str] = field(default_factory=set)
    undocumented: list[str] = field(default_factory=list)

    @property
    def package(self) -> str:
        """First part of the name."""
        return self.name.split(".")[0]


class House:
    """The modules of a package, by name."""

    def __init__(self, source: Path = SOURCE) -> None:
        paths = sorted(source.rglob("*.py"))
        self.names = {_dotted(path.relative_to(source)): path for path in paths}
        self.modules = {name: self._read(name, path) for name, path in self.names.items() if name}

    def _read(self, name: str, path: Path) -> Module:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        module = Module(name, path, len(text.splitlines()))
        for node, is_lazy in _statements(tree, lazy=False):
            for target in self._imported(node):
                (module.lazy if is_lazy else module.eager).add(target)
        for qualified, node in _definitions(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                module.functions.append(Function(name, qualified, (node.end_lineno or node.lineno) - node.lineno + 1))
            is_public = not any(part.startswith("_") for part in qualified.split("."))
            if is_public and ast.get_docstring(node) is None and not _is_overload(node):
                module.undocumented.append(f"{name}.{qualified}")
        if ast.get_docstring(tree) is None:
            module.undocumented.append(name)
        return module

    def _imported(self, node: ast.stmt) -> Iterator[str]:
        """Yield the modules of the package that an import statement names."""
        if isinstance(node, ast.Import):
            texts = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            texts = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            return
        for text in texts:
            first, _, rest = text.partition(".")
            while first == "cellcode" and rest:
                if rest in self.names:
                    yield rest
                    break
                rest = rest.rpartition(".")[0]

    @cached_property
    def packages(self) -> dict[str, list[Module]]:
        """Modules by package, packages in the order of ORDER."""
        found: dict[str, list[Module]] = {name: [] for name in _order()}
        for module in self.modules.values():
            found.setdefault(module.package, []).append(module)
        return {name: modules for name, modules in found.items() if modules}

    @cached_property
    def arrows(self) -> Graph:
        """Packages that each package imports, anywhere."""
        found: Graph = {name: set() for name in self.packages}
        for module in self.modules.values():
            for target in module.eager | module.lazy:
                if (other := target.split(".")[0]) != module.package:
                    found[module.package].add(other)
        return found

    @property
    def functions(self) -> list[Function]:
        """All functions, the longest first."""
        every = [function for module in self.modules.values() for function in module.functions]
        return sorted(every, key=lambda each: -each.lines)

    @property
    def lines(self) -> int:
        """Lines of all files, the package's own `__init__` included."""
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in self.names.values())

    def against_order(self) -> list[str]:
        """Return the imports of a package that stands below the importing one, or in no order."""
        rank = {name: place for place, name in enumerate(_order())}
        broken = [f"package {name} is not in the order" for name in self.packages if name not in rank]
        for module in self.modules.values():
            for target in sorted(module.eager | module.lazy):
                other = target.split(".")[0]
                if other != module.package and rank.get(other, -1) > rank.get(module.package, len(rank)):
                    broken.append(f"{module.name} imports {target}")
        return broken

    def circles(self) -> list[str]:
        """Return circles: one between packages by any import, and one between modules by what import time imports."""
        eager: Graph = {}
        for name, module in self.modules.items():
            # Importing a module imports the packages around it; those around the importing module are under way already.
            wanted = {parent for target in module.eager for parent in _with_parents(target)}
            eager[name] = wanted - set(_with_parents(name))
        found = [_circle(self.arrows, "packages"), _circle(eager, "modules")]
        return [each for each in found if each]

    def sizes(self) -> list[str]:
        """Return what is larger than it may be."""
        broken = [f"src/cellcode has {self.lines} lines, at most {MAX_LINES}"] if self.lines >= MAX_LINES else []
        files = [module for module in self.modules.values() if module.lines > MAX_FILE]
        broken += [f"{module.name} has {module.lines} lines, at most {MAX_FILE}" for module in files]
        longest = [each for each in self.functions if each.lines > MAX_FUNCTION]
        broken += [f"{each.module}.{each.name} has {each.lines} lines, at most {MAX_FUNCTION}" for each in longest]
        return broken

    def table(self) -> str:
        """Return what is measured, as Markdown."""
        rows = [
            "| package | files | lines | longest file | longest function | imports |",
            "|---|---:|---:|---|---|---|",
        ]
        for name, modules in self.packages.items():
            longest = max(modules, key=lambda each: each.lines)
            functions = [each for module in modules for each in module.functions]
            function = max(functions, key=lambda each: each.lines, default=None)
            shown = f"`{function.name}` {function.lines}" if function else "–"
            targets = ", ".join(each for each in self.packages if each in self.arrows[name])
            file = longest.path.relative_to(SOURCE / name if len(modules) > 1 else SOURCE)
            lines = sum(each.lines for each in modules)
            rows.append(
                f"| {name} | {len(modules)} | {lines} | `{file}` {longest.lines} | {shown} | {targets or '–'} |"
            )
        undocumented = [each for module in self.modules.values() for each in module.undocumented]
        broken = [*self.circles(), *self.against_order()]
        return "\n".join(
            [
                *rows,
                "",
                f"{len(self.names)} files, {self.lines} lines. Longest function: "
                f"`{self.functions[0].module}.{self.functions[0].name}`, {self.functions[0].lines} lines.",
                f"Circles and imports against the order: {'; '.join(broken) or 'none'}.",
                f"Public names without a docstring: {', '.join(f'`{each}`' for each in undocumented) or 'none'}.",
            ]
        )


def _order() -> list[str]:
    return [name for layer in ORDER for name in layer.split()]


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _statements(node: ast.AST, *, lazy: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield every statement, and whether import time leaves it out: in a function, or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        inner = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_typing(node)
        if isinstance(child, ast.stmt):
            yield child, inner
        yield from _statements(child, lazy=inner)


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _definitions(
    node: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yield functions and classes with their qualified names; what lies inside functions is counted with them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _definitions(child, prefix)


def _is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.dump(each) for each in getattr(node, "decorator_list", []))


def _circle(graph: Graph, kind: str) -> str | None:
    """Return a circle of a graph as a sentence."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return f"circle of {kind}: {' <- '.join(error.args[1])}"
    return None


def main() -> int:
    """Print, check or write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print broken rules only; exit 1 if there are any")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    given, house = parser.parse_args(), House()
    if given.check:
        broken = [*house.circles(), *house.against_order(), *house.sizes()]
        print("\n".join(broken) or "all rules hold", file=sys.stderr if broken else sys.stdout)
        return 1 if broken else 0
    if given.write is None:
        print(house.table())
        return 0
    before, _, rest = given.write.read_text(encoding="utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        print(f"{given.write} lacks the lines {BEGIN} and {END}", file=sys.stderr)
        return 1
    given.write.write_text(f"{before}{BEGIN}\n{house.table()}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
