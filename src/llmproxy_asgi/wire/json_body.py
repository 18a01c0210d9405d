"""A JSON body's outer shell: opened without reading what is inside, and never deeper than allowed.

What is inside stays bytes (`msgspec.Raw`), so that a body that is only passed on keeps every number's spelling and
every key's order. This module refuses; it interprets nothing.
"""

import msgspec

DEFAULT_DEPTH = 64
MAX_MEMBERS = 10_000
"""Of one object. To make a dictionary of a million takes half a second in which nobody else is served."""

_NOT_SIGNS = bytes(set(range(256)) - set(b'[]{}:,"'))
_CROWD = b":," * MAX_MEMBERS
_GLANCE = 512 * 1024
_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


class MalformedBody(ValueError):
    """The body is not a JSON object that we are willing to read; the text says why, for the caller."""


def open_object(body: bytes, *, max_depth: int = DEFAULT_DEPTH) -> dict[str, msgspec.Raw]:
    """The top-level values of a JSON object, unparsed and in their order (the last of a repeated key counts).

    Args:
        body: The whole body.
        max_depth: How many arrays and objects may stand inside each other, the outermost counted.

    Raises:
        MalformedBody: Not UTF-8, not JSON, not an object, too deep, or with too many members in one object.
    """
    if not body.isascii():
        _check_utf8(body)
    signs = body.translate(None, _NOT_SIGNS)
    # A look at the beginning first: it is cheap, and tells most of them.
    if _may_be_crowded(signs) and (_is_crowded(_structure(body[:_GLANCE])) or _is_crowded(_structure(body))):
        raise MalformedBody(f"The body has an object of more than {MAX_MEMBERS} members.")
    try:
        opened = _DECODER.decode(body)
    except RecursionError:
        raise MalformedBody(_too_deep(max_depth)) from None
    except msgspec.ValidationError:
        raise MalformedBody("The body must be a JSON object.") from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from None
    if _deeper(body, signs, max_depth):
        raise MalformedBody(_too_deep(max_depth))
    return opened


def depth_exceeds(body: bytes, limit: int) -> bool:
    """Whether well-formed JSON nests deeper than `limit`; a handful of passes over the bytes, all of them in C."""
    return _deeper(body, body.translate(None, _NOT_SIGNS), limit)


def _deeper(body: bytes, signs: bytes, limit: int) -> bool:
    """Each removal of empty pairs peels one level off."""
    if signs.count(b"[") + signs.count(b"{") <= limit:
        return False
    brackets = (_structure(body) if b"\\" in body else _outside(signs)).translate(None, b":,")
    for _ in range(limit):
        if not brackets:
            return False
        # An innermost pair becomes a mark first and the marks go last, so that one pass takes exactly one level.
        brackets = brackets.replace(b"[]", b".").replace(b"{}", b".").translate(None, b".")
    return bool(brackets)


def _may_be_crowded(signs: bytes) -> bool:
    """Whether it is worth a closer look, which costs much more than this."""
    return len(signs) > 4 * MAX_MEMBERS and all(signs.count(sign) > MAX_MEMBERS for sign in (b":", b","))


def _is_crowded(structure: bytes) -> bool:
    """Whether more than `MAX_MEMBERS` plain members follow each other in one object.

    It is about what reading costs, so members that hold objects of their own may be more: they pay by their length.
    """
    return _CROWD in structure or _CROWD in structure.replace(b"[]", b"").replace(b"{}", b"")


def _structure(body: bytes) -> bytes:
    """Brackets, colons and commas of a document, without those in its strings.

    Strings are cut out by their quotes: escaped backslashes first, then escaped quotes, then every second piece.
    """
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return _outside(body.translate(None, _NOT_SIGNS))


def _outside(signs: bytes) -> bytes:
    """What of these signs stands outside of strings; none of their quotes may be an escaped one."""
    return b"".join(signs.split(b'"')[::2])


def _check_utf8(body: bytes) -> None:
    try:
        str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not valid UTF-8 (byte {error.start}).") from None


def _too_deep(max_depth: int) -> str:
    return f"The body nests deeper than {max_depth} levels."
