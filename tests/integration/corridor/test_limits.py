"""Limits over real sockets: who is refused reads when to come back, who waits is served in turn, who leaves is gone.

The gateway's clock stands still unless a test turns it, so every number here is exact.
"""

import contextlib
import functools
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection

from llmproxy_asgi import Gateway, LLMProxy, Principal
from llmproxy_asgi.errors import RateLimited
from llmproxy_asgi.execution.admission_queue import AdmissionQueue
from llmproxy_asgi.runtime import SharedState
from llmproxy_asgi.testing import (
    Gate,
    Hold,
    Received,
    Scenario,
    ThreadedUpstream,
    Upstream,
    error_answer,
    json_answer,
    sse_answer,
)
from support.clock import FakeClock
from support.gateway import chat_answer, chat_body, chat_frames, messages_body, served

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
KEY = "llmp_limits-0123456789-abcdef"
OTHER_KEY = "llmp_others-0123456789-abcdef"
GOOD = json_answer(200, chat_answer("fine"))

PROTOCOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, chat_body()),
    "chat-stream": (CHAT, chat_body(stream=True)),
    "responses": ("/v1/responses", {"model": "m", "input": "hi", "store": False}),
    "responses-stream": ("/v1/responses", {"model": "m", "input": "hi", "store": False, "stream": True}),
    "messages": (MESSAGES, messages_body()),
    "messages-stream": (MESSAGES, messages_body(stream=True)),
    "gemini": ("/v1beta/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
    "gemini-stream": (
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    ),
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr("llmproxy_asgi.gateway.SharedState", functools.partial(SharedState, clock=made))
    return made


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=GOOD) as made:
        yield made


@pytest.fixture
def second() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=GOOD) as made:
        yield made


def config(*upstreams: ThreadedUpstream, provider: dict[str, Any] | None = None, **key: Any) -> dict[str, Any]:
    """A gateway's configuration; `provider` is more for the first upstream, `key` for the first key."""
    blocks = {
        f"up{index}": {
            "type": "openai-compatible",
            "base_url": one.base_url + "/v1",
            "api_key": "sk-upstream",
            "priority": -index,
            "retry": {"attempts": 1},
            **((provider or {}) if index == 0 else {}),
        }
        for index, one in enumerate(upstreams)
    }
    keys = [{"name": "limited", "key": KEY, **key}, {"name": "other", "key": OTHER_KEY}]
    return {"providers": blocks, "access": {"mode": "keys", "keys": keys}}


@pytest.fixture(scope="module", autouse=True)
def _client() -> Iterator[None]:
    """One client for the whole file: making one takes longer than most calls."""
    with httpx2.Client(timeout=60, trust_env=False, limits=httpx2.Limits(max_connections=None)) as made:
        CLIENT.append(made)
        yield
        CLIENT.clear()


CLIENT: list[httpx2.Client] = []


def post(base: str, path: str = CHAT, body: dict[str, Any] | None = None, *, key: str = KEY) -> httpx2.Response:
    return CLIENT[0].post(base + path, json=body or chat_body(), headers={"authorization": f"Bearer {key}"})


def queue_of(proxy: LLMProxy, name: str = "limited") -> AdmissionQueue:
    """Return the queue that a caller's calls must pass."""
    queues = proxy.gateway._shared.admission_queues.callers._queues
    return next(queue for (owner, _), queue in queues.items() if (owner.tenant, owner.id) == ("", name))


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; it will be, or the test is wrong."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@contextlib.contextmanager
def callers() -> Iterator[Callable[..., Future[httpx2.Response]]]:
    """Calls that are made at once."""
    with ThreadPoolExecutor(64) as pool:
        yield lambda *args: pool.submit(post, *args)


@contextlib.contextmanager
def under_way(base: str, body: dict[str, Any] | None = None, *, key: str = KEY) -> Iterator[Iterator[bytes]]:
    """A stream that has begun to be read; leaving the context releases it."""
    asked = body or chat_body(stream=True)
    with CLIENT[0].stream("POST", base + CHAT, json=asked, headers={"authorization": f"Bearer {key}"}) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw()  # whose end would be the answer's
        next(pieces)
        yield pieces


def held(gate: Gate) -> Scenario:
    """A stream that has begun, and continues when its event is set."""
    first, *rest = chat_frames("fine")
    return sse_answer([first, Hold(gate), *rest])


def hanging(base: str, body: dict[str, Any]) -> socket.socket:
    """A call in a task, whose caller may disconnect."""
    content = json.dumps(body).encode()
    host, _, port = base.removeprefix("http://").partition(":")
    made = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    made.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return made


# ── who is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", PROTOCOLS)
def test_who_is_over_a_limit_reads_when_to_come_back(upstream: ThreadedUpstream, clock: FakeClock, case: str) -> None:
    """A real 429 in each protocol's own words, with a `retry-after` that is exact; no upstream hears of it."""
    path, body = PROTOCOLS[case]
    with served(LLMProxy(config(upstream, requests_per_minute=2))) as base:
        assert [post(base).status_code for _ in range(2)] == [200, 200]
        refused = post(base, path, body)
        clock.at += 29.5
        again = post(base, path, body)
        clock.at += 0.5
        served_again = post(base)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    assert (again.status_code, again.headers["retry-after"]) == (429, "1")
    assert served_again.status_code == 200
    assert "x-should-retry" not in refused.headers
    assert len(upstream.requests) == 3
    error = refused.json()["error"]
    assert error["message"] == "You have reached your limit of 2 requests per minute. Try again in 30 s."
    if "messages" in case:
        assert (refused.json()["type"], error["type"]) == ("error", "rate_limit_error")
    elif "gemini" in case:
        assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert error["details"][-1] == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"}
    else:
        assert error["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after-ms"] == "30000"


def test_a_burst_and_then_a_steady_rate(upstream: ThreadedUpstream, clock: FakeClock) -> None:
    """Five at once, then exactly two a second, for a minute of tries every tenth of a second."""
    limits: dict[str, Any] = {"rate_limit": {"requests_per_second": 2, "burst": 5}}
    times: list[float] = []
    start = clock.at
    with served(LLMProxy(config(upstream, **limits))) as base:
        for step in range(150):
            clock.at = start + step / 10
            while post(base).status_code == 200:
                times.append(round(clock.at - start, 3))
    assert times == [0.0] * 5 + [step / 2 for step in range(1, 30)]


@pytest.mark.usefixtures("clock")
def test_one_keys_flood_is_no_other_keys_business(upstream: ThreadedUpstream) -> None:
    """A limit is its key's alone, and a key without one has none."""
    with served(LLMProxy(config(upstream, requests_per_minute=1))) as base:
        assert [post(base).status_code for _ in range(3)] == [200, 429, 429]
        assert {post(base, key=OTHER_KEY).status_code for _ in range(5)} == {200}


def test_several_limits_hold_together(upstream: ThreadedUpstream, clock: FakeClock) -> None:
    """A rate per minute and at most one call at a time; the longer wait is reported."""
    limits: dict[str, Any] = {"requests_per_minute": 3, "rate_limit": {"requests_per_second": 1}}
    with served(LLMProxy(config(upstream, **limits))) as base:
        told = []
        for _ in range(3):
            assert post(base).status_code == 200
            told.append(post(base).headers["retry-after"])
            clock.at += 1
        assert post(base).headers["retry-after"] == "17"
    assert told == ["1", "1", "18"]


# ── who waits ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("clock")
def test_who_waits_is_served_in_turn_and_who_leaves_is_not(upstream: ThreadedUpstream) -> None:
    """A caller who hangs up while waiting never reaches an upstream; the next in line takes the place."""
    gate = Gate()
    upstream.default = held(gate)
    limits: dict[str, Any] = {"max_concurrency": 1, "tokens_per_minute": 5_000, "rate_limit": {"queue_timeout": "1m"}}
    proxy = LLMProxy(config(upstream, **limits))
    with served(proxy) as base, callers() as calls:
        with under_way(base):
            line = queue_of(proxy)
            leaver = hanging(base, chat_body(model="gone", max_tokens=4_000))
            until(lambda: line.waiting == 1)
            last = calls(base, CHAT, chat_body(stream=True, model="last", max_tokens=3_000))
            until(lambda: line.waiting == 2)
            leaver.close()
            until(lambda: line.waiting == 1)
            assert len(upstream.requests) == 1
            gate.set()
        assert last.result(30).status_code == 200
        until(lambda: not line.lacks_slot)
        assert line.forecast(4_900) == 0, "only the 8 tokens of each of the two answers were spent"
    assert [request.json()["model"] for request in upstream.requests] == ["m", "last"]
    assert line.waiting == 0


def test_as_many_as_may_are_under_way_and_never_more(upstream: ThreadedUpstream) -> None:
    """Twenty callers at once and five slots: the upstream sees five at a time, and everybody is served."""
    proxy = LLMProxy(config(upstream, provider={"max_concurrency": 5, "rate_limit": {"queue_timeout": "1m"}}))
    gates = [Gate() for _ in range(20)]
    answers = iter(map(held, gates))
    upstream.default = lambda _: next(answers)
    with served(proxy) as base, callers() as calls:
        results = [calls(base, CHAT, chat_body(stream=True)) for _ in gates]
        for released, gate in enumerate(gates):
            until(lambda released=released: len(upstream.requests) == min(20, released + 5))  # type: ignore[misc]
            gate.set()
        assert {result.result(30).status_code for result in results} == {200}
    assert len(upstream.requests) == 20


def test_the_slot_of_a_stream_that_is_left_is_free_again(upstream: ThreadedUpstream) -> None:
    """Streams that their callers leave in the middle give back their provider's slots."""
    gate = Gate()
    upstream.default = held(gate)
    proxy = LLMProxy(config(upstream, provider={"max_concurrency": 1, "rate_limit": {"queue_timeout": "1m"}}))
    with served(proxy) as base:
        for _ in range(5):
            with under_way(base):
                pass
        gate.set()
        assert post(base, CHAT, chat_body(stream=True)).status_code == 200
    assert len(upstream.requests) == 6


@pytest.mark.usefixtures("clock")
def test_one_users_flood_never_delays_another(upstream: ThreadedUpstream) -> None:
    """Sixteen calls of one user wait in that user's own line; another user's call is answered meanwhile."""
    gate = Gate()

    def answer(received: Received) -> Scenario:
        return held(gate) if received.json()["model"] == "flood" else sse_answer(chat_frames("fine"))

    def who(connection: HTTPConnection) -> str:
        return connection.headers["x-user"]

    upstream.default = answer
    limits: dict[str, Any] = {"max_concurrency": 2, "rate_limit": {"queue_timeout": "1m"}}
    raw = {**config(upstream), "access": {"default": limits}}
    proxy = LLMProxy(raw, identify=who)

    def ask(user: str, model: str) -> httpx2.Response:
        return CLIENT[0].post(base + CHAT, json=chat_body(stream=True, model=model), headers={"x-user": user})

    with served(proxy) as base, ThreadPoolExecutor(16) as pool:
        flood = [pool.submit(ask, "ann", "flood") for _ in range(16)]
        until(lambda: len(upstream.requests) == 2)
        until(lambda: queue_of(proxy, "ann").waiting == 14)
        assert [ask("bob", "m").status_code for _ in range(10)] == [200] * 10
        assert len(upstream.requests) == 12
        gate.set()
        assert {one.result(30).status_code for one in flood} == {200}


# ── what targets take ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("clock")
def test_a_full_target_is_passed_over(upstream: ThreadedUpstream, second: ThreadedUpstream) -> None:
    """While one provider has as much as it may, the next one serves; no call waits for the first."""
    gate = Gate()
    upstream.default = held(gate)
    with served(LLMProxy(config(upstream, second, provider={"max_concurrency": 1}))) as base, under_way(base):
        assert [post(base).status_code for _ in range(3)] == [200, 200, 200]
        gate.set()
    assert (len(upstream.requests), len(second.requests)) == (1, 3)


def test_where_every_target_is_full_its_callers_read_when_to_come_back(
    upstream: ThreadedUpstream, clock: FakeClock
) -> None:
    """A provider's rate is a 429 with the exact wait, its concurrency a 503 with a moment's."""
    provider = {"max_concurrency": 1, "rate_limit": {"requests_per_second": 0.1, "burst": 2}}
    gate = Gate()
    upstream.default = held(gate)
    with served(LLMProxy(config(upstream, provider=provider))) as base:
        with under_way(base):
            busy = post(base)
            gate.set()
        until(lambda: post(base, body=chat_body(stream=True)).status_code == 200)
        limited = post(base)
        clock.at += 10
        assert post(base, body=chat_body(stream=True)).status_code == 200
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "10")
    assert len(upstream.requests) == 3


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("scope", "served_calls"), [("provider", 2), ("credential", 4)])
def test_a_rate_holds_for_a_provider_or_for_each_of_its_keys(
    upstream: ThreadedUpstream, scope: str, served_calls: int
) -> None:
    """Two keys share their provider's limit, unless each is configured with its own."""
    provider = {
        "api_key": ["sk-upstream-1", "sk-upstream-2"],
        "rate_limit": {"requests_per_second": 1, "burst": 2, "scope": scope},
    }
    with served(LLMProxy(config(upstream, provider=provider))) as base:
        statuses = [post(base).status_code for _ in range(6)]
    assert statuses == [200] * served_calls + [429] * (6 - served_calls)
    used = [request.header("authorization") for request in upstream.requests]
    if scope == "credential":
        assert {used.count("Bearer sk-upstream-1"), used.count("Bearer sk-upstream-2")} == {2}


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("whose", ["key", "provider"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["relayed", "translated"])
def test_a_call_pays_what_it_turns_out_to_be(
    upstream: ThreadedUpstream, clock: FakeClock, path: str, stream: bool, whose: str
) -> None:
    """What was set aside for a long answer comes back when the upstream has said how long it was."""
    upstream.default = sse_answer(chat_frames("fine")) if stream else GOOD  # 8 tokens, it says
    limit: dict[str, Any] = {"tokens_per_minute": 1_000}
    raw = config(upstream, **limit) if whose == "key" else config(upstream, provider={"rate_limit": limit})
    body = chat_body if path == CHAT else messages_body
    with served(LLMProxy(raw)) as base:
        ask = functools.partial(post, base, path)
        for _ in range(4):
            assert ask(body(stream=stream, max_tokens=900)).status_code == 200
        refused = ask(body(stream=stream, max_tokens=2_000))  # more than there can be: wants all there can be
        clock.at += 4 * 8 * 60 / 1_000
        accepted = ask(body(stream=stream, max_tokens=2_000))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert accepted.status_code == 200


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["relayed", "translated"])
def test_a_stream_that_is_left_pays_for_what_had_come(upstream: ThreadedUpstream, path: str) -> None:
    """Neither all that was set aside nor nothing is kept of a call that its caller leaves in the middle."""
    frames = chat_frames(*["word " * 40] * 4)  # 200 tokens by our rule
    upstream.default = sse_answer([*frames[:5], Hold(Gate()), *frames[5:]])
    proxy = LLMProxy(config(upstream, tokens_per_minute=10_000))
    body = (chat_body if path == CHAT else messages_body)(stream=True, max_tokens=9_000)
    with served(proxy) as base:
        with CLIENT[0].stream("POST", base + path, json=body, headers={"authorization": f"Bearer {KEY}"}) as answer:
            text = ""
            for piece in answer.iter_text():
                text += piece
                if text.count("word ") == 160:
                    break
        line = queue_of(proxy)
        until(lambda: line.forecast(9_000) == 0)
        spent = line.forecast(10_000) * 10_000 / 60
    assert 10 < spent < 500


@pytest.mark.usefixtures("clock")
def test_who_leaves_before_anything_came_pays_for_the_question(upstream: ThreadedUpstream) -> None:
    """Of the long answer that was set aside nothing is kept, neither by the caller's limit nor by the provider's."""
    upstream.enqueue(Scenario(Hold(Gate())))
    limit: dict[str, Any] = {"tokens_per_minute": 1_000, "max_concurrency": 1}
    rate: dict[str, Any] = {"rate_limit": {"tokens_per_minute": 1_000}, "max_concurrency": 1}
    proxy = LLMProxy(config(upstream, provider=rate, **limit))
    with served(proxy) as base:
        with hanging(base, chat_body(max_tokens=900)):
            upstream.wait_for_requests(1)
        until(lambda: not queue_of(proxy).lacks_slot)
        assert post(base, body=chat_body(max_tokens=900)).status_code == 200
        assert 8 < queue_of(proxy).forecast(1_000) * 1_000 / 60 < 50


@pytest.mark.usefixtures("clock")
def test_a_call_that_asks_for_less_than_nothing_costs_others_nothing(
    upstream: ThreadedUpstream, clock: FakeClock
) -> None:
    """Neither while it is under way nor afterwards does it change what its provider may be asked."""

    def refused(_: Received) -> Scenario:
        clock.at += 1
        return error_answer(400)

    upstream.default = refused
    block = {"type": "gemini", "base_url": upstream.base_url, "api_key": "k", "rate_limit": {"tokens_per_minute": 5000}}
    proxy = LLMProxy({"providers": {"p": block}, "access": {"mode": "open"}})
    path, body = PROTOCOLS["gemini"]
    absurd = {**body, "generationConfig": {"maxOutputTokens": -(10**9)}}
    with served(proxy) as base, httpx2.Client(base_url=base, timeout=30, trust_env=False) as client:
        assert [client.post(path, json=each).status_code for each in (absurd, absurd, body)] == [400] * 3


def test_a_failed_call_pays_no_tokens(upstream: ThreadedUpstream) -> None:
    """Where every upstream failed, nothing that was set aside is lost; the call itself counts."""
    upstream.default = json_answer(400, {"error": {"message": "no", "type": "invalid_request_error"}})
    proxy = LLMProxy(config(upstream, tokens_per_minute=1_000, requests_per_minute=3))
    with served(proxy) as base:
        statuses = [post(base, body=chat_body(max_tokens=900)).status_code for _ in range(4)]
    assert statuses == [400, 400, 400, 429]


# ── from Python ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_users_named_in_python_are_limited_and_the_host_itself_is_not(clock: FakeClock) -> None:
    """`principal=` has that user's limits; a call without one has none; an abandoned stream releases its slot."""
    limits: dict[str, Any] = {"requests_per_minute": 2, "max_concurrency": 1}
    ask: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    async with Gateway({"providers": {"simulated": {}}, "access": {"default": limits}}) as gateway:
        for _ in range(5):
            await gateway.complete(**ask)
        await gateway.complete(**ask, principal="ann")
        stream = gateway.stream(**ask, principal=Principal("ann"))
        await anext(stream)
        with pytest.raises(RateLimited) as caught:
            await gateway.complete(**ask, principal="ann")
        assert caught.value.retry_after == pytest.approx(30.0)
        await stream.aclose()
        clock.at += 30
        await gateway.complete(**ask, principal="ann")
        await gateway.complete(**ask, principal=Principal("ann", tenant="elsewhere"))
