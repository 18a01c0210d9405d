"""What the metrics, spans and records say is what happened, and they say nothing that they must not."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_tracer
from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from llmproxy_asgi import ConfigError, Gateway, LLMProxy, Principal, Tracing
from llmproxy_asgi.facts import AttemptBegan, CallRefused
from llmproxy_asgi.testing import (
    Close,
    Hold,
    Scenario,
    ThreadedUpstream,
    Upstream,
    error_answer,
    json_answer,
    sse_answer,
)
from llmproxy_asgi.testing.scenario import Received
from support.gateway import chat_answer, chat_body, chat_frames, messages_body, served
from support.telemetry import RecordingObserver, Series, series, value

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
KEY = "llmp_CANARYKEYOFACALLER0001"
SECRET = "sk-CANARYKEYOFTHEOPERATOR0001"


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def configuration(upstream: ThreadedUpstream, **more: Any) -> dict[str, Any]:
    block = {
        "type": "openai-compatible",
        "base_url": upstream.base_url + "/v1",
        "api_key": SECRET,
        "models": ["m", "n"],
        "retry": {"attempts": 2, "backoff": "1ms"},
        "cooldown": 0,
    }
    return {"providers": {"up": block}, "access": {"mode": "open"}, "endpoints": {"metrics": True}, **more}


class Caller:
    """Calls one gateway over its socket."""

    def __init__(self, base: str, **headers: str) -> None:
        self._base = base
        self._client = httpx2.Client(timeout=30, trust_env=False, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def post(self, path: str, body: dict[str, Any]) -> int:
        """Read to the end; the status."""
        return self._client.post(self._base + path, json=body).status_code

    def leave(self, path: str, body: dict[str, Any]) -> None:
        """Read the first bytes and go."""
        with self._client.stream("POST", self._base + path, json=body) as answer:
            next(answer.iter_raw())

    def page(self) -> Series:
        """The metrics, once every call is over."""
        deadline = time.monotonic() + 30  # a guard against hanging only
        while True:
            answer = self._client.get(self._base + "/metrics")
            assert answer.status_code == 200, answer.text
            found = series(answer.text)
            if value(found, "llmproxy_open_calls") == 0 or time.monotonic() > deadline:
                return found
            time.sleep(0.01)


def played(received: Received, seen: Counter[str]) -> Scenario:
    """The upstream's answer to a case that the caller's message names."""
    body = received.json()
    case = body["messages"][0]["content"]
    case = case if isinstance(case, str) else case[0]["text"]
    seen[case] += 1
    if case.startswith("busy") or (case.startswith("again") and seen[case] == 1):
        return error_answer(503)
    if case.startswith("cut"):
        return sse_answer([*chat_frames("one")[:2], Close()], end=False)
    if case.startswith("left"):
        return sse_answer([*chat_frames("one")[:2], Hold()], end=False)
    return sse_answer(chat_frames("one", "two")) if body.get("stream") else json_answer(200, chat_answer("all"))


def said(case: str, *, stream: bool = False, model: str = "m") -> dict[str, Any]:
    return chat_body(stream=stream, model=model, messages=[{"role": "user", "content": case}])


CASES = {"whole": 70, "stream": 60, "crossing": 20, "again": 10, "busy": 10, "cut": 15, "left": 10, "unknown": 5}


def call(caller: Caller, case: str) -> None:
    """One call of a kind."""
    match case.partition(" ")[0]:
        case "whole" | "again" | "busy":
            caller.post(CHAT, said(case))
        case "stream" | "cut":
            caller.post(CHAT, said(case, stream=True, model="up/n"))
        case "crossing":
            message = [{"role": "user", "content": case}]
            caller.post(MESSAGES, {**messages_body(stream=True, model="n"), "messages": message})
        case "left":
            caller.leave(CHAT, said(case, stream=True))
        case _:
            assert caller.post(CHAT, said(case, model=case)) == 404


def test_the_sums_are_what_the_upstream_counted(upstream: ThreadedUpstream) -> None:
    """Over two hundred mixed calls, calls, attempts, tokens and outcomes are exactly what was played."""
    assert sum(CASES.values()) == 200
    seen: Counter[str] = Counter()
    upstream.default = lambda received: played(received, seen)
    observer = RecordingObserver()
    cases = [f"{kind} {number}" for kind, count in CASES.items() for number in range(count)]
    with served(LLMProxy(configuration(upstream), observers=[observer])) as base, Caller(base) as caller:
        for case in sorted(cases, key=lambda case: case[::-1]):
            call(caller, case)
        found = caller.page()
    well = 70 + 60 + 20 + 10
    outcomes = {"ok": well, "error": 10, "interrupted": 15, "cancelled": 10}
    assert {each: value(found, "llmproxy_calls_total", outcome=each) for each in outcomes} == outcomes
    assert value(found, "llmproxy_calls_total", protocol="anthropic-messages", model="n") == 20
    assert value(found, "llmproxy_refused_total", kind="model_not_found") == 5
    assert value(found, "llmproxy_attempts_total", provider="up") == len(upstream.requests) == sum(seen.values())
    assert value(found, "llmproxy_attempt_failures_total", provider="up", kind="overloaded") == 10 + 2 * 10
    assert value(found, "llmproxy_call_failures_total", provider="up", kind="overloaded") == 10
    assert value(found, "llmproxy_tokens_total", provider="up", model="m", kind="input") > 3 * (70 + 10)
    assert value(found, "llmproxy_tokens_total", provider="up", model="n", kind="input") > 3 * (60 + 20)
    assert value(found, "llmproxy_tokens_total", provider="up", kind="output") == 5 * well
    assert value(found, "llmproxy_usage_total", exactness="exact") == well
    assert value(found, "llmproxy_usage_total", exactness="estimated") == 15 + 10
    assert value(found, "llmproxy_first_event_seconds_count") == well + 15 + 10
    assert value(found, "llmproxy_call_seconds_count") == 195
    assert value(found, "llmproxy_open_streams") == 0
    exact = [end.usage for end in observer.finished() if end.exactness == "exact" and end.usage is not None]
    assert sum(usage.input for usage in exact) == 3 * well
    # A host's own observer gets the same.
    ends = observer.finished()
    assert Counter(end.outcome for end in ends) == outcomes
    assert len({end.call for end in ends}) == len({end.request_id for end in ends}) == 195
    assert sum(end.attempts for end in ends) == len(upstream.requests)
    assert sum(isinstance(fact, AttemptBegan) for fact in observer.facts) == len(upstream.requests)
    assert sum(isinstance(fact, CallRefused) for fact in observer.facts) == 5


EARLY = {"input_tokens": 7, "output_tokens": 1}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": EARLY}
BEGINNING: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "stop_reason": None, "stop_sequence": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_broken_stream_is_counted_once(upstream: ThreadedUpstream, path: str) -> None:
    """What an upstream had reported when its stream broke is counted once and called an estimate, crossing or not."""
    frames = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in BEGINNING]
    upstream.default = sse_answer([*frames, Close()], end=False)
    block = {"type": "anthropic", "base_url": upstream.base_url, "api_key": SECRET, "models": ["m"]}
    with served(LLMProxy(configuration(upstream, providers={"up": block}))) as base, Caller(base) as caller:
        caller.post(path, chat_body(stream=True) if path == CHAT else messages_body(stream=True))
        found = caller.page()
    assert value(found, "llmproxy_calls_total", outcome="interrupted") == 1
    assert value(found, "llmproxy_usage_total", exactness="estimated") == 1
    assert value(found, "llmproxy_tokens_total", kind="input") == 7


@pytest.mark.anyio
async def test_a_call_that_the_shutdown_ends_is_told_once() -> None:
    """A call that is interrupted when the host shuts down is one cancelled call, and no refusal besides."""
    observer = RecordingObserver()
    async with Upstream(default=Scenario(Hold())) as upstream:
        block = {"type": "openai-compatible", "base_url": upstream.base_url + "/v1", "api_key": SECRET}
        proxy = LLMProxy({"providers": {"up": block}, "access": {"mode": "open"}}, observers=[observer])
        transport = httpx2.ASGITransport(app=proxy)
        async with httpx2.AsyncClient(transport=transport, base_url="http://in.process") as client:
            waiting = asyncio.create_task(client.post(CHAT, json=said("x")))
            await upstream.wait_for_requests(1)
            await proxy.drain(0)
            assert (await waiting).status_code == 503
            assert (await client.post(CHAT, json=said("x"))).status_code == 503
        await proxy.gateway.aclose()
    assert [end.outcome for end in observer.finished()] == ["cancelled"]
    assert [fact.kind for fact in observer.facts if isinstance(fact, CallRefused)] == ["unavailable"]


KEYS = [
    {"name": "ops", "key": KEY, "tenant": "acme"},
    {"name": "scraper", "key": KEY + "2", "groups": ["ops"]},
    {"name": "chief", "key": KEY + "3"},
    {"name": "ci", "key": KEY + "4", "groups": ["dev"]},
]


@pytest.mark.parametrize(
    ("access", "key", "status"),
    [
        pytest.param({"mode": "open"}, None, 200, id="open"),
        pytest.param({"mode": "open", "admins": ["ops"]}, None, 403, id="open, but with administrators"),
        pytest.param({"mode": "open", "admins": ["ops"], "keys": KEYS}, KEY + "2", 200, id="a key's group"),
        pytest.param({"mode": "keys", "admins": ["key:chief"], "keys": KEYS}, KEY + "3", 200, id="a key's name"),
        pytest.param({"mode": "keys", "admins": ["ops"], "keys": KEYS}, KEY, 403, id="an id that a tenant gave"),
        pytest.param({"mode": "keys", "admins": ["ops"], "keys": KEYS}, KEY + "4", 403, id="another group"),
        pytest.param({"mode": "keys", "keys": KEYS}, KEY + "2", 403, id="no administrators"),
        pytest.param({"mode": "keys", "admins": ["ops"], "keys": KEYS}, None, 401, id="no credential"),
        pytest.param({"admins": ["ops"]}, None, 401, id="nothing is configured"),
    ],
)
def test_who_may_see_the_page(upstream: ThreadedUpstream, access: dict[str, Any], key: str | None, status: int) -> None:
    """The page is for administrators, by group or id; for anybody only where the gateway is open and names none."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with served(LLMProxy(configuration(upstream, access=access))) as base:
        answer = httpx2.get(base + "/metrics", headers=headers, trust_env=False)
        assert answer.status_code == status
        assert ("llmproxy_open_calls" in answer.text) == (status == 200)
        assert answer.headers["cache-control"] == "no-store"
        assert httpx2.post(base + "/metrics", headers=headers, trust_env=False).status_code == 405


def test_there_is_no_page_unless_it_is_asked_for(upstream: ThreadedUpstream) -> None:
    """Without `endpoints.metrics` the path is none, for whatever method."""
    with served(LLMProxy(configuration(upstream, endpoints={}))) as base:
        assert httpx2.get(base + "/metrics", trust_env=False).status_code == 404
        assert httpx2.post(base + "/metrics", trust_env=False).status_code == 404


def test_two_gateways_in_one_process(upstream: ThreadedUpstream) -> None:
    """Each counts its own calls; an observer that both share can tell their calls apart."""
    upstream.default = json_answer(200, chat_answer("all"))
    observer = RecordingObserver()
    one, two = (LLMProxy(configuration(upstream), observers=[observer]) for _ in range(2))
    with served(one) as first, served(two) as second, Caller(first) as a, Caller(second) as b:
        for caller in (a, b, b):
            assert caller.post(CHAT, said("x")) == 200
        assert value(a.page(), "llmproxy_calls_total") == 1
        assert value(b.page(), "llmproxy_calls_total") == 2
    assert len({end.call for end in observer.finished()}) == 3


@pytest.mark.anyio
async def test_a_host_shows_it_on_its_own_page() -> None:
    """A host registers a gateway's metrics beside its own, without a route of the gateway; calls from Python count."""
    registry = CollectorRegistry()
    async with Gateway({"providers": {"simulated": {}}}) as gateway:
        registry.register(gateway.prometheus_collector)
        await gateway.complete(model="simulated/echo", messages=[{"role": "user", "content": "hi"}])
        async for _ in gateway.stream(model="simulated/echo", messages=[{"role": "user", "content": "hi"}]):
            pass
        found = series(generate_latest(registry))
        tasks = asyncio.all_tasks()
    assert gateway._shared.metrics is not None
    assert not gateway._shared.metrics._monitor.running
    assert asyncio.all_tasks() <= tasks
    assert value(found, "llmproxy_calls_total", provider="simulated", model="simulated/echo", outcome="ok") == 2


def test_without_the_library_the_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that cannot be made is a finding at start that names the extra, not a failure at the first scrape."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"endpoints\.metrics: .*llmproxy-asgi\[prometheus\]"):
        Gateway({"providers": {"simulated": {}}, "endpoints": {"metrics": True}})


CANARIES = ("CANARYPROMPT", "CANARYANSWER", "CANARYKEY", "CANARYID", "CANARYREASON", "CANARYSYSTEM")


def provoke(upstream: ThreadedUpstream, caller: Caller) -> None:
    """Calls that go well and badly, with a canary wherever a secret may stand."""
    spoilt = {"error": {"message": "CANARYREASON: you said CANARYPROMPT", "code": "CANARYREASON", "type": "x"}}
    asked = [{"role": "system", "content": "CANARYSYSTEM"}, {"role": "user", "content": "CANARYPROMPT"}]
    answers = [
        json_answer(200, chat_answer("CANARYANSWER")),
        sse_answer(chat_frames("CANARYANSWER")),
        sse_answer([*chat_frames("CANARYANSWER")[:2], b"data: " + json.dumps(spoilt).encode() + b"\n\n"]),
        *(error_answer(status, spoilt) for status in (400, 401, 403, 404, 422, 429, 500, 500, 503, 503, 529, 529)),
        json_answer(200, b"CANARYANSWER is no JSON"),
        json_answer(200, b"CANARYANSWER is no JSON"),
    ]
    upstream.enqueue(*answers)
    upstream.default = error_answer(500, spoilt)
    for stream in (False, True, True, *[False] * 14):
        caller.post(CHAT, chat_body(stream=stream, messages=asked, user="CANARYID"))
    caller.post(CHAT, {"model": "m", "messages": "CANARYPROMPT"})


class HostSpans:
    """A host with tracing of its own around the gateway."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._app = app
        self._tracer = get_tracer("host", tracer_provider=provider)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._tracer.start_as_current_span("request"):
            await self._app(scope, receive, send)


def test_nothing_secret_is_told(upstream: ThreadedUpstream, caplog: pytest.LogCaptureFixture) -> None:
    """No prompt, answer, key or name is on the page, in a span or in a record, and upstreams' words not on the page."""
    caplog.set_level(logging.DEBUG)
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    access = {"admins": ["ops"], "keys": [KEYS[1]]}
    proxy = LLMProxy(
        configuration(upstream, access=access),
        identify=lambda _connection: Principal("CANARYID", display_name="CANARYID"),
        observers=[Tracing(provider)],
    )
    with served(HostSpans(proxy, provider)) as base:
        with Caller(base) as caller:
            provoke(upstream, caller)
        with Caller(base, authorization=f"Bearer {KEY}2") as caller:
            provoke(upstream, caller)
            caller.page()
            page = httpx2.get(base + "/metrics", headers={"x-api-key": KEY + "2"}, trust_env=False).text
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    ours = [record for record in caplog.records if record.name.startswith("llmproxy")]
    records = [str(vars(record)) for record in ours]
    assert len(spans) > 60
    assert len(records) > 30
    assert "llmproxy_calls_total" in page
    assert [canary for canary in CANARIES if canary in page] == []
    for told in (*spans, *records):
        assert [canary for canary in CANARIES if canary in told and canary != "CANARYREASON"] == []
    assert any("CANARYREASON" in told for told in spans)
    assert any("CANARYREASON" in told for told in records)


def test_spans_stand_below_the_hosts(upstream: ThreadedUpstream) -> None:
    """Over HTTP, a call's span is a child of the span that the host's middleware has open for the request."""
    upstream.default = sse_answer(chat_frames("a"))
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    proxy = LLMProxy(configuration(upstream), observers=[Tracing(provider)])
    with served(HostSpans(proxy, provider)) as base, Caller(base) as caller:
        assert caller.post(CHAT, said("x", stream=True)) == 200
        caller.page()
    spans = {span.name: span for span in exporter.get_finished_spans()[:3]}
    call = spans["llmproxy chat"]
    assert call.parent is not None
    assert call.parent.span_id == spans["request"].context.span_id
    assert spans["chat m"].parent is not None
    assert dict(call.attributes or {})["gen_ai.usage.output_tokens"] == 5
