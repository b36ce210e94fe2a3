"""A YAML document as plain data, with the line and column of every value and key in it.

Only what a configuration needs: mappings, lists and scalars, with anchors, aliases and merge keys.
What is wrong is never a traceback: NotYaml where nothing can be made of the text, else an entry
in `mistakes` beside the data that could be read.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

Where = tuple[str | int, ...]  # ("watch", 0, "settle")
Position = tuple[int, int]  # line and column, the first being 1

_DEEPEST = 20
_MOST_VALUES = 1_000_000  # what a hundred aliases of aliases would make of it is refused
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map")
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)", re.ASCII)
_FRACTION = re.compile(r"[-+]?[0-9][0-9_]*\.[0-9]*", re.ASCII)


class NotYaml(Exception):  # noqa: N818 - a verdict on the text
    """The text cannot be read as YAML; `position` is None where no place can be named."""

    def __init__(self, position: Position | None, text: str) -> None:
        super().__init__(text)
        self.position = position
        self.text = text


class Mistake(NamedTuple):
    """Something wrong in the YAML itself, beside which the rest could be read."""

    position: Position
    where: Where
    text: str


class Document:
    """`data` is what the text says (None for an empty one), `mistakes` what is wrong with it."""

    def __init__(self, text: str) -> None:
        """Raises NotYaml."""
        self.data: object = None
        self.mistakes: list[Mistake] = []
        self._values: dict[Where, Position] = {}
        self._keys: dict[Where, Position] = {}
        self._begins: dict[Where, int] = {}  # of texts on one line: columns before their first
        self._count = 0
        try:
            _refuse_depth(text)
            root = yaml.compose(text, Loader=_LOADER)
        except yaml.YAMLError as error:
            raise _not_yaml(error, text) from None
        if root is not None:
            self.data = self._plain(root, ())

    def position(self, where: Where, *, at_key: bool = False, inside: int = 0) -> Position:
        """Of the value (or its key) at `where`, or of the nearest thing around it.

        `inside`: of that character of a text, where it stands on one line as it is.
        """
        if inside and where in self._begins:
            line, column = self._values[where]
            return line, column + self._begins[where] + inside
        if at_key and where in self._keys:
            return self._keys[where]
        while where and where not in self._values:
            where = where[:-1]
        return self._values.get(where, (1, 1)) if where else (1, 1)

    def _plain(self, node: yaml.Node, where: Where) -> object:
        position = _position(node)
        self._values[where] = position
        self._count += 1
        if len(where) > _DEEPEST:
            raise NotYaml(position, f"nested more than {_DEEPEST} deep")
        if self._count > _MOST_VALUES:
            raise NotYaml(position, f"more than {_MOST_VALUES:,} values, aliases followed")
        if node.tag not in _PLAIN_TAGS:
            self.mistakes.append(Mistake(position, where, f"the tag {node.tag} is not supported"))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*where, at)) for at, item in enumerate(node.value)]
        quotes = 2 if getattr(node, "style", None) in ("'", '"') else 0
        if node.end_mark.column - node.start_mark.column == len(node.value) + quotes:
            self._begins[where] = quotes // 2
        return _scalar(str(node.value), node.tag.rpartition(":")[2])

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, object]:
        seen: dict[str, Position] = {}
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            position = _position(key)
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.mistakes.append(Mistake(position, where, "a key must be a single word"))
            elif key.value in seen:
                line, column = seen[key.value]
                text = f"a second time (first at {line}:{column}): remove one of the two"
                self.mistakes.append(Mistake(position, (*where, key.value), text))
            else:
                seen[key.value] = position
                pairs[key.value] = (key, value)
        for name, pair in self._merged(node, where, 0).items():
            pairs.setdefault(name, pair)
        for name, (key, _) in pairs.items():
            self._keys[(*where, name)] = _position(key)
        return {name: self._plain(value, (*where, name)) for name, (_, value) in pairs.items()}

    def _merged(
        self, node: yaml.MappingNode, where: Where, depth: int
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """What `<<` brings into a mapping; of several mappings the first to have a key wins."""
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for source in self._merge_sources(node, where):
            self._count += 1
            if depth > _DEEPEST or self._count > _MOST_VALUES:
                raise NotYaml(_position(source), "merges (<<) nested too deep")
            for key, value in source.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    found.setdefault(key.value, (key, value))
            for name, pair in self._merged(source, where, depth + 1).items():
                found.setdefault(name, pair)
        return found

    def _merge_sources(self, node: yaml.MappingNode, where: Where) -> list[yaml.MappingNode]:
        sources = []
        for key, value in node.value:
            if key.tag != _MERGE:
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(source, yaml.MappingNode):
                    sources.append(source)
                else:
                    text = "<< takes a section, or a list of sections"
                    self.mistakes.append(Mistake(_position(source), where, text))
        return sources


def _refuse_depth(text: str) -> None:
    """Raises NotYaml for absurd nesting: composing 200,000 levels overflows the C stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise NotYaml(_of_mark(event.start_mark), f"nested more than {_DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _scalar(text: str, kind: str) -> object:
    """A scalar as a person reads it: `1:30`, `0x10`, `010`, `.inf` and dates stay texts."""
    if kind == "null":
        return None
    if kind == "bool" and text:
        return text.lower() in ("yes", "true", "on")
    if kind == "int" and _INTEGER.fullmatch(text) and len(text) < 4000:
        return int(text)
    if kind == "float" and _FRACTION.fullmatch(text):
        return float(text)
    return text


def _position(node: yaml.Node) -> Position:
    return _of_mark(node.start_mark)


def _of_mark(mark: Any) -> Position:  # libyaml's and PyYAML's own marks share no type
    return mark.line + 1, mark.column + 1


def _not_yaml(error: yaml.YAMLError, text: str) -> NotYaml:
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        position = (before.count("\n") + 1, error.position - before.rfind("\n"))
        return NotYaml(position, f"not YAML: {error.reason}")
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return NotYaml(None, f"not YAML: {error}")
    line, column = _of_mark(error.problem_mark)
    lines = text.splitlines()
    character = lines[line - 1][column - 1 : column] if line <= len(lines) else ""
    problem = str(error.problem)
    if character == "\t":
        problem = "a tab: YAML is indented with spaces"
    elif "cannot start any token" in problem:
        problem = f'"{character}" cannot begin a value: put the value in quotes'
    elif "mapping values are not allowed" in problem:
        problem = "a colon where none can be: check the indentation, or put the value in quotes"
    elif "another document" in problem:
        problem = "a second document (---): a configuration is one"
    return NotYaml((line, column), f"not YAML: {problem}{_started_at(error)}")


def _started_at(error: yaml.MarkedYAMLError) -> str:
    if error.context is None or error.context_mark is None or "token" in error.context:
        return ""
    line, column = _of_mark(error.context_mark)
    return f" ({error.context} that begins at {line}:{column})"
