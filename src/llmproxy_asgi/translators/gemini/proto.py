"""Read JSON as protobuf does, and track the path for errors.

Accepts both spellings of every key (`mimeType`, `mime_type`), numbers as strings, enums in any case, base64 in either
alphabet with or without padding. Errors name the field as the caller spelled it. Source: protobuf's ProtoJSON format.
"""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

from msgspec import Raw
from typing_extensions import override

from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.media import standard_base64

_CAPITAL = re.compile(r"(?<!^)([A-Z])")
_UNDERSCORE = re.compile(r"_([a-z0-9])")
_MAX_CACHED_LENGTH = 64
"""Characters of the longest cached key: keys come from callers and may be as long as a body."""


@lru_cache(maxsize=1024)
def snake(name: str) -> str:
    """Return a key in snake case."""
    return _CAPITAL.sub(lambda match: "_" + match[1].lower(), name)


def camel(name: str) -> str:
    """Return a key in camel case, Google's own spelling."""
    return _cached_camel(name) if len(name) <= _MAX_CACHED_LENGTH else _camel(name)


def _camel(name: str) -> str:
    return _UNDERSCORE.sub(lambda match: match[1].upper(), name)


_cached_camel = lru_cache(maxsize=1024)(_camel)


def find_key(fields: Mapping[str, Any], name: str) -> str | None:
    """Return the spelling in which a key, given in camel case, is present; None if it is absent."""
    if name in fields:
        return name
    other = snake(name)
    return other if other in fields else None


def find_items(fields: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    """Return the items of a key, given in camel case, in each spelling that is present."""
    return [(key, fields[key]) for key in dict.fromkeys((name, snake(name))) if key in fields]


class ProtoNode(Node):
    """A value and its path; keys are given in camel case."""

    __slots__ = ()

    @classmethod
    def of_body(cls, raw: Mapping[str, Raw], key: str) -> "ProtoNode | None":
        """Decode a top-level value; None if it is absent or null.

        Raises:
            BadRequest: The value can't be decoded.
        """
        found = find_key(raw, key)
        return cls.of(raw, found) if found else None

    @override
    def member(self, key: str) -> Any:
        fields = self.value
        if type(fields) is dict and key in fields:
            return fields[key]
        return self.object().get(snake(key))

    @override
    def spelling(self, key: str) -> str:
        return find_key(self.object(), key) or key

    @override
    def integer(self, low: int | None = None, high: int | None = None) -> int:
        return Node(_number(self.value), self._key, self._parent).integer(low, high)

    @override
    def number(self, low: float | None = None, high: float | None = None) -> float:
        return Node(_number(self.value), self._key, self._parent).number(low, high)

    def enum_value(self, *options: str) -> str:
        """Return this enum value in upper case; any value is valid without options."""
        value = self.text().upper()
        return Node(value, self._key, self._parent).choice(options) if options else value

    def base64(self) -> str:
        """Return this base64 value, in either alphabet, as standard base64 with padding."""
        data = standard_base64(self.text())
        try:
            b64decode(data, validate=True)
        except (NotBase64, ValueError):
            self.fail("is not base64.")
        return data

    @override
    def rest(self, known: AbstractSet[str] = frozenset()) -> JSONObject:
        """Return the members other than the known ones, with camel case keys, without nulls."""
        fields = self.object()
        return {name: fields[key] for key in fields if (name := camel(key)) not in known and fields[key] is not None}


def _number(value: Any) -> Any:
    """Return a number, also from a string."""
    if type(value) is not str:
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value
