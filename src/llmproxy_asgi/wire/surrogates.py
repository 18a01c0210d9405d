r"""Replace lone UTF-16 surrogates in JSON escapes (``"\ud83d"``).

Servers that split a text by UTF-16 units put one half of a character at the end of one string and the other half at the
beginning of the next. Strict decoders refuse such JSON, and Python cannot encode strings with lone surrogates.

Source: RFC 8259, section 7 (escapes) and section 8.2 (unpaired surrogates).
"""

import re
from collections.abc import Iterator

REPLACEMENT = "\ufffd"
HIGH = "\U0010f000-\U0010f3ff"
LOW = "\U0010f400-\U0010f7ff"
"""The characters that replace high and low halves in marked JSON, as ranges of a regular expression.

They are private-use characters at the end of the last plane. Only JSON with a lone half is marked.
"""

_HIGH_ESCAPE = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW_ESCAPE = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# These are for pieces without escaped backslashes, so that every backslash begins an escape.
_LONE = re.compile(rb"%b(?!%b)|(?<!%b)%b" % (_HIGH_ESCAPE, _LOW_ESCAPE, _HIGH_ESCAPE, _LOW_ESCAPE))
_AT_BORDER = re.compile(rb'\\u([dD][89abAB][0-9a-fA-F]{2})(?=")|(?<=")\\u([dD][c-fC-F][0-9a-fA-F]{2})')
_LOW_HALF = re.compile(_LOW_ESCAPE)
_MAY_HOLD = re.compile(rb"\\u[dD][89a-fA-F]")
_BASE = 0x10F000 - 0xD800
_BACKSLASH = b"\x00"
"""Replaces escaped backslashes meanwhile; JSON with this character is invalid anyway."""
_PIECE = 2**18
"""Bytes per step, so that a worker thread releases the interpreter lock in between."""


def mark_halves(data: bytes) -> bytes | None:
    """Replace halves that may belong to a neighbouring string by marks; return None if there is no lone half.

    Halves at the end of a string (high) or at its beginning (low) become marks; all others become U+FFFD.
    """
    return _replaced(data, mark=True)


def replace_halves(data: bytes) -> bytes | None:
    """Replace every lone half by U+FFFD; return None if there is none."""
    return _replaced(data, mark=False)


def _replaced(data: bytes, *, mark: bool) -> bytes | None:
    if _MAY_HOLD.search(data) is None or _BACKSLASH in data:
        return None
    replaced: list[bytes] = []
    found = 0
    for piece in _pieces(data):
        text = piece.replace(rb"\\", _BACKSLASH)
        if mark:
            text, count = _AT_BORDER.subn(_mark, text)
            found += count
        text, count = _LONE.subn(REPLACEMENT.encode(), text)
        found += count
        replaced.append(text.replace(_BACKSLASH, rb"\\"))
    return b"".join(replaced) if found else None


def _mark(half: re.Match[bytes]) -> bytes:
    return chr(_BASE + int(half[1] or half[2], 16)).encode()


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield the text in pieces that end neither within an escape nor before a quote or a low half."""
    start = 0
    while start < len(data):
        end = start + _PIECE
        last = data.rfind(b"\\", end - len(r"\uDC0"), end)
        if last >= 0:
            run = data[start : last + 1]
            end = last + 1 - (len(run) - len(run.rstrip(b"\\"))) % 2
        if data[end : end + 1] == b'"':
            end += 1
        if _LOW_HALF.match(data, end):
            end += len(r"\uDC00")
        yield data[start:end]
        start = end


def joined(high: str, low: str) -> str:
    """Return the character whose halves were replaced by these two marks."""
    return chr(0x10000 + ((ord(high) - 0x10F000) << 10) + (ord(low) - 0x10F400))
