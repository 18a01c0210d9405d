"""Measure how long an upstream's call outlives its caller: from the caller's close to the gateway's own.

The upstream is the scripted one in this process, so both moments are read from one clock. Every stream is held after
its first event, or is silent from the start, so nothing but the caller's leaving can end it.
"""

import socket
import time
from typing import Literal

from bench import processes, traffic
from llmproxy_asgi.testing import Hold, Scenario, ThreadedUpstream, Upstream, sse_answer

Kind = Literal["mid-stream", "silent"]

TITLES: dict[Kind, str] = {
    "mid-stream": "in the middle of a stream",
    "silent": "while the upstream is silent",
}


def measure(core: int, *, calls: int, prefix: str) -> dict[Kind, list[float]]:
    """Seconds for each of `calls` callers of both kinds, through a gateway on `core`."""
    with Upstream.in_thread() as upstream:
        env = {"BENCH_UPSTREAM": upstream.base_url, "BENCH_ACCESS": "open"}
        with processes.server("bench.serve", "bench.ours:app", core=core, env=env) as running:
            return {kind: [_leave(upstream, running.port, kind, prefix) for _ in range(calls)] for kind in TITLES}


def _leave(upstream: ThreadedUpstream, port: int, kind: Kind, prefix: str) -> float:
    number = len(upstream.requests)
    upstream.default = Scenario(Hold()) if kind == "silent" else sse_answer([traffic.text_frame(0), Hold()])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.sendall(traffic.request("chat", "hold-1", prefix=prefix))
        upstream.wait_for_requests(number + 1)
        if kind == "mid-stream":
            while traffic.mark(0) not in caller.recv(65536):
                pass
        else:
            time.sleep(0.05)  # long enough for the gateway to be waiting
        left = time.monotonic()
    return upstream.wait_closed(number) - left
