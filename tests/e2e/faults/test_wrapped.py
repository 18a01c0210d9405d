"""The host wraps the gateway in middleware of Starlette's that was not made for streams."""

from collections.abc import Iterator

import pytest

from llmproxy_asgi.testing import Gate, Hold, Scenario, ThreadedUpstream, Upstream, sse_answer
from support.gateway import chat_delta, chat_frames
from support.servers import CHAT, Caller, Site, chat, configuration, serving

pytestmark = pytest.mark.fault(37)


ON = (
    *(("uvicorn", by) for by in ("base", "gzip", "base gzip")),
    *((server, "base gzip") for server in ("hypercorn", "granian", "gunicorn")),
)


@pytest.fixture(params=ON, ids=" ".join, scope="module")
def wrapped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Wrapped"]:
    with Upstream.in_thread() as upstream:
        config = configuration(upstream.base_url, keepalive="300ms")
        server, by = request.param
        environment = {"SERVED_WRAPPED": by}
        with serving(server, config, tmp_path_factory.mktemp("site"), environment=environment) as site:
            yield Wrapped(site, upstream)


class Wrapped:
    def __init__(self, site: Site, upstream: ThreadedUpstream) -> None:
        self.site = site
        self.upstream = upstream

    def ask(self, *, stream: bool = True) -> Caller:
        """As a browser does, which takes compressed answers."""
        return Caller(self.site.port).ask("/llm" + CHAT, chat(stream=stream), headers={"accept-encoding": "gzip"})


def test_pieces_come_through_as_they_are_said(wrapped: Wrapped) -> None:
    """While the upstream is held, its caller has what was said so far, readable, and its signs of life."""
    gate = Gate()
    first, *rest = chat_frames("hello", "goodbye")
    wrapped.upstream.default = sse_answer([first, chat_delta({"content": "so far"}), Hold(gate), *rest])
    with wrapped.ask() as caller:
        caller.read_until(b"so far")
        assert b"content-encoding" not in caller.data.lower()
        caller.read_until(b": keep-alive")
        gate.set()
        assert b"goodbye" in caller.rest()
        assert caller.has_ended


@pytest.mark.parametrize("kind", ["silent", "middle"])
def test_leaving_still_lets_go_of_the_upstream(wrapped: Wrapped, kind: str) -> None:
    """Before the first byte and in the middle; nothing is left over."""
    number = len(wrapped.upstream.requests)
    said = sse_answer([chat_delta({"content": "so far"}), Hold()])
    wrapped.upstream.default = said if kind == "middle" else Scenario(Hold())
    with wrapped.ask() as caller:
        wrapped.upstream.wait_for_requests(number + 1)
        if kind == "middle":
            caller.read_until(b"so far")
    assert wrapped.upstream.wait_closed(number)
    state = wrapped.site.until(lambda state: state["open"] == 0)
    assert len(state["finished"]) == state["started"]
    # BaseHTTPMiddleware raises "No response returned." for an application that ends without an answer.
    assert "Traceback" not in wrapped.site.log.read_text()
