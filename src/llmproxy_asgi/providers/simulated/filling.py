"""Generate values that match a JSON schema: deterministic, readable and small, best effort.

Supports `type`, `enum`, `const`, `properties`, `required`, `items`, `prefixItems`, `anyOf`, `oneOf`, `allOf`, `$ref`
within the schema, `format`, `pattern` and the bounds of numbers, texts and lists. Callers write the schemas, so depth,
breadth and sizes are bounded: a schema that requires more gets a value that does not match.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmproxy_asgi.providers.simulated.patterns import text_for

_OPTIONAL_DEPTH = 4
"""Levels down to which optional properties and entries are generated."""
_MAX_DEPTH = 40
_MAX_VALUES = 2000
_MAX_LENGTH = 10_000
_MAX_ENTRIES = 100
_MAX_NUMBER = 1e100
_MIN_STEP = 1e-9
"""Bounds and steps beyond these are ignored."""

_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "PT5M",
    "email": "somebody@example.com",
    "idn-email": "somebody@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uri-reference": "/example",
    "uuid": "00000000-0000-4000-8000-000000000001",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "byte": "c2ltdWxhdGVk",
    "binary": "simulated",
    "json-pointer": "/example",
    "regex": "^.*$",
}
_HINTS = (
    (("properties", "required", "additionalProperties", "patternProperties"), "object"),
    (("items", "prefixItems", "minItems", "maxItems"), "array"),
    (("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
)


def fill(schema: Mapping[str, Any]) -> Any:
    """Return a value for a schema."""
    return _Filler(schema).value(schema, "value", 0)


class _Filler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._values_left = _MAX_VALUES

    def value(self, schema: object, name: str, depth: int) -> Any:
        """Return a value for a part of the schema.

        Args:
            schema: The part's schema.
            name: The part's name, which texts contain.
            depth: The nesting depth.
        """
        self._values_left -= 1
        if not isinstance(schema, Mapping):
            return _text({}, name)
        if depth > _MAX_DEPTH or self._is_exhausted:
            return None
        plain = self._plain(schema, depth)
        if "const" in plain:
            return plain["const"]
        choices = plain.get("enum")
        if isinstance(choices, list) and choices:
            return choices[0]
        return self._value_of_kind(plain, name, depth)

    def _value_of_kind(self, plain: Mapping[str, Any], name: str, depth: int) -> Any:
        match _kind(plain):
            case "object":
                return self._object(plain, depth)
            case "array":
                return self._array(plain, name, depth)
            case "integer" | "number" as kind:
                return _number(plain, integer=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return _text(plain, name)

    @property
    def _is_exhausted(self) -> bool:
        return self._values_left < -_MAX_VALUES

    def _is_minimal(self, depth: int) -> bool:
        return depth >= _OPTIONAL_DEPTH or self._values_left < 0

    def _plain(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """Return a schema with references resolved, one of its alternatives chosen and its parts merged."""
        plain = dict(schema)
        for _ in range(_MAX_DEPTH):
            reference = plain.pop("$ref", None)
            if isinstance(reference, str):
                plain = _merged(self._find(reference), plain)
                continue
            alternatives = plain.pop("anyOf", None) or plain.pop("oneOf", None)
            if isinstance(alternatives, list) and alternatives:
                plain = _merged(self._choose(alternatives, depth), plain)
                continue
            parts = plain.pop("allOf", None)
            if not isinstance(parts, list):
                break
            for part in parts:
                self._values_left -= 1
                if isinstance(part, Mapping) and depth < _MAX_DEPTH and not self._is_exhausted:
                    plain = _merged(self._plain(part, depth + 1), plain)
        return plain

    def _choose(self, alternatives: Sequence[Any], depth: int) -> Mapping[str, Any]:
        """Return the first alternative that is not null; below the optional depth, the simplest one."""
        usable = [one for one in alternatives if isinstance(one, Mapping)]
        if self._is_minimal(depth):
            usable.sort(key=_weight)
        else:
            usable.sort(key=lambda one: one.get("type") == "null")
        return usable[0] if usable else {}

    def _find(self, reference: str) -> Mapping[str, Any]:
        found: Any = self._root
        if not reference.startswith("#"):
            return {}
        for step in reference[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        declared = schema.get("properties")
        properties: Mapping[str, Any] = declared if isinstance(declared, Mapping) else {}
        listed = schema.get("required")
        required = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        names = required if self._is_minimal(depth) else list(dict.fromkeys([*properties, *required]))
        further = schema.get("additionalProperties")
        values: dict[str, Any] = {}
        for name in names:
            if self._is_exhausted:
                break
            values[name] = self.value(properties.get(name, further), name, depth + 1)
        return values

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        minimum = _integer(schema.get("minItems"), 0)
        maximum = _integer(schema.get("maxItems"), _MAX_ENTRIES)
        leading = schema.get("prefixItems")
        prefix: list[Any] = list(leading[:_MAX_ENTRIES]) if isinstance(leading, list) else []
        count = max(minimum, len(prefix), 0 if self._is_minimal(depth) else 1)
        entries = schema.get("items", {})
        if entries is False:
            count = len(prefix)
        values = [
            self.value(prefix[number] if number < len(prefix) else entries, name, depth + 1)
            for number in range(min(count, maximum, _MAX_ENTRIES))
        ]
        return _distinct(values) if schema.get("uniqueItems") is True else values


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two schemas: required properties of both are required, otherwise `over` takes precedence."""
    merged = {**base, **over}
    for key in ("properties", "$defs"):
        if isinstance(base.get(key), Mapping) and isinstance(over.get(key), Mapping):
            merged[key] = {**base[key], **over[key]}
    if isinstance(base.get("required"), list) and isinstance(over.get("required"), list):
        merged["required"] = [*base["required"], *over["required"]]
    return merged


def _weight(schema: Mapping[str, Any]) -> int:
    """Rank a schema by the size of its values: none, one value, a structure, anything."""
    if schema.get("type") == "null":
        return 0
    if "$ref" in schema:
        return 3
    return 2 if schema.get("type") in {"object", "array"} else 1


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    return next((hinted for keys, hinted in _HINTS if any(key in schema for key in keys)), "string")


def _number(schema: Mapping[str, Any], *, integer: bool) -> int | float:
    low, high = _bound(schema, "minimum", "exclusiveMinimum"), _bound(schema, "maximum", "exclusiveMaximum")
    step = _real(schema.get("multipleOf"))
    unit: float = step if step and step >= _MIN_STEP else 1
    value: float = 1
    if low is not None:
        value = low[0]
    elif high is not None:
        value = min(1, high[0])
    if integer or step:
        value = math.ceil(value / unit) * unit
    if low is not None and low[1] and value <= low[0]:
        value = _above(low[0], high[0] if high else None, unit, integer=integer or bool(step))
    if high is not None and (value > high[0] or (high[1] and value >= high[0])):
        value = (math.ceil(high[0] / unit) - 1) * unit if high[1] else math.floor(high[0] / unit) * unit
    return int(value) if integer or value == int(value) else value


def _above(low: float, high: float | None, unit: float, *, integer: bool) -> float:
    if integer or high is None or high > low + unit:
        return (math.floor(low / unit) + 1) * unit
    return (low + high) / 2


def _bound(schema: Mapping[str, Any], inclusive: str, exclusive: str) -> tuple[float, bool] | None:
    """Return a bound and whether it is exclusive. Old schemas mark exclusive bounds by a boolean."""
    strict = _real(schema.get(exclusive))
    if strict is not None:
        return strict, True
    bound = _real(schema.get(inclusive))
    return None if bound is None else (bound, schema.get(exclusive) is True)


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MAX_NUMBER:
        return None
    return value


def _integer(value: object, default: int) -> int:
    return (
        int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9 else default
    )


def _text(schema: Mapping[str, Any], name: str) -> str:
    known = _FORMATS.get(str(schema.get("format")))
    if known is not None:
        return known
    minimum = min(_integer(schema.get("minLength"), 0), _MAX_LENGTH)
    maximum = _integer(schema.get("maxLength"), _MAX_LENGTH)
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and (values := text_for(pattern, minimum=minimum)) is not None:
        return values
    text = f"some {name.replace('_', ' ').strip() or 'text'}"[:_MAX_LENGTH]
    return (text + "." * (minimum - len(text)))[:maximum]


def _distinct(entries: list[Any]) -> list[Any]:
    """Make entries distinct by numbers if they are texts or numbers."""
    values: list[Any] = []
    for number, entry in enumerate(entries):
        if number and isinstance(entry, str):
            values.append(f"{entry} {number + 1}")
        elif number and isinstance(entry, int | float) and not isinstance(entry, bool):
            values.append(entry + number)
        else:
            values.append(entry)
    return values
