"""Answers of upstreams without a socket."""

import asyncio
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from llmproxy_asgi.transport import UpstreamResponse


class FakeAnswer(UpstreamResponse):
    """An answer of these pieces; an error among them is raised in its turn, and `...` never comes.

    Args:
        pieces: What is read, in order.
        status: Its status.
        headers: Its headers, where a name is repeated or a value is no text.
        encoding: How the pieces are compressed.
        named: Further headers; underscores become dashes.

    Attributes:
        pieces: What was not read yet.
        closed: How often it was closed.
        awaited: Set when a reader waits for what never comes.
    """

    def __init__(
        self,
        *pieces: Any,
        status: int = 200,
        headers: Sequence[tuple[bytes, bytes]] = (),
        encoding: str | None = None,
        **named: str,
    ) -> None:
        super().__init__(status, encoding)
        self.pieces = list(pieces)
        self._raw_headers = [
            *headers,
            *((name.replace("_", "-").encode(), value.encode()) for name, value in named.items()),
        ]
        self.closed = 0
        self.awaited = asyncio.Event()

    @property
    @override
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self._raw_headers

    @override
    async def raw(self) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if piece is ...:
            self.awaited.set()
            await asyncio.Event().wait()
        if isinstance(piece, Exception):
            raise piece
        return bytes(piece)

    @override
    async def aclose(self) -> None:
        self.closed += 1
