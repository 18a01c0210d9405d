"""Read an image's size from its first bytes: PNG, JPEG, GIF and WebP. Nothing is decompressed.

Sources: PNG (W3C, section 11.2.2, IHDR), JPEG (ITU T.81, annex B.2.2, frame headers), GIF89a (section 18, logical
screen), WebP container and bitstreams (RFC 9649), read 2026-11-21.
"""

from base64 import b64decode
from collections.abc import Callable
from typing import TypeAlias

Size: TypeAlias = tuple[int, int]

_READ = 128 * 1024
"""Characters of base64 that are decoded; a JPEG may hold that much metadata before its frame header."""
_NO_FRAME = frozenset({0xC4, 0xC8, 0xCC})
"""Markers within the range of frame headers that are not frame headers."""


def image_size(data: str) -> Size | None:
    """Return width and height in pixels.

    Args:
        data: Base64 in the standard alphabet.

    Returns:
        None for anything but an image of a known format with a width and a height above 0.
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
    offset = 2
    while offset + 9 <= len(head) and head[offset] == 0xFF:
        marker = head[offset + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return _big(head, offset + 7, 2), _big(head, offset + 5, 2)
        if marker == 0xFF:  # a fill byte
            offset += 1
        else:
            offset += 2 + max(2, _big(head, offset + 2, 2))
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
