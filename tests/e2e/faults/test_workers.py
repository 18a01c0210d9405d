"""One of four workers is killed under load.

Not under hypercorn, which then ends the other three by itself, and starts none in their place.
"""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from llmproxy_asgi.testing import Gate, Hold, Upstream, sse_answer
from support.gateway import chat_delta, chat_frames
from support.servers import CHAT, Site, chat, configuration, serving, until

pytestmark = pytest.mark.fault(50)
STREAMS = 40
WORKERS = 4
PROMPT = ("--graceful-timeout", "1")
OPTIONS = {
    "uvicorn": ("--timeout-graceful-shutdown", "1"),
    "granian": ("--respawn-failed-workers", "--workers-kill-timeout", "1"),
    "gunicorn": PROMPT,
    "gunicorn-uvicorn": PROMPT,
}


@pytest.mark.parametrize("server", OPTIONS)
def test_only_the_crashed_workers_streams_break(server: str, tmp_path: Path) -> None:
    """Exactly the streams that it served break off, without an end; all others end whole, and new calls are served."""
    gate = Gate()
    first, *rest = chat_frames("the end")
    with Upstream.in_thread() as upstream:
        upstream.default = sse_answer([first, chat_delta({"content": "so far"}), Hold(gate), *rest])
        with (
            serving(
                server, configuration(upstream.base_url), tmp_path, workers=WORKERS, options=OPTIONS[server]
            ) as site,
            contextlib.ExitStack() as leaving,
        ):
            wait_for_workers(site)
            callers = []
            for _ in range(STREAMS):  # one by one: of many at once a worker takes all that it finds
                callers.append(leaving.enter_context(site.ask(CHAT, chat())))
                callers[-1].read_until(b"so far")
            shares = open_by_worker(site)
            assert len(shares) > 1
            victim = min((pid for pid in shares if shares[pid]), key=lambda pid: shares[pid])
            os.kill(victim, signal.SIGKILL)
            until(lambda: upstream.open_connections == STREAMS - shares[victim])
            gate.set()
            for caller in callers:
                caller.rest()
            whole = sum(b"[DONE]" in caller.data and caller.has_ended for caller in callers)
            assert whole == STREAMS - shares[victim]
            assert not any(b"[DONE]" in caller.data for caller in callers if not caller.has_ended)
            with site.each([chat()] * 20) as later:
                assert all(b"[DONE]" in caller.rest() for caller in later)


def wait_for_workers(site: Site) -> None:
    """Until more than one has answered: while others start, the first one serves alone."""
    found: set[int] = set()

    def several() -> bool:
        found.add(site.state()["pid"])
        return len(found) > 1

    until(several)


def open_by_worker(site: Site) -> dict[int, int]:
    """How many calls are open in each worker that has any; asked until all are found."""
    found: dict[int, int] = {}

    def all_told() -> bool:
        state: dict[str, Any] = site.state()
        found[state["pid"]] = state["open"]
        return sum(found.values()) == STREAMS

    until(all_told)
    return found
