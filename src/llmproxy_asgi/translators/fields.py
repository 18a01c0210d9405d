"""Read a client's JSON with its path, so that every error names the field.

A `Node` is a value and its path. Each accessor returns a value of its type or raises `BadRequest` with the path in
`param`, spelled as the client sent it. It knows no protocol.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import msgspec

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.wire.json_body import decode

_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}


class Node:
    """A JSON value and its path."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path

    @classmethod
    def of(cls, raw: Mapping[str, msgspec.Raw], key: str) -> "Node | None":
        """Return a top-level value, decoded; None where it is absent or null.

        Raises:
            BadRequest: The value cannot be read (a number out of range, text that is no UTF-8).
        """
        found = raw.get(key)
        if found is None:
            return None
        try:
            value = decode(found)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"{key} cannot be read: {error}.", param=key, code="invalid_value") from None
        except RecursionError:
            raise BadRequest(f"{key} nests too deep.", param=key, code="invalid_value") from None
        return None if value is None else cls(value, key)

    def get(self, key: str) -> "Node | None":
        """Return the value of a key; None where it is absent or null.

        Raises:
            BadRequest: This is no object.
        """
        value = self.object().get(key)
        return None if value is None else Node(value, f"{self.path}.{key}")

    def need(self, key: str) -> "Node":
        """Return the value of a required key.

        Raises:
            BadRequest: It is absent or null, or this is no object.
        """
        found = self.get(key)
        if found is None:
            raise missing(f"{self.path}.{key}")
        return found

    def object(self) -> dict[str, Any]:
        """Return this object."""
        if type(self.value) is not dict:
            self.refuse("an object")
        return self.value

    def array(self) -> list["Node"]:
        """Return this array as nodes."""
        if type(self.value) is not list:
            self.refuse("an array")
        path = self.path
        return [Node(value, f"{path}[{index}]") for index, value in enumerate(self.value)]

    def items(self) -> Iterator[tuple[str, "Node"]]:
        """Return this object as pairs."""
        for key, value in self.object().items():
            yield key, Node(value, f"{self.path}.{key}")

    def text(self) -> str:
        """Return this string."""
        if type(self.value) is not str:
            self.refuse("a string")
        return self.value

    def boolean(self) -> bool:
        """Return this boolean."""
        if type(self.value) is not bool:
            self.refuse("a boolean")
        return self.value

    def integer(self, low: int | None = None, high: int | None = None) -> int:
        """Return this integer, within bounds (both inclusive)."""
        value = self.value
        if type(value) is float and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if type(value) is not int:
            self.refuse("a whole number")
        self._bound(value, low, high)
        return value

    def number(self, low: float | None = None, high: float | None = None) -> float:
        """Return this finite number, within bounds (both inclusive)."""
        value = self.value
        if type(value) is int and abs(value) < 2**1023:
            value = float(value)
        if type(value) is not float or not math.isfinite(value):
            self.refuse("a number")
        self._bound(value, low, high)
        return value

    def choice(self, options: tuple[str, ...]) -> str:
        """Return this string, one of the given values."""
        word = self.text()
        if word not in options:
            shown = ", ".join(repr(option) for option in options)
            raise BadRequest(
                f"{self.path}: {_shorten(word)!r} is not one of {shown}.", param=self.path, code="invalid_value"
            )
        return word

    def refuse(self, wanted: str) -> NoReturn:
        """Raise for this value's type."""
        got = _NAMES.get(type(self.value)) or ("an array" if type(self.value) is list else "an object")
        raise BadRequest(f"{self.path}: expected {wanted}, got {got}.", param=self.path, code="invalid_type")

    def fail(self, why: str, *, code: str = "invalid_value") -> NoReturn:
        """Raise for this value."""
        raise BadRequest(f"{self.path}: {why}", param=self.path, code=code)

    def _bound(self, value: float, low: float | None, high: float | None) -> None:
        if low is not None and value < low:
            self.fail(f"must be at least {low}.")
        if high is not None and value > high:
            self.fail(f"must be at most {high}.")


def missing(path: str) -> BadRequest:
    """Return the error for a missing field."""
    return BadRequest(f"{path} is required.", param=path, code="missing_required_parameter")


def _shorten(word: str) -> str:
    return word if len(word) <= 64 else word[:64] + "..."
