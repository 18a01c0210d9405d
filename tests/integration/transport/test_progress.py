"""Whichever way a pool takes: the connect clock ends with the connection, and the request's end starts the next one."""

import asyncio
import contextlib
import importlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmproxy_asgi.errors import UpstreamConnectTimeout, UpstreamTooSlow
from llmproxy_asgi.execution.attempt_timer import AttemptTimer
from llmproxy_asgi.settings import Timeouts
from llmproxy_asgi.transport import Address, AiohttpTransport, Limits, Pool, address
from llmproxy_asgi.transport.proxies import Proxies, read_proxy
from support.transport import OK, Peer, pool_by, replying, serve
from support.transport import WAYS as ALL_WAYS
from support.transport.certificates import certify

# The other ways stand on the same two; the adapter takes httpx2's own clocks.
WAYS = ("aiohttp", "httpx2", "injected client", "legacy transport")

pytestmark = [pytest.mark.anyio]

LONG = 300.0
LARGE = b"x" * (24 * 1024 * 1024)
"""More than the buffers of two sockets hold."""


class Noted:
    """A `RequestProgress` that notes what it hears."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.all_sent = asyncio.Event()

    def connecting(self) -> None:
        self.calls.append("connecting")

    def sending(self) -> None:
        if self.calls[-1:] != ["sending"]:
            self.calls.append("sending")

    def sent(self) -> None:
        self.calls.append("sent")
        self.all_sent.set()


async def ask(
    pool: Pool, url: Address, progress: Noted | AttemptTimer, body: bytes = b"{}", connect: float = LONG
) -> bytes:
    async with await pool.open("POST", url, (), body, connect=connect, progress=progress) as answer:
        return await answer.read(100)


async def too_slow(pool: Pool, url: Address, timeouts: Timeouts, body: bytes = b"{}") -> str:
    """The code of the clock that ends a call."""
    timer = AttemptTimer(timeouts)
    try:
        timer.start_wait()
        await ask(pool, url, timer, body, timeouts.connect)
    except asyncio.CancelledError:
        error = timer.timeout_error()
        assert isinstance(error, UpstreamTooSlow)
        assert error.code is not None
        return error.code
    finally:
        timer.stop()
    raise AssertionError("it was answered")


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


@contextlib.asynccontextmanager
async def never_accepting() -> AsyncIterator[Address]:
    """A server whose accept queue is full, so that no further connection is made."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        await asyncio.sleep(0.05)
        yield address(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_is_sent_once(way: str) -> None:
    """A new connection or a kept one: each step is reported once, and nothing else."""
    async with serve(replying(OK)) as server, pool_by(way) as pool:
        for _ in range(3):
            noted = Noted()
            assert await ask(pool, server.url, noted) == b"ok"
            assert noted.calls == ["sent"]
        assert len(server.peers) == 1


@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("way", WAYS)
async def test_the_first_byte_clock_starts_with_the_request(way: str, kept: bool) -> None:
    """A silent upstream is given up after `first_byte`, however long `connect` is; on a kept connection, too."""
    loop = asyncio.get_running_loop()

    async def script(peer: Peer) -> None:
        if kept:
            await peer.request()
            await peer.send(OK)
        await silent(peer)

    async with serve(script) as server, pool_by(way) as pool:
        if kept:
            await ask(pool, server.url, Noted())
        began = loop.time()
        code = await too_slow(pool, server.url, Timeouts(connect=LONG, first_byte=0.2))
        assert code == "upstream_first_byte_timeout"
        assert 0.2 <= loop.time() - began < LONG / 10
        assert len(server.peers) == 1


async def test_the_adapters_read_timeout_starts_with_the_request() -> None:
    """Its client's connect timeout adds nothing to it."""
    loop = asyncio.get_running_loop()
    async with serve(silent) as server, AiohttpTransport() as transport:
        timeout = httpx2.Timeout(LONG, read=0.2)
        async with httpx2.AsyncClient(transport=transport, timeout=timeout) as client:
            began = loop.time()
            with pytest.raises(httpx2.ReadTimeout):
                await client.post(str(server.url))
            assert 0.2 <= loop.time() - began < LONG / 10


@pytest.mark.parametrize("way", ["aiohttp", "httpx2"])
async def test_a_dead_kept_connection_is_a_new_connection(way: str) -> None:
    """The connection that replaces it is made before the request is sent again."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if len(server.peers) == 1:
            await peer.request()  # closes instead of answering
            return
        await peer.gone()

    async with serve(script) as server, pool_by(way) as pool:
        await ask(pool, server.url, Noted())
        noted = Noted()
        assert await ask(pool, server.url, noted) == b"ok"
        assert noted.calls == ["sent", "connecting", "sent"]


@pytest.mark.fault(4)
@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_handshake_without_an_answer_is_the_connect_clocks(way: str, tmp_path: Path) -> None:
    """TCP is no connection where TLS was asked for."""
    _, trusting = certify(tmp_path, "localhost")
    noted = Noted()
    async with serve(Peer.gone) as server, pool_by(way, verify=trusting) as pool:
        with pytest.raises(UpstreamConnectTimeout):
            await ask(pool, address(f"https://localhost:{server.port}/v1"), noted, connect=0.1)
    assert noted.calls == []


@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_full_accept_queue_is_the_connect_clocks(way: str) -> None:
    """Report no connection where none is accepted."""
    noted = Noted()
    async with never_accepting() as url, pool_by(way) as pool:
        with pytest.raises(UpstreamConnectTimeout):
            await ask(pool, url, noted, connect=0.1)
    assert noted.calls == []


@pytest.mark.parametrize("way", ALL_WAYS)
async def test_a_full_pool_is_the_connect_clocks(way: str) -> None:
    """Waiting for a place is waiting for a connection, and the error says what was waited for."""
    noted = Noted()
    limits: Any = Limits(max_connections=1)
    own = way in WAYS[:2]
    if "injected" in way or "legacy" in way:
        package: Any = importlib.import_module("httpx" if "legacy" in way else "httpx2")
        limits = package.Limits(max_connections=1)
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        arrived.set()
        await peer.gone()

    async with serve(script) as server, pool_by(way, limits=limits) as pool:
        holding = asyncio.create_task(ask(pool, server.url, Noted()))
        await arrived.wait()
        with pytest.raises(UpstreamConnectTimeout, match=r"^All of the gateway's connections .* in use") as caught:
            await ask(pool, server.url, noted, connect=0.1)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
    most = "1 connections of the pool (max_connections)" if own else "connections of the host's own pool"
    assert caught.value.reason is not None
    assert caught.value.reason.startswith(f"all {most} were in use for 0.1 s: 127.0.0.1:")
    assert noted.calls == []


@pytest.mark.parametrize("answers", [False, True], ids=["silent", "tunnel without TLS"])
@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_proxy_that_makes_no_connection_is_the_connect_clocks(way: str, answers: bool, tmp_path: Path) -> None:
    """Neither CONNECT nor the handshake behind it is the request."""
    _, trusting = certify(tmp_path, "llm.corp.invalid")

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        if answers:
            await peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        await peer.gone()

    noted = Noted()
    async with serve(script) as server:
        proxy = read_proxy(f"http://127.0.0.1:{server.port}")
        async with pool_by(way, verify=trusting, proxies=Proxies(proxy, proxy)) as pool:
            with pytest.raises(UpstreamConnectTimeout):
                await ask(pool, address("https://llm.corp.invalid/v1"), noted, connect=0.2)
    assert noted.calls == []


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_large_request_is_sent_when_the_upstream_has_read_it(way: str, secure: bool, tmp_path: Path) -> None:
    """While it reads nothing, the request is being sent; its bytes arrive as they are."""
    serving, trusting = certify(tmp_path, "localhost")
    may_read = asyncio.Event()
    bodies: list[bytes] = []

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await may_read.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        bodies.append((await peer.request())[1])
        await peer.send(OK)
        await peer.gone()

    noted = Noted()
    options: dict[str, Any] = {"ssl": serving} if secure else {}
    async with serve(script, **options) as server, pool_by(way, verify=trusting) as pool:
        asking = asyncio.create_task(ask(pool, server.url, noted, LARGE))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(noted.all_sent.wait(), 0.5)
        assert noted.calls == ["sending"]
        may_read.set()
        assert await asking == b"ok"
    assert noted.calls == ["sending", "sent"]
    assert bodies == [LARGE]


@pytest.mark.parametrize("way", WAYS[:2])
async def test_an_upstream_that_stops_reading_a_request_is_given_up(way: str) -> None:
    """The idle clock bounds how long nothing of a request is read; a short first-byte clock does not end it."""

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(LONG)

    async with serve(script) as server, pool_by(way) as pool:
        timeouts = Timeouts(connect=0.1, first_byte=0.01, idle=0.3)
        assert await too_slow(pool, server.url, timeouts, LARGE) == "upstream_idle_timeout"


async def test_an_answer_before_the_whole_request_was_read_is_served() -> None:
    """Its connection is closed afterwards, because the rest of the request would come first.

    Only aiohttp's way reads an answer before everything is sent.
    """

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(b"HTTP/1.1 413 Too large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.sleep(0.2)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.gone()

    async with serve(script) as server, pool_by("aiohttp") as pool:
        noted = Noted()
        assert await ask(pool, server.url, noted, LARGE) == b"no"
        assert noted.calls == ["sending", "sent"]
        await server.peers[0].closed.wait()
