"""Read a client's JSON with its path, so that every error names the field.

A `Node` is a value and its place. Each accessor returns a value of its type or raises `BadRequest` with the path in
`param`, spelled as the client sent it. A path is put together only for an error. It knows no protocol.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NoReturn, Self, TypeVar

import msgspec

from llmproxy_asgi.conversation import EMPTY, Extras, JSONObject
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.wire.json_body import decode

_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
_Word = TypeVar("_Word", bound=str)


class Node:
    """A JSON value and its place: the path of a root, or its key or index in its parent.

    The accessors of members (`required_text`, `optional_text`...) make no node for the member. For all of them a
    member that is null is absent.
    """

    __slots__ = ("_key", "_parent", "value")

    def __init__(self, value: Any, key: str | int, parent: "Node | None" = None) -> None:
        self.value = value
        self._key = key
        self._parent = parent

    @classmethod
    def of(cls, raw: Mapping[str, msgspec.Raw], key: str) -> Self | None:
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

    @property
    def path(self) -> str:
        """Return the path of this value."""
        parent, key = self._parent, self._key
        if parent is None:
            return str(key)
        return parent.path_of(parent.spelling(key) if type(key) is str else key)

    def path_of(self, key: str | int) -> str:
        """Return the path of a member or an element."""
        if type(key) is int:
            return f"{self.path}[{key}]"
        path = self.path
        return f"{path}.{key}" if path else str(key)

    # ── members ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def member(self, key: str) -> Any:
        """Return the value of a key; None where it is absent or null.

        Raises:
            BadRequest: This is no object, here and in all accessors of members.
        """
        fields = self.value
        if type(fields) is not dict:
            self.refuse("an object")
        return fields.get(key)

    def spelling(self, key: str) -> str:
        """Return the spelling in which a key is present."""
        return key

    def get(self, key: str) -> Self | None:
        """Return the member of a key; None where it is absent or null."""
        value = self.member(key)
        return None if value is None else type(self)(value, key, self)

    def need(self, key: str) -> Self:
        """Return the member of a required key.

        Raises:
            BadRequest: It is absent or null.
        """
        found = self.get(key)
        if found is None:
            raise missing(self.path_of(key))
        return found

    def required_text(self, key: str) -> str:
        """Return a required string."""
        value = self.member(key)
        return value if type(value) is str else self.need(key).text()

    def optional_text(self, key: str) -> str | None:
        """Return a string, or None."""
        value = self.member(key)
        return value if value is None or type(value) is str else self.need(key).text()

    def filled_text(self, key: str) -> str:
        """Return a required string that is not empty."""
        return self.required_text(key) or self.need(key).fail("must not be empty.")

    def optional_boolean(self, key: str) -> bool | None:
        """Return a boolean, or None."""
        value = self.member(key)
        return value if value is None or type(value) is bool else self.need(key).boolean()

    def required_object(self, key: str) -> JSONObject:
        """Return a required object."""
        return self.need(key).object()

    def optional_object(self, key: str) -> JSONObject | None:
        """Return an object, or None."""
        value = self.member(key)
        return value if value is None or type(value) is dict else self.need(key).object()

    def required_array(self, key: str) -> list[Self]:
        """Return the elements of a required array."""
        return self.need(key).array()

    def optional_array(self, key: str) -> list[Self]:
        """Return the elements of an array; none where it is absent."""
        found = self.get(key)
        return [] if found is None else found.array()

    def required_choice(self, key: str, options: Collection[_Word]) -> _Word:
        """Return a required string, one of the given values."""
        return self.need(key).choice(options)

    def optional_choice(self, key: str, options: Collection[_Word]) -> _Word | None:
        """Return a string, one of the given values, or None."""
        found = self.get(key)
        return None if found is None else found.choice(options)

    def rest(self, known: AbstractSet[str]) -> JSONObject:
        """Return the members other than the known ones."""
        return {key: value for key, value in self.object().items() if key not in known}

    def extras(self, protocol: str, known: AbstractSet[str]) -> Extras:
        """Return `rest` as a protocol's extras."""
        if self.object().keys() <= known:
            return EMPTY
        rest = self.rest(known)
        return {protocol: rest} if rest else EMPTY

    # ── this value ───────────────────────────────────────────────────────────────────────────────────────────────────

    def object(self) -> JSONObject:
        """Return this object."""
        if type(self.value) is not dict:
            self.refuse("an object")
        return self.value

    def array(self) -> list[Self]:
        """Return the elements of this array."""
        if type(self.value) is not list:
            self.refuse("an array")
        element = type(self)
        return [element(value, index, self) for index, value in enumerate(self.value)]

    def items(self) -> Iterator[tuple[str, Self]]:
        """Return this object as pairs."""
        for key, value in self.object().items():
            yield key, type(self)(value, key, self)

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

    def choice(self, options: Collection[_Word]) -> _Word:
        """Return this string, one of the given values."""
        word = self.text()
        for option in options:
            if option == word:
                return option
        shown = ", ".join(repr(option) for option in options)
        raise BadRequest(
            f"{self.path}: {_shorten(word)!r} is not one of {shown}.", param=self.path, code="invalid_value"
        )

    # ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────

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
