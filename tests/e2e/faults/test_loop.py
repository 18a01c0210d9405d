"""How long our own work holds the event loop while requests of a MiB are read and translated.

What is measured is the processor time of each step of the loop in its own thread, so that other programs do not count.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from fault_matrix import PAGE
from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import ThreadedUpstream, Upstream, json_answer
from support.gateway import chat_answer, served
from support.page_sections import with_part
from support.servers import CHAT, MESSAGES, configuration

MIB = 1024 * 1024
WORDS = "A sentence of some words that was said before. "
TEXTS = 64


def large(path: str) -> bytes:
    """A conversation of a MiB."""
    text = WORDS * (MIB // TEXTS // len(WORDS))
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number in range(TEXTS - 1)]
    body: dict[str, Any] = {"model": "up/m", "messages": messages}
    return json.dumps(body if path == CHAT else {**body, "max_tokens": 9}).encode()


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=json_answer(200, chat_answer("words"))) as made:
        yield made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The processor seconds of every step of every loop that is written in Python."""
    taken: list[float] = []
    run = asyncio.Handle._run  # what asyncio itself calls for each step

    def timed(handle: asyncio.Handle) -> None:
        since = time.thread_time()
        run(handle)
        taken.append(time.thread_time() - since)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    return taken


def longest(upstream: ThreadedUpstream, steps: list[float], path: str, calls: int) -> list[float]:
    """The longest step of each call, after a first one."""
    found = []
    body = large(path)
    headers = {"content-type": "application/json"}
    with (
        served(LLMProxy(configuration(upstream.base_url))) as base,
        httpx2.Client(trust_env=False, timeout=60) as client,
    ):
        for number in range(calls + 1):
            steps.clear()
            assert client.post(base + path, content=body, headers=headers).status_code == 200
            if number:
                found.append(max(steps))
    return found


@pytest.mark.fault(51)
@pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["relayed", "translated"])
def test_no_step_holds_the_loop_for_long(upstream: ThreadedUpstream, steps: list[float], path: str) -> None:
    """Requests of a MiB, handed on or translated: typically far below what a caller of another stream would notice."""
    assert statistics.median(longest(upstream, steps, path, 5)) < 0.05


@pytest.mark.verify
def test_figures_of_the_loop(upstream: ThreadedUpstream, steps: list[float]) -> None:
    """Two hundred calls of each kind; the figures are written into docs/reliability.md."""
    lines = [
        "The longest step of the event loop in each of 200 calls of 1 MiB, in milliseconds of CPU time, including the",
        "scripted upstream's own loop and the server's reading of the request.",
        "",
        "| call | median | p99 |",
        "| --- | --- | --- |",
    ]
    for path, named in ((CHAT, "passthrough (Chat to Chat)"), (MESSAGES, "translated (Messages to Chat)")):
        taken = sorted(1000 * each for each in longest(upstream, steps, path, 200))
        lines.append(f"| {named} | {statistics.median(taken):.1f} | {taken[197]:.1f} |")
    PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), "loop", "\n".join(lines)), encoding="utf-8")
