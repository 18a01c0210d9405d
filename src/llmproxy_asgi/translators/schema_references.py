"""References within a JSON Schema, brought into the one form that every vendor reads: `#/$defs/NAME` at the top.

JSON Schema lets a reference name any place of its document by a JSON Pointer (RFC 6901) within a URI fragment: `#`,
`#/properties/a`, `#/components/schemas/A~1B`. Vendors' structured outputs look for definitions at the top alone, and a
schema whose root is rewritten would leave its pointers dangling. So every place that is pointed at becomes a
definition, and the place itself a reference to it; nothing is written twice but a root that refers to itself.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from llmproxy_asgi.conversation import JSONObject

DEFINITION = "#/$defs/"
_REFERENCE = b'"$ref"'
_TOPS = ("$defs", "definitions")
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", *_TOPS})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
_SINGLE = frozenset(
    [
        "items",
        "additionalProperties",
        "additionalItems",
        "unevaluatedProperties",
        "unevaluatedItems",
        "contains",
        "propertyNames",
        "not",
        "if",
        "then",
        "else",
    ]
)
_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_MISSING = object()

Pointer = tuple[str, ...]


def definition_name(reference: object) -> str | None:
    """Return the definition that a reference in the common form names; None for any other."""
    if isinstance(reference, str) and reference.startswith(DEFINITION):
        return reference.removeprefix(DEFINITION)
    return None


def with_definitions(schema: JSONObject) -> JSONObject:
    """Return the schema with all resolvable references in the common form, or itself if nothing has to change.

    References that name nothing in the schema stay as they are.

    Raises:
        RecursionError: It nests too deep.
    """
    if _REFERENCE not in msgspec.json.encode(schema) and schema.keys().isdisjoint(_TOPS):
        return schema
    found = _References(schema)
    return found.rebuilt() if found.changes else schema


class _References:
    """The places of one schema that are pointed at, each with the name that it gets."""

    def __init__(self, root: JSONObject) -> None:
        self._root = root
        self._names: dict[Pointer, str] = {}
        self._taken: set[str] = set()
        self._repeats: dict[str, int] = {}
        self.changes = "definitions" in root
        for top in _TOPS:
            held = root.get(top)
            for name in held if isinstance(held, dict) else ():
                self._name((top, name), name)
        self._collect(root)

    def _collect(self, node: Any) -> None:
        waiting = [node]
        while waiting:
            node = waiting.pop()
            reference = node.get("$ref")
            pointer = self._pointer(reference) if isinstance(reference, str) else None
            if pointer is not None:
                known = pointer in self._names
                target = _at(self._root, pointer)
                if isinstance(target, dict) and not known:
                    self.changes = True
                    self._name(pointer, pointer[-1] if pointer else "root")
                    waiting.append(target)  # it may stand where no schema is looked for
                elif known and reference != DEFINITION + self._names[pointer]:
                    self.changes = True
            waiting.extend(inner for _, inner in _subschemas(node))

    def _name(self, pointer: Pointer, wanted: str) -> None:
        safe = wanted if _SAFE.fullmatch(wanted) else _UNSAFE.sub("_", wanted)[:60] or "definition"
        name = safe
        while name in self._taken:
            self._repeats[safe] = self._repeats.get(safe, 1) + 1
            name = f"{safe}.{self._repeats[safe]}"
        self.changes |= name != wanted
        self._taken.add(name)
        self._names[pointer] = name

    def _pointer(self, reference: str) -> Pointer | None:
        """Where a reference points to within this schema; None: elsewhere, or to an anchor."""
        base = self._root.get("$id")
        if isinstance(base, str) and base and reference.startswith(base):
            reference = reference.removeprefix(base) or "#"
        if reference in {"#", "#/"}:
            return ()
        if not reference.startswith("#/"):
            return None
        return tuple(_unescaped(token) for token in reference[2:].split("/"))

    def rebuilt(self) -> JSONObject:
        """Rewrite the schema."""
        top = {key: value for key, value in self._root.items() if key not in _TOPS}
        made: JSONObject = self._copy(top, (), home=True)
        made["$defs"] = {
            name: self._copy(top if not pointer else _at(self._root, pointer), pointer, home=True)
            for pointer, name in self._names.items()
        }
        return made

    def _copy(self, node: Any, pointer: Pointer, *, home: bool = False) -> Any:
        if not isinstance(node, dict):
            return node
        if not home and pointer in self._names:
            return {"$ref": DEFINITION + self._names[pointer]}
        made = dict(node)
        target = self._pointer(node["$ref"]) if isinstance(node.get("$ref"), str) else None
        if target is not None and target in self._names:
            made["$ref"] = DEFINITION + self._names[target]
        for key, value in node.items():
            if key in _MAPS and isinstance(value, dict):
                made[key] = {name: self._copy(inner, (*pointer, key, name)) for name, inner in value.items()}
            elif key in _LISTS and isinstance(value, list):
                made[key] = [self._copy(inner, (*pointer, key, str(place))) for place, inner in enumerate(value)]
            elif key in _SINGLE and isinstance(value, dict):
                made[key] = self._copy(value, (*pointer, key))
        return made


def _subschemas(node: Mapping[str, Any]) -> Iterator[tuple[str, JSONObject]]:
    """Yield the schemas directly in one, each with its keyword. Values that are only data are none."""
    for key, value in node.items():
        if isinstance(value, dict):
            if key in _MAPS:
                yield from ((key, inner) for inner in value.values() if isinstance(inner, dict))
            elif key in _SINGLE:
                yield key, value
        elif key in _LISTS and isinstance(value, list):
            yield from ((key, inner) for inner in value if isinstance(inner, dict))


def _at(root: Any, pointer: Pointer) -> Any:
    for token in pointer:
        if isinstance(root, dict):
            root = root.get(token, _MISSING)
        elif isinstance(root, list) and token.isascii() and token.isdigit() and len(token) < 10:
            root = root[int(token)] if int(token) < len(root) else _MISSING
        else:
            return _MISSING
    return root


def _unescaped(token: str) -> str:
    """Decode a token of a pointer: percent escapes first, then `~1` and `~0`, in this order."""
    return unquote(token).replace("~1", "/").replace("~0", "~")
