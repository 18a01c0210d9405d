"""How long requests of every shape hold the event loop of a real uvicorn, passed through and translated."""

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from fault_matrix import PAGE
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream
from support.bodies import MIB, SHAPES, Measured, measured, request
from support.faults import EVERY, block, fine
from support.page_sections import with_part
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES

NAMES = {CHAT: "Chat", RESPONSES: "Responses", MESSAGES: "Messages", GEMINI: "Gemini"}
WAYS = {
    "passthrough": {client: client for client in EVERY},
    "translated": {CHAT: MESSAGES, RESPONSES: GEMINI, MESSAGES: RESPONSES, GEMINI: CHAT},
}
"""The upstream's protocol for each caller's."""
MOST = {1: 0.05, 32: 0.25}
"""Processor seconds of the longest step, by MiB of the body."""
SLACK = 3
"""Times as long as that, where other programs share caches and memory with this one."""
REJECTED = {400, 413}


def answer(received: Received) -> Scenario:
    path = received.path
    return fine(next((client for end, client in _ENDS.items() if end in path), CHAT))


_ENDS = {"/messages": MESSAGES, "/responses": RESPONSES, "generateContent": GEMINI}


@pytest.fixture(scope="module")
def harness() -> Iterator[Measured]:
    with Upstream.in_thread(default=answer) as upstream, measured(configuration(upstream)) as made:
        for way in WAYS:
            for client in EVERY:
                for _ in range(3):
                    assert longest(made, client, way, "parts of a KiB", 300_000, goal=1.0)[0] == 200
        yield made


def configuration(upstream: ThreadedUpstream) -> dict[str, Any]:
    providers = {NAMES[client].lower(): block(upstream, client) for client in EVERY}
    return {"providers": providers, "access": {"mode": "open"}}


def longest(
    harness: Measured, client: str, way: str, shape: str, size: int, *, goal: float, calls: int = 5
) -> tuple[int, float]:
    """The status, and the longest step of the best call: what is above it is other programs' doing.

    More calls are made only as long as none has met the goal.
    """
    path, body = request(client, f"{NAMES[WAYS[way][client]].lower()}/m", shape, size)
    status, found = 0, float("inf")
    for _ in range(calls):
        harness.longest()
        status = harness.post(path, body)
        found = min(found, harness.longest())
        if found < goal:
            break
    return status, found


DEAREST = [name for name in SHAPES if "at the limit" in name and "numbers" not in name]
"""Shapes that cost most for their size."""


@pytest.mark.fault(51)
@pytest.mark.parametrize(
    "shape",
    [
        "messages of one letter",
        "one text of escapes",
        "arguments of empty arrays",
        "an unknown field of arrays sixty deep",
        *DEAREST,
    ],
)
@pytest.mark.parametrize("client", EVERY, ids=NAMES.values())
@pytest.mark.parametrize("way", WAYS)
def test_no_shape_of_a_mebibyte_holds_the_loop(harness: Measured, shape: str, client: str, way: str) -> None:
    """Served or refused, never a failure, and within the default limits never for long."""
    status, seconds = longest(harness, client, way, shape, MIB, goal=SLACK * MOST[1])
    assert status == 200 or status in REJECTED
    assert seconds < SLACK * MOST[1]


@pytest.mark.verify
def test_figures_of_bodies(harness: Measured) -> None:
    """Every shape of every caller, both ways, of one and of 32 MiB; the figures go into docs/reliability.md."""
    rows = []
    over = []
    for shape in SHAPES:
        cells = []
        for size, most in MOST.items():
            for way in WAYS:
                found = {client: longest(harness, client, way, shape, size * MIB, goal=most) for client in EVERY}
                statuses = [status for status, _ in found.values()]
                assert set(statuses) <= {200, *REJECTED}, (shape, way, size, found)
                worst = max(found, key=lambda client: found[client][1])
                over += [(shape, size, way, NAMES[client], each[1]) for client, each in found.items() if each[1] > most]
                rejected = len(statuses) - statuses.count(200)
                mark = f" ({rejected} rejected)" if rejected else ""
                cells.append(f"{1000 * found[worst][1]:.0f} {NAMES[worst]}{mark}")
        rows.append(f"| {shape} | {' | '.join(cells)} | {harness.peak() // MIB} |")
    goals = " and ".join(f"{1000 * most:.0f} ms" for most in MOST.values())
    verdict = f"{len(over)} of {len(SHAPES) * 16} are not met" if over else "all are met"
    versions = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "msgspec", "aiohttp"))
    lines = [
        "CPU time of the longest step of the event loop, in milliseconds: the slowest of four callers (Chat,",
        "Responses, Messages and Gemini), its name, and how many of the four requests were rejected. A call above the",
        "goal is repeated up to four times, and the best one counts. Chat is translated to Messages, Responses to",
        "Gemini, Messages to Responses, and Gemini to Chat. Work in a worker thread counts as far as it blocked the",
        "loop. The last column is the process's peak size so far, in MiB.",
        "",
        "| shape | 1 MiB, passthrough | 1 MiB, translated | 32 MiB, passthrough | 32 MiB, translated | peak |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"{len(SHAPES) * 16} figures; the bodies are the same in every run, so there is no seed. Commit {commit()},",
        f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, shared with upstream and caller,",
        f"load {os.getloadavg()[0]:.1f} at the end. Goals: {goals}; {verdict}.",
    ]
    PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), "bodies", "\n".join(lines)), encoding="utf-8")
    assert not over


def commit() -> str:
    root = Path(__file__).parents[3]
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()
