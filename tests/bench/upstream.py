"""A Chat Completions upstream that costs as little as Python can: an asyncio protocol that answers by hand.

It looks only at the model's name and at whether usage was asked for; it is no example of a server. Run as
`python -m bench.upstream --fd N`, with a listening socket as file descriptor N.
"""

import argparse
import asyncio
import functools
import gc
import re
import socket
import time
from typing import cast

import uvloop
from typing_extensions import override

from bench import processes, traffic

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_GROUP = 8
"""Chunks written in one turn of the loop by a stream at full speed."""

_HEADERS = b"server: bench\r\nx-request-id: req_3fb0c1d2e4a59687\r\nopenai-processing-ms: 12\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n" + _HEADERS + b"\r\n"
)
_REFUSAL = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def _framed(*frames: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(frame), frame) for frame in frames)


def _plain() -> bytes:
    body = traffic.plain_answer()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
    return head % (_HEADERS, len(body)) + body


_PLAIN = _plain()
_END = b"0\r\n\r\n"


def _closing(chunks: int, *, usage: bool) -> bytes:
    finish, done = traffic.LAST_FRAMES
    frames = [finish, traffic.usage_frame(chunks), done] if usage else [finish, done]
    return _framed(*frames) + _END


@functools.cache
def _groups(chunks: int) -> tuple[bytes, ...]:
    return tuple(
        _framed(*(traffic.text_frame(index) for index in range(first, min(first + _GROUP, chunks))))
        for first in range(0, chunks, _GROUP)
    )


@functools.cache
def answer(kind: str, chunks: int, *, usage: bool) -> tuple[bytes, ...]:
    """An answer as it is sent: whole, or the head, one piece for each chunk and the end of a stream."""
    if kind == "plain":
        return (_PLAIN,)
    texts = (_framed(traffic.text_frame(index)) for index in range(chunks))
    return _STREAM_HEAD + _framed(traffic.FIRST_FRAME), *texts, _closing(chunks, usage=usage)


class Upstream(asyncio.Protocol):
    """One connection, kept alive, one request after another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._write_time = 0.0
        self._transport: asyncio.Transport

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, head_end)
        if length is None:
            self._transport.write(_REFUSAL)
            self._transport.close()
            return
        end = head_end + 4 + int(length[1])
        if len(self._buffer) < end:
            return
        body, self._buffer = self._buffer[head_end + 4 : end], self._buffer[end:]
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        model = traffic.MODEL.search(body)
        if model is None:
            self._transport.write(_REFUSAL)
            self._transport.close()
            return
        kind, chunks = model[1], int(model[2])
        if kind == b"plain":
            self._transport.write(_PLAIN)
            return
        closing = _closing(chunks, usage=b'"include_usage"' in body)
        self._transport.write(_STREAM_HEAD + _framed(traffic.FIRST_FRAME))
        if kind == b"full":
            self._write_group(_groups(chunks), 0, closing)
        elif kind == b"paced":
            self._write_time = self._loop.time()
            self._write_paced(0, chunks, closing)
        else:
            self._transport.write(_framed(traffic.text_frame(0)))

    def _write_group(self, groups: tuple[bytes, ...], index: int, closing: bytes) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(groups[index])
        if index + 1 < len(groups):
            self._loop.call_soon(self._write_group, groups, index + 1, closing)
        else:
            self._transport.write(closing)

    def _write_paced(self, index: int, chunks: int, closing: bytes) -> None:
        if self._transport.is_closing():
            return
        if index == chunks:
            self._transport.write(closing)
            return
        self._transport.write(_framed(traffic.text_frame(index, time.monotonic_ns())))
        self._write_time += traffic.PACE
        self._loop.call_at(self._write_time, self._write_paced, index + 1, chunks, closing)


async def _serve(listener: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, sock=listener, backlog=2048)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until the parent ends or closes our standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--core", type=int, required=True)
    options = parser.parse_args()
    processes.settle_in(options.core)
    gc.disable()
    uvloop.run(_serve(socket.socket(fileno=options.fd)))


if __name__ == "__main__":
    main()
