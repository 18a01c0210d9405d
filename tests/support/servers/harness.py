"""A server with a gateway and a scripted upstream behind it, and callers on it who leave."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmproxy_asgi.testing import Hold, Scenario, Step, ThreadedUpstream, Upstream, sse_answer
from support.gateway import chat_delta, messages_body
from support.servers import CHAT, MESSAGES, Site, chat, configuration, serving

KEEPALIVE = 1.0
"""Seconds, as `configuration` has it."""
KINDS = {
    "silent": "before the upstream responds",
    "head": "before the first event",
    "middle": "in the middle of a stream",
    "whole": "during a non-streaming answer",
}
SAID = "so far so good"


@dataclass(frozen=True)
class ServerHarness:
    """A server with a gateway, and what stands behind it."""

    site: Site
    upstream: ThreadedUpstream


@contextmanager
def server_harness(server: str, folder: Path) -> Iterator[ServerHarness]:
    with Upstream.in_thread() as upstream:
        config = configuration(upstream.base_url, limits={"write_timeout": "5s"})
        narrow = {**config["providers"]["up"], "max_concurrency": 1, "rate_limit": {"queue_timeout": "50s"}}
        config["providers"]["narrow"] = narrow
        with serving(server, config, folder) as site:
            yield ServerHarness(site, upstream)


def leave(on: ServerHarness, kind: str, *, messages: bool = False) -> float:
    """Call, leave, and wait for the upstream's connection to be closed; the seconds that took."""
    number = len(on.upstream.requests)
    frames: dict[str, list[bytes | Step]] = {"head": [Hold()], "middle": [chat_delta({"content": SAID}), Hold()]}
    on.upstream.default = sse_answer(frames[kind]) if kind in frames else Scenario(Hold())
    body: dict[str, Any] = chat(stream=kind != "whole")
    if messages:
        body = messages_body(stream=True, model="up/m")
    caller = on.site.ask(MESSAGES if messages else CHAT, body)
    on.upstream.wait_for_requests(number + 1)
    if kind == "middle":
        caller.read_until(SAID.encode())
    else:
        time.sleep(0.05)  # long enough for the gateway to be waiting
    left = caller.leave()
    return on.upstream.wait_closed(number) - left


def is_let_go_within(seconds: float, on: ServerHarness, kind: str, *, messages: bool = False) -> bool:
    """Whether one of three is: a machine that is busy elsewhere makes one late, a gateway that waits for it all."""
    return any(leave(on, kind, messages=messages) < seconds for _ in range(3))


def all_is_given_back(on: ServerHarness) -> None:
    """No call is open, no place is taken, and each call was accounted once."""
    state = on.site.until(lambda state: state["open"] == 0)
    assert (state["slots"], state["waiting"]) == (0, 0)
    assert len(state["finished"]) == state["started"]
    assert {tuple(each) for each in state["finished"]} <= {("cancelled", "estimated"), ("cancelled", "none")}


def leave_the_line(on: ServerHarness) -> None:
    """One caller has the only place; another waits for it and leaves; a third gets it after the first."""
    before = len(on.upstream.requests)
    on.upstream.default = sse_answer([chat_delta({"content": SAID}), Hold()])
    first = on.site.ask(CHAT, chat(model="narrow/m"))
    first.read_until(SAID.encode())
    waiting = on.site.ask(CHAT, chat(model="narrow/m"))
    on.site.until(lambda state: state["waiting"] == 1)
    waiting.leave()
    on.site.until(lambda state: state["waiting"] == 0)
    assert len(on.upstream.requests) == before + 1
    with on.site.ask(CHAT, chat(model="narrow/m")) as third:
        on.site.until(lambda state: state["waiting"] == 1)
        first.leave()
        third.read_until(SAID.encode())
    all_is_given_back(on)
    assert len(on.upstream.requests) == before + 2
