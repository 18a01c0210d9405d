"""Flask under every WSGI server: streams, callers who leave, and what they leave behind."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

import llmproxy_flask
from llmproxy_asgi.testing import Hold, Upstream, sse_answer
from support.gateway import chat_delta
from support.servers import CHAT, WSGI, chat, configuration
from support.servers.harness import (
    KEEPALIVE,
    SAID,
    ServerHarness,
    all_is_given_back,
    is_let_go_within,
    leave_the_line,
    server_harness,
)


@pytest.fixture(params=WSGI, scope="module")
def wsgi(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHarness]:
    with server_harness(str(request.param), tmp_path_factory.mktemp("site")) as found:
        yield found


def but(server: str) -> pytest.MarkDecorator:
    """All servers but one."""
    return pytest.mark.parametrize("wsgi", [each for each in WSGI if each != server], indirect=True, scope="module")


@pytest.mark.fault(33, 53)
def test_wsgi_upstream_is_let_go_soon_after_a_sign_of_life(wsgi: ServerHarness) -> None:
    """Under WSGI within the keep-alive's interval and a second, where no server says that a caller has left."""
    assert is_let_go_within(KEEPALIVE + 1, wsgi, "middle")
    all_is_given_back(wsgi)


@pytest.mark.fault(34, 53)
def test_wsgi_silent_upstream_is_let_go_soon_after_a_sign_of_life(wsgi: ServerHarness) -> None:
    """The same where nothing has come yet."""
    assert is_let_go_within(KEEPALIVE + 1, wsgi, "silent")
    all_is_given_back(wsgi)


@pytest.mark.fault(34, 53)
@but("waitress")
def test_wsgi_whole_answers_are_left_where_the_server_shows_its_socket(wsgi: ServerHarness) -> None:
    """Gunicorn detects it, so a call without keep-alive events ends, too; on waitress it continues to its end."""
    assert is_let_go_within(2, wsgi, "whole")
    all_is_given_back(wsgi)


@pytest.mark.fault(33, 53)
@but("sync")
def test_wsgi_leaving_the_line(wsgi: ServerHarness) -> None:
    """As under ASGI; a sync worker serves one call after the other, so there is no line."""
    leave_the_line(wsgi)


@pytest.mark.fault(53)
def test_wsgi_callers_are_not_mixed_up_and_leave_no_thread(wsgi: ServerHarness) -> None:
    """A hundred streams at once, each with its own text, whole; later ones start no thread more."""
    wsgi.upstream.default = lambda received: sse_answer(
        [chat_delta({"content": received.json()["messages"][0]["content"]})] * 3
        + [chat_delta({}, "stop"), b"data: [DONE]\n\n"]
    )
    threads = []
    for count in (100, 10):
        texts = [f"text-{number:03}." for number in range(count)]
        with wsgi.site.each(asking(text) for text in texts) as callers:
            for text, caller in zip(texts, callers, strict=True):
                said = caller.rest().decode()
                caller.leave()  # a sync worker waits for it
                assert said.count(text) == said.count("text-") == 3
                assert said.rstrip().endswith(("[DONE]", "0"))
        state = wsgi.site.until(lambda state: state["open"] == 0)
        threads.append(len(state["threads"]))
    assert threads[0] == threads[1]


def asking(text: str) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": text}])


@pytest.mark.fault(53)
@but("sync")
def test_wsgi_streams_are_under_way_together(wsgi: ServerHarness) -> None:
    """On gevent all hundred are open at once; with threads as many as there are threads."""
    count = 100 if wsgi.site.server == "gevent" else 7
    before = len(wsgi.upstream.requests)
    held = sse_answer([chat_delta({"content": SAID}), Hold(), chat_delta({}, "stop"), b"data: [DONE]\n\n"])
    wsgi.upstream.default = held
    with wsgi.site.each([chat()] * count) as callers:
        for caller in callers:
            caller.read_until(SAID.encode())
        assert len(wsgi.upstream.requests) == before + count
        held.gate.set()
        assert all(b"[DONE]" in caller.rest() for caller in callers)


@pytest.mark.fault(53)
def test_flasks_test_client_streams_and_cancels() -> None:
    """In the test's process, without a server: each piece arrives at once, and closing releases the upstream."""
    with Upstream.in_thread() as upstream:
        app = Flask(__name__)
        config = {**configuration(upstream.base_url), "access": {"mode": "open"}}
        extension = llmproxy_flask.LLMProxy(app, config, identify=lambda _: "somebody")
        assert extension
        held = sse_answer([chat_delta({"content": SAID}), Hold()])
        upstream.default = held
        answered = app.test_client().post("/llm" + CHAT, data=json.dumps(chat()), content_type="application/json")
        assert answered.status_code == 200
        pieces = iter(answered.response)
        assert SAID.encode() in next(pieces)
        answered.close()
        assert upstream.wait_closed(0)
        app.extensions["llmproxy"].bridge.close()
