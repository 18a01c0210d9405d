"""Read top-level fields by name, and check the types of unread ones."""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import msgspec

from llmproxy_asgi.translators.fields import Node

Raw = Mapping[str, msgspec.Raw]
Outside: TypeAlias = tuple[bytes, str]
"""The allowed first bytes of a value, and its type's name in errors."""


def string(raw: Raw, key: str) -> str | None:
    """Decode a string; return None if it is missing or empty."""
    node = Node.of(raw, key)
    return node.text() or None if node else None


def boolean(raw: Raw, key: str) -> bool | None:
    """Decode a boolean."""
    node = Node.of(raw, key)
    return node.boolean() if node else None


def integer(raw: Raw, key: str, *, low: int | None = None, high: int | None = None) -> int | None:
    """Decode an integer within inclusive bounds."""
    node = Node.of(raw, key)
    return node.integer(low, high) if node else None


def number(raw: Raw, key: str, low: float, high: float) -> float | None:
    """Decode a number within inclusive bounds."""
    node = Node.of(raw, key)
    return node.number(low, high) if node else None


def others(raw: Raw, known: Collection[str]) -> dict[str, Any]:
    """Return the unknown fields."""
    return {key: found.value for key in raw if key not in known and (found := Node.of(raw, key)) is not None}


STRING: Outside = (b'"', "a string")
ARRAY: Outside = (b"[", "an array")
OBJECT: Outside = (b"{", "an object")
BOOLEAN: Outside = (b"tf", "a boolean")
NUMBER: Outside = (b"-0123456789", "a number")


def check_outsides(raw: Raw, outsides: Mapping[str, Outside]) -> None:
    """Check the types of fields by their first bytes, for passthrough requests as well.

    Raises:
        BadRequest: A field has another type; null counts as missing.
    """
    for key, value in raw.items():
        outside = outsides.get(key)
        if outside is not None and memoryview(value)[0] not in outside[0]:
            node = Node.of(raw, key)
            if node is not None:
                node.refuse(outside[1])
