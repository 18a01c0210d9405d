"""Legacy completions and embeddings through a real server: the official SDK asks, scripted upstreams answer."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import httpx2
import openai
import pytest
from typing_extensions import override

from llmproxy_asgi import Gateway, LLMProxy
from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.providers.base import REGISTERED, Credential, Provider, join
from llmproxy_asgi.testing import (
    Hold,
    Received,
    Scenario,
    ThreadedUpstream,
    Upstream,
    error_answer,
    json_answer,
    sse_answer,
)
from llmproxy_asgi.transport import Address
from support.gateway import chat_answer, chat_chunk, chat_frames, served

VECTORS = [[0.5, -1.25, 3.0], [1.0, 0.0, -2.0]]


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def provider(upstream: ThreadedUpstream, kind: str = "openai-compatible", **more: Any) -> dict[str, Any]:
    version = "" if kind == "anthropic" else "/v1"
    block = {"type": kind, "base_url": upstream.base_url + version, "retry": {"attempts": 1}, **more}
    return block if kind == "openai-compatible" else {"api_key": "sk-upstream", **block}


def gateway(**providers: dict[str, Any]) -> LLMProxy:
    return LLMProxy({"providers": providers, "access": {"mode": "open"}})


def sdk(base: str) -> openai.OpenAI:
    client = httpx2.Client(timeout=30, trust_env=False)
    return openai.OpenAI(base_url=base + "/v1", api_key="anything", max_retries=0, http_client=client)


def post(base: str, path: str, body: dict[str, Any]) -> httpx2.Response:
    with httpx2.Client(timeout=30, trust_env=False) as client:
        return client.post(base + path, json=body)


def refusal(client: openai.OpenAI) -> openai.BadRequestError:
    """How the SDK tells that an embedding was refused."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="m", input="x")
    return caught.value


def said(received: Received) -> str:
    """The last thing that the upstream was told, in either protocol of a conversation."""
    content = received.json()["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def echoing(received: Received) -> Scenario:
    """A whole answer in the upstream's own protocol that says what was asked."""
    words = f"You said {said(received)}."
    if received.path.endswith("/messages"):
        answer = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [{"type": "text", "text": words}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 5},
        }
        return json_answer(200, answer)
    return json_answer(200, chat_answer(words))


def messages_frames(*texts: str) -> list[bytes]:
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**start, "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": each}} for each in texts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


# ── completions over conversations ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(102)
@pytest.mark.parametrize("kind", ["openai", "openai-compatible", "anthropic"])
def test_102_a_prompt_is_completed_by_whoever_holds_conversations(upstream: ThreadedUpstream, kind: str) -> None:
    """One user message upstream; the SDK reads text, finish, usage and the model that it asked for."""
    upstream.default = echoing
    with served(gateway(up=provider(upstream, kind))) as base, sdk(base) as client:
        answer = client.completions.create(model="m", prompt="one", max_tokens=20, temperature=0.5, stop=["\n"])
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == "m"
    assert [(each.index, each.text, each.finish_reason) for each in answer.choices] == [(0, "You said one.", "stop")]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 5, 8)
    (received,) = upstream.requests
    assert len(received.json()["messages"]) == 1


@pytest.mark.fidelity(102)
@pytest.mark.parametrize(
    ("kind", "frames"), [("openai", chat_frames), ("anthropic", messages_frames)], ids=["chat", "messages"]
)
def test_102_a_completion_streams(upstream: ThreadedUpstream, kind: str, frames: Callable[..., list[bytes]]) -> None:
    """The first words are there while the upstream is held; usage comes last, where it was asked for."""
    parts = frames("Good ", "day")
    seen = next(index for index, part in enumerate(parts) if b"Good" in part) + 1
    scenario = sse_answer([*parts[:seen], Hold(), *parts[seen:]])
    upstream.default = scenario
    with served(gateway(up=provider(upstream, kind))) as base, sdk(base) as client:
        stream = client.completions.create(model="m", prompt="one", stream=True, stream_options={"include_usage": True})
        chunks = [next(stream)]
        while not any(choice.text for choice in chunks[-1].choices):
            chunks.append(next(stream))
        scenario.gate.set()
        chunks += list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "Good day"
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert finishes == ["stop" if kind == "openai" else "length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 8
    assert {chunk.model for chunk in chunks} == {"m"}


def test_a_stream_of_completions_ends_with_its_sign_and_without_usage_unless_asked(upstream: ThreadedUpstream) -> None:
    """As Chat's streams do."""
    upstream.default = sse_answer(chat_frames("hi"))
    with served(gateway(up=provider(upstream))) as base:
        answer = post(base, "/v1/completions", {"model": "m", "prompt": "p", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert "usage" not in answer.text


@pytest.mark.fidelity(102)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_102_each_prompt_is_a_choice(upstream: ThreadedUpstream, kind: str) -> None:
    """Several prompts are as many upstream calls, and one answer: in the prompts' order, what they cost summed up."""
    upstream.default = echoing
    prompts = [f"prompt {number}" for number in range(7)]
    with served(gateway(up=provider(upstream, kind))) as base, sdk(base) as client:
        answer = client.completions.create(model="m", prompt=prompts)
    assert [each.index for each in answer.choices] == list(range(7))
    assert [each.text for each in answer.choices] == [f"You said {prompt}." for prompt in prompts]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7 * 8
    assert sorted(map(said, upstream.requests)) == prompts


@pytest.mark.fidelity(102)
def test_102_several_prompts_stream_side_by_side(upstream: ThreadedUpstream) -> None:
    """Each choice's text comes under its own index, finished once; one usage tells the sum."""

    def streaming(received: Received) -> Scenario:
        return sse_answer(chat_frames("You ", "said ", said(received)))

    upstream.default = streaming
    with served(gateway(up=provider(upstream))) as base, sdk(base) as client:
        texts = ["", "", ""]
        finishes: list[int] = []
        usages = []
        for chunk in client.completions.create(
            model="m", prompt=["a", "b", "c"], stream=True, stream_options={"include_usage": True}
        ):
            usages += [chunk.usage.total_tokens] if chunk.usage else []
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                finishes += [choice.index] if choice.finish_reason else []
    assert texts == ["You said a", "You said b", "You said c"]
    assert sorted(finishes) == [0, 1, 2]
    assert usages == [24]


def test_several_prompts_with_several_candidates_are_numbered_prompt_by_prompt(upstream: ThreadedUpstream) -> None:
    """`n` counts for each prompt."""

    def twice(received: Received) -> Scenario:
        assert received.json()["n"] == 2
        answer = chat_answer(said(received))
        first = answer["choices"][0]
        return json_answer(200, {**answer, "choices": [first, {**first, "index": 1}]})

    upstream.default = twice
    with served(gateway(up=provider(upstream))) as base, sdk(base) as client:
        answer = client.completions.create(model="m", prompt=["a", "b"], n=2)
    assert [(each.index, each.text) for each in answer.choices] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]


def test_a_caller_who_leaves_takes_every_prompt_along(upstream: ThreadedUpstream) -> None:
    """All upstream connections of the call are closed."""
    upstream.default = sse_answer([*chat_frames("hi")[:2], Hold()])
    body = {"model": "m", "prompt": ["a", "b", "c"], "stream": True}
    with served(gateway(up=provider(upstream))) as base:
        with (
            httpx2.Client(timeout=30, trust_env=False) as client,
            client.stream("POST", base + "/v1/completions", json=body) as answer,
        ):
            next(answer.iter_raw())
            upstream.wait_for_requests(3)
        for number in range(3):
            assert upstream.wait_closed(number) > 0


def test_one_failing_prompt_fails_the_call_with_a_real_status(upstream: ThreadedUpstream) -> None:
    """There is no answer with a hole in it."""

    def moody(received: Received) -> Scenario:
        if said(received) == "b":
            return error_answer(
                429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, {"retry-after": "7"}
            )
        return echoing(received)

    upstream.default = moody
    with served(gateway(up=provider(upstream))) as base:
        answer = post(base, "/v1/completions", {"model": "m", "prompt": ["a", "b", "c"]})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["message"] == "slow"


def test_several_prompts_fail_over_together(upstream: ThreadedUpstream) -> None:
    """The next target is asked for every prompt."""
    upstream.on("/broken/v1/chat/completions", error_answer(500, {}))
    upstream.default = echoing
    broken = {**provider(upstream), "base_url": upstream.base_url + "/broken/v1", "priority": 9}
    with served(gateway(broken=broken, up=provider(upstream))) as base, sdk(base) as client:
        answer = client.completions.create(model="m", prompt=["a", "b"])
    assert [each.text for each in answer.choices] == ["You said a.", "You said b."]


@pytest.mark.fidelity(102)
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 0}, "logprobs"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": ["x"] * 129}, "prompt"),
    ],
    ids=str,
)
def test_102_what_only_completions_have_is_refused(
    upstream: ThreadedUpstream, fields: dict[str, Any], param: str
) -> None:
    """A 400 that names the field; the upstream is not asked."""
    with served(gateway(up=provider(upstream))) as base:
        answer = post(base, "/v1/completions", {"model": "m", "prompt": "p", **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "unsupported_by_upstream")
    assert upstream.requests == []


def test_fields_that_change_nothing_are_no_hindrance(upstream: ThreadedUpstream) -> None:
    """What is null, false, empty or as it would be anyway."""
    upstream.default = echoing
    fields = {"echo": False, "suffix": None, "best_of": 1, "logprobs": None, "stop": None, "logit_bias": None}
    with served(gateway(up=provider(upstream))) as base:
        assert post(base, "/v1/completions", {"model": "m", "prompt": "p", **fields}).status_code == 200


# ── completions spoken by the upstream itself ────────────────────────────────────────────────────────────────────────

NATIVE = {
    "id": "cmpl-9",
    "object": "text_completion",
    "created": 1795000000,
    "model": "old-1",
    "choices": [
        {
            "text": "p and on",
            "index": 0,
            "logprobs": {"tokens": ["p"], "token_logprobs": [None]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def old(upstream: ThreadedUpstream, **more: Any) -> dict[str, Any]:
    models = [{"name": "m", "upstream": "old-1"}]
    return provider(upstream, protocol=["openai-completions"], models=models, **more)


@pytest.mark.fidelity(102)
def test_102_an_upstream_that_has_completions_gets_them_as_they_are(upstream: ThreadedUpstream) -> None:
    """All that is particular to them, in one call: token ids, echo, suffix, best_of, logprobs, unknown fields."""
    upstream.default = json_answer(200, NATIVE)
    fields = {"prompt": [[1, 2], [3]], "echo": True, "suffix": "s", "best_of": 2, "logprobs": 5, "min_p": 0.10}
    with served(gateway(up=old(upstream))) as base:
        answer = post(base, "/v1/completions", {"model": "m", **fields})
    assert answer.json() == {**NATIVE, "model": "m"}
    (received,) = upstream.requests
    assert received.path == "/v1/completions"
    assert received.json() == {"model": "old-1", **fields}


def test_a_stream_of_an_old_server_is_passed_through(upstream: ThreadedUpstream) -> None:
    """Byte by byte but for the model's name, and for the usage that only we asked for."""

    def chunk(**fields: Any) -> bytes:
        return (
            b"data: " + json.dumps({"id": "cmpl-9", "object": "text_completion", "model": "old-1", **fields}).encode()
        )

    texts = [
        chunk(choices=[{"text": "on", "index": 0, "logprobs": None, "finish_reason": None}]),
        chunk(choices=[{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}]),
    ]
    usage = chunk(choices=[], usage=NATIVE["usage"])
    upstream.default = sse_answer([each + b"\n\n" for each in (*texts, usage, b"data: [DONE]")])
    with served(gateway(up=old(upstream))) as base:
        answer = post(base, "/v1/completions", {"model": "m", "prompt": "p", "stream": True})
    expected = [each.replace(b"old-1", b"m") + b"\n\n" for each in (*texts, b"data: [DONE]")]
    assert answer.content == b"".join(expected)
    assert upstream.requests[0].json()["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/embeddings", {"input": "hi"}),
    ],
    ids=["chat", "messages", "embeddings"],
)
def test_nothing_else_is_written_as_a_completion(upstream: ThreadedUpstream, path: str, body: dict[str, Any]) -> None:
    """A conversation has no faithful prompt: 400, in the caller's shape."""
    with served(gateway(up=old(upstream))) as base:
        answer = post(base, path, {"model": "m", **body})
    assert answer.status_code == 400
    assert "'up'" in answer.json()["error"]["message"]
    assert upstream.requests == []


def test_an_unfit_target_leaves_the_call_to_a_fit_one(upstream: ThreadedUpstream) -> None:
    """Echo needs the old server; the modern one of higher priority is passed over."""
    upstream.default = json_answer(200, NATIVE)
    config = {"modern": provider(upstream, "openai", priority=9), "old": old(upstream)}
    with served(gateway(**config)) as base:
        answer = post(base, "/v1/completions", {"model": "m", "prompt": "p", "echo": True})
    assert answer.json()["choices"] == NATIVE["choices"]
    assert [received.path for received in upstream.requests] == ["/v1/completions"]


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def embedding(received: Received) -> Scenario:
    """What OpenAI answers: in the encoding that was asked for, the last first."""
    asked = received.json()
    given = asked["input"]
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1

    def shown(vector: list[float]) -> Any:
        if asked.get("encoding_format") != "base64":
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

    data = [{"object": "embedding", "index": index, "embedding": shown(VECTORS[index % 2])} for index in range(count)]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return json_answer(200, {"object": "list", "data": data[::-1], "model": "embedder-1", "usage": usage})


def embedder(upstream: ThreadedUpstream, kind: str = "openai-compatible", **more: Any) -> dict[str, Any]:
    return provider(upstream, kind, models=[{"name": "m", "upstream": "embedder-1"}], **more)


@pytest.mark.fidelity(101)
@pytest.mark.parametrize("kind", ["openai", "openai-compatible"])
@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["default", "float"])
def test_101_the_sdk_reads_vectors(upstream: ThreadedUpstream, kind: str, options: dict[str, Any]) -> None:
    """By default, which is base64, and as numbers; the request reaches the upstream as it came."""
    upstream.default = embedding
    with served(gateway(up=embedder(upstream, kind))) as base, sdk(base) as client:
        answer = client.embeddings.create(model="m", input=["one", "two"], dimensions=3, **options)
    assert {each.index: each.embedding for each in answer.data} == dict(enumerate(VECTORS))
    assert answer.model == "m"
    assert answer.usage.prompt_tokens == 4
    (received,) = upstream.requests
    assert received.path == "/v1/embeddings"
    expected = {"model": "embedder-1", "input": ["one", "two"], "dimensions": 3}
    assert received.json() == {**expected, "encoding_format": options.get("encoding_format", "base64")}


@pytest.mark.fidelity(101)
def test_101_whoever_makes_no_embeddings_says_so(upstream: ThreadedUpstream) -> None:
    """Anthropic has none: 400 naming the upstream."""
    with served(gateway(claude=provider(upstream, "anthropic"))) as base, sdk(base) as client:
        caught = refusal(client)
    assert "'claude' does not support embeddings" in caught.message
    assert caught.code == "unsupported_by_upstream"
    assert upstream.requests == []


def test_embeddings_go_past_the_unfit_to_the_fit(upstream: ThreadedUpstream) -> None:
    """One name may stand for both kinds of provider."""
    upstream.default = embedding
    config = {"claude": provider(upstream, "anthropic", priority=9), "up": embedder(upstream)}
    with served(gateway(**config)) as base, sdk(base) as client:
        assert client.embeddings.create(model="m", input="x").data[0].embedding == VECTORS[0]
    assert [received.path for received in upstream.requests] == ["/v1/embeddings"]


def test_an_unfit_target_never_answers_for_a_fit_one_that_rests(upstream: ThreadedUpstream) -> None:
    """The caller's error says to wait, not that the request is impossible."""
    upstream.default = error_answer(429, {"error": {"message": "slow"}}, {"retry-after": "60"})
    config = {"claude": provider(upstream, "anthropic", priority=9), "up": embedder(upstream)}
    with served(gateway(**config)) as base:
        answers = [post(base, "/v1/embeddings", {"model": "m", "input": "x"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [429, 429]
    assert len(upstream.requests) == 1


def test_embeddings_are_tried_again_and_fail_over(upstream: ThreadedUpstream) -> None:
    """By the same rules as every call."""
    upstream.enqueue(error_answer(500, {}))
    upstream.enqueue(error_answer(503, {}))
    upstream.default = embedding
    twice = {**embedder(upstream), "retry": {"attempts": 2, "backoff": "1ms"}, "priority": 9}
    with served(gateway(first=twice, second=embedder(upstream))) as base, sdk(base) as client:
        assert client.embeddings.create(model="m", input="x").data[0].embedding == VECTORS[0]
    assert len(upstream.requests) == 3


def test_errors_of_an_embedding_call_are_openais(upstream: ThreadedUpstream) -> None:
    """The upstream's own words about the request, and none of those about our credential."""
    upstream.enqueue(error_answer(400, {"error": {"message": "too long", "param": "input", "type": "x", "code": None}}))
    upstream.enqueue(error_answer(401, {"error": {"message": "bad key sk-secret"}}))
    with served(gateway(up=embedder(upstream))) as base:
        refused = post(base, "/v1/embeddings", {"model": "m", "input": "x"})
        broken = post(base, "/v1/embeddings", {"model": "m", "input": "x"})
        unknown = post(base, "/v1/embeddings", {"model": "nope", "input": "x"})
        wrong = post(base, "/v1/embeddings", {"model": "m", "input": "x", "encoding_format": "hex"})
    assert refused.status_code == 400
    assert refused.json()["error"] == {"message": "too long", "param": "input", "type": "x", "code": None}
    assert broken.status_code == 502
    assert "secret" not in broken.text
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "encoding_format")


def test_rubbish_for_vectors_is_a_502(upstream: ThreadedUpstream) -> None:
    """Nothing of it is shown."""
    upstream.default = json_answer(200, b"<html>internal.example</html>")
    with served(gateway(up=embedder(upstream))) as base:
        answer = post(base, "/v1/embeddings", {"model": "m", "input": "x"})
    assert answer.status_code == 502
    assert "internal" not in answer.text


def test_a_key_opens_the_embedding_models_it_was_given(upstream: ThreadedUpstream) -> None:
    """Grants hold here as everywhere."""
    upstream.default = embedding
    up = provider(upstream, models=["m", "other"])
    key = {"name": "ci", "key": "llmp_abcdefghijklmnopqrstuvwxyz", "models": ["m"]}
    config = {"providers": {"up": up}, "access": {"mode": "keys", "keys": [key]}}
    with served(LLMProxy(config)) as base, httpx2.Client(timeout=30, trust_env=False) as client:
        headers = {"authorization": f"Bearer {key['key']}"}
        statuses = [
            client.post(base + "/v1/embeddings", json={"model": model, "input": "x"}, headers=sent).status_code
            for model, sent in (("m", headers), ("other", headers), ("m", {}))
        ]
    assert statuses == [200, 404, 401]


def test_the_two_paths_take_post_alone(upstream: ThreadedUpstream) -> None:
    """405 in OpenAI's shape."""
    with served(gateway(up=provider(upstream))) as base, httpx2.Client(timeout=30, trust_env=False) as client:
        for path in ("/v1/completions", "/v1/embeddings"):
            answer = client.get(base + path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_an_embedding_provider_holds_no_conversations(upstream: ThreadedUpstream) -> None:
    """A conversation is never sent to the embedding path."""
    with served(gateway(up=embedder(upstream, protocol="openai-embeddings"))) as base:
        answer = post(base, "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    assert answer.status_code == 400
    assert "supports embeddings only" in answer.json()["error"]["message"]
    assert upstream.requests == []


def test_openais_last_completion_models_are_asked_in_their_own_protocol(upstream: ThreadedUpstream) -> None:
    """And hold no conversations, while every other model's completions go by Chat."""
    upstream.on("/v1/completions", json_answer(200, {**NATIVE, "model": "davinci-002"}))
    upstream.on("/v1/chat/completions", json_answer(200, chat_answer("hi")))
    with served(gateway(up=provider(upstream, "openai"))) as base:
        completed = post(base, "/v1/completions", {"model": "davinci-002", "prompt": "p", "echo": True})
        bridged = post(base, "/v1/completions", {"model": "gpt-5", "prompt": "p"})
        refused = post(
            base, "/v1/chat/completions", {"model": "davinci-002", "messages": [{"role": "user", "content": "x"}]}
        )
    assert [answer.status_code for answer in (completed, bridged, refused)] == [200, 200, 400]
    assert [received.path for received in upstream.requests] == ["/v1/completions", "/v1/chat/completions"]


class Google(Provider):
    """An upstream that makes embeddings in Google's way, and nothing else."""

    protocols: ClassVar[tuple[str, ...]] = ("gemini-embeddings",)

    @override
    def address(self, protocol: str, model: str, *, stream: bool) -> Address:
        return join(self.root, f"/models/{model}:batchEmbedContents", version="v1beta")

    @override
    def authorize(self, protocol: str, credential: Credential) -> dict[str, str]:
        return {"x-goog-api-key": "k"}


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, upstream: ThreadedUpstream) -> dict[str, Any]:
    """Its block of configuration."""
    monkeypatch.setitem(REGISTERED, "toy-google", Google)
    monkeypatch.setattr(Google, "type", "toy-google")
    models = [{"name": "m", "upstream": "gemini-embedding-001"}]
    return {"type": "toy-google", "base_url": upstream.base_url, "api_key": "k", "models": models}


@pytest.mark.fidelity(101)
@pytest.mark.parametrize("counted", [True, False])
def test_101_openais_callers_get_googles_vectors(
    upstream: ThreadedUpstream, google: dict[str, Any], counted: bool
) -> None:
    """One batch upstream, base64 to the SDK; where no tokens were counted the answer says so in a header."""
    usage = {"usageMetadata": {"promptTokenCount": 4}} if counted else {}
    upstream.default = json_answer(200, {"embeddings": [{"values": vector} for vector in VECTORS], **usage})
    with served(gateway(google=google)) as base, sdk(base) as client:
        raw = client.embeddings.with_raw_response.create(model="m", input=["one", "two"], dimensions=3)
    answer = raw.parse()
    assert [each.embedding for each in answer.data] == VECTORS
    assert (answer.model, answer.usage.prompt_tokens) == ("m", 4 if counted else 2)
    assert raw.headers.get("x-llmproxy-warnings") == (None if counted else "estimated:usage")
    (received,) = upstream.requests
    assert received.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert len(received.json()["requests"]) == 2


def test_tokens_go_past_google_to_whoever_knows_them(upstream: ThreadedUpstream, google: dict[str, Any]) -> None:
    """And are refused where no upstream has them."""
    upstream.default = embedding
    config = {"google": {**google, "priority": 9}, "up": embedder(upstream)}
    for targets, status in ((config, 200), ({"google": google}, 400)):
        with served(gateway(**targets)) as base:
            assert post(base, "/v1/embeddings", {"model": "m", "input": [1, 2]}).status_code == status
    assert [received.path for received in upstream.requests] == ["/v1/embeddings"]


# ── from Python ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_the_python_face_embeds(upstream: ThreadedUpstream) -> None:
    """Vectors in the inputs' order, usage and the upstream's name of the model."""
    upstream.default = embedding
    async with Gateway({"providers": {"up": embedder(upstream)}}) as gateway_:
        found = await gateway_.embed(model="m", input=["one", "two"], principal="ann", dimensions=3)
        single = await gateway_.embed(model="m", input="one", encoding_format="base64")
    assert [list(vector) for vector in found.vectors] == VECTORS
    assert (found.model, found.usage.input, found.usage.total) == ("embedder-1", 4, 4)
    assert [list(vector) for vector in single.vectors] == VECTORS[:1]
    assert upstream.requests[0].json() == {"model": "embedder-1", "input": ["one", "two"], "dimensions": 3}


@pytest.mark.anyio
async def test_the_python_face_says_what_is_wrong(upstream: ThreadedUpstream) -> None:
    """A wrong field by name; no embeddings where there are none."""
    config = {"providers": {"claude": provider(upstream, "anthropic")}}
    async with Gateway(config) as gateway_:
        with pytest.raises(BadRequest) as wrong:
            await gateway_.embed(model="m", input=[])
        with pytest.raises(Unsupported):
            await gateway_.embed(model="m", input="x")
    assert wrong.value.param == "input"


@pytest.mark.anyio
async def test_the_sdk_in_process_asks_the_same_paths(upstream: ThreadedUpstream) -> None:
    """Embeddings and completions, without a socket."""
    upstream.on("/v1/embeddings", embedding)
    upstream.default = echoing
    async with Gateway({"providers": {"up": embedder(upstream)}}) as gateway_, gateway_.openai() as client:
        found = await client.embeddings.create(model="m", input="one")
        completed = await client.completions.create(model="m", prompt=["a", "b"])
    assert found.data[0].embedding == VECTORS[0]
    assert [choice.text for choice in completed.choices] == ["You said a.", "You said b."]


def test_an_answer_without_words_is_one_finish(upstream: ThreadedUpstream) -> None:
    """The SDK gets a chunk all the same."""
    upstream.default = sse_answer(
        [
            chat_chunk(choices=[{"index": 0, "delta": {"role": "assistant"}, "finish_reason": "stop"}]),
            b"data: [DONE]\n\n",
        ]
    )
    with served(gateway(up=provider(upstream))) as base, sdk(base) as client:
        chunks = list(client.completions.create(model="m", prompt="p", stream=True))
    assert [(each.text, each.finish_reason) for chunk in chunks for each in chunk.choices] == [("", "stop")]
