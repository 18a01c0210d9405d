"""Certificates: what is believed, and that nothing is sent to who cannot prove who it is."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from llmproxy_asgi.errors import UpstreamTimeout, UpstreamTLSError, UpstreamUnreachable
from llmproxy_asgi.transport import address
from support.transport import OK, WAYS, Peer, fetch, pool_by, post, replying, serve
from support.transport.certificates import Served, certify

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("way", WAYS)]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Served]:
    def made(*names: str, days: int = 1) -> Served:
        return certify(tmp_path, *names, days=days)

    return made


async def test_trusted_certificate(way: str, make: Callable[..., Served]) -> None:
    """With a certificate we trust a call goes through, over HTTP/1.1 although more was on offer, and is kept alive."""
    serving, trusting = make("localhost")
    agreed: list[str | None] = []

    async def script(peer: Peer) -> None:
        agreed.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await replying(OK)(peer)

    async with serve(script, ssl=serving) as server, pool_by(way, verify=trusting) as pool:
        for _ in range(3):
            assert await fetch(pool, server.url) == (200, b"ok")
        assert len(server.peers) == 1
    assert agreed == ["http/1.1"]


@pytest.mark.fault(4)
@pytest.mark.parametrize(
    ("names", "days", "trusted"),
    [(("localhost",), 1, False), (("elsewhere.example",), 1, True), (("localhost",), -1, True)],
    ids=["unknown issuer", "another host", "expired"],
)
async def test_untrusted_certificate(
    way: str, make: Callable[..., Served], *, names: tuple[str, ...], days: int, trusted: bool
) -> None:
    """Distinguish an untrusted certificate from a broken connection, and do not send the request."""
    serving, trusting = make(*names, days=days)
    options = {"verify": trusting} if trusted else {}

    async def script(peer: Peer) -> None:
        raise AssertionError(f"sent {await peer.request()}")

    async with serve(script, ssl=serving) as server, pool_by(way, **options) as pool:
        with pytest.raises(UpstreamTLSError) as refused:
            await post(pool, server.url)
    assert "localhost" not in refused.value.message
    assert "TLS certificate not accepted: " in (refused.value.reason or "")


async def test_verification_can_be_turned_off(way: str, make: Callable[..., Served]) -> None:
    """Where the operator says so, any certificate will do."""
    serving, _ = make("elsewhere.example")
    async with serve(replying(OK), ssl=serving) as server, pool_by(way, verify=False) as pool:
        assert await fetch(pool, server.url) == (200, b"ok")


@pytest.mark.fault(4)
async def test_handshake_that_stalls(way: str) -> None:
    """An upstream that accepts and then says nothing falls under the connect clock, and its socket is closed."""

    async def script(peer: Peer) -> None:
        await peer.gone()

    async with serve(script) as server, pool_by(way) as pool:
        with pytest.raises(UpstreamTimeout):
            await post(pool, address(f"https://127.0.0.1:{server.port}/"), connect=0.1)
        await server.peers[0].closed.wait()


async def test_cancelled_in_the_handshake(way: str) -> None:
    """Cancelling a call that is still connecting closes its socket."""

    async def script(peer: Peer) -> None:
        assert await peer.reader.read(1)
        greeted.set()
        await peer.gone()

    greeted = asyncio.Event()
    async with serve(script) as server, pool_by(way) as pool:
        task = asyncio.create_task(post(pool, address(f"https://127.0.0.1:{server.port}/")))
        await greeted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.peers[0].closed.wait()


async def test_answer_is_not_tls(way: str) -> None:
    """An upstream that speaks plain HTTP where TLS is expected is unreachable."""

    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serve(script) as server, pool_by(way) as pool:
        with pytest.raises(UpstreamUnreachable):
            await post(pool, address(f"https://127.0.0.1:{server.port}/"))


async def test_early_close_over_tls(way: str, make: Callable[..., Served]) -> None:
    """Closing early closes the socket at once under TLS, too, without waiting for a farewell."""
    serving, trusting = make("localhost")

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await peer.gone()

    async with serve(script, ssl=serving) as server, pool_by(way, verify=trusting) as pool:
        answer = await post(pool, server.url)
        assert await answer.chunk() == b"some"
        await answer.aclose()
        await server.peers[0].closed.wait()
