"""Values that fit a JSON schema: deterministic, readable and small, best effort.

Understands `type`, `enum`, `const`, `properties`, `required`, `items`, `prefixItems`, `anyOf`, `oneOf`, `allOf`, `$ref`
within the schema, `format`, `pattern` and the bounds of numbers, texts and lists. Whoever wrote the schema is a caller,
so depth, breadth and sizes are bounded: a schema that wants more gets a value that does not fit.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmproxy_asgi.providers.simulated.patterns import text_for

_SHALLOW = 4
"""Levels down to which properties and entries are made that are not required."""
_DEEPEST = 40
_MOST_VALUES = 2000
_LONGEST = 10_000
_MOST_ENTRIES = 100
_LARGEST = 1e100
_FINEST = 1e-9
"""Bounds and steps beyond these are not looked at."""

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
    """A value for a schema."""
    return _Filler(schema).value(schema, "value", 0)


class _Filler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MOST_VALUES

    def value(self, schema: object, name: str, depth: int) -> Any:
        """A value for one place.

        Args:
            schema: What must fit there.
            name: What the place is called; texts are named after it.
            depth: How deep it lies.
        """
        self._left -= 1
        if not isinstance(schema, Mapping):
            return _text({}, name)
        if depth > _DEEPEST or self._spent:
            return None
        plain = self._plain(schema, depth)
        if "const" in plain:
            return plain["const"]
        choices = plain.get("enum")
        if isinstance(choices, list) and choices:
            return choices[0]
        return self._made(plain, name, depth)

    def _made(self, plain: Mapping[str, Any], name: str, depth: int) -> Any:
        match _kind(plain):
            case "object":
                return self._object(plain, depth)
            case "array":
                return self._array(plain, name, depth)
            case "integer" | "number" as kind:
                return _number(plain, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return _text(plain, name)

    @property
    def _spent(self) -> bool:
        return self._left < -_MOST_VALUES

    def _terse(self, depth: int) -> bool:
        return depth >= _SHALLOW or self._left < 0

    def _plain(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """The schema with its references followed, one of its alternatives chosen and its parts merged."""
        plain = dict(schema)
        for _ in range(_DEEPEST):
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
                self._left -= 1
                if isinstance(part, Mapping) and depth < _DEEPEST and not self._spent:
                    plain = _merged(self._plain(part, depth + 1), plain)
        return plain

    def _choose(self, alternatives: Sequence[Any], depth: int) -> Mapping[str, Any]:
        """The first that is something; deep down the one that ends soonest."""
        usable = [one for one in alternatives if isinstance(one, Mapping)]
        if self._terse(depth):
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
        wanted = schema.get("required")
        required = [name for name in wanted if isinstance(name, str)] if isinstance(wanted, list) else []
        names = required if self._terse(depth) else list(dict.fromkeys([*properties, *required]))
        further = schema.get("additionalProperties")
        made: dict[str, Any] = {}
        for name in names:
            if self._spent:
                break
            made[name] = self.value(properties.get(name, further), name, depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        least = _whole(schema.get("minItems"), 0)
        most = _whole(schema.get("maxItems"), _MOST_ENTRIES)
        leading = schema.get("prefixItems")
        places: list[Any] = list(leading[:_MOST_ENTRIES]) if isinstance(leading, list) else []
        count = max(least, len(places), 0 if self._terse(depth) else 1)
        entries = schema.get("items", {})
        if entries is False:
            count = len(places)
        made = [
            self.value(places[number] if number < len(places) else entries, name, depth + 1)
            for number in range(min(count, most, _MOST_ENTRIES))
        ]
        return _distinct(made) if schema.get("uniqueItems") is True else made


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both schemas at once: what either requires is required, the rest of `over` wins."""
    merged = {**base, **over}
    for key in ("properties", "$defs"):
        if isinstance(base.get(key), Mapping) and isinstance(over.get(key), Mapping):
            merged[key] = {**base[key], **over[key]}
    if isinstance(base.get("required"), list) and isinstance(over.get("required"), list):
        merged["required"] = [*base["required"], *over["required"]]
    return merged


def _weight(schema: Mapping[str, Any]) -> int:
    """How much more a schema may prompt for: nothing, one value, a structure, anything."""
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


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    low, high = _bound(schema, "minimum", "exclusiveMinimum"), _bound(schema, "maximum", "exclusiveMaximum")
    step = _real(schema.get("multipleOf"))
    unit: float = step if step and step >= _FINEST else 1
    value: float = 1
    if low is not None:
        value = low[0]
    elif high is not None:
        value = min(1, high[0])
    if whole or step:
        value = math.ceil(value / unit) * unit
    if low is not None and low[1] and value <= low[0]:
        value = _above(low[0], high[0] if high else None, unit, whole=whole or bool(step))
    if high is not None and (value > high[0] or (high[1] and value >= high[0])):
        value = (math.ceil(high[0] / unit) - 1) * unit if high[1] else math.floor(high[0] / unit) * unit
    return int(value) if whole or value == int(value) else value


def _above(low: float, high: float | None, unit: float, *, whole: bool) -> float:
    if whole or high is None or high > low + unit:
        return (math.floor(low / unit) + 1) * unit
    return (low + high) / 2


def _bound(schema: Mapping[str, Any], inclusive: str, exclusive: str) -> tuple[float, bool] | None:
    """A bound, and whether the value must not be it. Old schemas say the latter by a boolean."""
    strict = _real(schema.get(exclusive))
    if strict is not None:
        return strict, True
    bound = _real(schema.get(inclusive))
    return None if bound is None else (bound, schema.get(exclusive) is True)


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        return None
    return value


def _whole(value: object, otherwise: int) -> int:
    return (
        int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9 else otherwise
    )


def _text(schema: Mapping[str, Any], name: str) -> str:
    known = _FORMATS.get(str(schema.get("format")))
    if known is not None:
        return known
    least = min(_whole(schema.get("minLength"), 0), _LONGEST)
    most = _whole(schema.get("maxLength"), _LONGEST)
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and (made := text_for(pattern, least=least)) is not None:
        return made
    text = f"some {name.replace('_', ' ').strip() or 'text'}"[:_LONGEST]
    return (text + "." * (least - len(text)))[:most]


def _distinct(entries: list[Any]) -> list[Any]:
    """The entries told apart by numbers where they are texts or numbers."""
    made: list[Any] = []
    for number, entry in enumerate(entries):
        if number and isinstance(entry, str):
            made.append(f"{entry} {number + 1}")
        elif number and isinstance(entry, int | float) and not isinstance(entry, bool):
            made.append(entry + number)
        else:
            made.append(entry)
    return made
