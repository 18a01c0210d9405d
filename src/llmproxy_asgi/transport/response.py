"""An upstream's response: status, headers, and a body that is read in pieces.

The caller of `Pool.open` owns the response and closes it. Until the body was read completely, `aclose` closes the
socket: so a client's disconnect is passed on to the upstream.
"""

import re
from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.wire.compression import CompressionError, Inflater, RefusingInflater, inflater

CHUNK = 64 * 1024
"""Bytes of the longest piece of a body."""

# Characters that must not be passed on in a header; a tab may.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class UpstreamResponse(ABC):
    """An upstream's response to one request, after its headers and before the end of its body.

    It must not be read by two tasks at once. Cancelling the task that reads closes the socket.
    """

    __slots__ = ("_decoder", "_headers", "_surplus", "status")

    def __init__(self, status: int, content_encoding: str | None) -> None:
        self.status = status
        self._headers: dict[str, str] | None = None
        self._decoder = _inflater(content_encoding) if content_encoding else None
        self._surplus: memoryview | None = None

    @property
    @abstractmethod
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Names and values as received."""

    @abstractmethod
    async def raw(self) -> bytes:
        """Return the next piece of the body as received, of any size; empty at its end.

        Raises:
            UpstreamUnreachable: The connection broke, or closed before the body's end.
            UpstreamProtocolError: The body violates HTTP.
            MisuseError: The response was closed before its body's end.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Return the connection to the pool if the body was read completely; otherwise abort it. Idempotent."""

    @property
    def is_read(self) -> bool:
        """Whether the body is known to be read completely: the next `chunk` would be empty."""
        return False

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers by lower-case name; repeated ones joined by a comma, those with control characters left out."""
        if self._headers is None:
            headers: dict[str, str] = {}
            for raw_name, raw_value in self.raw_headers:
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                if _CONTROLS.search(value) is None:
                    headers[name] = f"{headers[name]}, {value}" if name in headers else value
            self._headers = headers
        return self._headers

    def header(self, name: str) -> str | None:
        """Return a header by its lower-case name; None if it is missing."""
        return self.headers.get(name)

    async def chunk(self) -> bytes:
        """Return the next piece of the body, decompressed, at most `CHUNK` bytes; empty at its end.

        Raises:
            UpstreamUnreachable: The connection broke, or closed before the body's end.
            UpstreamProtocolError: The body violates HTTP or cannot be decompressed.
            MisuseError: The response was closed before its body's end.
        """
        if self._decoder is not None:
            return await self._decoded()
        if self._surplus is not None:
            return self._slice()
        piece = await self.raw()
        if len(piece) <= CHUNK:
            return piece
        self._surplus = memoryview(piece)
        return self._slice()

    def _slice(self) -> bytes:
        surplus = self._surplus
        assert surplus is not None
        self._surplus = surplus[CHUNK:] if len(surplus) > CHUNK else None
        return bytes(surplus[:CHUNK])

    async def _decoded(self) -> bytes:
        reader = self._decoder
        assert reader is not None
        try:
            while not (piece := reader.take(CHUNK)):
                data = await self.raw()
                if not data:
                    reader.finish()
                    return b""
                reader.feed(data)
        except CompressionError as error:
            await self.aclose()
            raise UpstreamProtocolError(f"The upstream's compressed answer cannot be read: {error}.") from error
        except UpstreamProtocolError:
            await self.aclose()
            raise
        return piece

    async def read(self, limit: int) -> bytes:
        """Return the complete body, decompressed, at most `limit` bytes, without a byte order mark.

        Raises:
            UpstreamProtocolError: It is longer than `limit`; also all errors of `chunk`.
        """
        pieces: list[bytes] = []
        size = 0
        while piece := await self.chunk():
            size += len(piece)
            if size > limit:
                await self.aclose()
                raise UpstreamProtocolError("The upstream's response is larger than this gateway accepts.")
            pieces.append(piece)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return body.removeprefix(BOM_UTF8)  # not part of JSON (RFC 8259, 8.1)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if piece := await self.chunk():
            return piece
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _inflater(content_encoding: str) -> Inflater | None:
    try:
        return inflater(content_encoding)
    except LookupError:  # status and headers stay available
        return RefusingInflater(content_encoding)
