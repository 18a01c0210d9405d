"""Bounded inflating, cut anywhere."""

import contextlib
import gzip
import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.wire.compression import CompressionError, Inflater, RefusingInflater, encodings, inflater

zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def bare(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


def members(data: bytes) -> bytes:
    return gzip.compress(data[::2]) + gzip.compress(data[1::2])


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "members": ("gzip", members),
    "deflate": ("deflate", zlib.compress),
    "bare": ("deflate", bare),
    "zstd": ("zstd", zstd.compress),
}


def inflate(reader: Inflater, pieces: list[bytes], limit: int) -> list[bytes]:
    out = []
    for piece in pieces:
        reader.feed(piece)
        while got := reader.take(limit):
            out.append(got)
    reader.finish()
    return out


def cut(data: bytes, at: int) -> list[bytes]:
    return [data[:at], data[at:]]


@pytest.mark.parametrize("named", ENCODINGS)
def test_cut_at_every_byte(named: str) -> None:
    """Wherever the wire cuts a body in two, it decodes to the same bytes."""
    text = b"a few words, a few words more" * 3
    encoding, encode = ENCODINGS[named]
    expected = text[::2] + text[1::2] if named == "members" else text
    wire = encode(text)
    for at in range(len(wire) + 1):
        reader = inflater(encoding)
        assert reader is not None
        assert b"".join(inflate(reader, cut(wire, at), 1 << 16)) == expected


@pytest.mark.parametrize("named", ENCODINGS)
def test_byte_by_byte(named: str) -> None:
    """A body that drips in decodes to the same bytes."""
    encoding, encode = ENCODINGS[named]
    reader = inflater(encoding)
    assert reader is not None
    text = b"drip" * 50
    expected = text[::2] + text[1::2] if named == "members" else text
    assert b"".join(inflate(reader, [bytes([byte]) for byte in encode(text)], 1 << 16)) == expected


@given(
    text=st.binary(max_size=4000), limit=st.integers(1, 300), named=st.sampled_from(["gzip", "deflate", "bare", "zstd"])
)
def test_never_more_than_asked_for(text: bytes, limit: int, named: str) -> None:
    """Whatever the limit, no piece is larger, and nothing is lost."""
    encoding, encode = ENCODINGS[named]
    reader = inflater(encoding)
    assert reader is not None
    pieces = inflate(reader, [encode(text)], limit)
    assert b"".join(pieces) == text
    assert max(map(len, pieces), default=0) <= limit


@pytest.mark.parametrize("named", ENCODINGS)
def test_truncated_anywhere(named: str) -> None:
    """A body cut short is never taken for a whole one, save where one of its members ends."""
    encoding, encode = ENCODINGS[named]
    wire = encode(b"some text" * 20)
    ends = {0, len(gzip.compress((b"some text" * 20)[::2]))} if named == "members" else {0}
    for at in set(range(len(wire))) - ends:
        reader = inflater(encoding)
        assert reader is not None
        with pytest.raises(CompressionError):
            inflate(reader, [wire[:at]], 1 << 16)


@given(st.sampled_from(["gzip", "deflate", "zstd"]), st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_is_read_or_refused(encoding: str, pieces: list[bytes]) -> None:
    """No bytes lead to anything but data or the one error."""
    reader = inflater(encoding)
    assert reader is not None
    with contextlib.suppress(CompressionError):
        assert all(inflate(reader, pieces, 100))


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_nothing_to_decode(encoding: str) -> None:
    """Without an encoding there is no decoder in the way."""
    assert inflater(encoding) is None


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "gzip,identity", "compress", "gzip;q=1", "x" * 5000])
def test_other_encodings_are_unknown(encoding: str) -> None:
    """Layers of known ones included."""
    with pytest.raises(LookupError):
        inflater(encoding)
    reader = RefusingInflater(encoding)
    assert inflate(reader, [b""], 100) == []
    with pytest.raises(CompressionError):
        inflate(reader, [b"\x1f"], 100)


def test_a_zstd_frame_may_not_ask_for_a_large_window() -> None:
    """A frame of a few bytes could otherwise take as much memory as it likes."""
    # RFC 8878, 3.1.1: magic number, a header with a window of 2^27 bytes, one raw block of one byte.
    wide = b"\x28\xb5\x2f\xfd" + bytes([0, (27 - 10) << 3]) + b"\x09\x00\x00" + b"x"
    assert zstd.decompress(wide) == b"x"
    reader = inflater("zstd")
    assert reader is not None
    with pytest.raises(CompressionError):
        inflate(reader, [wide], 100)


def test_the_encodings_that_can_be_inflated_are_named() -> None:
    """For `accept-encoding`, in the order of preference."""
    assert encodings() == ("gzip", "deflate", "zstd")
