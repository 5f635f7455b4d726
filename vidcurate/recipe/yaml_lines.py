"""YAML as plain data, with the line of every key.

Differs from YAML 1.1 where that surprises people: `on`, `off`, `yes`, `no` are text, so is
`16:9` (not 969) and a date; `1e-3` is a number. Those are the scalar rules of YAML 1.2's core
schema, plus `500_000`. Tags are refused, duplicate keys too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from vidcurate.errors import RecipeError

KeyPath = tuple[str | int, ...]

_MAX_NODES = 100_000
_INT = re.compile(r"[-+]?\d[\d_]*")
_HEX = re.compile(r"0x[\da-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d[\d_]*(\.[\d_]*)?)([eE][-+]?\d+)?")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    ".inf": float("inf"),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}


@dataclass
class Document:
    """The data of one YAML text.

    data: mappings, lists, text, numbers, bools and None.
    places: key path -> "file:line"; `where` finds the place of paths that came later.
    problems: (path, message) of duplicate keys, tags, and what `problem` adds.
    """

    name: str
    data: Any = None
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """ "file:line" of the path, or of the nearest thing around it."""
        for n in range(len(path), -1, -1):
            if path[:n] in self.places:
                return self.places[path[:n]]
        return self.name

    def problem(self, path: KeyPath, message: str, label: str | None = None) -> None:
        """Note a mistake at a path; `label` names it for people (default: the path, dotted)."""
        if label is None:
            label = dotted([key for key in path if not str(key).startswith("#")])
        self.problems.append((path, f"{label}: {message}" if label else message))

    def messages(self) -> list[str]:
        """Every mistake as "file:line: label: message", in the order of the lines."""
        found = []
        for path, message in self.problems:
            place = self.where(path)
            file, _, line = place.rpartition(":")
            in_file = file == self.name and line.isdigit()
            order = int(line) if in_file else 0 if place == self.name else 1 << 60
            found.append((order, f"{place}: {message}"))
        return [text for _, text in sorted(found, key=lambda pair: pair[0])]


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it: `score.motion.p95`; a position in a list is left out where the
    step's name follows it."""
    keys = [
        str(key) for i, key in enumerate(path) if not (isinstance(key, int) and i + 1 < len(path))
    ]
    return ".".join(keys)


def parse_yaml(text: str, name: str) -> Document:
    """Read one YAML document.

    Args:
        text: the YAML.
        name: what messages call it, usually the file's path.

    Raises:
        RecipeError: not YAML at all; the message has file, line and the parser's reason.
    """
    document = Document(name)
    try:
        node = _Loader(text).get_single_node()
        if node is not None:
            document.places[()] = _place(document, node)
            document.data = _Build(document).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise RecipeError(f"{place}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{name}: nested too deeply") from error
    return document


def parse_scalar(text: str) -> Any:
    """The value of an unquoted scalar: null, bool, int, float or the text itself."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's composer without its YAML 1.1 types: every scalar stays text."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)


class _Build:
    """Plain data from nodes. Aliases are expanded, so their number is bounded."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0
        self.open: set[int] = set()

    def value(self, node: Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > _MAX_NODES:
            raise RecipeError(f"{self.document.name}: more than {_MAX_NODES} values")
        if id(node) in self.open:
            self._problem(node, path, "an alias (*) to something that it stands in itself")
            return None
        if node.tag.removeprefix("tag:yaml.org,2002:") not in ("str", "seq", "map"):
            self._problem(node, path, f"tag {node.tag!r} is not allowed; write the plain value")
        self.open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return self._sequence(node, path)
            assert isinstance(node, ScalarNode)
            return parse_scalar(node.value) if node.style is None else node.value
        finally:
            self.open.discard(id(node))

    def _sequence(self, node: SequenceNode, path: KeyPath) -> list[Any]:
        items = []
        for i, item in enumerate(node.value):
            self.document.places[(*path, i)] = _place(self.document, item)
            items.append(self.value(item, (*path, i)))
        return items

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._problem(key, path, "a key must be plain text")
                continue
            here = (*path, key.value)
            if key.value in mapping:
                first = self.document.places[here].rpartition(":")[2]
                self._problem(key, here, f"duplicate key {key.value!r} (first on line {first})")
                continue
            self.document.places[here] = _place(self.document, key)
            mapping[key.value] = self.value(value, here)
        return mapping

    def _problem(self, node: Node, path: KeyPath, message: str) -> None:
        # A place of its own: a duplicate key has the path of the first one.
        path = (*path, f"#{len(self.document.problems)}")
        self.document.places[path] = _place(self.document, node)
        self.document.problem(path, message)


def _place(document: Document, node: Node) -> str:
    return f"{document.name}:{node.start_mark.line + 1}"
