"""A server on a real socket whose every byte a test writes, and the ways a pool can reach it."""

import asyncio
import contextlib
import functools
import importlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from llmproxy_asgi.transport import Address, AiohttpTransport, Pool, UpstreamResponse, address

HANG_GUARD = 20.0
"""Seconds; far above what anything here takes."""

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

WAYS = ("aiohttp", "httpx2", "injected client", "injected transport", "legacy client", "legacy transport", "adapter")


class Peer:
    """One accepted connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.closed = asyncio.Event()

    async def request(self) -> tuple[bytes, bytes]:
        """The head and the body of the next request.

        Raises:
            asyncio.IncompleteReadError: the client has left.
        """
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return head, await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client has closed its end."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65536):
                pass
        self.closed.set()

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class Server:
    """What a scripted server saw."""

    url: Address
    port: int
    peers: list[Peer] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serve(
    script: Script, *, path: str = "/v1/chat", host: str = "127.0.0.1", **options: Any
) -> AsyncIterator[Server]:
    """Run `script` for each connection; a script that raises fails the test."""
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        found.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(peer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or the test is over
        except BaseException as failed:  # noqa: BLE001 - handed to the test below
            failures.append(failed)
        finally:
            writer.close()
            peer.closed.set()
            tasks.discard(task)

    server = await asyncio.start_server(accept, host, 0, **options)
    port = server.sockets[0].getsockname()[1]
    scheme = "https" if "ssl" in options else "http"
    name = "localhost" if "ssl" in options else f"[{host}]" if ":" in host else host
    found = Server(url=address(f"{scheme}://{name}:{port}{path}"), port=port)
    try:
        async with asyncio.timeout(HANG_GUARD):
            yield found
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    for failed in failures:
        raise failed


def replying(*answers: bytes) -> Script:
    """A server that answers each request with the next of `answers`, the last one again and again."""

    async def script(peer: Peer) -> None:
        count = 0
        while True:
            await peer.request()
            await peer.send(answers[min(count, len(answers) - 1)])
            count += 1

    return script


# Read once, because reading it takes longer than a call.
_usual_trust = functools.cache(ssl.create_default_context)


@contextlib.asynccontextmanager
async def pool_by(way: str, **options: Any) -> AsyncIterator[Pool]:
    """A pool that reaches its upstreams by one of `WAYS`; closed afterwards, as is what stands behind it."""
    # By name: the linter forbids the old package, as it should everywhere else.
    legacy: Any = importlib.import_module("httpx")
    async with contextlib.AsyncExitStack() as stack:
        if "client" in way or "transport" in way:
            options = {"verify": _usual_trust(), **options}
        match way:
            case "aiohttp":
                pool = Pool(fast=True, **options)
            case "httpx2":
                pool = Pool(fast=False, **options)
            case "injected client":
                pool = Pool(transport=await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, **options)))
            case "injected transport":
                transport = httpx2.AsyncHTTPTransport(trust_env=False, **options)
                pool = Pool(transport=await stack.enter_async_context(transport))
            case "legacy client":
                pool = Pool(transport=await stack.enter_async_context(legacy.AsyncClient(trust_env=False, **options)))
            case "legacy transport":
                old = legacy.AsyncHTTPTransport(trust_env=False, **options)
                pool = Pool(transport=await stack.enter_async_context(old))
            case _:
                pool = Pool(transport=await stack.enter_async_context(AiohttpTransport(**options)))
        try:
            yield pool
        finally:
            await pool.aclose()


async def post(
    pool: Pool,
    url: Address,
    body: bytes = b"{}",
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    connect: float = 10.0,
) -> UpstreamResponse:
    return await pool.open("POST", url, headers, body, connect=connect)


async def fetch(pool: Pool, url: Address, body: bytes = b"{}", *, limit: int = 1 << 20) -> tuple[int, bytes]:
    """One whole call: status and body."""
    async with await post(pool, url, body) as answer:
        return answer.status, await answer.read(limit)
