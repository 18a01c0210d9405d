r"""Replace lone UTF-16 surrogates in JSON escapes (``"\ud83d"``).

Servers that split a text by UTF-16 units put one half of a character at the end of one string and the other half at the
beginning of the next. Strict decoders refuse such JSON, and Python cannot encode strings with lone surrogates.

Source: RFC 8259, section 7 (escapes) and section 8.2 (unpaired surrogates).
"""

import re

REPLACEMENT = "\ufffd"
HIGH = "\U0010f000-\U0010f3ff"
LOW = "\U0010f400-\U0010f7ff"
"""The characters that replace high and low halves in marked JSON, as ranges of a regular expression.

They are private-use characters at the end of the last plane. Only JSON with a lone half is marked.
"""

# Every escape is consumed whole, so that the second backslash of an escaped backslash begins nothing.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_MAY_HOLD = re.compile(rb"\\u[dD][89a-fA-F]")
_BASE = 0x10F000 - 0xD800
_FIRST_LOW = 0xDC00
_QUOTE = ord('"')


def mark_halves(data: bytes) -> bytes | None:
    """Replace halves that may belong to a neighbouring string by marks; return None if there is no lone half.

    Halves at the end of a string (high) or at its beginning (low) become marks; all others become U+FFFD.
    """
    return _replaced(data, mark=True)


def replace_halves(data: bytes) -> bytes | None:
    """Replace every lone half by U+FFFD; return None if there is none."""
    return _replaced(data, mark=False)


def _replaced(data: bytes, *, mark: bool) -> bytes | None:
    if _MAY_HOLD.search(data) is None:
        return None
    found = False

    def replace(escape: re.Match[bytes]) -> bytes:
        nonlocal found
        digits = escape[1]
        if digits is None:
            return escape[0]
        found = True
        half = int(digits, 16)
        begin, end = escape.span()
        border = data[begin - 1] == _QUOTE if half >= _FIRST_LOW else data[end : end + 1] == b'"'
        return (chr(_BASE + half) if mark and border else REPLACEMENT).encode()

    replaced = _ESCAPE.sub(replace, data)
    return replaced if found else None


def joined(high: str, low: str) -> str:
    """Return the character whose halves were replaced by these two marks."""
    return chr(0x10000 + ((ord(high) - 0x10F000) << 10) + (ord(low) - 0x10F400))
