"""Bodies that come compressed although nobody asked: inflated piece by piece, never past what was asked for.

Only gzip and deflate, one layer deep. Everything else, nested layers included, is refused, as is what swells beyond
anything that text does.
"""

import zlib

from typing_extensions import override

from llmproxy_asgi.errors import UpstreamProtocolError

_GZIP = 16 + zlib.MAX_WBITS
_UNSUSPECTED = 4 * 1024 * 1024
"""Bytes that may come out of however few."""
_SWELLING = 100
"""How many times its size a larger body may become; JSON of any sense stays far below."""


def decoder(encoding: str | None) -> "Inflater | None":
    """What reads a body of this `content-encoding`; None where it needs no reading."""
    named = encoding.strip().lower() if encoding else ""
    match named:
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return Inflater(gzip=True)
        case "deflate":
            return Inflater(gzip=False)
        case _:
            return Refuser(gzip=False)


class Inflater:
    """One compressed body: `feed` what came, then `take` until nothing is left."""

    __slots__ = ("_came", "_gave", "_gzip", "_inflate", "_input", "_more")

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._inflate: zlib._Decompress | None = None
        self._input = b""
        self._more = False
        self._came = self._gave = 0

    def feed(self, data: bytes) -> None:
        """Add what came over the wire."""
        self._input += data
        self._came += len(data)

    def take(self, limit: int) -> bytes:
        """At most `limit` decoded bytes; none when more input is needed.

        Raises:
            UpstreamProtocolError: the body is not what its header says, or swells like a bomb.
        """
        try:
            while self._input or self._more:
                if self._inflate is None and not self._begin():
                    break
                if piece := self._step(limit):
                    self._gave += len(piece)
                    if self._gave > max(_UNSUSPECTED, _SWELLING * self._came):
                        raise UpstreamProtocolError("The upstream's compressed answer swells beyond all reason.")
                    return piece
        except zlib.error as broken:
            raise UpstreamProtocolError(
                "The upstream's answer is compressed in a way that cannot be undone."
            ) from broken
        return b""

    def finish(self) -> None:
        """Say that nothing more will come.

        Raises:
            UpstreamProtocolError: the body ended in the middle.
        """
        if self._inflate is not None or self._input:
            raise UpstreamProtocolError("The upstream's compressed answer stops in the middle.")

    def _begin(self) -> bool:
        if self._gzip:
            self._inflate = zlib.decompressobj(_GZIP)
            return True
        if len(self._input) < 2:
            return False
        # "deflate" means zlib's wrapping (RFC 9110, 8.4.1.2), but some servers send it bare.
        wrapped = self._input[0] & 0x0F == zlib.DEFLATED and int.from_bytes(self._input[:2], "big") % 31 == 0
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        return True

    def _step(self, limit: int) -> bytes:
        inflate = self._inflate
        assert inflate is not None
        piece = inflate.decompress(self._input, limit)
        if not inflate.eof:
            self._input = inflate.unconsumed_tail
            # zlib may hold decoded bytes back although it has eaten all of its input.
            self._more = len(piece) == limit
            return piece
        self._input, self._inflate, self._more = inflate.unused_data, None, False
        if self._input and not self._gzip:  # gzip may go on with another member, deflate may not
            raise zlib.error("bytes after the end")
        return piece


class Refuser(Inflater):
    """A body in an encoding, or in layers of them, that we don't read; its status and headers stay readable."""

    __slots__ = ()

    @override
    def take(self, limit: int) -> bytes:
        """Refuse the first byte."""
        if self._input:
            raise UpstreamProtocolError("The upstream's answer is encoded in a way that was not asked for.")
        return super().take(limit)
