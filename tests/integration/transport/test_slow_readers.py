"""Readers who fall behind an upstream that says much: they miss nothing, and little is held for them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproxy_asgi.transport import UpstreamResponse
from support.servers.sockets import traffic
from support.transport import OK, Peer, fetch, pool_by, post, serve
from support.transport.certificates import certify

pytestmark = pytest.mark.anyio
BODY = b"".join(b"%07d," % number for number in range(256 * 1024))
LIMIT = len(BODY)
HELD = 128 * 1024
STILL_ENCRYPTED = 256 * 1024
"""What an event loop reads at once of a connection with TLS: asyncio always, uvloop where it gets behind."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(params=["http", "https"])
def secured(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Options of the server and of the pool."""
    if request.param == "http":
        yield {}, {}
        return
    serving, trusting = certify(tmp_path, "localhost")
    yield {"ssl": serving}, {"verify": trusting}


def framed(size: int | None) -> bytes:
    """The whole body as an answer, in chunks of a size; None: with its length."""
    if size is None:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
    pieces = (BODY[start : start + size] for start in range(0, len(BODY), size))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [None, 500, 10_000, 300_000])
async def test_who_falls_behind_misses_nothing(size: int | None, secured: Any) -> None:
    """Every byte in its place, whatever the framing; the connection serves other calls before and after."""
    answer = framed(size)

    async def script(peer: Peer) -> None:
        for each in (OK, answer, OK, answer, answer):
            await peer.request()
            await peer.send(each)

    async with serve(script, **secured[0]) as server, pool_by("aiohttp", **secured[1]) as pool:
        assert (await fetch(pool, server.url))[1] == b"ok"
        async with await post(pool, server.url) as slow:
            assert await dawdle(slow, len(BODY)) == BODY
            assert await slow.chunk() == b""
        assert (await fetch(pool, server.url))[1] == b"ok"
        assert (await fetch(pool, server.url, limit=LIMIT))[1] == BODY
        async with await post(pool, server.url) as late:
            begun = await dawdle(late, 1000)
            assert begun + await late.read(LIMIT) == BODY
        assert len(server.peers) == 1


async def dawdle(answer: UpstreamResponse, size: int) -> bytes:
    """Read at least so much, and let the upstream get ahead between any two pieces."""
    data = b""
    while len(data) < size:
        for _ in range(5):
            await asyncio.sleep(0)
        piece = await answer.chunk()
        assert piece
        data += piece
    return data


@pytest.mark.fault(35)
@pytest.mark.parametrize("size", [None, 500, 10_000])
async def test_little_is_held_for_who_stops_reading(size: int | None, secured: Any) -> None:
    """All further data of the upstream stays in the system's buffers, and then with the upstream."""
    answer = framed(size)

    async def script(peer: Peer) -> None:
        await peer.request()
        while True:
            await peer.send(answer)

    async with (
        serve(script, **secured[0]) as server,
        pool_by("aiohttp", **secured[1]) as pool,
        await post(pool, server.url) as stopped,
    ):
        taken = len(await dawdle(stopped, len(BODY) // 2))
        before = -1
        while (read := read_from(server.port)) != before:
            before = read
            await asyncio.sleep(0.1)
        assert read - taken < HELD + STILL_ENCRYPTED * ("ssl" in secured[0])


def read_from(port: int) -> int:
    """The bytes that this process has read from the server there."""
    (found,) = (counts[0] for name, counts in traffic().items() if name.endswith(f"-{port}"))
    return found
