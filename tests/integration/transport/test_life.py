"""A pool's life: limits, closing, several event loops, forks, and what it stands on."""

import asyncio
import gc
import importlib
import os
import socket
import sys
import threading
from typing import Any, Self

import httpx2
import pytest

from llmproxy_asgi.errors import MisuseError, UpstreamTimeout, UpstreamUnreachable
from llmproxy_asgi.transport import AiohttpTransport, Limits, Pool, address
from support.transport import HANG_GUARD, OK, Peer, fetch, post, replying, serve

OURS = pytest.mark.parametrize("fast", [True, False], ids=["aiohttp", "httpx2"])

HALF = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"
REST = b"3\r\ntwo\r\n0\r\n\r\n"


@OURS
@pytest.mark.anyio
async def test_connections_are_kept_open_by_tcp(monkeypatch: pytest.MonkeyPatch, *, fast: bool) -> None:
    """A connection that waits for a long answer probes its peer each minute, as the vendors' SDKs make it do."""
    options: set[tuple[int, int, int]] = set()
    really = socket.socket.setsockopt

    def noted(made: socket.socket, *option: Any) -> None:
        options.add(option)
        really(made, *option)

    monkeypatch.setattr(socket.socket, "setsockopt", noted)
    async with serve(replying(OK)) as server:
        pool = Pool(fast=fast)
        await fetch(pool, server.url)
        await pool.aclose()
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in options
    assert (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 60) in options


@OURS
@pytest.mark.anyio
async def test_waiting_for_a_place_is_connecting(*, fast: bool) -> None:
    """Let a call beyond the limit wait within its connect timeout and continue when a place becomes free."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HALF)
        await peer.gone()

    async with serve(script) as server:
        pool = Pool(fast=fast, limits=Limits(max_connections=1))
        first = await post(pool, server.url)
        with pytest.raises(UpstreamTimeout):
            await post(pool, server.url, connect=0.05)
        waiting = asyncio.create_task(post(pool, server.url))
        await asyncio.sleep(0)
        await first.aclose()
        second = await waiting
        assert await second.chunk() == b"one"
        await second.aclose()
        await pool.aclose()


@OURS
@pytest.mark.anyio
async def test_idle_connections_are_limited(*, fast: bool) -> None:
    """No more connections are kept for later than allowed."""
    together = asyncio.Barrier(4)

    async def script(peer: Peer) -> None:
        await peer.request()
        if len(server.peers) <= 4:
            await together.wait()
        await peer.send(OK)
        await peer.gone()

    async with serve(script) as server:
        pool = Pool(fast=fast, limits=Limits(max_keepalive=1))
        await asyncio.gather(*(fetch(pool, server.url) for _ in range(4)))
        # Three of the four are closed, whichever they are.
        leaving = [asyncio.create_task(peer.closed.wait()) for peer in server.peers]
        staying = set(leaving)
        while len(staying) > 1:
            _, staying = await asyncio.wait(staying, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.01)
        assert [peer.closed.is_set() for peer in server.peers].count(False) == 1
        for task in leaving:
            task.cancel()
        await pool.aclose()


@OURS
@pytest.mark.anyio
async def test_closing_lets_open_answers_finish(*, fast: bool) -> None:
    """Closing a pool closes idle connections at once, refuses new calls, and lets an open answer be read to its end."""
    closing = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if len(server.peers) == 1:
            await peer.send(HALF)
            await closing.wait()
            await peer.send(REST)
        else:
            await peer.send(OK)
        await peer.gone()

    async with serve(script) as server:
        pool = Pool(fast=fast)
        answer = await post(pool, server.url)
        await fetch(pool, server.url)
        await pool.aclose()
        if fast:  # httpx2's transport can only be closed as a whole, after the last answer
            await server.peers[1].closed.wait()
        closing.set()
        assert await answer.read(100) == b"onetwo"
        for peer in server.peers:
            await peer.closed.wait()
        with pytest.raises(UpstreamUnreachable):
            await post(pool, server.url)
        await answer.aclose()
        await pool.aclose()


@OURS
@pytest.mark.anyio
async def test_addresses_made_per_call_do_not_pile_up(*, fast: bool) -> None:
    """A provider that builds its addresses anew for each call keeps its connection and fills no memory."""
    async with serve(replying(OK)) as server:
        pool = Pool(fast=fast)
        for number in range(600):
            assert await fetch(pool, address(f"{server.url}?{number}")) == (200, b"ok")
        assert len(server.peers) == 1
        if fast:
            (channel,) = pool._channels.values()
            assert len(channel._routes) <= 512  # type: ignore[attr-defined]
        await pool.aclose()


@pytest.mark.anyio
async def test_answer_that_has_begun_is_not_asked_for_again() -> None:
    """A kept connection that breaks after the first byte of its answer is not replaced: the upstream may have acted."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"HTTP/1.1 20")

    async with serve(script) as server:
        pool = Pool(fast=True)
        await fetch(pool, server.url)
        with pytest.raises(UpstreamUnreachable):
            await fetch(pool, server.url)
        assert len(server.peers) == 1
        await pool.aclose()


LARGE = bytes(32 << 20)
"""More than the kernel buffers for a reader that does not read."""


@pytest.mark.anyio
async def test_connection_with_an_unread_request_is_not_kept() -> None:
    """Where the upstream answers without reading the request, the next request does not queue up behind its rest."""
    asked_again = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(OK)
        if len(server.peers) == 1:
            await asked_again.wait()
        await peer.gone()

    async with serve(script) as server:
        pool = Pool(fast=True)
        async with await post(pool, server.url, LARGE) as answer:
            assert await answer.read(10) == b"ok"
        assert await fetch(pool, server.url) == (200, b"ok")
        asked_again.set()
        assert len(server.peers) == 2
        await pool.aclose()


@pytest.mark.anyio
async def test_closing_early_does_not_wait_for_the_request_to_be_sent() -> None:
    """Closing an answer closes the socket although the upstream has not read all of the request."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n")
        while True:  # until it fails because the peer has closed
            await peer.send(bytes(65536))

    async with serve(script) as server:
        pool = Pool(fast=True)
        answer = await post(pool, server.url, LARGE)
        await answer.chunk()
        await answer.aclose()
        await server.peers[0].closed.wait()
        await pool.aclose()


class Elsewhere:
    """A server on a thread and loop of its own, for tests that stop and start loops."""

    def __enter__(self) -> Self:
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()))
        self.thread.start()
        assert self.ready.wait(HANG_GUARD)
        return self

    async def run(self) -> None:
        self.stopping = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        async with serve(replying(OK)) as server:
            self.server = server
            self.ready.set()
            await self.stopping.wait()

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(HANG_GUARD)


@OURS
def test_two_event_loops(*, fast: bool) -> None:
    """One pool serves two loops, each over its own connections, and closing it on one closes those of the other."""
    one, two = asyncio.new_event_loop(), asyncio.new_event_loop()
    with Elsewhere() as elsewhere:
        pool = Pool(fast=fast)
        for _ in range(3):
            for loop in (one, two):
                assert loop.run_until_complete(fetch(pool, elsewhere.server.url)) == (200, b"ok")
        assert len(elsewhere.server.peers) == 2
        one.run_until_complete(pool.aclose())
        two.run_until_complete(asyncio.sleep(0.05))
        for peer in elsewhere.server.peers:
            asyncio.run_coroutine_threadsafe(peer.closed.wait(), elsewhere.loop).result(HANG_GUARD)
        one.close()
        two.close()


@OURS
def test_loop_that_ended_without_closing(*, fast: bool) -> None:
    """A pool outlives a loop that was ended under it, and leaves no socket there; the next loop starts afresh."""
    with Elsewhere() as elsewhere:
        pool = Pool(fast=fast)
        assert asyncio.run(fetch(pool, elsewhere.server.url)) == (200, b"ok")

        async def again() -> None:
            assert await fetch(pool, elsewhere.server.url) == (200, b"ok")
            assert len(pool._channels) == 1
            await pool.aclose()

        asyncio.run(again())
        gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@OURS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_shares_no_connection(*, fast: bool) -> None:
    """A child opens connections of its own, and the parent's go on."""
    loop = asyncio.new_event_loop()
    with Elsewhere() as elsewhere:
        pool = Pool(fast=fast)
        loop.run_until_complete(fetch(pool, elsewhere.server.url))
        child = os.fork()
        if not child:
            passed = False
            try:
                passed = not pool._channels
                own = asyncio.new_event_loop()
                passed = passed and own.run_until_complete(fetch(pool, elsewhere.server.url)) == (200, b"ok")
            finally:
                os._exit(0 if passed else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert loop.run_until_complete(fetch(pool, elsewhere.server.url)) == (200, b"ok")
        assert len(elsewhere.server.peers) == 2
        loop.run_until_complete(pool.aclose())
    loop.close()


# What it stands on


def test_without_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without aiohttp a pool works all the same, and one that insists says which extra brings it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert Pool()._make.func.__qualname__ == "HTTPXChannel.built_in"  # type: ignore[attr-defined]
    with pytest.raises(MisuseError, match="speed"):
        Pool(fast=True)


def test_with_an_aiohttp_we_do_not_know(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An aiohttp whose insides have changed is not used, and the log says so."""
    from aiohttp.client_proto import ResponseHandler

    monkeypatch.setattr(ResponseHandler, "set_response_params", lambda _: None)
    assert Pool()._make.func.__qualname__ == "HTTPXChannel.built_in"  # type: ignore[attr-defined]
    assert "slower" in caplog.text


def test_aiohttp_is_the_default() -> None:
    """Where aiohttp is installed it is used."""
    assert Pool()._make.func.__name__ == "AiohttpChannel"  # type: ignore[attr-defined]


def test_old_httpx_is_never_imported_by_us() -> None:
    """Objects of the old package are recognised without importing it."""
    import subprocess

    code = "import sys; from llmproxy_asgi.transport import Pool; Pool(fast=False); sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_aiohttp_is_imported_when_wanted() -> None:
    """Importing the package does not import aiohttp."""
    import subprocess

    code = "import sys, llmproxy_asgi.transport; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.anyio
async def test_host_client_brings_nothing_of_its_own() -> None:
    """A host's client lends its connections; its headers, cookies, credentials and redirects stay out of our calls."""
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            heads.append((await peer.request())[0])
            await peer.send(b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")

    async with (
        serve(script) as server,
        httpx2.AsyncClient(
            headers={"x-host": "1", "user-agent": "host"},
            cookies={"session": "1"},
            auth=("user", "password"),
            follow_redirects=True,
            trust_env=False,
        ) as client,
    ):
        pool = Pool(transport=client)
        assert (await fetch(pool, server.url))[0] == 302
        await pool.aclose()
        assert not client.is_closed
    assert len(heads) == 1
    for word in (b"x-host", b"cookie", b"authorization", b"user-agent"):
        assert word not in heads[0].lower()


@pytest.mark.anyio
async def test_mock_transport_of_the_host() -> None:
    """Any transport will do, such as one that answers from memory; what it raises becomes our error."""

    def reply(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/broken":
            raise OSError("no network here")
        return httpx2.Response(200, json={"sent": len(request.content)}, headers={"x-a": "1"})

    pool = Pool(transport=httpx2.MockTransport(reply))
    async with await post(pool, address("http://upstream.test/"), b"12345") as answer:
        assert (answer.header("x-a"), await answer.read(100)) == ("1", b'{"sent":5}')
    with pytest.raises(UpstreamUnreachable):
        await post(pool, address("http://upstream.test/broken"))


# Under anybody's client


@pytest.mark.anyio
async def test_transport_under_a_client() -> None:
    """An httpx2 client works over our transport as over its own: posts, streams, decodes and follows redirects."""

    async def script(peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            if b" /old " in head:
                await peer.send(b"HTTP/1.1 307 Moved\r\nlocation: /new\r\ncontent-length: 0\r\n\r\n")
            else:
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async def parts() -> Any:
        yield b"in "
        yield b"parts"

    async with serve(script) as server, httpx2.AsyncClient(transport=AiohttpTransport()) as client:
        base = f"http://127.0.0.1:{server.port}"
        moved = await client.post(f"{base}/old", content=b"again", follow_redirects=True)
        assert (moved.status_code, moved.content, moved.url.path) == (200, b"again", "/new")
        assert (await client.post(f"{base}/new", content=parts())).content == b"in parts"
        async with client.stream("POST", f"{base}/new", content=b"streamed") as response:
            assert b"".join([piece async for piece in response.aiter_bytes()]) == b"streamed"
        assert len(server.peers) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", httpx2.ConnectError),
        (b"not http\r\n\r\n", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", httpx2.ReadError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", httpx2.RemoteProtocolError),
    ],
    ids=["closed", "not http", "truncated", "bad chunk"],
)
async def test_transport_raises_the_errors_of_httpx2(sent: bytes, expected: type[Exception]) -> None:
    """Raise the client's own errors where the transport is used under another client."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)

    async with serve(script) as server, httpx2.AsyncClient(transport=AiohttpTransport()) as client:
        with pytest.raises(expected):
            await client.post(str(server.url), content=b"{}")


@pytest.mark.anyio
@pytest.mark.parametrize("sent", [b"", HALF], ids=["headers", "body"])
async def test_transport_keeps_the_clients_read_timeout(sent: bytes) -> None:
    """The read timeout of a client holds for headers and for each piece of the body."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await peer.gone()

    clocks = httpx2.Timeout(0.1)
    async with serve(script) as server, httpx2.AsyncClient(transport=AiohttpTransport(), timeout=clocks) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(str(server.url), content=b"{}")
        await server.peers[0].closed.wait()
