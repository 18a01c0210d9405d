"""Compressed bodies, inflated piece by piece and never past what was asked for.

gzip and deflate, and zstd where Python 3.14 or the package `backports.zstd` brings it; one layer deep. What swells
beyond anything that text does is refused.
"""

import zlib
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from typing_extensions import override

_GZIP = 16 + zlib.MAX_WBITS
_UNSUSPECTED = 4 * 1024 * 1024
"""Bytes that may come out of however few."""
_SWELLING = 100
"""How many times its size a larger body may become; JSON of any sense stays far below."""
_ZSTD_WINDOW_LOG = 23
"""Of the largest window, 8 MiB, as RFC 9659 wants it for HTTP; a frame may ask for gigabytes."""


class CompressionError(ValueError):
    """A body is not what its `content-encoding` says, or swells like a bomb."""


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
        # zlib may hold decoded bytes back although it has eaten all of its input.
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
    """Return the names of what can be inflated, for `accept-encoding`."""
    return ("gzip", "deflate") if _zstd() is None else ("gzip", "deflate", "zstd")


def inflater(encoding: str) -> "Inflater | None":
    """Return what inflates a body of this `content-encoding`; None where it is not compressed.

    Raises:
        LookupError: It is an encoding, or are layers of them, that cannot be inflated.
    """
    named = encoding.strip().lower()
    if named in ("", "identity"):
        return None
    if named not in encodings() and named != "x-gzip":
        raise LookupError(named)
    return Inflater(named)


class Inflater:
    """One compressed body: `feed` what came, then `take` until nothing is left.

    Args:
        encoding: One of `encodings()`, or `x-gzip`.
    """

    __slots__ = ("_came", "_encoding", "_gave", "_inflate", "_input", "_more")

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._inflate: _Decompressor | None = None
        self._input = b""
        self._more = False
        self._came = self._gave = 0

    def feed(self, data: bytes) -> None:
        """Add what came over the wire."""
        self._input += data
        self._came += len(data)

    def take(self, limit: int) -> bytes:
        """Return at most `limit` decoded bytes; none when more input is needed.

        Raises:
            CompressionError: The body is not what its header says, or swells like a bomb.
        """
        try:
            while self._input or self._more:
                inflate = self._inflate = self._inflate or self._begin()
                if inflate is None:
                    break
                if piece := self._step(inflate, limit):
                    self._gave += len(piece)
                    if self._gave > max(_UNSUSPECTED, _SWELLING * self._came):
                        raise CompressionError("it expands too much")
                    return piece
        except _errors() as broken:
            raise CompressionError("it cannot be decompressed") from broken
        return b""

    def finish(self) -> None:
        """Say that nothing more will come.

        Raises:
            CompressionError: The body ended in the middle.
        """
        if self._inflate is not None or self._input:
            raise CompressionError("it stops in the middle")

    def _begin(self) -> _Decompressor | None:
        """Return what inflates the next member; None where more input is needed to know."""
        if self._encoding == "zstd":
            return _Zstd(_zstd())
        if self._encoding != "deflate":
            return _Zlib(_GZIP)
        if len(self._input) < 2:
            return None
        # "deflate" means zlib's wrapping (RFC 9110, 8.4.1.2), but some servers send it bare.
        wrapped = self._input[0] & 0x0F == zlib.DEFLATED and int.from_bytes(self._input[:2], "big") % 31 == 0
        return _Zlib(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)

    def _step(self, inflate: _Decompressor, limit: int) -> bytes:
        piece, self._input, self._more = inflate.decompress(self._input, limit)
        if inflate.eof:
            self._inflate = None
            if self._input and self._encoding == "deflate":  # the others may go on with another member
                raise CompressionError("bytes follow its end")
        return piece


class RefusingInflater(Inflater):
    """A body in an encoding, or in layers of them, that cannot be inflated: its first byte is refused."""

    __slots__ = ()

    @override
    def take(self, limit: int) -> bytes:
        if self._input:
            raise CompressionError("its encoding was not requested")
        return b""


@cache
def _zstd() -> Any:
    """Return the module that inflates zstd; None where there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def _errors() -> tuple[type[Exception], ...]:
    zstd = _zstd()
    return (zlib.error,) if zstd is None else (zlib.error, zstd.ZstdError)
