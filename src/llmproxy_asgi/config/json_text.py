"""A JSON reader that records lines, and refuses repeated keys and deep nesting."""

import re
from json import JSONDecodeError, JSONDecoder

from llmproxy_asgi.config.document import (
    MAX_DEPTH,
    MAX_VALUES,
    Document,
    Path,
    Unreadable,
    format_path,
    join_surrogates,
)

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?![0-9])(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_STRING = JSONDecoder()
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def read_json(text: str) -> Document:
    """Read one JSON object.

    Raises:
        Unreadable: It is not a JSON object, or is refused.
    """
    return _Reader(text).document()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = (0, 1)
        self._values = 0
        self._lines: dict[Path, int] = {}

    def document(self) -> Document:
        if self._next() != "{":
            raise self._unreadable("must be an object, like `{...}`")
        values = self._object(())
        if self._next():
            raise self._unreadable("continues after the end of the object")
        return Document(values, self._lines)

    def _value(self, path: Path) -> object:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._unreadable(f"holds more than {MAX_VALUES} values")
        if len(path) > MAX_DEPTH:
            raise self._unreadable(f"nests deeper than {MAX_DEPTH} levels")
        match self._next():
            case "{":
                return self._object(path)
            case "[":
                return self._array(path)
            case '"':
                return self._string()
            case _:
                return self._constant()

    def _object(self, path: Path) -> dict[str, object]:
        values: dict[str, object] = {}
        self._at += 1
        if self._skip("}"):
            return values
        while True:
            if self._next() != '"':
                raise self._unreadable("needs a key in double quotes here")
            line = self._line()
            key = self._string()
            if key in values:
                first = self._lines[*path, key]
                raise Unreadable(f"repeats the key {format_path([key])}, which is on line {first} already", line)
            if not self._skip(":"):
                raise self._unreadable("needs a `:` after the key")
            self._lines[*path, key] = line
            values[key] = self._value((*path, key))
            if self._skip("}"):
                return values
            if not self._skip(","):
                raise self._unreadable("needs a `,` or `}` here")

    def _array(self, path: Path) -> list[object]:
        values: list[object] = []
        self._at += 1
        if self._skip("]"):
            return values
        while True:
            self._next()
            self._lines[*path, len(values)] = self._line()
            values.append(self._value((*path, len(values))))
            if self._skip("]"):
                return values
            if not self._skip(","):
                raise self._unreadable("needs a `,` or `]` here")

    def _string(self) -> str:
        line = self._line()
        try:
            found, self._at = _STRING.raw_decode(self._text, self._at)
        except JSONDecodeError:
            raise Unreadable("has a text that is not closed, or not escaped as JSON wants it", line) from None
        return join_surrogates(str(found), line)

    def _constant(self) -> float | bool | None:
        for word, value in _CONSTANTS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        number = _NUMBER.match(self._text, self._at)
        if number is None:
            raise self._unreadable("has something here that is no JSON value" if self._next() else "ends too early")
        self._at = number.end()
        return float(number[0]) if number[1] or number[2] else int(number[0])

    def _next(self) -> str:
        """Skip white space and return the next character; empty at the end."""
        space = _SPACE.match(self._text, self._at)
        assert space is not None
        self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _skip(self, character: str) -> bool:
        if self._next() != character:
            return False
        self._at += 1
        return True

    def _line(self) -> int:
        at, line = self._counted
        line += self._text.count("\n", at, self._at)
        self._counted = (self._at, line)
        return line

    def _unreadable(self, problem: str) -> Unreadable:
        return Unreadable(problem, self._line())
