"""Another configuration is taken up again and again while two hundred streams run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproxy_asgi.testing import Gate, Hold, ThreadedUpstream, Upstream, sse_answer
from support.gateway import chat_delta, chat_frames
from support.servers import CHAT, Caller, Site, chat, configuration, serving, until

pytestmark = pytest.mark.fault(45)
STREAMS = 200


@pytest.fixture
def upstreams() -> Iterator[tuple[ThreadedUpstream, ThreadedUpstream]]:
    with Upstream.in_thread() as old, Upstream.in_thread() as new:
        yield old, new


def reload(site: Site, config: dict[str, Any]) -> None:
    with Caller(site.port) as caller:
        assert caller.ask("/reload", config).whole()[0] == 200


def renamed(config: dict[str, Any], name: str, base_url: str) -> dict[str, Any]:
    """The same with a provider of another name at another place, and no other."""
    return {**config, "providers": {name: {**config["providers"]["up"], "base_url": base_url + "/v1"}}}


def test_streams_end_where_they_began(upstreams: tuple[ThreadedUpstream, ThreadedUpstream], tmp_path: Path) -> None:
    """Of two hundred none breaks, while their provider is gone; its pool is closed when the last of them has ended."""
    old, new = upstreams
    gate = Gate()
    first, *rest = chat_frames("old words")
    old.default = sse_answer([first, chat_delta({"content": "so far"}), Hold(gate), *rest])
    new.default = sse_answer(chat_frames("new words"))
    config = configuration(old.base_url)
    with serving("uvicorn", config, tmp_path) as site, site.each([chat()] * STREAMS) as streams:
        for stream in streams:
            stream.read_until(b"so far")
        other = renamed(config, "other", new.base_url)
        for number in range(20):
            reload(site, other if number % 2 == 0 else config)
        reload(site, other)
        with site.ask(CHAT, chat(model="other/m")) as late:
            assert b"new words" in late.rest()
        assert len(old.requests) == STREAMS
        assert old.open_connections == STREAMS
        gate.set()
        for stream in streams:
            assert b"old words" in stream.rest()
            assert b"[DONE]" in stream.data
        until(lambda: old.open_connections == 0)
        state = site.until(lambda state: state["open"] == 0)
        assert state["pools"] == ["other"]
        assert {tuple(each) for each in state["finished"]} == {("ok", "exact")}


def test_a_provider_that_stays_keeps_its_connections_and_its_places(
    upstreams: tuple[ThreadedUpstream, ThreadedUpstream], tmp_path: Path
) -> None:
    """Calls under way count on after a reload, and idle connections are used again."""
    old, _ = upstreams
    gate = Gate()
    first, *rest = chat_frames("old words")
    old.enqueue(sse_answer([first, Hold(gate), *rest]))
    old.default = sse_answer(chat_frames("words"))
    config = configuration(old.base_url, up={"max_concurrency": 1})
    with serving("uvicorn", config, tmp_path) as site, site.ask(CHAT, chat()) as stream:
        stream.read_until(b"role")
        reload(site, {**config, "keepalive": "2s"})
        with site.ask(CHAT, chat()) as refused:
            assert refused.whole()[0] == 503
        gate.set()
        assert b"old words" in stream.rest()
        with site.ask(CHAT, chat()) as taken:
            assert b"words" in taken.rest()
        assert old.connections == 1
        assert site.state()["slots"] == 0
