"""JSON as protobuf reads it, with the path at hand.

Both spellings of every key (`mimeType`, `mime_type`), numbers as strings, enums in any case, base64 in either alphabet
with or without padding. Complaints name the field as the caller spelled it. Source: protobuf's ProtoJSON format.
"""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from msgspec import Raw
from typing_extensions import override

from llmproxy_asgi.conversation import EMPTY, Extras, JSONObject
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.media import standard_base64

_HUMP = re.compile(r"(?<!^)([A-Z])")
_GAP = re.compile(r"_([a-z0-9])")
_LONGEST = 64
"""Characters of a key that is remembered: keys are callers' text, and may be as long as a body."""


@lru_cache(maxsize=1024)
def snake(name: str) -> str:
    """The other spelling of a key."""
    return _HUMP.sub(lambda hump: "_" + hump[1].lower(), name)


def camel(name: str) -> str:
    """The spelling that Google writes."""
    return _remembered(name) if len(name) <= _LONGEST else _camel(name)


def _camel(name: str) -> str:
    return _GAP.sub(lambda gap: gap[1].upper(), name)


_remembered = lru_cache(maxsize=1024)(_camel)


def spelled(fields: Mapping[str, Any], name: str) -> str | None:
    """How a key that is known by its camel case is spelled here; None where it is absent."""
    if name in fields:
        return name
    other = snake(name)
    return other if other in fields else None


def either(fields: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    """A key that is known by its camel case and its value, in each spelling that is here."""
    return [(key, fields[key]) for key in dict.fromkeys((name, snake(name))) if key in fields]


class Proto(Node):
    """A value and its path. Keys are asked for in camel case."""

    __slots__ = ()

    @classmethod
    def of_body(cls, raw: Mapping[str, Raw], key: str) -> "Proto | None":
        """A top-level value, parsed; None where it is absent or null.

        Raises:
            BadRequest: The value cannot be read.
        """
        found = spelled(raw, key)
        node = Node.of(raw, found) if found else None
        return cls(node.value, node.path) if node else None

    @override
    def get(self, key: str) -> "Proto | None":
        fields = self.object()
        found = spelled(fields, key)
        value = fields[found] if found else None
        return None if value is None else Proto(value, f"{self.path}.{found}")

    @override
    def need(self, key: str) -> "Proto":
        found = self.get(key)
        if found is None:
            raise missing(f"{self.path}.{key}")
        return found

    def entries(self) -> "list[Proto]":
        """This, an array, as nodes of this kind."""
        return [Proto(node.value, node.path) for node in self.array()]

    @override
    def integer(self, low: int | None = None, high: int | None = None) -> int:
        return Node(_number(self.value), self.path).integer(low, high)

    @override
    def number(self, low: float | None = None, high: float | None = None) -> float:
        return Node(_number(self.value), self.path).number(low, high)

    def word(self, *options: str) -> str:
        """This, one of some enum's words, in upper case; any word where none are named."""
        word = self.text().upper()
        return Node(word, self.path).choice(options) if options else word

    def base64(self) -> str:
        """This, base64 in either alphabet, as standard base64 with padding."""
        data = standard_base64(self.text())
        try:
            b64decode(data, validate=True)
        except (NotBase64, ValueError):
            self.fail("is not base64.")
        return data

    def rest(self, *known: str) -> JSONObject:
        """The fields of this object beside the known ones, the keys in camel case; the empty ones left out."""
        fields = self.object()
        names = frozenset(known)
        return {name: fields[key] for key in fields if (name := camel(key)) not in names and fields[key] is not None}

    def extras(self, *known: str) -> Extras:
        """`rest`, where it goes."""
        rest = self.rest(*known)
        return {PROTOCOL: rest} if rest else EMPTY


def _number(value: Any) -> Any:
    """A number that may stand in quotes."""
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
