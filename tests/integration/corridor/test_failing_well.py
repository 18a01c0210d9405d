"""What callers see when upstreams fail: nothing, a real status, or their protocol's own error event."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import (
    Close,
    Hold,
    Reset,
    Scenario,
    Send,
    ThreadedUpstream,
    Upstream,
    error_answer,
    json_answer,
    raw_answer,
    sse_answer,
)
from support.gateway import chat_answer, chat_body, chat_delta, chat_frames, messages_body, served

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


@pytest.fixture
def second() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def provider(upstream: ThreadedUpstream, **more: Any) -> dict[str, Any]:
    return {
        "type": "openai-compatible",
        "base_url": upstream.base_url + "/v1",
        "api_key": "sk-upstream-secret",
        "retry": {"attempts": 2, "backoff": "1ms"},
        **more,
    }


def gateway(*upstreams: ThreadedUpstream, keepalive: str = "15s", **more: Any) -> LLMProxy:
    providers = {f"up{index}": provider(one, priority=-index, **more) for index, one in enumerate(upstreams)}
    return LLMProxy({"providers": providers, "access": {"mode": "open"}, "keepalive": keepalive})


def post(base: str, path: str, body: dict[str, Any]) -> httpx2.Response:
    with httpx2.Client(timeout=30, trust_env=False) as client:
        return client.post(base + path, json=body)


@pytest.mark.fault(11)
@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_a_failing_upstream_is_retried_and_nothing_of_it_is_seen(upstream: ThreadedUpstream, status: int) -> None:
    """A 5xx on the first try and a good answer on the second is a good answer."""
    upstream.enqueue(error_answer(status, {"error": {"message": "boom"}}), json_answer(200, chat_answer("fine")))
    with served(gateway(upstream)) as base:
        answer = post(base, CHAT, chat_body())
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "fine"
    assert len(upstream.requests) == 2


@pytest.mark.fault(6, 11, 29)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "broken",
    [
        error_answer(500, {"error": {"message": "boom"}}),
        Scenario(Reset()),
        Scenario(Close()),
        raw_answer(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\n<html>no"),
        raw_answer(b"this is not HTTP\r\n\r\n"),
    ],
    ids=["500", "reset", "close", "html", "not-http"],
)
def test_failover_reaches_the_next_provider(
    upstream: ThreadedUpstream, second: ThreadedUpstream, broken: Scenario, stream: bool
) -> None:
    """Whatever goes wrong before the first event, the next provider answers and the caller sees only that."""
    upstream.default = broken
    second.default = sse_answer(chat_frames("fine")) if stream else json_answer(200, chat_answer("fine"))
    with served(gateway(upstream, second)) as base:
        answer = post(base, CHAT, chat_body(stream=stream))
    assert answer.status_code == 200, answer.text
    assert "fine" in answer.text
    assert "boom" not in answer.text
    assert len(second.requests) == 1


@pytest.mark.fault(24)
def test_a_stream_that_breaks_before_its_first_event_is_tried_elsewhere(
    upstream: ThreadedUpstream, second: ThreadedUpstream
) -> None:
    """A 200 head followed by nothing is a failed attempt, not an answer."""
    upstream.default = sse_answer([], end=False).then(Close())
    second.default = sse_answer(chat_frames("fine"))
    with served(gateway(upstream, second)) as base:
        answer = post(base, CHAT, chat_body(stream=True))
    assert answer.status_code == 200
    assert "fine" in answer.text


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("path", "body", "sign"),
    [
        (CHAT, chat_body(stream=True), '"error"'),
        (MESSAGES, messages_body(stream=True), "event: error"),
    ],
    ids=["chat", "messages"],
)
def test_a_cut_stream_ends_with_the_protocols_own_error(
    upstream: ThreadedUpstream, path: str, body: dict[str, Any], sign: str
) -> None:
    """After the first event a cut is an error event in the caller's protocol, and never a normal end."""
    upstream.default = sse_answer([chat_delta({"role": "assistant", "content": "half"})], end=False).then(Reset())
    with served(gateway(upstream)) as base:
        answer = post(base, path, body)
    assert answer.status_code == 200
    assert "half" in answer.text
    assert sign in answer.text
    assert "[DONE]" not in answer.text
    assert "message_stop" not in answer.text
    assert len(upstream.requests) == 1, "nothing is retried after the first event"


@pytest.mark.fault(16)
@pytest.mark.parametrize(("path", "make"), [(CHAT, chat_body), (MESSAGES, messages_body)], ids=["chat", "messages"])
def test_a_stalled_stream_ends_by_the_idle_clock(upstream: ThreadedUpstream, path: str, make: Any) -> None:
    """An upstream that stops in the middle is given up after `idle`, and its connection is closed."""
    hold = Hold()
    upstream.default = sse_answer([chat_delta({"role": "assistant", "content": "half"}), hold])
    with served(gateway(upstream, timeout={"idle": "200ms"})) as base:
        answer = post(base, path, make(stream=True))
        upstream.wait_closed(0)
    assert "half" in answer.text
    assert "stopped in the middle" in answer.text


@pytest.mark.fault(5)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_upstream_that_never_answers_is_a_504(upstream: ThreadedUpstream, stream: bool) -> None:
    """The first-byte clock ends an attempt, and the caller gets a real 504."""
    upstream.default = Scenario(Hold())
    with served(gateway(upstream, timeout={"connect": "50ms", "first_byte": "100ms"}, retry={"attempts": 1})) as base:
        answer = post(base, CHAT, chat_body(stream=stream))
        upstream.wait_closed(0)
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "timeout_error"
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.fault(17)
def test_a_lively_stream_ends_by_the_total_clock(upstream: ThreadedUpstream) -> None:
    """An upstream that drips for ever is ended by `total`."""
    drip = [Send(b"3\r\n:\n\n\r\n")] * 3
    upstream.default = sse_answer([chat_delta({"role": "assistant", "content": "x"})], end=False).then(*drip, Hold())
    with served(gateway(upstream, timeout={"total": "400ms"})) as base:
        answer = post(base, CHAT, chat_body(stream=True))
    assert "longer than its time limit" in answer.text


def test_the_operators_refused_credential_is_a_502(upstream: ThreadedUpstream) -> None:
    """A 401 from the upstream says nothing about the caller, and names no key."""
    upstream.default = error_answer(401, {"error": {"message": "Incorrect API key provided: sk-upstream-secret"}})
    with served(gateway(upstream)) as base:
        answer = post(base, CHAT, chat_body())
    assert answer.status_code == 502
    assert "sk-upstream" not in answer.text
    assert len(upstream.requests) == 1


def test_an_upstreams_refusal_is_passed_on_and_not_retried(upstream: ThreadedUpstream) -> None:
    """A 400 keeps its status, message and field."""
    error = {"message": "max_tokens is too large", "type": "invalid_request_error", "param": "max_tokens", "code": None}
    upstream.default = error_answer(400, {"error": error})
    with served(gateway(upstream)) as base:
        answer = post(base, CHAT, chat_body())
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "max_tokens"
    assert len(upstream.requests) == 1


@pytest.mark.fault(8)
def test_a_rate_limit_keeps_its_wait_and_rests_the_credential(upstream: ThreadedUpstream) -> None:
    """While the upstream's pause lasts, callers get a 429 with what is left of it, and the upstream is left alone."""
    upstream.default = error_answer(429, {"error": {"message": "slow down"}}, headers=[("retry-after", "30")])
    with served(gateway(upstream)) as base:
        first = post(base, CHAT, chat_body())
        again = post(base, MESSAGES, messages_body())
    assert first.status_code == 429
    assert first.headers["retry-after"] == "30"
    assert again.status_code == 429
    assert 0 < int(again.headers["retry-after"]) <= 30
    assert again.json()["error"]["type"] == "rate_limit_error"
    assert len(upstream.requests) == 1


@pytest.mark.fault(8)
def test_several_keys_are_taken_in_turn_and_rest_one_by_one(upstream: ThreadedUpstream) -> None:
    """A rate limited key cools down; the other one serves the same call at once."""
    limited = error_answer(429, {"error": {"message": "slow down"}}, headers=[("retry-after", "60")])

    def by_key(received: Any) -> Scenario:
        return (
            limited if received.header("authorization") == "Bearer sk-one-one" else json_answer(200, chat_answer("x"))
        )

    upstream.default = by_key
    with served(gateway(upstream, api_key=["sk-one-one", "sk-two-two"])) as base:
        statuses = [post(base, CHAT, chat_body()).status_code for _ in range(4)]
    assert statuses == [200] * 4
    keys = [received.header("authorization") for received in upstream.requests]
    assert keys.count("Bearer sk-one-one") == 1


def test_a_redirect_is_not_followed(upstream: ThreadedUpstream, second: ThreadedUpstream) -> None:
    """A redirecting upstream breaks its protocol; its credential goes nowhere else."""
    upstream.default = json_answer(307, {}, headers=[("location", second.base_url + "/v1/chat/completions")])
    with served(gateway(upstream, retry={"attempts": 1})) as base:
        answer = post(base, CHAT, chat_body())
    assert answer.status_code == 502
    assert second.requests == []


def test_everything_down_is_a_real_status(upstream: ThreadedUpstream) -> None:
    """When no target answers, the stream's caller gets a status, never a 200 with an error in it."""
    upstream.default = Scenario(Reset())
    with served(gateway(upstream)) as base:
        answer = post(base, CHAT, chat_body(stream=True))
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "make", "sign"), [(CHAT, chat_body, b": keep-alive"), (MESSAGES, messages_body, b"event: ping")]
)
def test_a_silent_upstream_is_bridged_by_keep_alives(
    upstream: ThreadedUpstream, path: str, make: Any, sign: bytes
) -> None:
    """While the upstream thinks, the caller gets its protocol's keep-alive, then the answer."""
    hold = Hold()
    upstream.default = Scenario(hold, *sse_answer(chat_frames("fine")).steps)
    with (
        served(gateway(upstream, keepalive="50ms")) as base,
        httpx2.Client(timeout=30, trust_env=False) as client,
        client.stream("POST", base + path, json=make(stream=True)) as answer,
    ):
        pieces = answer.iter_raw()
        first = next(pieces)
        assert first.startswith(sign)
        upstream.default.gate.set()
        rest = b"".join(pieces)
    assert b"fine" in rest


def test_a_failure_after_a_keep_alive_is_an_error_event(upstream: ThreadedUpstream) -> None:
    """Once a keep-alive has committed the status, a final failure is the protocol's error event."""
    upstream.default = Scenario(Hold())
    slow = {"connect": "50ms", "first_byte": "300ms"}
    with served(gateway(upstream, keepalive="40ms", timeout=slow, retry={"attempts": 1})) as base:
        answer = post(base, CHAT, chat_body(stream=True))
    assert answer.status_code == 200
    assert answer.text.startswith(": keep-alive")
    assert '"timeout_error"' in answer.text
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_caller_who_leaves_takes_the_upstream_along(upstream: ThreadedUpstream, stream: bool) -> None:
    """When the caller closes its connection the upstream's is closed soon after, streamed or not."""
    head = [chat_delta({"role": "assistant", "content": "x"})] if stream else []
    upstream.default = sse_answer([*head, Hold()]) if stream else Scenario(Hold())
    with (
        served(gateway(upstream)) as base,
        httpx2.Client(timeout=httpx2.Timeout(30, read=0.5), trust_env=False) as client,
    ):
        if stream:
            with client.stream("POST", base + CHAT, json=chat_body(stream=True)) as answer:
                next(answer.iter_raw())
                left = time.monotonic()
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post(base + CHAT, json=chat_body())
            left = time.monotonic()
        closed = upstream.wait_closed(0)
    # A hang guard, not a measurement: the figure itself is measured by the bench.
    assert closed - left < 5


def test_the_first_event_is_out_before_the_second_exists(upstream: ThreadedUpstream) -> None:
    """The caller holds the first event while the upstream has not made the second."""
    for path, make in ((CHAT, chat_body), (MESSAGES, messages_body)):
        hold = Hold()
        frames = chat_frames("first", "second")
        scenario = sse_answer([*frames[:2], hold, *frames[2:]])
        upstream.default = scenario
        with (
            served(gateway(upstream)) as base,
            httpx2.Client(timeout=30, trust_env=False) as client,
            client.stream("POST", base + path, json=make(stream=True)) as answer,
        ):
            pieces = answer.iter_raw()
            seen = b""
            while b"first" not in seen:
                seen += next(pieces)
            assert b"second" not in seen
            scenario.gate.set()
            assert b"second" in b"".join(pieces)


def test_an_oversize_answer_is_a_502(upstream: ThreadedUpstream) -> None:
    """An upstream's answer beyond the limit is refused, not buffered."""
    upstream.default = json_answer(200, chat_answer("x" * 5000))
    proxy = LLMProxy(
        {
            "providers": {"up": provider(upstream, retry={"attempts": 1})},
            "access": {"mode": "open"},
            "limits": {"answer": "2KiB"},
        }
    )
    with served(proxy) as base:
        answer = post(base, CHAT, chat_body())
    assert answer.status_code == 502


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("path", "make"), [(CHAT, chat_body), (MESSAGES, messages_body)], ids=["relayed", "translated"]
)
def test_an_event_beyond_the_limit_ends_the_stream(upstream: ThreadedUpstream, path: str, make: Any) -> None:
    """`limits.event` bounds what is held of one event, passed through or translated."""
    first, second, *rest = chat_frames("fine", "x" * 5000)
    scenario = sse_answer([first, second, Hold(), *rest])
    upstream.default = scenario
    proxy = LLMProxy({"providers": {"up": provider(upstream)}, "access": {"mode": "open"}, "limits": {"event": "2KiB"}})
    with (
        served(proxy) as base,
        httpx2.Client(timeout=30, trust_env=False) as client,
        client.stream("POST", base + path, json=make(stream=True)) as answer,
    ):
        pieces = answer.iter_raw()
        seen = b""
        while b"fine" not in seen:  # the first frame may come alone
            seen += next(pieces)
        scenario.gate.set()
        seen += b"".join(pieces)
    assert b"xxx" not in seen
    assert b"error" in seen


def test_an_answer_without_a_date_is_dated_on_arrival() -> None:
    """Messages say no time; a Chat client reads when the answer came."""
    before = int(time.time())
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "c",
        "content": [],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    frames = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    with Upstream.in_thread(default=sse_answer(frames)) as upstream:
        block = {"type": "anthropic", "base_url": upstream.base_url, "api_key": "sk-x"}
        proxy = LLMProxy({"providers": {"up": block}, "access": {"mode": "open"}})
        with served(proxy) as base:
            answer = post(base, CHAT, chat_body(stream=True))
    first = json.loads(answer.text.split("\n")[0].removeprefix("data: "))
    assert before <= first["created"] <= int(time.time())
