"""Open a JSON body's top level without decoding the values in it, after its cost was bounded.

The cost is counted on the bytes, in a few linear passes that all run in C, before any object is created. Values stay
bytes (`msgspec.Raw`), so that a body that is passed through keeps the notation of its numbers and the order of its
keys. This module refuses bodies; it does not interpret them.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, compress
from typing import Any, NamedTuple

import msgspec

_SIGNS = b'[]{},"'
_NOT_SIGNS = bytes(set(range(256)) - set(_SIGNS))
_STEPS = bytes(1 if sign in b"[{" else 255 if sign in b"]}" else 0 for sign in range(256))
"""Signs as signed bytes: 1 opens a level, -1 closes one, 0 is any other sign."""
_COMMAS = bytes(sign == ord(",") for sign in range(256))
_PIECE = 2**20
"""Bytes per step, so that a worker thread releases the interpreter lock in between."""
_STEP = 64 * 1024
"""Bytes decoded per step."""
_ARRAY, _OBJECT = b"[{"
_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on a request's body; the names are those of the settings under `limits`."""

    json_depth: int = 64
    """Nested arrays and objects, including the outermost."""
    values: int = 200_000
    """Elements of arrays and members of objects in total; an empty array or object counts as one more."""
    messages: int = 2_000
    tools: int = 512


DEFAULT_BOUNDS = Bounds()


class Opened(NamedTuple):
    """The top level of a body."""

    raw: dict[str, msgspec.Raw]
    """Its values, not decoded and in order; of a repeated key the last one."""
    values: int
    """The number of values in the body; if it is clearly within the bounds, an estimate that is never too low."""


class MalformedBody(ValueError):
    """The body is not a valid JSON object; the message explains why, for the caller."""


class OverBounds(MalformedBody):
    """The body exceeds the bounds."""


def open_object(body: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> Opened:
    """Open a JSON object.

    Args:
        body: The whole body.
        bounds: The bounds on it.

    Raises:
        OverBounds: It is nested too deep, or holds too many values.
        MalformedBody: It is not UTF-8, not JSON, or not an object.
    """
    if not body.isascii():
        _check_utf8(body)
    values = count_values(body, bounds)
    try:
        return Opened(_DECODER.decode(body), values)
    except RecursionError:
        raise OverBounds(_too_deep(bounds)) from None
    except msgspec.ValidationError:
        raise MalformedBody("The body must be a JSON object.") from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from None


def count_values(data: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> int:
    """Count the values of a JSON text, and measure how deep it nests.

    What stands in strings neither counts nor hides anything. That takes a second look at the quotes, which is spared
    where the signs of the whole text are few. A long text is counted in pieces, up to the first that holds too much.

    Returns:
        The number of values; where that is clearly within the bounds, an estimate that is never too low.

    Raises:
        OverBounds: There are too many, or they nest too deep.
    """
    signs = data.translate(None, _NOT_SIGNS) if len(data) <= _PIECE else b"".join(map(_signs, _pieces(data)))
    opening = signs.count(b"[") + signs.count(b"{")
    values = opening + signs.count(b",")
    if values <= bounds.values and opening <= bounds.json_depth:
        return values
    values = depth = deepest = 0
    pieces = _outside(data)
    for outside in pieces:
        opening = outside.count(b"[") + outside.count(b"{")
        values += outside.count(b",") + opening
        if values > bounds.values:
            raise OverBounds(_too_many(values, bounds, "" if next(pieces, None) is None else "at least "))
        brackets = outside.translate(None, b",")
        reached = max(_depths(brackets, depth))
        deepest = max(deepest, reached)
        depth += 2 * opening - len(brackets)
    if deepest > bounds.json_depth:
        raise OverBounds(_too_deep(bounds))
    return values


def count_separators(data: bytes) -> Iterator[Counter[int]]:
    """Count the commas of a JSON text at each depth, piece by piece; 1 is the depth of the outermost elements."""
    depth = 0
    for outside in _outside(data):
        if b"," not in outside:
            depth += 2 * (outside.count(b"[") + outside.count(b"{")) - len(outside)
            continue
        depths = list(_depths(outside, depth))
        yield Counter(compress(depths[1:], outside.translate(_COMMAS)))
        depth = depths[-1]


def elements(array: msgspec.Raw) -> list[msgspec.Raw]:
    """Return the elements of an array, not decoded.

    Raises:
        msgspec.MsgspecError: It is not an array.
    """
    return _LIST.decode(array)


def decode(value: msgspec.Raw | bytes, *, leaving: str | None = None) -> Any:
    """Decode a JSON value, a large one in many short steps, between which a thread releases the interpreter lock.

    Args:
        value: Bytes that begin with the value.
        leaving: The name of members that are not decoded in large objects.

    Raises:
        msgspec.DecodeError: It is not valid JSON.
        UnicodeDecodeError: A string in it is not UTF-8.
        RecursionError: It is nested too deep.
    """
    if len(value) > _STEP:
        first = memoryview(value)[0]
        if first == _ARRAY:
            return [decode(each, leaving=leaving) for each in _LIST.decode(value)]
        if first == _OBJECT:
            return {
                name: each if name == leaving else decode(each, leaving=leaving)
                for name, each in _DECODER.decode(value).items()
            }
    return _ANY.decode(value)


def contains(data: bytes | msgspec.Raw, pattern: re.Pattern[bytes], longest: int) -> bool:
    """Return whether a JSON text has a match of a pattern; a long text is searched in steps.

    Args:
        data: The text.
        pattern: It looks neither behind nor beyond its match.
        longest: Bytes of the longest match.
    """
    if len(data) <= _PIECE:
        return pattern.search(data) is not None
    starts = range(0, len(data), _PIECE)
    return any(pattern.search(data, start, start + _PIECE + longest) is not None for start in starts)


def _depths(signs: bytes, depth: int) -> Iterator[int]:
    """Return the depth before these brackets, and after each of them."""
    return accumulate(memoryview(signs.translate(_STEPS)).cast("b"), initial=depth)


def _outside(data: bytes) -> Iterator[bytes]:
    """Yield the brackets and commas outside strings, for each piece of the text."""
    within = 0
    for piece in _without_escapes(data) if b"\\" in data else _pieces(data):
        parts = _signs(piece).split(b'"')
        yield b"".join(parts[within::2])
        within ^= (len(parts) - 1) & 1


def _signs(piece: bytes) -> bytes:
    return piece.translate(None, _NOT_SIGNS)


def _pieces(data: bytes) -> Iterator[bytes]:
    if len(data) <= _PIECE:
        yield data
        return
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]


def _without_escapes(data: bytes) -> Iterator[bytes]:
    """Yield the text without escaped backslashes and quotes, in pieces that end between two characters."""
    start = 0
    while start < len(data):
        end = start + _PIECE
        piece = data[start:end] if start or end < len(data) else data
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = data[start : end + 1]
        start += len(piece)
        yield piece.replace(b"\\\\", b"").replace(b'\\"', b"")


def _check_utf8(body: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0
    try:
        for start in range(0, len(body), _PIECE):
            decoder.decode(body[start : start + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not valid UTF-8 (near byte {start + error.start}).") from None


def _too_deep(bounds: Bounds) -> str:
    return f"The body is nested too deep (limits.json_depth): send at most {bounds.json_depth} levels."


def _too_many(came: int, bounds: Bounds, roughly: str = "") -> str:
    return (
        f"Too many JSON values in the body: at most {bounds.values} are allowed (limits.values), and {roughly}{came} "
        "were sent."
    )
