"""How many tokens a request is: three SDKs ask through a real server; upstreams count, or have no counter."""

import asyncio
import base64
import json
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors, types

from llmproxy_asgi import Gateway, LLMProxy
from llmproxy_asgi.errors import ModelNotFound, UpstreamRateLimited
from llmproxy_asgi.facts import CallRefused, QueueLeft, TokensCounted
from llmproxy_asgi.testing import Hold, Received, Scenario, ThreadedUpstream, Upstream, error_answer, json_answer
from support.gateway import served
from support.telemetry import RecordingObserver

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is encrypted, and reading the authorities for each client would take longer than its call."""
KEY = "llmp_counting-0123456789"
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 800, 600)).decode()
COUNTERS = {
    "/v1/messages/count_tokens": {"input_tokens": 101},
    "/v1/responses/input_tokens": {"object": "response.input_tokens", "input_tokens": 102},
    "/v1beta/models/m-1:countTokens": {"totalTokens": 103, "promptTokensDetails": []},
}
COUNTS = {"anthropic": 101, "openai": 102, "gemini": 103}
WITHOUT = "openai-compatible"
KINDS = [*COUNTS, WITHOUT]


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    """Counts whatever it is sent, at every vendor's address, and nothing else."""

    def counting(received: Received) -> Scenario:
        return json_answer(200, COUNTERS[received.path]) if received.path in COUNTERS else error_answer(404)

    with Upstream.in_thread(default=counting) as made:
        yield made


def provider(upstream: ThreadedUpstream, kind: str, **more: Any) -> dict[str, Any]:
    version = "/v1" if kind.startswith("openai") else ""
    block = {"type": kind, "api_key": "sk-up", "base_url": upstream.base_url + version, "retry": {"attempts": 1}}
    return {**block, "models": [{"name": "m", "upstream": "m-1"}], **more}


def gateway(**providers: dict[str, Any]) -> dict[str, Any]:
    return {"providers": providers, "access": {"mode": "keys", "keys": [{"name": "counting", "key": KEY}]}}


class Asked:
    """What one SDK was told, and what the upstream saw of it."""

    def __init__(self, tokens: int | None, headers: Any) -> None:
        self.tokens = tokens
        self.warnings = headers.get("x-llmproxy-warnings")
        self.model = headers.get("x-llmproxy-model")


class Clients:
    """The three SDKs that can ask, each for the same: instructions, a tool and a picture where it can say them."""

    def __init__(self, base: str) -> None:
        self.base = base

    def anthropic(self) -> Asked:
        schema: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
        source: Any = {"type": "base64", "media_type": "image/png", "data": PICTURE}
        with anthropic.Anthropic(base_url=self.base, api_key=KEY, max_retries=0) as client:
            raw = client.messages.with_raw_response.count_tokens(
                model="m",
                system="Be brief.",
                tools=[{"name": "weather", "description": "Tells the weather", "input_schema": schema}],
                messages=[
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}],
                    }
                ],
            )
            return Asked(raw.parse().input_tokens, raw.headers)

    def openai(self) -> Asked:
        schema: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
        content: Any = [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}", "detail": "auto"},
        ]
        with openai.OpenAI(base_url=self.base + "/v1", api_key=KEY, max_retries=0) as client:
            raw = client.responses.input_tokens.with_raw_response.count(
                model="m",
                instructions="Be brief.",
                tools=[
                    {
                        "type": "function",
                        "name": "weather",
                        "description": "Tells the weather",
                        "parameters": schema,
                        "strict": False,
                    }
                ],
                input=[{"role": "user", "content": content}],
            )
            return Asked(raw.parse().input_tokens, raw.headers)

    def gemini(self) -> Asked:
        seen: list[httpx2.Response] = []
        with httpx2.Client(trust_env=False, timeout=30, verify=PLAIN, event_hooks={"response": [seen.append]}) as http:
            client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=self.base, httpx_client=http))
            picture = types.Part.from_bytes(data=base64.b64decode(PICTURE), mime_type="image/png")
            counted = client.models.count_tokens(model="m", contents=["What is it?", picture])
            client.close()
        return Asked(counted.total_tokens, seen[-1].headers)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
        with httpx2.Client(trust_env=False, timeout=30, verify=PLAIN) as client:
            return client.post(self.base + path, json=body, headers={"authorization": f"Bearer {KEY}", **headers})


@contextmanager
def clients(**providers: dict[str, Any]) -> Iterator[Clients]:
    with served(LLMProxy(gateway(**providers))) as base:
        yield Clients(base)


SDKS = {"anthropic": "messages", "openai": "responses", "gemini": "gemini"}
SPOKEN = {**SDKS, WITHOUT: "chat"}
PAIRS = [pytest.param(sdk, kind, id=f"{SDKS[sdk]}-to-{SPOKEN[kind]}") for sdk in SDKS for kind in KINDS]
"""Which protocol each SDK asks in, and which one each upstream speaks."""


@pytest.mark.fidelity(100)
@pytest.mark.parametrize(("sdk", "kind"), PAIRS)
def test_100_every_sdk_counts_over_every_upstream(upstream: ThreadedUpstream, sdk: str, kind: str) -> None:
    """The upstream's own number where it has a counter, and what was sent is in what it counted; else an estimate."""
    with clients(up=provider(upstream, kind)) as asking:
        asked: Asked = getattr(asking, sdk)()
    assert asked.model == "m-1"
    if kind == WITHOUT:
        assert asked.warnings == "estimated:input_tokens"
        assert asked.tokens is not None
        assert 765 < asked.tokens < 900  # a picture of four tiles, a dozen words and a small tool
        assert upstream.requests == []
        return
    assert (asked.tokens, asked.warnings) == (COUNTS[kind], None)
    (received,) = upstream.requests
    assert KEY not in str(received.headers)
    seen = received.body.decode()
    assert "What is it?" in seen
    assert PICTURE in seen
    if sdk != "gemini":  # its SDK sends neither to this API
        assert "Be brief." in seen
        assert "Tells the weather" in seen


def counted(upstream: ThreadedUpstream, kind: str, path: str, body: dict[str, Any], **headers: str) -> Any:
    """The body that a counter saw of one request by hand."""
    with clients(up=provider(upstream, kind)) as asking:
        answer = asking.post(path, body, **headers)
    assert answer.status_code == 200, answer.text
    return upstream.requests[-1]


@pytest.mark.fidelity(100)
def test_100_messages_are_passed_on_as_they_are(upstream: ThreadedUpstream) -> None:
    """Number spelling, unknown fields and versions reach a counter of the same vendor; the model's name is its own."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi", "odd": 1.50}], "new_field": {"a": [1]}}
    received = counted(upstream, "anthropic", "/v1/messages/count_tokens?beta=true", body, **{"anthropic-beta": "x-1"})
    assert received.json() == {**body, "model": "m-1"}
    assert received.header("anthropic-beta") == "x-1"
    assert received.header("x-api-key") == "sk-up"


@pytest.mark.fidelity(100)
def test_100_responses_are_passed_on_as_they_are(upstream: ThreadedUpstream) -> None:
    """A counter of the same vendor gets what was said, and nothing that we would have to add to a real request."""
    body = {"model": "m", "input": [{"role": "user", "content": "hi"}], "personality": "friendly"}
    received = counted(upstream, "openai", "/v1/responses/input_tokens", body)
    assert received.json() == {**body, "model": "m-1"}


@pytest.mark.fidelity(100)
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_100_a_whole_gemini_request_is_counted(upstream: ThreadedUpstream, version: str) -> None:
    """With instructions and tools, in a field of its own; contents alone stay alone."""
    inner = {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "tools": [{"functionDeclarations": [{"name": "weather"}]}],
    }
    path = f"/{version}/models/m:countTokens"
    received = counted(upstream, "gemini", path, {"generateContentRequest": {"model": "models/m", **inner}})
    assert received.json() == {"generateContentRequest": {"model": "models/m-1", **inner}}
    received = counted(upstream, "gemini", path, {"contents": inner["contents"]})
    assert received.json() == {"contents": inner["contents"]}
    received = counted(upstream, "anthropic", path, {"generateContentRequest": inner})
    assert received.json()["system"] == [{"type": "text", "text": "Be brief."}]
    assert [tool["name"] for tool in received.json()["tools"]] == ["weather"]
    assert "max_tokens" not in received.json()


@pytest.mark.fidelity(100)
@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("kind", COUNTS)
def test_100_an_upstream_without_its_counter_is_estimated_for(
    upstream: ThreadedUpstream, kind: str, status: int
) -> None:
    """Servers that stand for a vendor often lack it; that says nothing about their models."""
    upstream.default = error_answer(status, {"error": "none"})
    with clients(up=provider(upstream, kind)) as asking:
        asked = asking.anthropic()
    assert asked.warnings == "estimated:input_tokens"
    assert asked.tokens is not None
    assert asked.tokens > 0
    assert len(upstream.requests) == 1


def test_an_estimate_counts_instructions_tools_and_pictures() -> None:
    """Each of them makes it larger."""
    with Upstream.in_thread() as upstream, clients(up=provider(upstream, WITHOUT)) as asking:

        def tokens(**fields: Any) -> int:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
            answer = asking.post("/v1/messages/count_tokens", body)
            return int(answer.json()["input_tokens"])

        bare = tokens()
        assert tokens(system="Be brief.") > bare
        assert tokens(tools=[{"name": "t", "input_schema": {"type": "object"}}]) > bare
        source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
        assert tokens(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}]) > bare + 700
        assert tokens() == bare


def test_a_counter_that_fails_says_nothing_about_the_model(upstream: ThreadedUpstream) -> None:
    """A rate limit on counting is reported with its wait; other requests still use the same credential."""
    limited = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m-1",
        "content": [{"type": "text", "text": "Fine."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 5},
    }
    upstream.on("/v1/messages/count_tokens", error_answer(429, limited, {"retry-after": "60"}))
    upstream.on("/v1/messages", json_answer(200, answer))
    with clients(up=provider(upstream, "anthropic")) as asking:
        with pytest.raises(anthropic.RateLimitError) as caught:
            asking.anthropic()
        assert caught.value.response.headers["retry-after"] == "60"
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        assert asking.post("/v1/messages", body).json()["content"][0]["text"] == "Fine."


def test_another_target_counts_where_one_fails(upstream: ThreadedUpstream) -> None:
    """In the order in which they would serve; and one key's limit is not the other's."""
    upstream.on("/broken/v1/messages/count_tokens", error_answer(500))
    broken = provider(upstream, "anthropic", base_url=upstream.base_url + "/broken", priority=9)
    with clients(broken=broken, up=provider(upstream, "openai")) as asking:
        assert asking.anthropic().tokens == 102
    limited: list[str] = []

    def one_key_is_spent(received: Received) -> Scenario:
        limited.append(received.header("x-api-key") or "")
        return error_answer(429) if len(limited) == 1 else json_answer(200, {"input_tokens": 7})

    upstream.default = one_key_is_spent
    with clients(up=provider(upstream, "anthropic", api_key=["sk-a", "sk-b"])) as asking:
        assert asking.anthropic().tokens == 7
    assert sorted(limited) == ["sk-a", "sk-b"]


def test_refusals_are_the_sdks_own(upstream: ThreadedUpstream) -> None:
    """A model that is not there, a field of the wrong type, a wrong key, a refusal of the upstream, no method."""
    with clients(up=provider(upstream, "anthropic")) as asking:
        assert asking.post("/v1/messages/count_tokens", {"model": "n", "messages": []}).status_code == 404
        wrong = asking.post("/v1/messages/count_tokens", {"model": "m", "messages": "hi"})
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")
        wrong = asking.post("/v1/responses/input_tokens", {"model": "m", "input": 5})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "input")
        wrong = asking.post("/v1beta/models/m:countTokens", {"generateContentRequest": 5})
        assert (wrong.status_code, wrong.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
        wrong = asking.post("/v1/messages/count_tokens", {"model": "m", "messages": []}, authorization="Bearer llmp_no")
        assert wrong.status_code == 401
        with httpx2.Client(trust_env=False, timeout=30, verify=PLAIN) as client:
            for path in ("/v1/messages/count_tokens", "/v1/responses/input_tokens", "/v1/models/m:countTokens"):
                answer = client.get(asking.base + path)
                assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert upstream.requests == []
        upstream.default = error_answer(
            400, {"type": "error", "error": {"type": "invalid_request_error", "message": "x"}}
        )
        with pytest.raises(anthropic.BadRequestError):
            asking.anthropic()
        upstream.default = error_answer(503)
        with pytest.raises(errors.ServerError):
            asking.gemini()


def test_an_answer_that_is_no_count_is_a_502(upstream: ThreadedUpstream) -> None:
    """Neither a count of nothing nor an estimate that pretends."""
    upstream.default = json_answer(200, {"hello": "world"})
    with clients(up=provider(upstream, "anthropic")) as asking, pytest.raises(anthropic.InternalServerError) as caught:
        asking.anthropic()
    assert caught.value.status_code == 502


def test_a_slow_counter_ends_by_its_providers_clock(upstream: ThreadedUpstream) -> None:
    """504, like every other call."""
    upstream.default = held = Scenario(Hold())
    block = provider(upstream, "anthropic", timeout={"connect": "200ms", "first_byte": "50ms"})
    with clients(up=block) as asking, pytest.raises(anthropic.InternalServerError) as caught:
        asking.anthropic()
    held.gate.set()
    assert caught.value.status_code == 504


MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Tells the weather"}}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_100_python_counts_too(upstream: ThreadedUpstream, kind: str) -> None:
    """A number that is one, and knows whether it was estimated; OpenAI's is Responses' counter."""
    async with Gateway(gateway(up=provider(upstream, kind))) as held:
        count = await held.count_tokens(model="m", messages=MESSAGES, tools=[TOOL])
    assert count == count.input_tokens
    assert isinstance(count, int)
    if kind == WITHOUT:
        assert count.estimated
        assert 15 < count < 60
    else:
        assert (count, count.estimated) == (COUNTS[kind], False)
        assert "Tells the weather" in json.dumps(upstream.requests[-1].json())


@pytest.mark.anyio
async def test_python_reads_why_it_could_not_be_counted(upstream: ThreadedUpstream) -> None:
    """By the errors of every other call."""
    upstream.default = error_answer(429, {}, {"retry-after": "9"})
    async with Gateway(gateway(up=provider(upstream, "openai"))) as held:
        with pytest.raises(UpstreamRateLimited) as caught:
            await held.count_tokens(model="m", messages=MESSAGES)
        assert caught.value.retry_after == 9
        with pytest.raises(ModelNotFound):
            await held.count_tokens(model="n", messages=MESSAGES)


# ── limits and facts ─────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def watched(
    upstream: ThreadedUpstream, block: dict[str, Any], **key: Any
) -> Iterator[tuple[Clients, RecordingObserver]]:
    """The clients of a gateway whose facts are noted; `key`: more for the one key."""
    config = gateway(up={**provider(upstream, "anthropic"), **block})
    config["access"]["keys"][0].update(key)
    observer = RecordingObserver()
    with served(LLMProxy(config, observers=[observer])) as base:
        yield Clients(base), observer


def test_a_count_is_a_call_to_its_callers_limits(upstream: ThreadedUpstream) -> None:
    """Over them it is a 429 with the wait; no counter was asked, and observers hear of a refusal."""
    with watched(upstream, {}, requests_per_minute=1) as (asking, observer):
        assert asking.anthropic().tokens == 101
        with pytest.raises(anthropic.RateLimitError) as caught:
            asking.anthropic()
        assert 0 < int(caught.value.response.headers["retry-after"]) <= 60
    assert len(upstream.requests) == 1
    told = [type(fact) for fact in observer.facts if not isinstance(fact, QueueLeft)]
    assert told == [TokensCounted, CallRefused]


def test_a_count_costs_no_tokens(upstream: ThreadedUpstream) -> None:
    """Neither its caller nor the provider, however small what they have."""
    block = {"rate_limit": {"tokens_per_minute": 1}}
    with watched(upstream, block, tokens_per_minute=1, max_concurrency=1) as (asking, _):
        assert [asking.anthropic().tokens for _ in range(3)] == [101, 101, 101]


def test_a_counter_that_is_full_is_estimated_for(upstream: ThreadedUpstream) -> None:
    """It is never worth a wait; another key of the provider that has room is asked before."""
    limits = {"requests_per_second": 0.01, "burst": 1, "scope": "credential", "queue_timeout": "1m"}
    with watched(upstream, {"api_key": ["sk-a", "sk-b"], "rate_limit": limits}) as (asking, observer):
        answers = [asking.anthropic() for _ in range(3)]
    assert [answer.warnings for answer in answers] == [None, None, "estimated:input_tokens"]
    assert sorted(str(received.header("x-api-key")) for received in upstream.requests) == ["sk-a", "sk-b"]
    told = [fact for fact in observer.facts if isinstance(fact, TokensCounted)]
    assert [(fact.outcome, fact.requests) for fact in told] == [("exact", 1), ("exact", 1), ("estimated", 0)]


def test_each_count_is_told_once_and_is_no_call(upstream: ThreadedUpstream) -> None:
    """With whose model it was, how it ended and how many requests that took."""
    with watched(upstream, {"api_key": ["sk-a", "sk-b"]}, name="ada", tenant="math") as (asking, observer):
        asking.anthropic()
        upstream.default = error_answer(404)
        asking.openai()
        upstream.default = error_answer(429)
        with pytest.raises(anthropic.RateLimitError):
            asking.anthropic()
    assert {type(fact) for fact in observer.facts} == {TokensCounted}
    exact, estimated, failed = (fact for fact in observer.facts if isinstance(fact, TokensCounted))
    assert (exact.outcome, exact.status, exact.tokens, exact.requests) == ("exact", 200, 101, 1)
    assert (exact.protocol, exact.model, exact.provider, exact.upstream_model) == (
        "anthropic-messages",
        "m",
        "up",
        "m-1",
    )
    assert (exact.principal, exact.tenant, exact.kind, exact.error) == ("ada", "math", "", "")
    assert (estimated.protocol, estimated.outcome, estimated.requests) == ("openai-responses", "estimated", 1)
    assert (failed.outcome, failed.status, failed.kind, failed.provider) == ("error", 429, "rate_limit", "up")
    assert (failed.error, failed.tokens, failed.requests) == ("UpstreamRateLimited", None, 2)


@pytest.mark.anyio
async def test_a_count_whose_caller_left_is_told_as_cancelled(upstream: ThreadedUpstream) -> None:
    """And gives its place back."""
    upstream.default = Scenario(Hold())
    observer = RecordingObserver()
    config = gateway(up=provider(upstream, "anthropic"))
    config["access"]["default"] = {"max_concurrency": 1}
    async with Gateway(config, observers=[observer]) as held:
        for _ in range(2):
            asked = asyncio.create_task(held.count_tokens(model="m", messages=MESSAGES, principal="ada"))
            await asyncio.to_thread(upstream.wait_for_requests, 1)
            upstream.requests.clear()
            asked.cancel()
            await asyncio.wait([asked])
    assert [fact.outcome for fact in observer.facts if isinstance(fact, TokensCounted)] == ["cancelled"] * 2
