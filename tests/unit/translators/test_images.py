"""Sizes of pictures, read from the first bytes of each format."""

import base64
import struct

import pytest

from llmproxy_asgi.translators.images import image_size

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)
GIF = b"GIF89a" + struct.pack("<HH", 640, 480)


def jpeg(*before: bytes, marker: int = 0xC0) -> bytes:
    frame = struct.pack(">BBHBHH", 0xFF, marker, 17, 8, 480, 640)
    return b"\xff\xd8" + b"".join(before) + frame + bytes(20)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def webp(kind: bytes, content: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + b"WEBP" + kind + struct.pack("<I", len(content)) + content


KINDS = {
    "png": PNG,
    "gif": GIF,
    "jpeg": jpeg(),
    "jpeg-progressive": jpeg(segment(0xE0, b"JFIF"), segment(0xC4, b"\xc0" * 30), marker=0xC2),
    "jpeg-notes-and-fill": jpeg(segment(0xE1, bytes(60_000)), b"\xff\xff"[:1]),
    "webp-lossy": webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640 | 0x4000, 480)),
    "webp-lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14) + bytes(8)),
    "webp-extended": webp(b"VP8X", bytes(4) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")),
}


@pytest.mark.parametrize("content", KINDS.values(), ids=KINDS)
def test_each_format_tells_its_size(content: bytes) -> None:
    """Width and height, in this order."""
    assert image_size(base64.b64encode(content).decode()) == (640, 480)


@pytest.mark.parametrize("content", KINDS.values(), ids=KINDS)
def test_a_picture_cut_anywhere_has_its_size_or_none(content: bytes) -> None:
    """A half header is no size at all, and no exception."""
    for end in range(min(len(content), 200)):
        assert image_size(base64.b64encode(content[:end]).decode()) in {None, (640, 480)}


@pytest.mark.parametrize(
    "data",
    ["", "A", "no base64!", "é", base64.b64encode(b"BM" + bytes(60)).decode(), base64.b64encode(bytes(100)).decode()],
    ids=["nothing", "a-letter", "words", "accent", "other-format", "zeros"],
)
def test_what_is_no_picture_has_no_size(data: str) -> None:
    """Nothing is guessed."""
    assert image_size(data) is None


def test_a_picture_without_extent_has_no_size() -> None:
    """A width of nothing would be divided by."""
    flat = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 0, 480)
    assert image_size(base64.b64encode(flat).decode()) is None


def test_segments_that_lie_about_their_length_end() -> None:
    """A length of nothing does not hold the reader up."""
    lying = b"\xff\xd8" + struct.pack(">BBH", 0xFF, 0xE0, 0) * 1000
    assert image_size(base64.b64encode(lying).decode()) is None
