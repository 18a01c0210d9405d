"""A JSON body's outer shell: opened without reading what is inside, and never deeper than allowed.

What is inside stays bytes (`msgspec.Raw`), so that a body that is only passed on keeps every number's spelling and
every key's order. This module refuses; it interprets nothing.
"""

import msgspec

DEFAULT_DEPTH = 64

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


class MalformedBody(ValueError):
    """The body is not a JSON object that we are willing to read; the text says why, for the caller."""


def open_object(body: bytes, *, max_depth: int = DEFAULT_DEPTH) -> dict[str, msgspec.Raw]:
    """The top-level values of a JSON object, unparsed and in their order (the last of a repeated key counts).

    Args:
        body: The whole body.
        max_depth: How many arrays and objects may stand inside each other, the outermost counted.

    Raises:
        MalformedBody: Not UTF-8, not JSON, not an object, or too deep.
    """
    if not body.isascii():
        _check_utf8(body)
    try:
        opened = _DECODER.decode(body)
    except RecursionError:
        raise MalformedBody(_too_deep(max_depth)) from None
    except msgspec.ValidationError:
        raise MalformedBody("The body must be a JSON object.") from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from None
    if depth_exceeds(body, max_depth):
        raise MalformedBody(_too_deep(max_depth))
    return opened


def depth_exceeds(body: bytes, limit: int) -> bool:
    """Whether well-formed JSON nests deeper than `limit`; a handful of passes over the bytes, all of them in C.

    Strings are cut out first (escaped backslashes, then escaped quotes, then every second piece between quotes), so
    brackets in them do not count. Each removal of empty pairs then peels one level off.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    outside = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside).translate(None, _NOT_BRACKETS)
    for _ in range(limit):
        if not brackets:
            return False
        # An innermost pair becomes a mark first and the marks go last, so that one pass takes exactly one level.
        brackets = brackets.replace(b"[]", b".").replace(b"{}", b".").translate(None, b".")
    return bool(brackets)


def _check_utf8(body: bytes) -> None:
    try:
        str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not valid UTF-8 (byte {error.start}).") from None


def _too_deep(max_depth: int) -> str:
    return f"The body nests deeper than {max_depth} levels."
