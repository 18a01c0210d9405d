"""A safe YAML reader without surprising types that records lines.

Only `true` and `false` are booleans (`no`, `on` and `yes` are text), `1:30`, `0123` and dates are text, and a key is
always text. Tags, repeated keys, more than one document, deep nesting and more than a few aliases are refused: an alias
bomb loads quickly as shared nodes and expands only when it is traversed. `${NAME}` is text in flow style, too
(`{key: ${NAME}}`), where YAML alone reads its braces as a mapping.
"""

import re

import yaml
from typing_extensions import override

from llmproxy_asgi.config.document import (
    MAX_DEPTH,
    MAX_VALUES,
    Document,
    Path,
    Unreadable,
    format_path,
    join_surrogates,
)
from llmproxy_asgi.config.scalars import read_scalar

MAX_ALIASES = 50

_MERGE = "<<"

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*(?::-[^\s{}\[\],]*)?)\}")
# Private-use characters of Unicode, one for each brace, so that lines and columns do not change.
_OPENED, _CLOSED = "\ue000", "\ue001"
_BRACES = str.maketrans({_OPENED: "{", _CLOSED: "}"})

# Text quoted in PyYAML's messages may be part of a key; the names of its own tokens (`'<scalar>'`) may stay.
_QUOTED = re.compile(r"(?<=\s)'(?!<)[^']{2,}'")

_EXPLAINED = (
    ("found undefined alias", "refers (with `*`) to an anchor that is not there; quote a text that begins with `*`"),
    ("found duplicate anchor", "has the same anchor (`&`) twice"),
    ("but found another document", "holds more than one document (`---`)"),
    ("found character '\\t'", "is indented with a tab; YAML wants spaces"),
    ("found character", "has an unquoted text that begins with a character that YAML keeps for itself; quote it"),
    (
        "mapping values are not allowed",
        "has a `:` where none can be: check the indentation, and quote text that holds `: `",
    ),
    (
        "could not find expected ':'",
        "has a key without a `:` after it, or an unquoted text over several lines",
    ),
    ("found unexpected end of stream", "ends in the middle of a quoted text"),
)


def read_yaml(text: str) -> Document:
    """Read one YAML document whose outermost value is a mapping; an empty one counts as an empty mapping.

    Raises:
        Unreadable: It is not such a document, or is refused.
    """
    root = _compose(text)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.style is None and read_scalar(root.value) is None):
        return Document({})
    if not isinstance(root, yaml.MappingNode):
        raise Unreadable("must hold keys and values, like `providers:`", root.start_mark.line + 1)
    reader = _Reader()
    return Document(reader.mapping(root, ()), reader.lines)


def _compose(text: str) -> yaml.Node | None:
    _refuse_crowded(text)
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(_explain(error), None if mark is None else mark.line + 1) from None
    except yaml.reader.ReaderError as error:
        raise Unreadable(
            "holds a character that YAML does not allow", text.count("\n", 0, error.position) + 1
        ) from None


def _refuse_crowded(text: str) -> None:
    """Refuse a text of too many values before Python reads it, which takes seconds; libyaml takes a fifth of one.

    Raises:
        Unreadable: It holds too many.
    """
    if len(text) <= 2 * MAX_VALUES or not yaml.__with_libyaml__:
        return
    nodes = 0
    try:
        for event in yaml.parse(_mark_variables(text), Loader=yaml.CSafeLoader):
            nodes += isinstance(event, yaml.NodeEvent)
            if nodes > 2 * MAX_VALUES:  # a key is a node, too
                line = None if event.start_mark is None else event.start_mark.line + 1
                raise Unreadable(f"holds more than {MAX_VALUES} values", line)
    except yaml.YAMLError:
        return  # `_Loader` reports the error


def _mark_variables(text: str) -> str:
    """Replace the braces of `${NAME}`; leave a text unchanged that contains their replacements."""
    if "${" not in text or _OPENED in text or _CLOSED in text:
        return text
    return _VARIABLE.sub(rf"${_OPENED}\1{_CLOSED}", text)


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and parser, with bounds and refusals during parsing."""

    # Only `read_scalar` determines the types of plain scalars.
    yaml_implicit_resolvers = {}  # noqa: RUF012  the class attribute is the library's interface

    def __init__(self, text: str) -> None:
        marked = _mark_variables(text)
        self._is_marked = marked is not text
        super().__init__(marked)
        self._depth = 0
        self._aliases = 0
        self._nodes = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # The stubs omit its type.
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise Unreadable(f"has more than {MAX_ALIASES} aliases", line)
        elif getattr(event, "tag", None) is not None:
            raise Unreadable(
                "has a tag (a word after `!`), and tags are not read; quote a text that begins with `!`", line
            )
        self._nodes += 1
        if self._nodes > 2 * MAX_VALUES:
            raise Unreadable(f"holds more than {MAX_VALUES} values", line)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"nests deeper than {MAX_DEPTH} levels", line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if self._is_marked and isinstance(node, yaml.ScalarNode):
            node.value = node.value.translate(_BRACES)
        return node


class _Reader:
    """Convert nodes to values. Aliased nodes are converted once for each use, within a bound."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self._values = 0

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        return {
            key: self._value(value_node, (*path, key), key_node.start_mark.line + 1)
            for key, (key_node, value_node) in self._pairs(node, 0).items()
        }

    def _pairs(self, node: yaml.MappingNode, depth: int) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the pairs of a mapping, merged ones included: own keys take precedence, then the first merge's."""
        self._count(node, depth)
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.MappingNode] | None = None
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = _key(key_node)
            if key == _MERGE and key_node.style is None:
                if merged is not None:
                    raise Unreadable("has two merge keys (`<<`) in one mapping; give one of them a list", line)
                merged = _merged(value_node)
                continue
            if key in own:
                first = own[key][0].start_mark.line + 1
                raise Unreadable(f"repeats the key {format_path([key])}, which is on line {first} already", line)
            own[key] = (key_node, value_node)
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for source in reversed(merged or []):
            pairs.update(self._pairs(source, depth + 1))
        return {**pairs, **own}

    def _value(self, node: yaml.Node, path: Path, line: int) -> object:
        self._count(node, len(path))
        self.lines[path] = line
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)
            ]
        assert isinstance(node, yaml.ScalarNode)
        return read_scalar(node.value) if node.style is None else join_surrogates(node.value, line)

    def _count(self, node: yaml.Node, depth: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise Unreadable(f"unfolds to more than {MAX_VALUES} values", node.start_mark.line + 1)
        if depth > MAX_DEPTH:
            raise Unreadable(f"nests deeper than {MAX_DEPTH} levels", node.start_mark.line + 1)


def _key(node: yaml.Node) -> str:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode):
        raise Unreadable("has a key that is not text; quote text that begins with a bracket or brace", line)
    if node.style is None and read_scalar(node.value) is None:
        raise Unreadable("has a key that is empty", line)
    return join_surrogates(node.value, line)


def _merged(node: yaml.Node) -> list[yaml.MappingNode]:
    """Return the mappings of a `<<` key, the one with the highest precedence first."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    mappings = [item for item in nodes if isinstance(item, yaml.MappingNode)]
    if len(mappings) < len(nodes):
        raise Unreadable("has a merge key (`<<`) with something other than mappings", node.start_mark.line + 1)
    return mappings


def _explain(error: yaml.MarkedYAMLError) -> str:
    """Describe the library's error about an invalid text, without the text that it quotes."""
    problem = error.problem or error.context or "cannot be read"
    texts = (problem, error.context or "")
    for beginning, meaning in _EXPLAINED:
        if any(text.startswith(beginning) for text in texts):
            return meaning
    return "is not valid YAML: " + _QUOTED.sub("...", problem)
