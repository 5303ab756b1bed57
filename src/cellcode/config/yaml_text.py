"""YAML that came from anyone, within limits: no repeated keys, and no text that unfolds to more than it shows."""

from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

MAX_BYTES = 2**20
MAX_VALUES = 50_000  # with what aliases stand for
MAX_DEPTH = 50
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, and stops at once where a text holds too much: it is a slow reader."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = self.depth = self.height = 0
        self.known: dict[Node, tuple[int, int]] = {}  # values and height of nodes; they hash by identity

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        is_alias, before, beside = self.check_event(yaml.AliasEvent), self.values, self.height
        self.values, self.depth, self.height = before + 1, self.depth + 1, 0
        self._check()
        node = super().compose_node(parent, index)
        assert node is not None
        if is_alias and node not in self.known:
            raise ValueError("an alias contains itself")
        size, height = self.known[node] if is_alias else (self.values - before, self.height + 1)
        self.values, self.depth, self.height = before + size, self.depth - 1, max(beside, height)
        self._check()
        self.known[node] = size, height
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.tag != _MERGE:
                line = key.start_mark.line + 1
                if first := lines.get((key.tag, key.value)):
                    raise ValueError(
                        f"the key {key.value[:80]} is given twice, in line {first} and line {line}; keep one"
                    )
                lines[key.tag, key.value] = line
        return node

    def _check(self) -> None:
        if self.values > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES} values")
        if self.depth + self.height > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def read_text(path: Path) -> str:
    """Return the text of a YAML file; ValueError: it is not UTF-8, or too long. OSError: it cannot be read."""
    with path.open("rb") as file:
        body = file.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES // 2**10} KiB")
    return body.decode()


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document; ValueError: it is not valid, repeats a key or exceeds a limit."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    except (AttributeError, KeyError, TypeError, OverflowError) as error:  # the loader's, of values such as `!!bool x`
        raise ValueError(f"a value does not have the form of its type ({error})") from None
