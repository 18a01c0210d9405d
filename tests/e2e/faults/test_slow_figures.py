"""What one slow caller costs 199 others, in figures: both situations in turns, in one run, on each ASGI server."""

import asyncio
import contextlib
import socket
import statistics
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import pytest

from fault_matrix import PAGE
from llmproxy_asgi.testing import Scenario, ThreadedUpstream, Upstream, sse_answer
from support.gateway import chat_delta
from support.page_sections import with_part
from support.servers import CHAT, Site, chat, configuration, request, serving

OTHERS = 199
ROUNDS = 12
QUICK = sse_answer([*([chat_delta({"content": "word"})] * 20), chat_delta({}, "stop"), b"data: [DONE]\n\n"])
LONG = sse_answer([chat_delta({"content": "x" * 16 * 1024})] * 512)
SIP = 4096
PAUSE = 0.01
"""The slow caller reads a sip, and pauses so many seconds."""
SETTLING = 0.5
"""Seconds before each round; those that it takes to fill the system's buffers for the slow caller."""
OPTIONS = {"uvicorn": (), "hypercorn": ("--backlog", "2048"), "granian": (), "gunicorn": ()}
"""Hypercorn lets 100 wait to be accepted, and others try again a second later."""


@pytest.mark.verify
def test_figures_of_one_slow_caller(tmp_path: Path) -> None:
    """The others' slowest call in a hundred, with and without it; the figures are written into docs/reliability.md."""
    lines = [
        f"The 99th percentile of {OTHERS} concurrent calls, in ms: the median of {ROUNDS} rounds, alternately",
        f"without and with one additional client, which reads {SIP} bytes of a long stream every {1000 * PAUSE:g} ms.",
        "",
        "| server | without | with | ratio |",
        "| --- | --: | --: | --: |",
    ]
    for server, options in OPTIONS.items():
        with Upstream.in_thread(default=QUICK) as upstream:
            (tmp_path / server).mkdir()
            with serving(server, configuration(upstream.base_url), tmp_path / server, options=options) as site:
                alone, beside = asyncio.run(measured(site, upstream))
        lines.append(
            f"| {server} {version(server)} | {1000 * alone:.0f} | {1000 * beside:.0f} | {beside / alone:.2f} |"
        )
        assert beside < 3 * alone, lines
    PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), "slow", "\n".join(lines)), encoding="utf-8")


async def measured(site: Site, upstream: ThreadedUpstream) -> tuple[float, float]:
    """The figure without and with a slow caller, in seconds."""
    for _ in range(2):
        await slowest(site)  # what is imported and opened at first use
    alone: list[float] = []
    beside: list[float] = []
    for number in range(2 * ROUNDS):
        await asyncio.sleep(SETTLING)
        if number % 4 in (1, 2):  # each comes as often after itself as after the other
            async with slow_caller(site, upstream, LONG):
                beside.append(await slowest(site))
        else:
            alone.append(await slowest(site))
    return statistics.median(alone), statistics.median(beside)


async def slowest(site: Site) -> float:
    """Of all calls at once, how long the slowest in a hundred took."""
    taken = await asyncio.gather(*(call(site) for _ in range(OTHERS)))
    return statistics.quantiles(taken, n=100)[-1]


async def call(site: Site) -> float:
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request("/llm" + CHAT, chat()))
    said = await reader.readuntil(b"[DONE]")
    taken = time.perf_counter() - began
    writer.close()
    assert said.count(b'"word"') == 20
    return taken


@contextlib.asynccontextmanager
async def slow_caller(site: Site, upstream: ThreadedUpstream, said: Scenario) -> AsyncIterator[None]:
    """One who is served, as slowly as it reads, while this is entered."""
    loop = asyncio.get_running_loop()
    upstream.enqueue(said)
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SIP)
        caller.setblocking(False)
        await loop.sock_connect(caller, ("127.0.0.1", site.port))
        await loop.sock_sendall(caller, request("/llm" + CHAT, chat()))

        async def sip() -> None:
            data = b"..."
            while data:
                await asyncio.sleep(PAUSE)
                data = await loop.sock_recv(caller, SIP)

        sipping = loop.create_task(sip())
        await asyncio.sleep(SETTLING)
        yield
        assert not sipping.done()
        sipping.cancel()
        await asyncio.wait([sipping])
