"""`x-llmproxy-strict: 1`: a request is taken as it is, or not at all."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream, error_answer, json_answer, sse_answer
from support.gateway import chat_answer, chat_frames, served

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is encrypted, and reading the authorities for each client would take longer than its call."""
STRICT = {"x-llmproxy-strict": "1"}
FINE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Fine."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 5},
}


def playing(received: Received) -> Scenario:
    """Anthropic's answer or OpenAI's, streamed if wanted."""
    if received.path.endswith("/messages"):
        return json_answer(200, FINE)
    if received.json().get("stream"):
        return sse_answer(chat_frames("Fine."))
    return json_answer(200, chat_answer("Fine."))


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=playing) as made:
        yield made


def block(upstream: ThreadedUpstream, kind: str, **more: Any) -> dict[str, Any]:
    version = "" if kind == "anthropic" else "/v1"
    common = {"api_key": "sk-up", "base_url": upstream.base_url + version, "retry": {"attempts": 1}}
    chat = {"protocol": "openai-chat"} if kind == "openai" else {}
    return {"type": kind, "models": [{"name": "m", "upstream": "claude-opus-4-5"}], **common, **chat, **more}


@contextmanager
def gateway(**providers: dict[str, Any]) -> Iterator[str]:
    with served(LLMProxy({"providers": providers, "access": {"mode": "open"}})) as base:
        yield base


def post(base: str, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    with httpx2.Client(timeout=30, trust_env=False, verify=PLAIN) as client:
        return client.post(base + path, json=body, headers=headers)


HI = [{"role": "user", "content": "hi"}]
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
LOSSES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "dropped": ("anthropic", "/v1/chat/completions", {"messages": HI, "seed": 7}, "dropped:seed"),
    "clamped": ("anthropic", "/v1/chat/completions", {"messages": HI, "temperature": 1.5}, "clamped:temperature"),
    "emulated": (
        "anthropic",
        "/v1/chat/completions",
        {"messages": HI, "response_format": {"type": "json_object"}},
        "emulated:response_format",
    ),
    "downgraded": (
        "anthropic",
        "/v1/chat/completions",
        {"messages": [*HI, {"role": "system", "content": "Be brief."}, *HI]},
        "downgraded:system_message",
    ),
    "moved": (
        "openai",
        "/v1/messages",
        {
            "max_tokens": 9,
            "messages": [
                *HI,
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [PICTURE]}]},
            ],
        },
        "moved:tool_result_media",
    ),
    "from-responses": (
        "anthropic",
        "/v1/responses",
        {"input": "hi", "text": {"verbosity": "low"}},
        "dropped:verbosity",
    ),
    "from-gemini": (
        "anthropic",
        "/v1beta/models/m:generateContent",
        {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"seed": 7}},
        "dropped:seed",
    ),
    "from-completions": ("anthropic", "/v1/completions", {"prompt": "hi", "seed": 7}, "dropped:seed"),
}


SPELLED = {("/v1/responses", "verbosity"): "text.verbosity"}
"""What a caller calls a field, where that is not its common name."""


@pytest.mark.parametrize(("kind", "path", "body", "warning"), LOSSES.values(), ids=LOSSES)
def test_what_would_be_lost_is_refused_by_name(
    upstream: ThreadedUpstream, kind: str, path: str, body: dict[str, Any], warning: str
) -> None:
    """Usually a warning, strictly a 400 that names the field; the upstream is not asked."""
    with gateway(up=block(upstream, kind)) as base:
        lenient = post(base, path, {"model": "m", **body})
        assert lenient.status_code == 200, lenient.text
        assert warning in lenient.headers["x-llmproxy-warnings"].split(", ")
        asked = len(upstream.requests)
        strict = post(base, path, {"model": "m", **body}, **STRICT)
    assert strict.status_code == 400
    assert len(upstream.requests) == asked
    error = strict.json()["error"]
    assert warning in error["message"]
    if "param" in error:
        field = warning.partition(":")[2]
        assert (error["code"], error["param"]) == ("unsupported_by_upstream", SPELLED.get((path, field), field))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_target_that_takes_it_as_it_is_serves_it(upstream: ThreadedUpstream, stream: bool) -> None:
    """The first one would lose a field: leniently it serves all the same, strictly the second one does."""
    config = {"first": block(upstream, "anthropic", priority=9), "second": block(upstream, "openai")}
    body = {"model": "m", "messages": HI, "seed": 7, "stream": stream}
    with gateway(**config) as base:
        answer = post(base, "/v1/chat/completions", body, **STRICT)
        assert answer.status_code == 200, answer.text
        assert "x-llmproxy-warnings" not in answer.headers
        assert [received.path for received in upstream.requests] == ["/v1/chat/completions"]
        if not stream:
            answer = post(base, "/v1/chat/completions", body)
            assert answer.headers["x-llmproxy-warnings"] == "dropped:seed"
            assert upstream.requests[-1].path == "/v1/messages"


def test_a_refused_stream_is_a_real_status(upstream: ThreadedUpstream) -> None:
    """The SDKs raise their own class for it before any event."""
    with gateway(up=block(upstream, "anthropic")) as base:
        chat = openai.OpenAI(base_url=base + "/v1", api_key="x", max_retries=0, default_headers=STRICT)
        with chat, pytest.raises(openai.BadRequestError) as caught:
            chat.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], seed=7, stream=True)
    assert (caught.value.code, caught.value.param) == ("unsupported_by_upstream", "seed")
    with gateway(up=block(upstream, "openai")) as base:
        messages = anthropic.Anthropic(base_url=base, api_key="x", max_retries=0, default_headers=STRICT)
        with messages, pytest.raises(anthropic.BadRequestError, match="top_k"):
            messages.messages.create(
                model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], extra_body={"top_k": 5}
            )
    assert upstream.requests == []


def test_what_arrives_whole_passes(upstream: ThreadedUpstream) -> None:
    """Nothing is lost on the way to the caller's own protocol, nor of a request that the other can say."""
    with gateway(up=block(upstream, "anthropic")) as base:
        body: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": HI}
        assert post(base, "/v1/messages", {**body, "top_k": 5, "odd": True}, **STRICT).status_code == 200
        assert post(base, "/v1/chat/completions", body, **STRICT).status_code == 200


def test_an_estimate_is_no_loss(upstream: ThreadedUpstream) -> None:
    """Counts that are a rule of thumb are still told as such."""
    with gateway(up=block(upstream, "openai")) as base:
        answer = post(base, "/v1/messages/count_tokens", {"model": "m", "messages": HI}, **STRICT)
    assert answer.status_code == 200
    assert answer.headers["x-llmproxy-warnings"] == "estimated:input_tokens"


def test_a_count_may_be_strict_too(upstream: ThreadedUpstream) -> None:
    """What would not be sent is not counted either."""
    upstream.default = json_answer(200, {"input_tokens": 9})
    path, body = "/v1/responses/input_tokens", {"model": "m", "input": "hi", "text": {"verbosity": "low"}}
    with gateway(up=block(upstream, "anthropic")) as base:
        assert post(base, path, body).headers["x-llmproxy-warnings"] == "dropped:verbosity"
        strict = post(base, path, body, **STRICT)
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "text.verbosity")


def test_reasoning_that_is_refused_is_not_left_out(upstream: ThreadedUpstream) -> None:
    """Leniently the request goes once more without it; strictly the upstream's refusal is the answer."""
    refusal = {"type": "error", "error": {"type": "invalid_request_error", "message": "Invalid signature"}}
    upstream.default = lambda received: (
        error_answer(400, refusal) if b"thinking" in received.body else json_answer(200, FINE)
    )
    turn = {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, {"type": "text", "text": "Hi."}],
    }
    body = {"model": "m", "max_tokens": 9, "messages": [*HI, turn, *HI]}
    with gateway(up=block(upstream, "anthropic")) as base:
        assert post(base, "/v1/messages", body).headers["x-llmproxy-warnings"] == "dropped:reasoning"
        asked = len(upstream.requests)
        strict = post(base, "/v1/messages", body, **STRICT)
    assert (strict.status_code, strict.json()["error"]["message"]) == (400, "Invalid signature")
    assert len(upstream.requests) == asked + 1


@pytest.mark.parametrize(
    ("value", "status"),
    [("1", 400), ("true", 400), ("0", 200), ("false", 200), ("yes", 400), ("", 400), ("TRUE", 400), ("1, 1", 400)],
)
def test_the_header_has_four_values(upstream: ThreadedUpstream, value: str, status: int) -> None:
    """Any other is refused rather than taken for no."""
    with gateway(up=block(upstream, "anthropic")) as base:
        body = {"model": "m", "messages": HI, "seed": 7}
        answer = post(base, "/v1/chat/completions", body, **{"x-llmproxy-strict": value})
    assert answer.status_code == status
    if status == 400:
        param = "seed" if value in {"1", "true"} else "x-llmproxy-strict"
        assert answer.json()["error"]["param"] == param
