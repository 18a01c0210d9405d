"""How long requests of every shape hold the event loop of a real uvicorn, passed through and translated."""

import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_matrix import PAGE
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream, json_answer
from support.bodies import MIB, Measured, measured, shapes
from support.gateway import chat_answer
from support.page_sections import with_part
from support.servers import CHAT

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "ok"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
WAYS = {"passed through": "chat/m", "translated": "claude/m"}
"""Chat requests, to an upstream that speaks Chat and to one that speaks Messages."""
MOST = {1: 0.05, 32: 0.25}
"""Processor seconds of the longest step, by MiB of the body."""
SLACK = 3
"""Times as long as that, where other programs share caches and memory with this one."""


def answer(received: Received) -> Scenario:
    return json_answer(200, MESSAGE if received.path.endswith("/messages") else chat_answer("ok"))


@pytest.fixture(scope="module")
def harness() -> Iterator[Measured]:
    with Upstream.in_thread(default=answer) as upstream, measured(configuration(upstream)) as made:
        for model in WAYS.values():
            for _ in range(3):
                made.post(CHAT, shapes()["parts of a KiB"](model, 300_000))
        yield made


def configuration(upstream: ThreadedUpstream) -> dict[str, Any]:
    chat = {"type": "openai-compatible", "base_url": upstream.base_url + "/v1"}
    claude = {"type": "anthropic", "api_key": "sk-ant-0123456789", "base_url": upstream.base_url}
    return {"providers": {"chat": chat, "claude": claude}, "access": {"mode": "open"}}


def longest(harness: Measured, body: bytes, calls: int) -> tuple[int, float]:
    """The status, and the longest step of the best of some calls: what is above it is other programs' doing."""
    status, found = 0, []
    for _ in range(calls):
        harness.longest()
        status = harness.post(CHAT, body)
        found.append(harness.longest())
    return status, min(found)


DEAREST = [name for name in shapes() if "at the limit" in name and "numbers" not in name]
"""Shapes that cost most for their size."""


@pytest.mark.fault(51)
@pytest.mark.parametrize("shape", ["messages of one letter", "one text of escapes", "arrays sixty deep", *DEAREST])
@pytest.mark.parametrize("way", WAYS)
def test_no_shape_of_a_mebibyte_holds_the_loop(harness: Measured, shape: str, way: str) -> None:
    """Served or refused, never a failure, and within the default limits never for long."""
    status, seconds = longest(harness, shapes()[shape](WAYS[way], MIB - 1_000), 2)
    assert status in (200, 400)
    assert seconds < SLACK * MOST[1]


@pytest.mark.verify
def test_figures_of_bodies(harness: Measured) -> None:
    """Every shape, both ways, of one and of 32 MiB; the figures are written into docs/reliability.md."""
    rows = []
    over = []
    for shape, make in shapes().items():
        cells = []
        for size, most in MOST.items():
            for way, model in WAYS.items():
                status, seconds = longest(harness, make(model, size * MIB - 1_000), 5 if size == 1 else 3)
                assert status in (200, 400), (shape, way)
                cells.append(f"{1000 * seconds:.0f}" + ("" if status == 200 else " (400)"))
                if seconds > most:
                    over.append((shape, size, way, seconds))
        rows.append(f"| {shape} | {' | '.join(cells)} | {harness.peak() // MIB} |")
    goals = " and ".join(f"{1000 * most:.0f} ms" for most in MOST.values())
    verdict = f"{len(over)} are not met" if over else "all are met"
    lines = [
        "CPU time of the longest step of the event loop, in milliseconds, best of several calls; (400): rejected. Work",
        "in a worker thread counts as far as it blocked the loop. The last column is the process's peak size, in MiB.",
        "",
        "| shape | 1 MiB, passthrough | 1 MiB, translated | 32 MiB, passthrough | 32 MiB, translated | peak |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Commit {commit()}, Python {platform.python_version()}. Goals: {goals}; {verdict}.",
    ]
    PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), "bodies", "\n".join(lines)), encoding="utf-8")
    assert not over


def commit() -> str:
    root = Path(__file__).parents[3]
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()
