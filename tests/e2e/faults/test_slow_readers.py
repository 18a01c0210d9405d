"""Callers who read slowly, or not at all, while their upstream has much to say."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from typing_extensions import override

from llmproxy_asgi.testing import Gate, Hold, Scenario, ThreadedUpstream, Upstream, sse_answer
from support.gateway import chat_delta
from support.servers import CHAT, Site, chat, configuration, serving, until
from support.servers.sockets import held

MIB = 1024 * 1024
PIECE = 16 * 1024
SERVERS = ("uvicorn", "hypercorn", "granian", "gunicorn", "gthread")
OPTIONS = {"granian": ("--http1-buffer-size", "8192")}
"""Granian's own buffer for each connection would be 408 KiB."""
HELD = 256 * 1024
WRITE_TIMEOUT = 2
TINY = 4096


class Milestone(Gate):
    """A gate that is open, and counts who passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0

    @override
    async def wait(self) -> None:
        self.passed += 1


def flood(pieces: int, milestone: Gate) -> Scenario:
    """A stream of so many pieces, each counted when the next one may be sent."""
    piece = chat_delta({"content": "x" * PIECE})
    frames: list[bytes | Hold] = []
    for _ in range(pieces):
        frames += [piece, Hold(milestone)]
    return sse_answer([*frames, chat_delta({}, "stop"), b"data: [DONE]\n\n"])


@pytest.fixture(params=SERVERS, scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    limits = {"write_timeout": f"{WRITE_TIMEOUT}s"}
    with Upstream.in_thread() as upstream:
        config = configuration(upstream.base_url, limits=limits)
        with serving(
            str(request.param), config, tmp_path_factory.mktemp("site"), options=OPTIONS.get(request.param, ())
        ) as found:
            UPSTREAMS[found] = upstream
            upstream.default = flood(2, Milestone())
            with found.ask(CHAT, chat()) as first:  # so that what is imported at first use is there
                first.rest()
            yield found


UPSTREAMS: dict[Site, ThreadedUpstream] = {}


@pytest.mark.fault(35)
def test_a_caller_who_reads_nothing_slows_its_upstream_and_is_ended(site: Site) -> None:
    """Of 32 MiB little more is read than the system takes, with all that the server keeps; the write clock ends it."""
    upstream, milestone = UPSTREAMS[site], Milestone()
    before = site.state()
    total, callers = 2048, 4
    upstream.default = flood(total, milestone)
    first = len(upstream.requests)
    with ExitStack() as stack:
        for _ in range(callers):
            stack.enter_context(site.ask(CHAT, chat(), receive_buffer=TINY)).read_until(b"200")
        stuck = site.until(Stuck(milestone))
        assert milestone.passed < callers * total / 2
        assert stuck["open"] == callers
        port = int(upstream.base_url.rpartition(":")[2])
        assert held(before["traffic"], stuck["traffic"], upstream=port, server=site.port) < callers * HELD
        for number in range(callers):
            upstream.wait_closed(first + number)
        after = site.until(lambda state: state["open"] == 0)
    assert [each[0] for each in after["finished"][-callers:]] == ["cancelled"] * callers


class Stuck:
    """Whether nothing has passed a milestone since it was last asked."""

    def __init__(self, milestone: Milestone) -> None:
        self._milestone = milestone
        self._before = -1

    def __call__(self, _state: object) -> bool:
        time.sleep(0.3)
        before, self._before = self._before, self._milestone.passed
        return before == self._before


@pytest.mark.fault(35)
def test_a_caller_who_reads_slowly_gets_all_of_it(site: Site) -> None:
    """Five MiB through a receive buffer of a few KiB, whole."""
    upstream, milestone = UPSTREAMS[site], Milestone()
    pieces = 5 * MIB // PIECE
    upstream.default = flood(pieces, milestone)
    with site.ask(CHAT, chat(), receive_buffer=4 * TINY) as slow:
        data = slow.rest()
    assert data.count(b"x" * PIECE) + data.count(b"x") // PIECE >= pieces
    assert b"[DONE]" in data


@pytest.mark.fault(36)
def test_one_slow_caller_among_two_hundred(site: Site) -> None:
    """All others have their answers, whole, while one reads nothing."""
    upstream, milestone = UPSTREAMS[site], Milestone()
    quick = sse_answer([*([chat_delta({"content": "word"})] * 5), chat_delta({}, "stop"), b"data: [DONE]\n\n"])
    upstream.enqueue(flood(2048, milestone))
    upstream.default = quick
    with site.ask(CHAT, chat(), receive_buffer=TINY) as slow:
        slow.read_until(b"200")
        until(lambda: milestone.passed > 0)
        with site.each([chat()] * 199) as others:
            for caller in others:
                assert caller.rest().count(b'"word"') == 5
                assert b"[DONE]" in caller.data
        assert not slow.data.endswith(b"0\r\n\r\n")
    site.until(lambda state: state["open"] == 0)
