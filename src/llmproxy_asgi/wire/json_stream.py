"""A JSON array whose elements come one by one: elements out of bytes, and bytes out of elements.

Source: RFC 8259, section 5 "Arrays" and section 7 "Strings". Gemini streams its answers like this unless it is asked
for server-sent events.

The decoder finds where elements end and reads nothing in them: outside of strings it counts brackets, inside it looks
for the closing quote alone. Each byte is searched once, however the bytes are cut. An object or array is an element as
soon as it is closed, without waiting for the comma behind it. The decoder does not check that an element is JSON;
whoever decodes it will.
"""

import re

DEFAULT_MAX_ELEMENT = 16 * 1024 * 1024
"""Bytes. A whole picture comes in one element, in base64."""

_MARK = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


class NotAnArray(ValueError):
    """What came is no array, or was cut off; the text says which."""


class ElementTooLarge(ValueError):
    """One element outgrew the limit; its array cannot be read any further."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"an element is longer than {limit} bytes")
        self.limit = limit


class ArrayDecoder:
    """Bytes in, elements out. What follows the array's end is not looked at.

    Args:
        max_element: Bytes of the longest element that is taken.
    """

    __slots__ = ("_at", "_buffer", "_depth", "_in_string", "_max_element", "ended")

    def __init__(self, *, max_element: int = DEFAULT_MAX_ELEMENT) -> None:
        self._max_element = max_element
        self._buffer = bytearray()
        self._at = 0  # everything before is searched
        self._depth = 0
        self._in_string = False
        self.ended = False
        """Whether the array's closing bracket has come."""

    def feed(self, data: bytes) -> list[bytes]:
        """The elements that `data` completes, without the white space around them.

        Raises:
            NotAnArray: What came is none, or its brackets do not match.
            ElementTooLarge: An element, finished or not, is longer than `max_element`.
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
        """The bytes are at their end.

        Raises:
            NotAnArray: The array is not.
        """
        if not self.ended:
            raise NotAnArray("the array was not closed")

    def _step(self, found: list[bytes]) -> bool:
        """Go on to the next mark; False where more bytes are needed."""
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
            elif end == len(buffer):  # what it escapes is still to come
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
            end = self._border(mark, begin, end, found)
        self._at = end
        return True

    def _border(self, mark: bytes, begin: int, end: int, found: list[bytes]) -> int:
        """A comma or a closing bracket, which ends an element if it is the array's own; where to go on."""
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
        if element:  # else a comma behind an object that was taken already
            found.append(element)
        del self._buffer[:end]
        return 0


class ArrayEncoder:
    """Elements in, bytes out; white space may be sent between any two of its pieces."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun = False
        """Whether an element has been written."""

    def element(self, data: bytes) -> bytes:
        """One more element, with what must stand before it."""
        before = b",\n" if self.begun else b"["
        self.begun = True
        return before + data

    def close(self) -> bytes:
        """The array's end; of one without elements the whole array."""
        return b"]\n" if self.begun else b"[]\n"
