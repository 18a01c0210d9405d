"""Decode the top-level request options that both protocols share, each by its name."""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias, cast

import msgspec

import llmproxy_asgi.conversation as ir
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


def cache_options(raw: Raw) -> ir.CacheOptions:
    """Decode the request's prompt cache options."""
    options = Node.of(raw, "prompt_cache_options")
    mode = options.get("mode") if options else None
    ttl = options.get("ttl") if options else None
    retention = Node.of(raw, "prompt_cache_retention")
    lifetime: str | None = ttl.choice(("5m", "30m", "1h", "12h", "24h")) if ttl else None
    if lifetime is None and retention is not None and retention.text() == "24h":
        lifetime = "24h"
    return ir.CacheOptions(
        key=string(raw, "prompt_cache_key"),
        automatic=mode.choice(("implicit", "explicit")) == "implicit" if mode else None,
        lifetime=cast("ir.CacheLifetime | None", lifetime),
    )


def metadata(raw: Raw) -> Mapping[str, str]:
    """Decode the caller's metadata."""
    node = Node.of(raw, "metadata")
    return {key: value.text() for key, value in node.items()} if node else {}


def stops(raw: Raw) -> tuple[str, ...]:
    """Decode the stop sequences: a string or a list."""
    node = Node.of(raw, "stop")
    if node is None:
        return ()
    if type(node.value) is str:
        return (node.value,)
    return tuple(entry.text() for entry in node.array())


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
