"""Arguments of a call that Google streams in pieces: each piece is a value and the path of its place.

Source: `PartialArg` in google-genai 3.4.0; paths are those of RFC 9535 with names and indexes only.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import UpstreamProtocolError

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,6})\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]")
_VALUES = ("stringValue", "numberValue", "boolValue", "nullValue")
_MOST_ELEMENTS = 100_000
"""In all lists of one call; a piece may name a place far behind the last one."""


class PartialCall:
    """A call that is still coming."""

    __slots__ = ("_path", "_room", "_root", "_texts", "call_id", "name", "signature")

    def __init__(self, call_id: str, name: str, signature: str | None) -> None:
        self.call_id = call_id
        self.name = name
        self.signature = signature
        self._root: JSONObject = {}
        self._room = _MOST_ELEMENTS
        self._path: str | None = None
        """Where the last text was put."""
        self._texts: list[str] = []
        """More of it, not put there yet: a long text comes in very many pieces."""

    def add(self, pieces: Iterable[JSONObject]) -> None:
        """More of its arguments; a text at a place where one is already goes on.

        Raises:
            UpstreamProtocolError: A piece has no place.
        """
        for piece in pieces:
            text, path = piece.get("stringValue"), piece.get("jsonPath")
            if type(text) is str and path is not None and path == self._path:
                self._texts.append(text)
            else:
                self._begin(piece)

    def arguments(self) -> str:
        """All of them, as JSON."""
        self._settle()
        return msgspec.json.encode(self._root).decode()

    def _begin(self, piece: JSONObject) -> None:
        self._settle()
        key = next((name for name in _VALUES if piece.get(name) is not None), None)
        if key is not None:
            path = str(piece.get("jsonPath"))
            self._put(_steps(path), None if key == "nullValue" else piece[key])
            self._path = path

    def _settle(self) -> None:
        texts, self._texts = self._texts, []
        if texts and self._path is not None:
            self._put(_steps(self._path), "".join(texts))

    def _put(self, steps: list[str | int], value: Any) -> None:
        place: Any = self._root
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            before = self._at(place, step)
            if following is None:
                goes_on = isinstance(before, str) and isinstance(value, str)
                place[step] = before + value if goes_on else value
            elif before is None:
                place[step] = [] if isinstance(following, int) else {}
            place = place[step]

    def _at(self, place: Any, step: str | int) -> Any:
        """What is there; a list is made long enough."""
        if isinstance(step, int) and isinstance(place, list):
            missing = max(0, step + 1 - len(place))
            self._room -= missing
            if self._room < 0:
                raise _broken()
            place.extend([None] * missing)
            return place[step]
        if isinstance(step, str) and isinstance(place, dict):
            return place.get(step)
        raise _broken()


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    at = 1
    while path[:1] == "$" and at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            raise _broken()
        name, index, single, double = found.groups()
        steps.append(int(index) if index is not None else name or single or double or "")
        at = found.end()
    if not steps:
        raise _broken()
    return steps


def _broken() -> UpstreamProtocolError:
    return UpstreamProtocolError("The upstream sent arguments that have no place.")
