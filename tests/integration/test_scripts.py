"""Scripts and notebooks: an interpreter that calls and ends, and has never heard of closing anything."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmproxy_asgi.testing import Hold, ThreadedUpstream, Upstream, json_answer, sse_answer
from support.gateway import chat_answer, chat_delta

# The garbage collector reports on standard error alone, and here on standard output.
BEGINNING = """
import asyncio, gc, sys

if {slow}:
    sys.modules["aiohttp"] = None
found = []
sys.unraisablehook = lambda left: found.append(str(left.exc_value))

from llmproxy_asgi import Gateway, create_llm_client
from llmproxy_asgi.transport import Pool, address

url = {base_url!r}
config = {{"providers": {{"up": {{"type": "openai-compatible", "base_url": url, "models": ["m"]}}}}}}
say = [{{"role": "user", "content": "hi"}}]
"""

CALLS = """
gateway = Gateway(config)
client = create_llm_client("generic", model="m", api_key="sk-made-up", base_url=url)
abandoned = []


async def ask(one):
    return (await one.complete(model="up/m", messages=say)).text


async def ask_twice():
    return await asyncio.gather(client.generate(say), client.generate(say))


async def abandon():
    events = gateway.stream(model="up/m", messages=say)
    async for event in events:
        if "so far" in str(event):
            return abandoned.append(events)


for _ in range(2):
    assert asyncio.run(ask(gateway)) == "words"
    assert asyncio.run(ask(Gateway(config))) == "words"
    assert asyncio.run(ask_twice()) == ["words"] * 2
    asyncio.run(abandon())
"""

# An answer that is never closed; the public interface has no call that could leave one.
LEAK = """
pool = Pool()


async def ask():
    answer = await pool.open("POST", address(url + "/chat/completions"), (), b'{"stream":true}', connect=10.0)
    assert b"so far" in await answer.chunk()


asyncio.run(ask())
"""

END = """
gc.collect()
print(*found, sep="\\n")
"""


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    endless = sse_answer([chat_delta({"content": "so far"}), Hold()])
    with Upstream.in_thread(default=json_answer(200, chat_answer("words"))) as made:
        made.on(lambda received: b'"stream":true' in received.body, endless)
        yield made


def left(script: str, upstream: ThreadedUpstream, folder: Path, *, slow: bool) -> str:
    """What a script leaves to the garbage collector, in an interpreter that watches for it."""
    file = folder / "script.py"
    file.write_text(BEGINNING.format(slow=slow, base_url=upstream.base_url) + script + END, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize("slow", [False, True], ids=["aiohttp", "httpx2"])
def test_nothing_is_left_by_whoever_closes_nothing(upstream: ThreadedUpstream, tmp_path: Path, *, slow: bool) -> None:
    """Connections kept for the next call, and streams not read to their end, end with the event loop."""
    assert left(CALLS, upstream, tmp_path, slow=slow) == ""
    assert len(upstream.requests) == 10
    for number in range(10):
        assert upstream.wait_closed(number)


def test_answer_that_nobody_closed_is_told(upstream: ThreadedUpstream, tmp_path: Path) -> None:
    """What is left over in the middle of a call is a mistake, and stays visible."""
    assert "Unclosed connection" in left(LEAK, upstream, tmp_path, slow=False)
