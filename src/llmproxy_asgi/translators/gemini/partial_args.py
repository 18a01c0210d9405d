"""Assemble arguments that Google streams in pieces: each piece is a value and its path.

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
_MAX_ELEMENTS = 100_000
"""The most elements in all lists of one call; a piece's index may be far beyond the last one."""


class PartialCall:
    """A call whose arguments are still incomplete."""

    __slots__ = ("_path", "_pending_texts", "_remaining", "_root", "call_id", "name", "signature")

    def __init__(self, call_id: str, name: str, signature: str | None) -> None:
        self.call_id = call_id
        self.name = name
        self.signature = signature
        self._root: JSONObject = {}
        self._remaining = _MAX_ELEMENTS
        self._path: str | None = None
        """The path of the last text."""
        self._pending_texts: list[str] = []
        """Pieces of that text that are not stored yet: a long text has very many."""

    def add(self, pieces: Iterable[JSONObject]) -> None:
        """Add pieces of the arguments; a text at the path of an earlier text is appended.

        Raises:
            UpstreamProtocolError: A piece's path is invalid.
        """
        for piece in pieces:
            text, path = piece.get("stringValue"), piece.get("jsonPath")
            if type(text) is str and path is not None and path == self._path:
                self._pending_texts.append(text)
            else:
                self._add_value(piece)

    def arguments(self) -> str:
        """Return the arguments as JSON text."""
        self._flush()
        return msgspec.json.encode(self._root).decode()

    def _add_value(self, piece: JSONObject) -> None:
        self._flush()
        key = next((name for name in _VALUES if piece.get(name) is not None), None)
        if key is not None:
            path = str(piece.get("jsonPath"))
            self._set(_steps(path), None if key == "nullValue" else piece[key])
            self._path = path

    def _flush(self) -> None:
        texts, self._pending_texts = self._pending_texts, []
        if texts and self._path is not None:
            self._set(_steps(self._path), "".join(texts))

    def _set(self, steps: list[str | int], value: Any) -> None:
        container: Any = self._root
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            before = self._get(container, step)
            if following is None:
                appends = isinstance(before, str) and isinstance(value, str)
                container[step] = before + value if appends else value
            elif before is None:
                container[step] = [] if isinstance(following, int) else {}
            container = container[step]

    def _get(self, container: Any, step: str | int) -> Any:
        """Return the value at a step; extend a list if needed."""
        if isinstance(step, int) and isinstance(container, list):
            missing = max(0, step + 1 - len(container))
            self._remaining -= missing
            if self._remaining < 0:
                raise _invalid_path()
            container.extend([None] * missing)
            return container[step]
        if isinstance(step, str) and isinstance(container, dict):
            return container.get(step)
        raise _invalid_path()


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    position = 1
    while path[:1] == "$" and position < len(path):
        found = _STEP.match(path, position)
        if found is None:
            raise _invalid_path()
        name, index, single, double = found.groups()
        steps.append(int(index) if index is not None else name or single or double or "")
        position = found.end()
    if not steps:
        raise _invalid_path()
    return steps


def _invalid_path() -> UpstreamProtocolError:
    return UpstreamProtocolError("The upstream sent arguments with an invalid path.")
