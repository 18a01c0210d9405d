"""Decode and encode a JSON array whose elements arrive one by one.

Source: RFC 8259, section 5 "Arrays" and section 7 "Strings". Gemini streams its responses like this unless server-sent
events are requested.

The decoder finds the ends of elements without decoding them: outside of strings it counts brackets, inside it looks
only for the closing quote. Each byte is searched once, however the bytes are split. An object or array is returned as
soon as it is closed, without waiting for the comma after it. The decoder does not check that an element is valid JSON;
the code that decodes it does.
"""

import re

DEFAULT_MAX_ELEMENT = 16 * 1024 * 1024
"""Bytes. An image is sent in one element, in base64."""

_MARK = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


class NotAnArray(ValueError):
    """The input is not an array, or is truncated; the message says which."""


class ElementTooLarge(ValueError):
    """An element exceeds the limit; the rest of the array cannot be read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"an element is longer than {limit} bytes")
        self.limit = limit


class ArrayDecoder:
    """Splits bytes into the elements of an array. Bytes after the array's end are ignored.

    Args:
        max_element: Bytes of the longest element that is accepted.
    """

    __slots__ = ("_at", "_buffer", "_depth", "_in_string", "_max_element", "ended")

    def __init__(self, *, max_element: int = DEFAULT_MAX_ELEMENT) -> None:
        self._max_element = max_element
        self._buffer = bytearray()
        self._at = 0  # everything before is searched
        self._depth = 0
        self._in_string = False
        self.ended = False
        """Whether the array's closing bracket was received."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the elements that `data` completes, without the white space around them.

        Raises:
            NotAnArray: The input is not an array, or its brackets do not match.
            ElementTooLarge: An element, complete or not, is longer than `max_element`.
        """
        found: list[bytes] = []
        if self.ended:
            return found
        self._buffer += data
        while not self.ended and self._step(found):
            pass
        if len(self._buffer) > self._max_element and not self.ended:
            raise ElementTooLarge(self._max_element)
        return found

    def close(self) -> None:
        """Mark the end of the input.

        Raises:
            NotAnArray: The array was not closed.
        """
        if not self.ended:
            raise NotAnArray("the array was not closed")

    def _step(self, found: list[bytes]) -> bool:
        """Continue to the next quote, bracket or comma; return False if more bytes are needed."""
        buffer = self._buffer
        hit = (_IN_STRING if self._in_string else _MARK).search(buffer, self._at)
        if hit is None:
            self._at = len(buffer)
            return False
        begin, end = hit.span()
        mark = hit[0]
        if self._in_string:
            if mark == b'"':
                self._in_string = False
            elif end == len(buffer):  # the escaped character has not arrived yet
                self._at = begin
                return False
            else:
                end += 1
        elif not self._depth:
            if mark != b"[" or buffer[:begin].strip(_SPACE):
                raise NotAnArray("it does not begin with a bracket")
            self._depth = 1
            del buffer[:end]
            end = 0
        elif mark == b'"':
            self._in_string = True
        elif mark in b"[{":
            self._depth += 1
        else:
            end = self._handle_separator(mark, begin, end, found)
        self._at = end
        return True

    def _handle_separator(self, mark: bytes, begin: int, end: int, found: list[bytes]) -> int:
        """Handle a comma or closing bracket, which ends an element at depth 1; return the next position."""
        if mark != b",":
            self._depth -= 1
        if self._depth > 1 or (mark == b"," and self._depth != 1):
            return end
        if mark == b",":
            return self._take(begin, end, found)
        if self._depth == 1:
            return self._take(end, end, found)
        if mark != b"]":
            raise NotAnArray("its brackets do not match")
        self.ended = True
        return self._take(begin, end, found)

    def _take(self, stop: int, end: int, found: list[bytes]) -> int:
        if stop > self._max_element:
            raise ElementTooLarge(self._max_element)
        element = bytes(self._buffer[:stop].strip(_SPACE))
        if element:  # else a comma after an object that was returned already
            found.append(element)
        del self._buffer[:end]
        return 0


class ArrayEncoder:
    """Encodes the elements of an array; white space may be sent between any two of its pieces."""

    __slots__ = ("started",)

    def __init__(self) -> None:
        self.started = False
        """Whether an element has been written."""

    def element(self, data: bytes) -> bytes:
        """Encode the next element, with the bracket or comma before it."""
        before = b",\n" if self.started else b"["
        self.started = True
        return before + data

    def close(self) -> bytes:
        """Encode the array's end; for an array without elements the whole array."""
        return b"]\n" if self.started else b"[]\n"
