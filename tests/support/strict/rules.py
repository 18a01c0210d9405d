"""What a rule is, and how a table of them is applied."""

import base64
import binascii
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmproxy_asgi.testing import Received

JSONObject: TypeAlias = dict[str, Any]
Complaints: TypeAlias = Iterator[str]


class Refused(AssertionError):
    """The vendor would have refused this request; `rule` says by which rule."""

    def __init__(self, rule: str, complaint: str) -> None:
        super().__init__(f"{rule}: {complaint}")
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, decoded."""

    received: Received
    body: JSONObject

    @property
    def messages(self) -> list[JSONObject]:
        """The conversation; empty where it is none, which a rule of its own says."""
        found = self.body.get("messages")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    @property
    def tools(self) -> list[JSONObject]:
        """The declared tools."""
        return self.body.get("tools") or []


Judge: TypeAlias = Callable[[Asked], Complaints]


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason for a refusal."""

    name: str
    judge: Judge


def apply(rules: Iterable[Rule], received: Received, allow: Collection[str]) -> None:
    """Hold a request to the rules.

    Args:
        rules: In the order in which they are told.
        received: As the upstream got it.
        allow: Names of rules that shall not count.

    Raises:
        Refused: By the first rule that it breaks.
    """
    asked = Asked(received, decoded(received.body))
    for rule in rules:
        if rule.name not in allow:
            for complaint in rule.judge(asked):
                raise Refused(rule.name, complaint)


def decoded(body: bytes) -> JSONObject:
    """The body, which must be one JSON object without repeated members.

    Raises:
        Refused: It is none.
    """
    try:
        found = json.loads(body, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise Refused("json", str(error)) from None
    if not isinstance(found, dict):
        raise Refused("json", "the body is no object")
    return found


def _without_repeats(members: list[tuple[str, Any]]) -> JSONObject:
    names = [name for name, _ in members]
    if len(set(names)) < len(names):
        raise ValueError(f"a member is given twice: {names}")
    return dict(members)


def unknown(found: Mapping[str, Any], known: Collection[str], place: str) -> Complaints:
    """Keys beyond those that are known."""
    for key in found:
        if key not in known:
            yield f"{place} has no {key!r}"


def one_of(value: object, known: Collection[object], place: str) -> Complaints:
    """A value that must be one of several; None is left out."""
    if value is not None and value not in known:
        yield f"{place} is {value!r}"


def within(value: object, low: float, high: float, place: str) -> Complaints:
    """A number in a range; None is left out."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        yield f"{place} is {value!r}, not from {low} to {high}"


def is_base64(text: object) -> bool:
    """Whether a text is base64 in the standard alphabet with its padding."""
    if not isinstance(text, str) or not text:
        return False
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_FOREIGN_KEYWORDS = frozenset({"nullable", "propertyOrdering", "example"})


def schema_faults(schema: object, place: str) -> Complaints:
    """What makes a schema no JSON Schema 2020-12, as far as the vendors look."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield f"{place} is no schema"
        return
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        yield from one_of(kind, _TYPES, f"{place}.type")
    for key in sorted(_FOREIGN_KEYWORDS & schema.keys()):
        yield f"{place} has the foreign keyword {key}"
    for place_below, below in subschemas(schema, place):
        yield from schema_faults(below, place_below)


def subschemas(schema: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """The schemas right below one."""
    for key in ("properties", "$defs", "definitions"):
        for name, below in (schema.get(key) or {}).items():
            yield f"{place}.{key}.{name}", below
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, below in enumerate(schema.get(key) or []):
            yield f"{place}.{key}[{number}]", below
    for key in ("items", "not"):
        if key in schema:
            yield f"{place}.{key}", schema[key]


def root_faults(schema: Any, place: str) -> Complaints:
    """What OpenAI refuses at the root of a schema: no object, no properties, a choice, a conjunction, a reference."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        yield f"{place}: schema must be a JSON Schema of 'type: \"object\"'"
    elif not isinstance(schema.get("properties"), dict):
        yield f"{place}: object schema missing properties"
    else:
        for key in sorted({"anyOf", "oneOf", "allOf", "enum", "not"} & schema.keys()):
            yield f"{place}: schema must not have {key!r} at the top level"


_NOT_STRICT = frozenset(
    [
        "oneOf",
        "allOf",
        "not",
        "if",
        "then",
        "else",
        "default",
        "minLength",
        "maxLength",
        "uniqueItems",
        "contains",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "unevaluatedProperties",
        "dependentRequired",
    ]
)
_STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


def strict_faults(schema: Any, place: str) -> Complaints:
    """What OpenAI refuses in a strict schema: open objects, optional properties, keywords that it cannot enforce."""
    if not isinstance(schema, dict):
        yield f"{place} is no schema"
        return
    if not {"type", "anyOf", "$ref"} & schema.keys():
        yield f"{place}: schema must have a 'type' key"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            yield f"{place} takes other properties"
        if set(schema.get("properties", {})) != set(schema.get("required", [])):
            yield f"{place} does not require all properties"
    for key in sorted(_NOT_STRICT & schema.keys()):
        yield f"{place}: {key!r} is not permitted"
    if "$ref" in schema and len(schema) > 1:
        yield f"{place}: $ref cannot have keywords beside it"
    yield from one_of(schema.get("format"), _STRICT_FORMATS, f"{place}.format")
    for place_below, below in subschemas(schema, place):
        yield from strict_faults(below, place_below)
