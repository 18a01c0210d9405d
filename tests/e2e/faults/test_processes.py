"""Forks after import and after first use, several gateways in one process, and event loops that come and go."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmproxy_asgi import Gateway
from llmproxy_asgi.testing import Hold, ThreadedUpstream, Upstream, json_answer, sse_answer
from support.gateway import chat_answer, chat_delta, chat_frames
from support.servers import CHAT, HANG, chat, configuration, serving

SAY = [{"role": "user", "content": "hi"}]


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=json_answer(200, chat_answer("words"))) as made:
        yield made


@pytest.mark.fault(52)
@pytest.mark.parametrize("server", ["gunicorn", "gthread"])
def test_application_that_is_loaded_before_the_fork(server: str, upstream: ThreadedUpstream, tmp_path: Path) -> None:
    """Gunicorn's --preload, under ASGI and WSGI: two workers stream, and callers who leave are noticed."""
    config = configuration(upstream.base_url)
    with serving(server, config, tmp_path, options=("--preload",), workers=2) as site:
        upstream.default = sse_answer(chat_frames("words"))
        with site.each([chat()] * 10) as callers:
            assert all(b"[DONE]" in caller.rest() for caller in callers)
        upstream.default = sse_answer([chat_delta({"content": "so far"}), Hold()])
        number = len(upstream.requests)
        with site.ask(CHAT, chat()) as caller:
            caller.read_until(b"so far")
        assert upstream.wait_closed(number)


FORKED = """
import asyncio, multiprocessing, os, sys, threading
from llmproxy_asgi import Gateway

gateway = Gateway({config!r})


def ask():
    async def asked():
        reply = await gateway.complete(model="up/m", messages=[{{"role": "user", "content": "hi"}}])
        return reply.text
    return asyncio.run(asked())


def child():
    assert ask() == "words"
    assert ask() == "words"


async def used_while_forking():
    reply = await gateway.complete(model="up/m", messages=[{{"role": "user", "content": "hi"}}])
    assert reply.text == "words"
    pid = os.fork()
    if pid == 0:
        # The child is inside the loop of its parent; a thread has a loop of its own.
        thread = threading.Thread(target=child)
        thread.start()
        thread.join()
        os._exit(0)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert status == 0
    reply = await gateway.complete(model="up/m", messages=[{{"role": "user", "content": "hi"}}])
    assert reply.text == "words"


if __name__ == "__main__":
    assert ask() == "words"
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert ask() == "words"
    asyncio.run(used_while_forking())
"""


@pytest.mark.fault(52)
def test_fork_after_first_use(upstream: ThreadedUpstream, tmp_path: Path) -> None:
    """By multiprocessing and by hand, with a connection that is open: no child touches what is its parent's."""
    script = tmp_path / "forked.py"
    script.write_text(textwrap.dedent(FORKED.format(config=configuration(upstream.base_url))), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=HANG, check=False, env=dict(os.environ)
    )
    assert ended.returncode == 0, ended.stderr
    assert len(upstream.requests) == 8
    # The parent's connection of the last part served before and after the fork, and no other.
    before, *_, after = upstream.requests[-4:]
    assert before.connection == after.connection
    assert len({each.connection for each in upstream.requests[-4:]}) == 3


@pytest.mark.fault(54)
def test_one_gateway_on_one_event_loop_after_the_other(upstream: ThreadedUpstream) -> None:
    """As notebooks and test suites do: each loop has connections of its own, nothing belongs to a closed one."""
    gateway = Gateway(configuration(upstream.base_url, up={"max_concurrency": 1, "health": {"interval": "1h"}}))

    async def ask() -> str:
        reply = await gateway.complete(model="up/m", messages=SAY)
        return reply.text

    async def last() -> str:
        async with gateway:
            return await ask()

    assert [asyncio.run(ask()) for _ in range(3)] == ["words"] * 3
    assert asyncio.run(last()) == "words"
    assert len({each.connection for each in upstream.requests}) == 4
    gc.collect()  # any socket left over would be a warning, and so an error here


@pytest.mark.fault(54)
def test_one_gateway_on_two_event_loops_at_once(upstream: ThreadedUpstream) -> None:
    """Two threads, each with a loop, in the middle of a stream at the same moment: both have all of it."""
    first, *rest = chat_frames("the end")
    held = upstream.default = sse_answer([first, chat_delta({"content": "so far"}), Hold(), *rest])
    gateway = Gateway(configuration(upstream.base_url))
    seen: list[bool] = []
    begun = threading.Barrier(3)

    async def read() -> None:
        said = ""
        async for event in gateway.stream(model="up/m", messages=SAY):
            said += str(event)
            if "so far" in str(event):
                await asyncio.to_thread(begun.wait, HANG)
        seen.append("the end" in said)

    loops = [asyncio.new_event_loop() for _ in range(2)]
    threads = [threading.Thread(target=loop.run_until_complete, args=(read(),)) for loop in loops]
    for thread in threads:
        thread.start()
    begun.wait(HANG)
    held.gate.set()
    for thread in threads:
        thread.join(HANG)
    assert seen == [True, True]
    asyncio.run(gateway.aclose())  # on a third loop: each of the others closes what is its own
    for loop in loops:
        while upstream.open_connections > len(loops) - 1 - loops.index(loop):
            loop.run_until_complete(asyncio.sleep(0.01))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.mark.fault(54)
def test_two_gateways_have_nothing_in_common(upstream: ThreadedUpstream) -> None:
    """One drains, is closed and forgotten; the other neither cools down nor refuses anything."""

    async def both() -> None:
        one, two = (Gateway(configuration(upstream.base_url, up={"max_concurrency": 1})) for _ in range(2))
        async with two:
            async with one:
                assert (await one.complete(model="up/m", messages=SAY)).text == "words"
                await one.drain(0)
            assert (await two.complete(model="up/m", messages=SAY)).text == "words"
        assert len({each.connection for each in upstream.requests}) == 2

    asyncio.run(both())
