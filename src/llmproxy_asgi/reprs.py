"""Short representations of records, for one line in a debugger or a log."""

import functools
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

_MAX_TEXT = 60
_MAX_ITEMS = 3
_MAX_LENGTH = 400


def short(record: msgspec.Struct) -> str:
    """Return a record's name and the fields that differ from their defaults; long texts, bytes and lists are cut."""
    defaults = _defaults(type(record))
    fields = ((name, getattr(record, name)) for name in record.__struct_fields__)
    return assembled(record, {name: value for name, value in fields if name not in defaults or value != defaults[name]})


def assembled(record: object, fields: Mapping[str, Any]) -> str:
    """Return a record's name and the given fields, each shortened."""
    text = ", ".join(f"{name}={_value(value)}" for name, value in fields.items())
    if len(text) > _MAX_LENGTH:
        text = text[:_MAX_LENGTH] + "..."
    return f"{type(record).__name__}({text})"


def _value(value: object) -> str:
    match value:
        case Enum():
            return repr(value.value)
        case str() if len(value) > _MAX_TEXT:
            return f"{value[:_MAX_TEXT]!r}... ({len(value)} characters)"
        case bytes() if len(value) > _MAX_TEXT:
            return f"{len(value)} bytes"
        case list() | tuple():
            shown = [_value(item) for item in value[:_MAX_ITEMS]]
            more = [f"... {len(value)} in all"] if len(value) > _MAX_ITEMS else []
            return f"[{', '.join([*shown, *more])}]"
        case Mapping():
            shown = [f"{name!r}: {_value(item)}" for name, item in list(value.items())[:_MAX_ITEMS]]
            more = [f"... {len(value)} in all"] if len(value) > _MAX_ITEMS else []
            return f"{{{', '.join([*shown, *more])}}}"
        case _:
            return repr(value)


@functools.cache
def _defaults(kind: type[msgspec.Struct]) -> Mapping[str, Any]:
    found = {}
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            found[field.name] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            found[field.name] = field.default_factory()
    return found
