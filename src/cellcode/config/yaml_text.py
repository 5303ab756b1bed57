"""YAML that came from anyone, within limits: no repeated keys, and no text that unfolds to more than it shows."""

from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

MAX_BYTES = 2**20
MAX_VALUES = 50_000  # with what aliases stand for
MAX_DEPTH = 50
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Stops at once where a text is too long: it is a slow reader."""

    composed = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.composed += 1
        if self.composed > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES} values")
        return super().compose_node(parent, index)


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
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node, {}, 0)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    except (AttributeError, KeyError, TypeError, OverflowError) as error:  # the loader's, of values such as `!!bool x`
        raise ValueError(f"a value does not have the form of its type ({error})") from None


def _weigh(node: Node, known: dict[Node, int], depth: int) -> int:
    """Return how many values a node stands for; nodes hash by identity, and `known` holds those of before, 0 while open."""
    if depth > MAX_DEPTH:
        raise ValueError(f"line {node.start_mark.line + 1}: it is nested more than {MAX_DEPTH} deep")
    if node in known:
        if not known[node]:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias contains itself")
        return known[node]
    known[node], total = 0, 1
    if isinstance(node, MappingNode):
        _refuse_repeated(node)
    if isinstance(node, CollectionNode):
        for each in node.value:
            for part in each if isinstance(each, tuple) else (each,):
                total += _weigh(part, known, depth + 1)
                if total > MAX_VALUES:
                    raise ValueError(f"it holds more than {MAX_VALUES} values")
    known[node] = total
    return total


def _refuse_repeated(mapping: MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, ScalarNode) or key.tag == _MERGE:
            continue
        line = key.start_mark.line + 1
        if (key.tag, key.value) in lines:
            first = lines[key.tag, key.value]
            raise ValueError(f"the key {key.value[:80]} is given twice, in line {first} and line {line}; keep one")
        lines[key.tag, key.value] = line
