"""Outgoing proxies: whatever the way, calls go through the one that is configured, and its failures name it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmproxy_asgi.errors import UpstreamNotConnected
from llmproxy_asgi.transport import Pool, address
from llmproxy_asgi.transport.proxies import Proxies, exempt_in, read_proxy, variable_of
from support.transport import OK, Peer, fetch, post, replying, serve
from support.transport.certificates import certify

AUTHORIZATION = b"proxy-authorization: Basic dXNlcjpwQHNz"  # user:p@ss
BOTH = pytest.mark.parametrize("fast", [True, False], ids=["aiohttp", "httpx2"])


class ForwardProxy:
    """A small forward proxy that wants to know who is asking."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.hosts: dict[bytes, int] = {}
        """Where names lead that no resolver knows."""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line = head.partition(b"\r\n")[0]
                self.asked.append(line)
                if AUTHORIZATION.lower() not in head.lower():
                    writer.write(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")
                    continue
                method, target, _ = line.split(b" ")
                host = target if method == b"CONNECT" else target.split(b"/")[2]
                port = self.hosts[host]
                upstream = await asyncio.open_connection("127.0.0.1", port)
                if method == b"CONNECT":
                    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                else:
                    lines = [each for each in head.split(b"\r\n") if not each.lower().startswith(b"proxy-")]
                    upstream[1].write(b"\r\n".join(lines))
                await asyncio.gather(self._copy(reader, upstream[1]), self._copy(upstream[0], writer))
                return
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()


@contextlib.asynccontextmanager
async def forward_proxy() -> AsyncIterator[tuple[ForwardProxy, int]]:
    """A proxy on a free port."""
    proxy = ForwardProxy()
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    async with server:
        yield proxy, server.sockets[0].getsockname()[1]


def proxies(port: int, login: str = "user:p%40ss@", exempt: tuple[str, ...] = ()) -> Proxies:
    """One proxy for everything."""
    proxy = read_proxy(f"http://{login}127.0.0.1:{port}")
    return Proxies(proxy, proxy, exempt)


@contextlib.asynccontextmanager
async def pool(fast: bool, through: Proxies | None, verify: ssl.SSLContext | bool = True) -> AsyncIterator[Pool]:
    """A pool that goes through proxies."""
    made = Pool(fast=fast, proxies=through, verify=verify)
    try:
        yield made
    finally:
        await made.aclose()


@pytest.mark.anyio
@BOTH
async def test_http_goes_through_the_proxy_by_whole_addresses(fast: bool) -> None:
    """The proxy is asked for the whole address and shown its password, which the upstream never sees; it is reused."""
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            heads.append((await peer.request())[0])
            await peer.send(OK)

    async with serve(script) as server, forward_proxy() as (proxy, port), pool(fast, proxies(port)) as made:
        proxy.hosts[b"llm.corp.invalid"] = server.port
        url = address("http://llm.corp.invalid/v1/chat?x=1")
        for _ in range(2):
            assert await fetch(made, url) == (200, b"ok")
        assert proxy.asked[0] == b"POST http://llm.corp.invalid/v1/chat?x=1 HTTP/1.1"
        assert b"proxy-authorization" not in heads[0].lower()
        assert b"\r\nhost: llm.corp.invalid\r\n" in heads[0].lower()


@pytest.mark.anyio
@BOTH
async def test_https_goes_through_the_proxy_by_connect(fast: bool, tmp_path: Path) -> None:
    """The proxy sees host and port alone; the certificate is the upstream's, checked as ever, and it is kept alive."""
    serving, trusting = certify(tmp_path, "llm.corp.invalid")
    async with (
        serve(replying(OK), ssl=serving) as server,
        forward_proxy() as (proxy, port),
        pool(fast, proxies(port), trusting) as made,
    ):
        proxy.hosts[b"llm.corp.invalid:443"] = server.port
        url = address("https://llm.corp.invalid/v1/chat")
        for _ in range(2):
            assert await fetch(made, url) == (200, b"ok")
        assert proxy.asked == [b"CONNECT llm.corp.invalid:443 HTTP/1.1"]


@pytest.mark.anyio
@BOTH
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_us_is_named(fast: bool, scheme: str) -> None:
    """407 is no answer of the upstream's: there was no connection, and the reason names the proxy and what it wants."""
    async with forward_proxy() as (_, port), pool(fast, proxies(port, login="user:wrong-password@")) as made:
        with pytest.raises(UpstreamNotConnected) as refused:
            await post(made, address(f"{scheme}://llm.corp.invalid/v1"))
    assert f"through the proxy 127.0.0.1:{port}" in refused.value.reason
    assert "407" in refused.value.reason
    assert "wrong-password" not in refused.value.reason + refused.value.message


@pytest.mark.anyio
@BOTH
async def test_a_proxy_that_is_not_there_is_named(fast: bool) -> None:
    """Name the proxy's port in the reason where no server listens on it."""
    async with forward_proxy() as (_, port):
        pass
    async with pool(fast, proxies(port)) as made:
        with pytest.raises(UpstreamNotConnected) as refused:
            await post(made, address("https://llm.corp.invalid/v1"))
    assert refused.value.reason == f"ECONNREFUSED llm.corp.invalid:443 through the proxy 127.0.0.1:{port}"


@pytest.mark.anyio
@BOTH
async def test_exempt_hosts_are_called_directly(fast: bool) -> None:
    """A host that the rules name is called directly, by the same pool."""
    async with serve(replying(OK)) as server, forward_proxy() as (proxy, port):
        async with pool(fast, proxies(port, exempt=("127.0.0.0/8",))) as made:
            assert await fetch(made, server.url) == (200, b"ok")
        assert not proxy.asked


@pytest.mark.anyio
@BOTH
async def test_without_a_proxy_the_environment_changes_nothing(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual variables are not read by the transport."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serve(replying(OK)) as server, pool(fast, None) as made:
        assert await fetch(made, server.url) == (200, b"ok")


@pytest.mark.parametrize(
    ("rule", "url", "direct"),
    [
        ("*", "http://a.example/", True),
        ("example.com", "http://api.example.com/", True),
        (".example.com", "http://example.com/", True),
        ("*.example.com", "http://api.example.com/", True),
        ("example.com", "http://notexample.com/", False),
        ("example.com:8080", "http://example.com:8080/", True),
        ("example.com:8080", "http://example.com/", False),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("::1", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("[::1]:8081", "http://[::1]:8080/", False),
        ("LOCALHOST", "http://localhost/", True),
    ],
)
def test_rules_of_no_proxy(rule: str, url: str, direct: bool) -> None:
    """Names stand for those below them; networks, ports and the star mean what they mean elsewhere."""
    proxy = read_proxy("http://p:3128")
    assert (Proxies(proxy, None, (rule,)).of(address(url)) is None) is direct


def test_variables_of_the_environment() -> None:
    """Lower case wins, ALL_PROXY stands in, and HTTP_PROXY does not count where a CGI header may have set it."""
    assert variable_of("http", {"HTTP_PROXY": "a", "http_proxy": "b"}) == "http_proxy"
    assert variable_of("https", {"ALL_PROXY": "a", "http_proxy": "b"}) == "ALL_PROXY"
    assert variable_of("http", {"HTTP_PROXY": "a", "REQUEST_METHOD": "GET"}) is None
    assert variable_of("https", {"HTTPS_PROXY": ""}) is None
    assert exempt_in({"NO_PROXY": "a, b,,c"}) == ["a", "b", "c"]
