"""Decompress bodies piece by piece, never more than was requested.

gzip and deflate, and zstd if Python 3.14 or the package `backports.zstd` provides it; one layer only. Bodies that
expand more than text can are refused.
"""

import zlib
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from typing_extensions import override

_GZIP = 16 + zlib.MAX_WBITS
_ALWAYS_ALLOWED = 4 * 1024 * 1024
"""Decoded bytes up to which any expansion is allowed."""
_MAX_EXPANSION = 100
"""The greatest expansion factor of larger bodies; meaningful JSON stays far below it."""
_ZSTD_WINDOW_LOG = 23
"""The logarithm of the largest window, 8 MiB, as RFC 9659 requires for HTTP; a frame may ask for gigabytes."""


class CompressionError(ValueError):
    """A body does not match its `content-encoding`, or expands too much."""


class _Decompressor(Protocol):
    """Inflates one member or frame."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, limit: int) -> tuple[bytes, bytes, bool]:
        """Return at most `limit` decoded bytes, the input that is left, and whether more comes without any input."""
        ...


class _Zlib:
    __slots__ = ("_inner",)

    def __init__(self, window_bits: int) -> None:
        self._inner = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    def decompress(self, data: bytes, limit: int) -> tuple[bytes, bytes, bool]:
        inner = self._inner
        piece = inner.decompress(data, limit)
        if inner.eof:
            return piece, inner.unused_data, False
        # zlib may hold decoded bytes back after it has consumed all of its input.
        return piece, inner.unconsumed_tail, len(piece) == limit


class _Zstd:
    __slots__ = ("_inner",)

    def __init__(self, zstd: Any) -> None:
        options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        self._inner = zstd.ZstdDecompressor(options=options)

    @property
    def eof(self) -> bool:
        ended: bool = self._inner.eof
        return ended

    def decompress(self, data: bytes, limit: int) -> tuple[bytes, bytes, bool]:
        inner = self._inner
        piece: bytes = inner.decompress(data, limit)
        return (piece, inner.unused_data, False) if inner.eof else (piece, b"", not inner.needs_input)


def encodings() -> tuple[str, ...]:
    """Return the names of the supported encodings, for `accept-encoding`."""
    return ("gzip", "deflate") if _zstd() is None else ("gzip", "deflate", "zstd")


def inflater(encoding: str) -> "Inflater | None":
    """Return the decompressor for a `content-encoding`; None if the body is not compressed.

    Raises:
        LookupError: The encoding is not supported, or there are several layers.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in encodings() and name != "x-gzip":
        raise LookupError(name)
    return Inflater(name)


class Inflater:
    """One compressed body: `feed` the received bytes, then `take` until nothing is left.

    Args:
        encoding: One of `encodings()`, or `x-gzip`.
    """

    __slots__ = ("_bytes_in", "_bytes_out", "_encoding", "_inflate", "_input", "_more")

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._inflate: _Decompressor | None = None
        self._input = b""
        self._more = False
        self._bytes_in = self._bytes_out = 0

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._input += data
        self._bytes_in += len(data)

    def take(self, limit: int) -> bytes:
        """Return at most `limit` decoded bytes; none when more input is needed.

        Raises:
            CompressionError: The body does not match its `content-encoding`, or expands too much.
        """
        try:
            while self._input or self._more:
                inflate = self._inflate = self._inflate or self._next_decompressor()
                if inflate is None:
                    break
                if piece := self._step(inflate, limit):
                    self._bytes_out += len(piece)
                    if self._bytes_out > max(_ALWAYS_ALLOWED, _MAX_EXPANSION * self._bytes_in):
                        raise CompressionError("it expands too much")
                    return piece
        except _errors() as error:
            raise CompressionError("it cannot be decompressed") from error
        return b""

    def finish(self) -> None:
        """Mark the end of the input.

        Raises:
            CompressionError: The body ended in the middle.
        """
        if self._inflate is not None or self._input:
            raise CompressionError("it stops in the middle")

    def _next_decompressor(self) -> _Decompressor | None:
        """Return the decompressor of the next member; None if it needs more input to decide."""
        if self._encoding == "zstd":
            return _Zstd(_zstd())
        if self._encoding != "deflate":
            return _Zlib(_GZIP)
        if len(self._input) < 2:
            return None
        # "deflate" means the zlib format (RFC 9110, 8.4.1.2), but some servers send raw deflate data.
        wrapped = self._input[0] & 0x0F == zlib.DEFLATED and int.from_bytes(self._input[:2], "big") % 31 == 0
        return _Zlib(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)

    def _step(self, inflate: _Decompressor, limit: int) -> bytes:
        piece, self._input, self._more = inflate.decompress(self._input, limit)
        if inflate.eof:
            self._inflate = None
            if self._input and self._encoding == "deflate":  # the others may continue with another member
                raise CompressionError("bytes follow its end")
        return piece


class RefusingInflater(Inflater):
    """A body in an unsupported encoding, or in several layers: its first byte is refused."""

    __slots__ = ()

    @override
    def take(self, limit: int) -> bytes:
        if self._input:
            raise CompressionError("its encoding was not requested")
        return b""


@cache
def _zstd() -> Any:
    """Return the zstd module; None if there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def _errors() -> tuple[type[Exception], ...]:
    zstd = _zstd()
    return (zlib.error,) if zstd is None else (zlib.error, zstd.ZstdError)
