"""Schemas: Google's own kind raised to JSON Schema, and JSON Schema lowered to what Google takes of it.

Requests are written with `parametersJsonSchema` and `responseJsonSchema`, which read real JSON Schema, but not all of
it, and compatible servers read less. So whatever is not documented there is said in other words: an exclusive bound as
a bound, a constant as an enum of one, a list of types as alternatives, a nullable enum as an alternative, too. A bound
that has no other words goes into the description, where the model reads it. What changes the meaning and cannot be
said at all is a loss.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.gemini.proto import camel
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.schema_references import DEFINITION, definition_name, with_definitions

# ── up ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

_COUNTS = frozenset({"minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"})
_KEPT = frozenset({"title", "description", "default", "minimum", "maximum", "pattern", "required"}) | _COUNTS


def raised(schema: Any) -> JSONObject:
    """JSON Schema out of Google's `Schema`: its types in lower case, what may be null among them."""
    if not isinstance(schema, dict):
        return {}
    made: JSONObject = {}
    fields = {camel(key) if key[:1] != "$" else key: value for key, value in schema.items() if value is not None}
    kind = fields.get("type")
    if isinstance(kind, str) and kind.upper() != "TYPE_UNSPECIFIED":
        made["type"] = kind.lower()
    elif isinstance(kind, list):
        made["type"] = [entry.lower() for entry in kind if isinstance(entry, str)]
    for key, value in fields.items():
        _raise_field(key, value, made)
    if fields.get("nullable") is True:
        _allow_null(made)
    return made


def _raise_field(key: str, value: Any, made: JSONObject) -> None:
    match key:
        case "properties" if isinstance(value, dict):
            made[key] = {name: raised(inner) for name, inner in value.items()}
        case "defs" | "$defs" if isinstance(value, dict):
            made["$defs"] = {name: raised(inner) for name, inner in value.items()}
        case "ref" | "$ref" if isinstance(value, str):
            made["$ref"] = value.replace("#/defs/", "#/$defs/")
        case "items":
            made[key] = raised(value)
        case "anyOf" if isinstance(value, list):
            made[key] = [raised(inner) for inner in value]
        case "additionalProperties":
            made[key] = raised(value) if isinstance(value, dict) else value
        case "enum" if isinstance(value, list):
            made[key] = list(value)
        case "format" if value != "enum":
            made[key] = value
        case _ if key in _KEPT:
            counted = key in _COUNTS and isinstance(value, str) and value.isdecimal() and len(value) < 20
            made[key] = int(value) if counted else value


def _allow_null(made: JSONObject) -> None:
    kind = made.get("type")
    if isinstance(kind, str) and kind != "null":
        made["type"] = [kind, "null"]
        if "enum" in made and None not in made["enum"]:
            made["enum"].append(None)
    elif "anyOf" in made and {"type": "null"} not in made["anyOf"]:
        made["anyOf"].append({"type": "null"})


# ── down ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_TAKEN = frozenset({"title", "minItems", "maxItems", "minimum", "maximum"})
_SILENT = frozenset(
    [
        "$schema",
        "$id",
        "$anchor",
        "$comment",
        "$vocabulary",
        "examples",
        "example",
        "enumDescriptions",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
        "nullable",
        "type",
        "description",
        "enum",
        "required",
        "allOf",
        "then",
        "else",
        "minContains",
        "maxContains",
    ]
)
"""Dealt with elsewhere, or nothing that a value could break."""
_NOTED = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matches {}",
    "multipleOf": "a multiple of {}",
    "minProperties": "at least {} properties",
    "maxProperties": "at most {} properties",
    "default": "default {}",
    "format": "format {}",
    "exclusiveMinimum": "greater than {}",
    "exclusiveMaximum": "less than {}",
    "const": "always {}",
}
_FORMATS = frozenset({"date-time", "date", "time", "enum", "int32", "int64", "float", "double"})
_NULL = {"type": "null"}
_WORDS = frozenset({"allOf", "title", "description", "default"})
_ROOM = 32 * 1024
_TIMES = 8
"""Bytes of definitions that may be written out where they are pointed at, in all, or so many times the schema's own
size: one of a few lines could else become one of gigabytes."""


class Unexpressed(Exception):
    """A schema that cannot be said at all; the text says why."""


def lowered_parameters(schema: Mapping[str, Any] | None, losses: Losses) -> JSONObject | None:
    """A tool's parameters; None where it takes none.

    Raises:
        Unexpressed: They are no object, or nest too deep.
    """
    if not schema:
        return None
    made = lowered(schema, losses, root=True)
    if made.get("type", "object") != "object":
        raise Unexpressed("its parameters are no object")
    return {"type": "object", **made}


def lowered(schema: Mapping[str, Any], losses: Losses, *, root: bool = False) -> JSONObject:
    """What Google takes of a schema, its meaning kept as far as it goes.

    Args:
        schema: JSON Schema.
        losses: Where to say what could not be kept.
        root: Whether a reference may not stand at the top.

    Raises:
        Unexpressed: It nests too deep once it is written out.
    """
    try:
        schema = with_definitions(dict(schema))
        found = schema.get("$defs")
        definitions = found if isinstance(found, dict) else {}
        lowering = _Lowering(definitions, losses, room=max(_ROOM, _TIMES * _size(schema)) if definitions else 0)
        top = {key: value for key, value in schema.items() if key != "$defs"}
        made = lowering.schema(lowering.resolved(top) if root else top, root=root)
        if definitions:
            made["$defs"] = {name: lowering.schema(inner) for name, inner in definitions.items()}
    except RecursionError:
        raise Unexpressed("its schema nests too deep") from None
    return made


class _Lowering:
    def __init__(self, definitions: Mapping[str, Any], losses: Losses, *, room: int) -> None:
        self._definitions = definitions
        self._losses = losses
        self._within: list[str] = []  # definitions that are being written out where they are pointed at
        self._sizes: dict[str, int] = {}
        self._room = room

    def resolved(self, schema: Any) -> Any:
        """The schema itself, where another is only pointed at; what stands beside the pointer wins."""
        seen: set[str] = set()
        while isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            name = definition_name(schema["$ref"])
            if name is None or name not in self._definitions or name in seen:
                break
            seen.add(name)
            target = self._definitions[name]
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**target, **beside} if isinstance(target, dict) else beside
        return schema

    def schema(self, schema: Any, *, root: bool = False) -> JSONObject:
        """One schema, and all within it."""
        if not isinstance(schema, dict):
            return {}  # `true`: anything
        if isinstance(schema.get("allOf"), list):
            return self._conjunction(schema, root=root)
        if isinstance(schema.get("$ref"), str):
            return self._reference(schema)
        made: JSONObject = {}
        notes: list[str] = []
        kinds = _kinds(schema)
        values = self._values(schema, kinds, notes)
        for key, value in schema.items():
            if key not in _SILENT:
                self._field(key, value, schema, made, notes)
        if isinstance(schema.get("properties"), dict):
            required = [name for name in _strings(schema.get("required")) if name in schema["properties"]]
            if required:
                made["required"] = required
        if "array" in kinds and "items" not in made and "prefixItems" not in made:
            made["items"] = {}
        _set_kinds(made, kinds, values, nullable=_nullable(schema))
        return _described(made, schema.get("description"), notes)

    def _reference(self, schema: JSONObject) -> JSONObject:
        name = definition_name(schema["$ref"])
        if name is None or name not in self._definitions:
            self._losses.add("dropped:schema.$ref")
            return self.schema({key: value for key, value in schema.items() if key != "$ref"})
        reference: JSONObject = {"$ref": DEFINITION + name}
        # Nothing may stand beside a reference, so it becomes the one alternative.
        words = schema.get("description")
        return {"description": words, "anyOf": [reference]} if isinstance(words, str) and words else reference

    def _field(self, key: str, value: Any, schema: JSONObject, made: JSONObject, notes: list[str]) -> None:
        if self._structure(key, value, made):
            return
        match key:
            case "exclusiveMinimum" | "exclusiveMaximum":
                _inclusive(key, value, schema, made, notes)
            case "uniqueItems":
                notes.extend(["no item twice"] if value else [])
            case "const":
                if not isinstance(value, str):
                    notes.append(_NOTED[key].format(_text(value)))
            case "format" if isinstance(value, str) and value in _FORMATS:
                made[key] = value
            case _ if key in _TAKEN:
                made.setdefault(key, value)
            case _ if key in _NOTED:
                notes.append(_NOTED[key].format(_text(value)))
            case _:
                self._losses.add(f"dropped:schema.{key}")

    def _structure(self, key: str, value: Any, made: JSONObject) -> bool:
        """What holds schemas itself; whether this does."""
        match key:
            case "properties" if isinstance(value, dict):
                made[key] = {name: self.schema(inner) for name, inner in value.items()}
            case "propertyOrdering":
                made[key] = value
            case "items" if not isinstance(value, list):
                made[key] = self.schema(value)
            case "items" | "prefixItems" if isinstance(value, list):
                made["prefixItems"] = [self.schema(inner) for inner in value]
            case "anyOf" | "oneOf" if isinstance(value, list):
                made["anyOf"] = [*made.get("anyOf", ()), *map(self.schema, value)]
            case "additionalProperties":
                made[key] = value if isinstance(value, bool) else self.schema(value)
            case _:
                return False
        return True

    def _values(self, schema: JSONObject, kinds: list[str], notes: list[str]) -> list[str]:
        """The values that a text may have. Numbers and the like go into a note: Google's enums are texts."""
        if isinstance(schema.get("const"), str) and schema["const"]:
            if not kinds:
                kinds.append("string")
            return [schema["const"]]
        listed = schema.get("enum")
        if not isinstance(listed, list):
            return []
        others = [value for value in listed if value is not None and not isinstance(value, str)]
        if others:
            notes.append("one of " + ", ".join(_text(value) for value in listed))
            return []
        texts = [value for value in listed if value]
        if texts and not kinds:
            kinds.append("string")
        return texts

    def _conjunction(self, schema: JSONObject, *, root: bool) -> JSONObject:
        """What is valid against several schemas at once."""
        entries = schema["allOf"]
        if not root and len(entries) == 1 and _is_reference(entries[0]) and schema.keys() <= _WORDS:
            return self._reference({**schema, **entries[0]})  # how generators hang words on a reference
        names: list[str] = []
        merged = self._merged(schema, names)
        self._within += names
        made = self.schema(merged)
        del self._within[len(self._within) - len(names) :]
        return made

    def _merged(self, schema: JSONObject, names: list[str]) -> JSONObject:
        """One schema of all that a value must be valid against; `names`: the definitions that are in it."""
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for entry in schema["allOf"]:
            inner = self._written_out(entry, names)
            if isinstance(inner, dict) and isinstance(inner.get("allOf"), list):
                inner = self._merged(inner, names)
            for key, value in inner.items() if isinstance(inner, dict) else ():
                before = merged.get(key)
                if isinstance(before, dict) and isinstance(value, dict):
                    merged[key] = {**before, **value}
                elif key == "required":
                    merged[key] = list(dict.fromkeys([*_strings(before), *_strings(value)]))
                else:
                    merged.setdefault(key, value)
        return merged

    def _written_out(self, schema: Any, names: list[str]) -> Any:
        """As `resolved`, within a schema that holds the definitions of these names already: each counts once.

        What leads back to itself, or has no room any more, stays a reference, and what stands beside it is lost.
        """
        while _is_reference(schema) and (name := definition_name(schema["$ref"]) or "") in self._definitions:
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            target = self._definitions[name]
            if name in names or not isinstance(target, dict):
                schema = beside
            elif name in self._within or not self._takes(name):
                self._losses.add("dropped:schema.allOf")
                return schema
            else:
                names.append(name)
                schema = {**target, **beside}
        return schema

    def _takes(self, name: str) -> bool:
        size = self._sizes.get(name)
        if size is None:
            size = self._sizes[name] = _size(self._definitions[name])
        self._room -= size
        return self._room >= 0


def _size(schema: Any) -> int:
    return len(msgspec.json.encode(schema))


def _is_reference(schema: Any) -> bool:
    return isinstance(schema, dict) and isinstance(schema.get("$ref"), str)


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """The types, but for null."""
    kind = schema.get("type")
    kinds = _strings(kind) if isinstance(kind, list) else _strings([kind])
    if not kinds and "properties" in schema:
        kinds = ["object"]
    return [name for name in kinds if name != "null"]


def _nullable(schema: Mapping[str, Any]) -> bool:
    kind, values = schema.get("type"), schema.get("enum")
    told = kind == "null" or (isinstance(kind, list) and "null" in kind)
    return told or schema.get("nullable") is True or (isinstance(values, list) and None in values)


def _set_kinds(made: JSONObject, kinds: list[str], values: list[str], *, nullable: bool) -> None:
    """One type as it is, several as alternatives. What belongs to one type alone stays where all can see it."""
    enum: JSONObject = {"enum": values} if values else {}
    if not nullable and len(kinds) <= 1:
        made.update({"type": kinds[0], **enum} if kinds else enum)
    elif not kinds and not enum and "anyOf" in made:
        made["anyOf"] = [*made["anyOf"], _NULL]
    elif not kinds and not enum:
        made["type"] = "null"
    elif "anyOf" not in made:
        alternatives = [_alternative(made, kind, enum) for kind in kinds] or [enum]
        made["anyOf"] = [*alternatives, _NULL] if nullable else alternatives


_OF_KIND = {
    "object": ("properties", "required", "additionalProperties", "propertyOrdering"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("format",),
    "number": ("minimum", "maximum"),
    "integer": ("minimum", "maximum"),
}


def _alternative(made: JSONObject, kind: str, enum: JSONObject) -> JSONObject:
    own = {key: made.pop(key) for key in _OF_KIND.get(kind, ()) if key in made}
    return {"type": kind, **own, **(enum if kind == "string" else {})}


def _inclusive(key: str, value: Any, schema: Mapping[str, Any], made: JSONObject, notes: list[str]) -> None:
    """An exclusive bound as a bound: the next whole number where only such are meant, else with a note."""
    if type(value) not in {int, float} or not math.isfinite(value):
        return  # the boolean of an old draft; the bound itself stands beside it
    low = key == "exclusiveMinimum"
    bound, choose = ("minimum", max) if low else ("maximum", min)
    if "integer" in _kinds(schema):
        value = math.floor(value) + 1 if low else math.ceil(value) - 1
    else:
        notes.append(_NOTED[key].format(_text(value)))
    other = schema.get(bound)
    made[bound] = choose(value, other) if type(other) in {int, float} else value


def _described(made: JSONObject, words: Any, notes: list[str]) -> JSONObject:
    told = words if isinstance(words, str) else ""
    if notes:
        told = f"{told} ({'; '.join(notes)})".strip()
    return {"description": told, **made} if told else made


def _strings(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, Iterable) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
