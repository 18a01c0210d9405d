"""Convert Google's `Schema` to JSON Schema, and JSON Schema to the subset that Google supports.

Requests use `parametersJsonSchema` and `responseJsonSchema`, which accept a subset of JSON Schema, and compatible
servers accept less. So keywords that are not documented there are rewritten: an exclusive bound as a bound, a constant
as an enum of one, a list of types and a nullable enum as alternatives. A bound that can't be rewritten goes into the
description, where the model reads it. A keyword that changes the meaning and can't be expressed at all is a loss.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.gemini.proto import camel
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.schema_references import DEFINITION, definition_name, with_definitions

# ── from Google's schema ─────────────────────────────────────────────────────────────────────────────────────────────

_COUNT_KEYWORDS = frozenset({"minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"})
_KEPT_KEYWORDS = (
    frozenset({"title", "description", "default", "minimum", "maximum", "pattern", "required"}) | _COUNT_KEYWORDS
)


def from_gemini_schema(schema: Any) -> JSONObject:
    """Convert Google's `Schema` to JSON Schema: types become lower case, `nullable` becomes the type null."""
    if not isinstance(schema, dict):
        return {}
    result: JSONObject = {}
    fields = {camel(key) if key[:1] != "$" else key: value for key, value in schema.items() if value is not None}
    kind = fields.get("type")
    if isinstance(kind, str) and kind.upper() != "TYPE_UNSPECIFIED":
        result["type"] = kind.lower()
    elif isinstance(kind, list):
        result["type"] = [entry.lower() for entry in kind if isinstance(entry, str)]
    for key, value in fields.items():
        _convert_field(key, value, result)
    if fields.get("nullable") is True:
        _allow_null(result)
    return result


def _convert_field(key: str, value: Any, result: JSONObject) -> None:
    match key:
        case "properties" if isinstance(value, dict):
            result[key] = {name: from_gemini_schema(inner) for name, inner in value.items()}
        case "defs" | "$defs" if isinstance(value, dict):
            result["$defs"] = {name: from_gemini_schema(inner) for name, inner in value.items()}
        case "ref" | "$ref" if isinstance(value, str):
            result["$ref"] = value.replace("#/defs/", "#/$defs/")
        case "items":
            result[key] = from_gemini_schema(value)
        case "anyOf" if isinstance(value, list):
            result[key] = [from_gemini_schema(inner) for inner in value]
        case "additionalProperties":
            result[key] = from_gemini_schema(value) if isinstance(value, dict) else value
        case "enum" if isinstance(value, list):
            result[key] = list(value)
        case "format" if value != "enum":
            result[key] = value
        case _ if key in _KEPT_KEYWORDS:
            is_count = key in _COUNT_KEYWORDS and isinstance(value, str) and value.isdecimal() and len(value) < 20
            result[key] = int(value) if is_count else value


def _allow_null(result: JSONObject) -> None:
    kind = result.get("type")
    if isinstance(kind, str) and kind != "null":
        result["type"] = [kind, "null"]
        if "enum" in result and None not in result["enum"]:
            result["enum"].append(None)
    elif "anyOf" in result and {"type": "null"} not in result["anyOf"]:
        result["anyOf"].append({"type": "null"})


# ── to Google's schema ───────────────────────────────────────────────────────────────────────────────────────────────

_NATIVE_KEYWORDS = frozenset({"title", "minItems", "maxItems", "minimum", "maximum"})
IGNORED_KEYWORDS = frozenset(
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
"""Keywords without effect on validity, or that other code handles."""
DESCRIBED_KEYWORDS = {
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
_ANNOTATION_KEYWORDS = frozenset({"allOf", "title", "description", "default"})
_MIN_INLINE_SIZE = 32 * 1024
_MAX_INLINE_FACTOR = 8
"""Definitions may be inlined up to `_MIN_INLINE_SIZE` bytes in total, or up to this multiple of the schema's own size:
otherwise a schema of a few lines could grow to gigabytes."""


class UnsupportedSchema(Exception):
    """A schema can't be converted; the message is the reason."""


def to_gemini_parameters(schema: Mapping[str, Any] | None, losses: Losses) -> JSONObject | None:
    """Convert a tool's parameters; None if it has none.

    Raises:
        UnsupportedSchema: The parameters are not an object, or are nested too deeply.
    """
    if not schema:
        return None
    result = to_gemini_schema(schema, losses, root=True)
    if result.get("type", "object") != "object":
        raise UnsupportedSchema("its parameters are no object")
    return {"type": "object", **result}


def to_gemini_schema(schema: Mapping[str, Any], losses: Losses, *, root: bool = False) -> JSONObject:
    """Convert a JSON Schema to the subset that Google supports; keep its meaning as far as possible.

    Args:
        schema: JSON Schema.
        losses: Collects what is lost.
        root: Whether the top must not be a reference.

    Raises:
        UnsupportedSchema: The schema is nested too deeply after inlining.
    """
    try:
        schema = with_definitions(dict(schema))
        found = schema.get("$defs")
        definitions = found if isinstance(found, dict) else {}
        converter = _Converter(
            definitions,
            losses,
            max_inline_size=max(_MIN_INLINE_SIZE, _MAX_INLINE_FACTOR * _size(schema)) if definitions else 0,
        )
        top = {key: value for key, value in schema.items() if key != "$defs"}
        result = converter.schema(converter.resolved(top) if root else top, root=root)
        if definitions:
            result["$defs"] = {name: converter.schema(inner) for name, inner in definitions.items()}
    except RecursionError:
        raise UnsupportedSchema("its schema nests too deep") from None
    return result


class _Converter:
    def __init__(self, definitions: Mapping[str, Any], losses: Losses, *, max_inline_size: int) -> None:
        self._definitions = definitions
        self._losses = losses
        self._inlining: list[str] = []  # names of the definitions that are being inlined
        self._sizes: dict[str, int] = {}
        self._remaining = max_inline_size

    def resolved(self, schema: Any) -> Any:
        """Resolve a schema that is a reference; its sibling keywords win."""
        seen: set[str] = set()
        while isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            name = definition_name(schema["$ref"])
            if name is None or name not in self._definitions or name in seen:
                break
            seen.add(name)
            target = self._definitions[name]
            siblings = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**target, **siblings} if isinstance(target, dict) else siblings
        return schema

    def schema(self, schema: Any, *, root: bool = False) -> JSONObject:
        """Convert one schema recursively."""
        if not isinstance(schema, dict):
            return {}  # `true`: anything
        if isinstance(schema.get("allOf"), list):
            return self._conjunction(schema, root=root)
        if isinstance(schema.get("$ref"), str):
            return self._reference(schema)
        result: JSONObject = {}
        notes: list[str] = []
        types = _types(schema)
        values = self._values(schema, types, notes)
        for key, value in schema.items():
            if key not in IGNORED_KEYWORDS:
                self._field(key, value, schema, result, notes)
        if isinstance(schema.get("properties"), dict):
            required = [name for name in _strings(schema.get("required")) if name in schema["properties"]]
            if required:
                result["required"] = required
        if "array" in types and "items" not in result and "prefixItems" not in result:
            result["items"] = {}
        _set_types(result, types, values, nullable=_nullable(schema))
        return _described(result, schema.get("description"), notes)

    def _reference(self, schema: JSONObject) -> JSONObject:
        name = definition_name(schema["$ref"])
        if name is None or name not in self._definitions:
            self._losses.add("dropped:schema.$ref")
            return self.schema({key: value for key, value in schema.items() if key != "$ref"})
        reference: JSONObject = {"$ref": DEFINITION + name}
        # A reference can't have siblings, so it becomes the only alternative.
        description = schema.get("description")
        return (
            {"description": description, "anyOf": [reference]}
            if isinstance(description, str) and description
            else reference
        )

    def _field(self, key: str, value: Any, schema: JSONObject, result: JSONObject, notes: list[str]) -> None:
        if self._structure(key, value, result):
            return
        match key:
            case "exclusiveMinimum" | "exclusiveMaximum":
                _inclusive(key, value, schema, result, notes)
            case "uniqueItems":
                notes.extend(["no item twice"] if value else [])
            case "const":
                if not isinstance(value, str):
                    notes.append(DESCRIBED_KEYWORDS[key].format(_text(value)))
            case "format" if isinstance(value, str) and value in _FORMATS:
                result[key] = value
            case _ if key in _NATIVE_KEYWORDS:
                result.setdefault(key, value)
            case _ if key in DESCRIBED_KEYWORDS:
                notes.append(DESCRIBED_KEYWORDS[key].format(_text(value)))
            case _:
                self._losses.add(f"dropped:schema.{key}")

    def _structure(self, key: str, value: Any, result: JSONObject) -> bool:
        """Convert a keyword that contains schemas; return whether it is one."""
        match key:
            case "properties" if isinstance(value, dict):
                result[key] = {name: self.schema(inner) for name, inner in value.items()}
            case "propertyOrdering":
                result[key] = value
            case "items" if not isinstance(value, list):
                result[key] = self.schema(value)
            case "items" | "prefixItems" if isinstance(value, list):
                result["prefixItems"] = [self.schema(inner) for inner in value]
            case "anyOf" | "oneOf" if isinstance(value, list):
                result["anyOf"] = [*result.get("anyOf", ()), *map(self.schema, value)]
            case "additionalProperties":
                result[key] = value if isinstance(value, bool) else self.schema(value)
            case _:
                return False
        return True

    def _values(self, schema: JSONObject, types: list[str], notes: list[str]) -> list[str]:
        """Return the allowed strings; other values become a note, because Google's enums are strings only."""
        if isinstance(schema.get("const"), str) and schema["const"]:
            if not types:
                types.append("string")
            return [schema["const"]]
        enum = schema.get("enum")
        if not isinstance(enum, list):
            return []
        others = [value for value in enum if value is not None and not isinstance(value, str)]
        if others:
            notes.append("one of " + ", ".join(_text(value) for value in enum))
            return []
        texts = [value for value in enum if value]
        if texts and not types:
            types.append("string")
        return texts

    def _conjunction(self, schema: JSONObject, *, root: bool) -> JSONObject:
        """Convert a schema with `allOf`."""
        entries = schema["allOf"]
        if not root and len(entries) == 1 and _is_reference(entries[0]) and schema.keys() <= _ANNOTATION_KEYWORDS:
            return self._reference({**schema, **entries[0]})  # generators add descriptions to references this way
        inlined: list[str] = []
        merged = self._merged(schema, inlined)
        self._inlining += inlined
        result = self.schema(merged)
        del self._inlining[len(self._inlining) - len(inlined) :]
        return result

    def _merged(self, schema: JSONObject, inlined: list[str]) -> JSONObject:
        """Merge the entries of `allOf` into one schema; add the names of inlined definitions to `inlined`."""
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for entry in schema["allOf"]:
            inner = self._inlined(entry, inlined)
            if isinstance(inner, dict) and isinstance(inner.get("allOf"), list):
                inner = self._merged(inner, inlined)
            for key, value in inner.items() if isinstance(inner, dict) else ():
                existing = merged.get(key)
                if isinstance(existing, dict) and isinstance(value, dict):
                    merged[key] = {**existing, **value}
                elif key == "required":
                    merged[key] = list(dict.fromkeys([*_strings(existing), *_strings(value)]))
                else:
                    merged.setdefault(key, value)
        return merged

    def _inlined(self, schema: Any, inlined: list[str]) -> Any:
        """Inline a reference like `resolved`, within a schema that already has the definitions of these names.

        A reference that is recursive or exceeds the size limit stays a reference and loses its siblings.
        """
        while _is_reference(schema) and (name := definition_name(schema["$ref"]) or "") in self._definitions:
            siblings = {key: value for key, value in schema.items() if key != "$ref"}
            target = self._definitions[name]
            if name in inlined or not isinstance(target, dict):
                schema = siblings
            elif name in self._inlining or not self._fits(name):
                self._losses.add("dropped:schema.allOf")
                return schema
            else:
                inlined.append(name)
                schema = {**target, **siblings}
        return schema

    def _fits(self, name: str) -> bool:
        size = self._sizes.get(name)
        if size is None:
            size = self._sizes[name] = _size(self._definitions[name])
        self._remaining -= size
        return self._remaining >= 0


def _size(schema: Any) -> int:
    return len(msgspec.json.encode(schema))


def _is_reference(schema: Any) -> bool:
    return isinstance(schema, dict) and isinstance(schema.get("$ref"), str)


def _types(schema: Mapping[str, Any]) -> list[str]:
    """Return the types, without null."""
    kind = schema.get("type")
    types = _strings(kind) if isinstance(kind, list) else _strings([kind])
    if not types and "properties" in schema:
        types = ["object"]
    return [name for name in types if name != "null"]


def _nullable(schema: Mapping[str, Any]) -> bool:
    kind, values = schema.get("type"), schema.get("enum")
    null_type = kind == "null" or (isinstance(kind, list) and "null" in kind)
    return null_type or schema.get("nullable") is True or (isinstance(values, list) and None in values)


def _set_types(result: JSONObject, types: list[str], values: list[str], *, nullable: bool) -> None:
    """Set one type directly, several as alternatives; keywords of a single type move into its alternative."""
    enum: JSONObject = {"enum": values} if values else {}
    if not nullable and len(types) <= 1:
        result.update({"type": types[0], **enum} if types else enum)
    elif not types and not enum and "anyOf" in result:
        result["anyOf"] = [*result["anyOf"], _NULL]
    elif not types and not enum:
        result["type"] = "null"
    elif "anyOf" not in result:
        alternatives = [_alternative(result, kind, enum) for kind in types] or [enum]
        result["anyOf"] = [*alternatives, _NULL] if nullable else alternatives


_KEYWORDS_BY_TYPE = {
    "object": ("properties", "required", "additionalProperties", "propertyOrdering"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("format",),
    "number": ("minimum", "maximum"),
    "integer": ("minimum", "maximum"),
}


def _alternative(result: JSONObject, kind: str, enum: JSONObject) -> JSONObject:
    fields = {key: result.pop(key) for key in _KEYWORDS_BY_TYPE.get(kind, ()) if key in result}
    return {"type": kind, **fields, **(enum if kind == "string" else {})}


def _inclusive(key: str, value: Any, schema: Mapping[str, Any], result: JSONObject, notes: list[str]) -> None:
    """Convert an exclusive bound: to the next integer for integers, else to an inclusive bound with a note."""
    if type(value) not in {int, float} or not math.isfinite(value):
        return  # the boolean of an old draft; `minimum` or `maximum` has the bound
    is_minimum = key == "exclusiveMinimum"
    bound, tightest = ("minimum", max) if is_minimum else ("maximum", min)
    if "integer" in _types(schema):
        value = math.floor(value) + 1 if is_minimum else math.ceil(value) - 1
    else:
        notes.append(DESCRIBED_KEYWORDS[key].format(_text(value)))
    inclusive = schema.get(bound)
    result[bound] = tightest(value, inclusive) if type(inclusive) in {int, float} else value


def _described(result: JSONObject, description: Any, notes: list[str]) -> JSONObject:
    text = description if isinstance(description, str) else ""
    if notes:
        text = f"{text} ({'; '.join(notes)})".strip()
    return {"description": text, **result} if text else result


def _strings(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, Iterable) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
