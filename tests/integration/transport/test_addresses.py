"""Every form of an address that a configuration may hold is called, whatever the way."""

import socket
from pathlib import Path

import pytest

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.transport import address
from support.transport import OK, WAYS, fetch, pool_by, replying, serve
from support.transport.certificates import certify

BY_EVERY_WAY = pytest.mark.parametrize("way", WAYS)
HAS_IPV6 = pytest.mark.skipif(not socket.has_ipv6, reason="the machine has no IPv6")


@pytest.mark.anyio
@BY_EVERY_WAY
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost", "127.1", "2130706433"])
async def test_names_and_ipv4(way: str, host: str) -> None:
    """Names in any case, and IPv4 in each of its forms."""
    async with serve(replying(OK), host="127.0.0.1") as server, pool_by(way) as pool:
        assert await fetch(pool, address(f"http://{host}:{server.port}/v1")) == (200, b"ok")


@HAS_IPV6
@pytest.mark.anyio
@BY_EVERY_WAY
@pytest.mark.parametrize("host", ["[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]"])
async def test_ipv6(way: str, host: str) -> None:
    """A literal IPv6 address, short or long."""
    async with serve(replying(OK), host="::1") as server, pool_by(way) as pool:
        assert await fetch(pool, address(f"http://{host}:{server.port}/v1")) == (200, b"ok")


@HAS_IPV6
@pytest.mark.anyio
@BY_EVERY_WAY
async def test_ipv6_with_tls(way: str, tmp_path: Path) -> None:
    """A certificate for the address is accepted."""
    serving, trusting = certify(tmp_path, "::1")
    async with serve(replying(OK), host="::1", ssl=serving) as server, pool_by(way, verify=trusting) as pool:
        assert await fetch(pool, address(f"https://[::1]:{server.port}/v1")) == (200, b"ok")


@pytest.mark.parametrize(
    "text",
    [
        "http://[v1.x]/", "http://[::1]x/", "http://1.2.3.999/", "http://127.0.0.1.5/", "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/", "http://[1:2]/", "http://::1/",
    ],
)  # fmt: skip
def test_what_cannot_be_called_is_refused(text: str) -> None:
    """What some way could not call is no address: brackets around something else, numbers that are none, zones."""
    with pytest.raises(MisuseError):
        address(text)
