"""A schema brought into the form that a vendor's constrained decoding demands, as that vendor's own SDK does it.

Source: `openai/lib/_pydantic.py` of openai 3.52.0 and `anthropic/lib/_parse/_transform.py` of anthropic 2.11.0, and the
vendors' documentation of structured outputs (read 2026-12-01). Objects are closed; a constraint that is not enforced
moves into the description, where the model reads it, and is named. Nothing here changes which values are meant: a
schema of which that cannot be kept (maps of free keys, values of any kind, optional properties where all are required)
is refused with `NotStrict`, and goes without strictness or in words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.schema_references import DEFINITION, definition_name, with_definitions

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_SILENT = frozenset(
    [
        "$schema",
        "$id",
        "$anchor",
        "$comment",
        "$defs",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "discriminator",
        "contentEncoding",
        "contentMediaType",
        "nullable",
        "propertyOrdering",
        "enumDescriptions",
    ]
)
"""What constrains no value, or is dealt with elsewhere."""
_SAID = frozenset(
    [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "anyOf",
        "oneOf",
        "enum",
        "const",
        "title",
        "description",
        "default",
        "format",
    ]
)
"""What is written by a rule of its own."""
_ANNOTATIONS = frozenset({"title", "description", "default", "$ref", *_SILENT})
_PRIMITIVE = (str, int, float, bool, type(None))
_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_ROOM = 256 * 1024
"""Bytes of definitions that conjunctions may write out in all."""


class NotStrict(Exception):
    """The schema cannot be brought into the form without meaning something else; the text says why."""


class Demands(msgspec.Struct, frozen=True, kw_only=True):
    """What one vendor's constrained decoding takes of JSON Schema."""

    constraints: frozenset[str] = frozenset()
    """Keywords that it enforces, beside the structure."""
    formats: frozenset[str] = _FORMATS
    all_required: bool
    """Whether every property must be required."""
    recursive: bool
    """Whether definitions may refer to themselves."""
    several_types: bool
    """Whether `type` may be a list."""
    object_root: bool
    """Whether the root must be an object that is no choice."""
    most_min_items: int | None = None
    """The largest `minItems` that it enforces; None: any that is among `constraints`."""


OPENAI = Demands(
    constraints=frozenset(
        ["pattern", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"]
    ),
    all_required=True,
    recursive=True,
    several_types=True,
    object_root=True,
)
ANTHROPIC = Demands(
    formats=_FORMATS | {"uri"},
    all_required=False,
    recursive=False,
    several_types=False,
    object_root=False,
    most_min_items=1,
)


class Strict(msgspec.Struct, frozen=True):
    """A schema in a vendor's strict form."""

    schema: JSONObject
    described: tuple[str, ...]
    """The keywords that the description tells of because nothing enforces them, in alphabetical order."""


def strict_form(schema: Mapping[str, Any], demands: Demands) -> Strict:
    """Bring a schema into a vendor's strict form.

    Raises:
        NotStrict: That would change which values are meant, or the vendor has no word for them.
    """
    try:
        return _Form(schema, demands).made()
    except RecursionError:
        raise NotStrict("it nests too deep") from None


class _Form:
    def __init__(self, schema: Mapping[str, Any], demands: Demands) -> None:
        self._root = with_definitions(dict(schema))
        self._demands = demands
        definitions = self._root.get("$defs")
        self._definitions: Mapping[str, Any] = definitions if isinstance(definitions, dict) else {}
        self._described_keywords: set[str] = set()
        self._room = _ROOM
        self._used: dict[str, JSONObject] = {}
        self._open: list[str] = []  # definitions that are being written, for those who take no circle

    def made(self) -> Strict:
        top = {key: value for key, value in self._root.items() if key != "$defs"}
        top = self._united(top, root=True)
        made = self._schema(top, root=True)
        if self._demands.object_root and (made.get("type") != "object" or "anyOf" in made):
            raise NotStrict("its root is no object")
        if self._used:
            made["$defs"] = self._used
        return Strict(made, tuple(sorted(self._described_keywords)))

    # ── references and conjunctions ──────────────────────────────────────────────────────────────────────────────────

    def _united(self, node: Any, *, root: bool = False, within: tuple[str, ...] = ()) -> JSONObject:
        """Return a schema without `allOf`, and without a reference if it has other keywords, or is the root."""
        if not isinstance(node, dict) or not node:
            raise NotStrict("a value may be of any kind")
        reference = node.get("$ref")
        parts: list[Any] = list(node["allOf"]) if isinstance(node.get("allOf"), list) else []
        if isinstance(reference, str):
            if not parts and not root and node.keys() <= _ANNOTATIONS:
                return node
            parts.append({"$ref": reference})
        if not parts:
            return node
        beside = {key: value for key, value in node.items() if key not in {"allOf", "$ref"}}
        if len(parts) == 1 and not root and beside.keys() <= _ANNOTATIONS and _is_bare_reference(parts[0]):
            return {**beside, **parts[0]}
        made = beside
        for part in parts:
            made = _both(made, self._written_out(part, within))
        return made

    def _written_out(self, node: Any, within: tuple[str, ...]) -> JSONObject:
        name = definition_name(node.get("$ref")) if isinstance(node, dict) else None
        if name is not None:
            target = self._definitions.get(name)
            if name in within or not isinstance(target, dict):
                raise NotStrict("a reference leads back to itself" if name in within else "a reference leads nowhere")
            self._room -= len(msgspec.json.encode(target))
            if self._room < 0:
                raise NotStrict("its definitions are too large to be written out")
            within = (*within, name)
            beside = {key: value for key, value in node.items() if key != "$ref"}
            node = _both(beside, target) if beside else target
        return self._united(node, root=True, within=within)

    def _reference(self, node: JSONObject) -> JSONObject:
        name = definition_name(node["$ref"])
        if name is None or name not in self._definitions:
            raise NotStrict("a reference leads nowhere")
        if name in self._open and not self._demands.recursive:
            raise NotStrict("it refers to itself")
        if name not in self._used:
            self._used[name] = {}
            self._open.append(name)
            self._used[name] = self._schema(self._definitions[name])
            self._open.pop()
        reference: JSONObject = {"$ref": DEFINITION + name}
        if node.keys() <= {"$ref", *_SILENT}:
            return reference
        # Nothing may stand beside a reference, so it becomes the one alternative.
        return self._described({"anyOf": [reference]}, node, [])

    # ── one schema ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _schema(self, node: Any, *, root: bool = False) -> JSONObject:
        node = node if root else self._united(node)
        if isinstance(node.get("$ref"), str):
            return self._reference(node)
        for key in ("anyOf", "oneOf"):
            if isinstance(node.get(key), list):
                return self._choice(node, key)
        kinds = _kinds(node)
        if len(kinds) > 1 and not self._demands.several_types and "enum" not in node:
            return self._described({"anyOf": [self._schema(_of_kind(node, kind)) for kind in kinds]}, node, [])
        return self._value(node, kinds, root=root)

    def _value(self, node: JSONObject, kinds: list[str], *, root: bool) -> JSONObject:
        """Return a schema that is no choice, with all keywords that its types allow."""
        made: JSONObject = {"type": kinds[0] if len(kinds) == 1 else kinds}
        if len(kinds) > 1 and not self._demands.several_types:
            del made["type"]  # the values say it
        self._literals(node, made)
        notes: list[str] = []
        if "object" in kinds:
            self._object(node, made, root=root)
        if "array" in kinds:
            if not isinstance(node.get("items"), dict):
                raise NotStrict("an array may hold values of any kind")
            made["items"] = self._schema(node["items"])
        for key, value in node.items():
            if key == "format":
                self._kept(key, value, made, notes, kept=isinstance(value, str) and value in self._demands.formats)
            elif key not in _SAID and key not in _SILENT:
                self._kept(key, value, made, notes, kept=self._enforces(key, value))
        return self._described(made, node, notes)

    def _enforces(self, key: str, value: Any) -> bool:
        most = self._demands.most_min_items
        if key == "minItems" and most is not None:
            return type(value) is int and 0 <= value <= most
        return key in self._demands.constraints

    def _kept(self, key: str, value: Any, made: JSONObject, notes: list[str], *, kept: bool) -> None:
        if key in {"patternProperties", "prefixItems"}:
            raise NotStrict(f"{key} has no counterpart")
        if kept:
            made[key] = value
        else:
            notes.append(f"{key}: {_text(value)}")
            self._described_keywords.add(key)

    def _literals(self, node: JSONObject, made: JSONObject) -> None:
        for key, values in (("enum", node.get("enum")), ("const", [node.get("const")])):
            if key not in node:
                continue
            if not isinstance(values, list) or not values or not all(isinstance(v, _PRIMITIVE) for v in values):
                raise NotStrict(f"{key} holds more than plain values")
            made[key] = node[key]

    def _object(self, node: JSONObject, made: JSONObject, *, root: bool) -> None:
        properties, more = node.get("properties"), node.get("additionalProperties")
        without = root and properties == {}  # a tool's parameters that are none
        properties = properties if isinstance(properties, dict) else {}
        if (isinstance(more, dict) and more) or (not properties and more is not False and not without):
            raise NotStrict("an object may have any keys")
        if more is True or more == {}:
            self._described_keywords.add("additionalProperties")
        required = [name for name in _strings(node.get("required")) if name in properties]
        made["properties"] = {name: self._schema(inner) for name, inner in properties.items()}
        if self._demands.all_required:
            for name, inner in properties.items():
                if name not in required and not _may_be_named(inner):
                    raise NotStrict(f"the property {name[:64]!r} is optional")
            required = list(properties)
        if required or self._demands.all_required:
            made["required"] = required
        made["additionalProperties"] = False

    def _choice(self, node: JSONObject, key: str) -> JSONObject:
        beside = node.keys() - _ANNOTATIONS - {key, "type"}
        if beside:
            raise NotStrict(f"{key} stands beside {min(beside)}")
        return self._described({"anyOf": [self._schema(each) for each in node[key]]}, node, [])

    def _described(self, made: JSONObject, node: JSONObject, notes: list[str]) -> JSONObject:
        """Return the schema with its title and description, and the unenforced keywords in the latter."""
        if node.get("default") is not None:
            notes = [*notes, f"default: {_text(node['default'])}"]
        words = node.get("description")
        described = [words] if isinstance(words, str) and words else []
        if notes:
            described.append("{" + ", ".join(notes) + "}")
        if described:
            made["description"] = "\n\n".join(described)
        if isinstance(node.get("title"), str):
            made["title"] = node["title"]
        return made


def _both(first: JSONObject, second: JSONObject) -> JSONObject:
    """Return the schema of values that are valid against both."""
    made = {**second, **first}
    for key in first.keys() & second.keys() - {"title", "description"}:
        one, other = first[key], second[key]
        if one == other:
            continue
        if key == "properties" and isinstance(one, dict) and isinstance(other, dict):
            if any(one[name] != other[name] for name in one.keys() & other.keys()):
                raise NotStrict("allOf says different things of one property")
            made[key] = {**one, **other}
        elif key == "required":
            made[key] = list(dict.fromkeys([*_strings(one), *_strings(other)]))
        elif key not in _ANNOTATIONS:
            raise NotStrict(f"allOf says different things of {key}")
    return made


def _is_bare_reference(node: Any) -> bool:
    return isinstance(node, dict) and node.keys() == {"$ref"}


def _kinds(node: Mapping[str, Any]) -> list[str]:
    """Return the types of the values: declared, or inferred from the other keywords."""
    said = node.get("type")
    kinds = [said] if isinstance(said, str) else list(dict.fromkeys(_strings(said)))
    if not kinds:
        if isinstance(node.get("properties"), dict):
            kinds = ["object"]
        elif isinstance(node.get("items"), dict):
            kinds = ["array"]
        else:
            values = node["enum"] if isinstance(node.get("enum"), list) else [node["const"]] if "const" in node else []
            kinds = list(dict.fromkeys(_kind_of(value) for value in values))
    if not kinds or not _TYPES.issuperset(kinds):
        raise NotStrict("a value may be of any kind")
    if node.get("nullable") is True and "null" not in kinds:
        kinds = [*kinds, "null"]
    return kinds


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds: Sequence[tuple[type, str]] = ((bool, "boolean"), (str, "string"), (int, "integer"), (float, "number"))
    return next((word for kind, word in kinds if isinstance(value, kind)), "object")


_OF_KIND: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "patternProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"format", "pattern", "minLength", "maxLength"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}


def _of_kind(node: Mapping[str, Any], kind: str) -> JSONObject:
    """Return the keywords of a schema of several types that apply to one of them; annotations stay with the whole."""
    others = frozenset().union(*_OF_KIND.values()) - _OF_KIND.get(kind, frozenset())
    left_out = others | {"title", "description", "default", "nullable"}
    return {**{key: value for key, value in node.items() if key not in left_out}, "type": kind}


def _may_be_named(schema: Any) -> bool:
    """Whether a property that may be left out can as well be given: as null, or with its default."""
    if not isinstance(schema, dict):
        return False
    if "default" in schema or schema.get("nullable") is True or schema.get("const", ...) is None:
        return True
    kind = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return True
    choices = (each for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list) for each in schema[key])
    return any(isinstance(each, dict) and each.get("type") == "null" for each in choices)


def _strings(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
