"""How large a picture is, read from its first bytes: PNG, JPEG, GIF and WebP. Nothing is decompressed.

Sources: PNG (W3C, section 11.2.2, IHDR), JPEG (ITU T.81, annex B.2.2, frame headers), GIF89a (section 18, logical
screen), WebP container and bitstreams (RFC 9649), read 2026-11-21.
"""

from base64 import b64decode
from collections.abc import Callable
from typing import TypeAlias

Size: TypeAlias = tuple[int, int]

_READ = 128 * 1024
"""Characters of base64 that are looked at; a JPEG may hold that much of notes before it tells its size."""
_NO_FRAME = frozenset({0xC4, 0xC8, 0xCC})
"""Markers that stand among those of frames and are none."""


def size_of(data: str) -> Size | None:
    """Width and height in pixels.

    Args:
        data: Base64 in the standard alphabet.

    Returns:
        None where it is no picture of a known kind, or one without any extent.
    """
    try:
        head = b64decode(data[:_READ])
    except ValueError:
        return None
    found = next((read(head) for mark, read in _KINDS if head.startswith(mark)), None)
    return found if found and min(found) > 0 else None


def _png(head: bytes) -> Size | None:
    return (_big(head, 16, 4), _big(head, 20, 4)) if len(head) >= 24 else None


def _gif(head: bytes) -> Size | None:
    return (_little(head, 6, 2), _little(head, 8, 2)) if len(head) >= 10 else None


def _jpeg(head: bytes) -> Size | None:
    place = 2
    while place + 9 <= len(head) and head[place] == 0xFF:
        marker = head[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return _big(head, place + 7, 2), _big(head, place + 5, 2)
        if marker == 0xFF:  # a fill byte
            place += 1
        else:
            place += 2 + max(2, _big(head, place + 2, 2))
    return None


def _webp(head: bytes) -> Size | None:
    if len(head) < 30 or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    if kind == b"VP8 ":
        return _little(head, 26, 2) & 0x3FFF, _little(head, 28, 2) & 0x3FFF
    if kind == b"VP8L":
        bits = _little(head, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return _little(head, 24, 3) + 1, _little(head, 27, 3) + 1
    return None


def _big(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _little(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")


_KINDS: tuple[tuple[bytes, Callable[[bytes], Size | None]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"GIF8", _gif),
    (b"RIFF", _webp),
)
