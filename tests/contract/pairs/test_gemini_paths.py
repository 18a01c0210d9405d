"""Google's own paths and spellings, same protocol on both sides; unknown models; and embeddings over both vendors."""

import json
from array import array
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest
from anyio.from_thread import start_blocking_portal
from google.genai import errors

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream, json_answer, sse_answer
from support.gateway import served
from support.pairs import CHAT, GEMINI, KEY, ChatCaller, GeminiCaller, PairHarness, ProtocolPair, Reply
from support.pairs.asks import PNG, QUESTION
from support.pairs.gemini_asks import user
from support.pairs.gemini_wires import GEMINI_MODEL, gemini_body, gemini_chunks, gemini_frame, gemini_whole
from support.pairs.parameters import all_pairs, pairs
from support.strict import check_gemini

PASSTHROUGH = ProtocolPair(client=GEMINI, upstream=GEMINI)
FINE = Reply(texts=("Fine.",))


def sent(base: str, path: str, body: Any, **headers: str) -> httpx2.Response:
    """A call by hand to any of Google's paths."""
    content: Any = {"content": body} if isinstance(body, bytes) else {"json": body}
    return httpx2.post(base + path, headers={"x-goog-api-key": KEY, **headers}, trust_env=False, timeout=30, **content)


# ── the same protocol on both sides ──────────────────────────────────────────────────────────────────────────────────

BODY = (
    '{"zeta": 1, "generationConfig": {"temperature": 1.0, "topP": 1e-1, "seed": 12345678901234567890},\n'
    ' "contents": [{"parts": [{"text": "h\\u0069 雪", "later": {"b": 1.50, "a": [ ]}}], "role": "user"}],'
    ' "alpha": null}'
)


@pytest.mark.fidelity(13)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=GEMINI))
def test_a_request_keeps_its_bytes(harness: PairHarness, pair: ProtocolPair) -> None:
    """Google's body does not name its model, so nothing in it changes but the spaces between its members."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream), allow=("unknown-keyword", "numbers"))
    assert harness.post(pair, BODY.encode()).status_code == 200
    options, contents = (
        BODY[BODY.index('{"temp') : BODY.index(",\n")],
        BODY[BODY.index('[{"parts') : BODY.index(', "alpha')],
    )
    assert options.encode() in harness.received.body
    assert contents.encode() in harness.received.body
    assert list(harness.asked) == ["zeta", "generationConfig", "contents", "alpha"]


@pytest.mark.fidelity(14)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=GEMINI, stream=False))
def test_an_answer_keeps_its_bytes(harness: PairHarness, pair: ProtocolPair) -> None:
    """A whole answer differs from the upstream's in the model's name alone."""
    part = {"crystal": {"facets": 6, "weight": 1.50}}
    answer = json.dumps({"later": {"a": []}, **gemini_whole({"text": "雪"}, part)}, ensure_ascii=False)
    harness.play(json_answer(200, answer.encode()))
    seen = harness.post(pair, QUESTION[GEMINI])
    wanted = answer.replace(GEMINI_MODEL, harness.model(pair))
    assert json.loads(seen.content) == json.loads(wanted)
    assert b"1.5" in seen.content
    assert json.dumps(json.loads(answer)["candidates"], ensure_ascii=False).encode() in seen.content


@pytest.mark.fidelity(14)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=GEMINI, stream=True))
def test_a_stream_keeps_its_bytes(harness: PairHarness, pair: ProtocolPair) -> None:
    """A stream differs in the model's name; unknown parts and chunks stay."""
    frames = gemini_chunks({"text": "雪"}, {"crystal": {"facets": 6}}, {"text": "!"})
    frames.insert(1, gemini_frame(gemini_body(weather={"sky": "grey"})))
    harness.play(sse_answer(frames))
    seen = harness.post(pair, QUESTION[GEMINI])
    assert seen.content == b"".join(frames).replace(GEMINI_MODEL.encode(), harness.model(pair).encode())


SNAKES = {
    "system_instruction": {"parts": [{"text": "Be brief."}]},
    "contents": [user({"inline_data": {"mime_type": "image/png", "data": PNG.replace("+", "-").replace("/", "_")}})],
    "generation_config": {"max_output_tokens": 77, "thinking_config": {"thinking_level": "LOW"}},
}
CAMELS = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [user({"inlineData": {"mimeType": "image/png", "data": PNG}})],
    "generationConfig": {"maxOutputTokens": 77, "thinkingConfig": {"thinkingLevel": "LOW"}},
}


@pytest.mark.fidelity(16)
@pytest.mark.parametrize("body", [SNAKES, CAMELS], ids=["snake", "camel"])
@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_either_spelling_on_either_path(harness: PairHarness, body: dict[str, Any], version: str, stream: bool) -> None:
    """Google's upstream gets the very spelling that came, base64 included."""
    harness.play(FINE.scenario(GEMINI, stream=stream))
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    seen = sent(harness.base, f"/{version}/models/gemini/gemini-3.5-flash:{method}", body)
    assert seen.status_code == 200, seen.text
    assert harness.asked == body


@pytest.mark.fidelity(16)
@pytest.mark.parametrize("body", [SNAKES, CAMELS], ids=["snake", "camel"])
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_either_spelling_means_the_same_elsewhere(harness: PairHarness, body: dict[str, Any], version: str) -> None:
    """Chat's upstream gets one request, whichever way Google's caller spelled it."""
    harness.play(FINE.scenario(CHAT, stream=False))
    seen = sent(harness.base, f"/{version}/models/openai/gpt-5.9:generateContent", body)
    assert seen.status_code == 200, seen.text
    first, second = harness.asked["messages"]
    assert first["role"] in {"system", "developer"}
    assert second["content"] == [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]
    assert (harness.asked["max_completion_tokens"], harness.asked["reasoning_effort"]) == (77, "low")


@pytest.mark.fidelity(16)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=GEMINI))
def test_a_models_name_may_hold_slashes(harness: PairHarness, pair: ProtocolPair) -> None:
    """As the SDK sends it: everything before the method is the name."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, model="gemini/publishers/google/gemini-3.5-flash", **QUESTION[GEMINI])
    assert answer.text == "Fine."
    assert harness.received.path.startswith("/v1beta/models/publishers/google/gemini-3.5-flash:")


@pytest.mark.fidelity(16)
def test_a_key_in_the_query_is_not_passed_on(harness: PairHarness) -> None:
    """Google's older clients put it into the address; the upstream sees ours in its header and no query."""
    harness.play(FINE.scenario(GEMINI, stream=False))
    address = f"{harness.base}/v1beta/models/{harness.model(PASSTHROUGH)}:generateContent?key={KEY}"
    assert httpx2.post(address, json=QUESTION[GEMINI], trust_env=False).status_code == 200
    assert KEY not in harness.received.query
    assert KEY not in str(harness.received.headers)


# ── mistakes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


MISTAKES: list[Any] = [
    pytest.param(b"{", None, id="no-json"),
    pytest.param({}, "contents", id="no-contents"),
    pytest.param({"contents": "Hi"}, "contents", id="contents-are-text"),
    pytest.param({"contents": [{"role": "wizard", "parts": [{"text": "x"}]}]}, "contents[0].role", id="role"),
    pytest.param({"contents": [user({"text": 7})]}, "contents[0].parts[0].text", id="text"),
    pytest.param({"contents": [user({})]}, "contents[0].parts[0]", id="empty-part"),
    pytest.param(
        {"contents": [user("x")], "generation_config": {"max_output_tokens": "many"}},
        "generation_config.max_output_tokens",
        id="snake-limit",
    ),
    pytest.param(
        {
            "contents": [user("x")],
            "generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 9}},
        },
        "generationConfig.thinkingConfig",
        id="level-and-budget",
    ),
]


@pytest.mark.fidelity(98)
@pytest.mark.parametrize(("body", "field"), MISTAKES)
def test_a_mistake_is_named(harness: PairHarness, body: Any, field: str | None) -> None:
    """A 400 that names the field, spelled as the caller spelled it."""
    seen = sent(harness.base, "/v1beta/models/openai/gpt-5.9:generateContent", body)
    error = seen.json()["error"]
    assert (seen.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    if field:
        named = [row["field"] for detail in error["details"] for row in detail.get("fieldViolations", ())]
        assert named == [field]
    assert harness.upstream.requests == []


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────────────────────────

VECTORS = [[0.5, -0.25, 1.0], [2.0, 0.0, -1.5]]


def embedded(received: Received) -> Scenario:
    """As many vectors as were asked for, by whichever vendor was asked."""
    asked = received.json()
    if received.path.endswith(":batchEmbedContents"):
        check_gemini(received)
        found = [{"values": VECTORS[number]} for number, _ in enumerate(asked["requests"])]
        return json_answer(200, {"embeddings": found})
    assert received.path == "/v1/embeddings"
    assert asked.get("encoding_format", "float") in {"float", "base64"}
    inputs = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    data = [
        {"object": "embedding", "index": number, "embedding": spelled(VECTORS[number], asked.get("encoding_format"))}
        for number, _ in enumerate(inputs)
    ]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return json_answer(200, {"object": "list", "data": data, "model": asked["model"], "usage": usage})


def spelled(vector: list[float], encoding: str | None) -> Any:
    return b64encode(array("f", vector).tobytes()).decode() if encoding == "base64" else vector


EMBEDDERS = {"openai": "openai/text-embedding-3", "gemini": "gemini/gemini-embedding-001"}
BY_OPENAI = [pytest.param("openai", id="chat-to-chat"), pytest.param("gemini", id="chat-to-gemini")]
BY_GOOGLE = [pytest.param("openai", id="gemini-to-chat"), pytest.param("gemini", id="gemini-to-gemini")]
"""Whose SDK asks for embeddings, and whose server makes them; OpenAI's stand under Chat, as its small endpoints do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A gateway whose providers say what they serve, and both clients of it."""

    upstream: ThreadedUpstream
    openai: ChatCaller
    google: GeminiCaller


@pytest.fixture(scope="module")
def listing() -> Iterator[Listed]:
    with Upstream.in_thread() as upstream, start_blocking_portal() as portal:
        serves = {
            "openai": ("/v1", ["text-embedding-3"]),
            "gemini": ("", ["gemini-embedding-001"]),
            "anthropic": ("", ["claude-sonnet-5"]),
        }
        providers = {
            name: {"base_url": upstream.base_url + path, "api_key": f"sk-upstream-{name}", "models": models}
            for name, (path, models) in serves.items()
        }
        access = {"mode": "keys", "keys": [{"name": "pairs", "key": KEY}]}
        upstream.default = embedded
        with served(LLMProxy({"providers": providers, "access": access})) as base:
            made = Listed(
                upstream=upstream, openai=ChatCaller(base, KEY, portal), google=GeminiCaller(base, KEY, portal)
            )
            yield made
            made.openai.close()
            made.google.close()


@pytest.fixture
def listed(listing: Listed) -> Iterator[Listed]:
    listing.upstream.requests.clear()
    yield listing
    raised, listing.upstream.errors = listing.upstream.errors, []
    assert raised == []


@pytest.mark.fidelity(97)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", ["nobody/nothing", "nothing"])
def test_an_unknown_model_is_not_found(listed: Listed, name: str, stream: bool) -> None:
    """A 404 in Google's format, without an upstream call."""
    models = listed.google.client.models
    ask = models.generate_content_stream if stream else models.generate_content
    with pytest.raises(errors.ClientError) as unknown:
        list(ask(model=name, contents="Hi"))
    assert (unknown.value.code, unknown.value.status) == (404, "NOT_FOUND")
    assert listed.upstream.requests == []


@pytest.mark.fidelity(101)
@pytest.mark.parametrize("encoding", [None, "float", "base64"])
@pytest.mark.parametrize("upstream", BY_OPENAI)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_openais_client_embeds(listed: Listed, upstream: str, encoding: Any, mode: str) -> None:
    """Its default is base64, which it decodes; Google's vectors come as the same numbers."""
    caller = listed.openai
    asked: dict[str, Any] = {"model": EMBEDDERS[upstream], "input": ["One.", "Two."]}
    if encoding:
        asked["encoding_format"] = encoding

    async def ask() -> Any:
        return await caller.aclient.embeddings.create(**asked)

    found = caller.portal.call(ask) if mode == "async" else caller.client.embeddings.create(**asked)
    vectors = [each.embedding for each in found.data]
    if encoding == "base64":
        assert vectors == [spelled(vector, "base64") for vector in VECTORS]
    else:
        assert vectors == VECTORS
    assert [each.index for each in found.data] == [0, 1]
    assert found.model == EMBEDDERS[upstream]
    assert found.usage.prompt_tokens == (5 if upstream == "openai" else 4)  # Gemini counts none: an estimate


@pytest.mark.fidelity(101)
@pytest.mark.parametrize("contents", ["One.", ["One.", "Two."]], ids=["one", "two"])
@pytest.mark.parametrize("upstream", BY_GOOGLE)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_googles_client_embeds(listed: Listed, upstream: str, contents: Any, mode: str) -> None:
    """It always asks for a batch; over OpenAI the texts are inputs, and the size is OpenAI's word for it."""
    caller = listed.google
    client = caller.client
    asked: dict[str, Any] = {
        "model": EMBEDDERS[upstream],
        "contents": contents,
        "config": {"output_dimensionality": 3},
    }

    async def ask() -> Any:
        return await client.aio.models.embed_content(**asked)

    found = caller.portal.call(ask) if mode == "async" else client.models.embed_content(**asked)
    wanted = VECTORS if isinstance(contents, list) else VECTORS[:1]
    assert [each.values for each in found.embeddings or ()] == wanted
    body = listed.upstream.requests[-1].json()
    if upstream == "openai":
        assert body["model"] == "text-embedding-3"
        assert body["dimensions"] == 3
        given = [body["input"]] if isinstance(body["input"], str) else body["input"]
        assert given == ["One.", "Two."][: len(wanted)]
    else:
        requests = body["requests"]
        texts = [each["content"]["parts"][0]["text"] for each in requests]
        assert texts == ["One.", "Two."][: len(wanted)]
        sizes = {each.get("outputDimensionality", each.get("output_dimensionality")) for each in requests}
        assert sizes == {3}


@pytest.mark.fidelity(101)
@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize("upstream", BY_GOOGLE)
def test_one_content_at_a_time(listed: Listed, upstream: str, version: str) -> None:
    """The path for one content answers with one vector, whichever vendor made it, in either spelling."""
    body = {"content": {"parts": [{"text": "One."}]}, "output_dimensionality": 3}
    base = str(listed.openai.client.base_url).removesuffix("/v1/")
    seen = sent(base, f"/{version}/models/{EMBEDDERS[upstream]}:embedContent", body)
    assert seen.status_code == 200, seen.text
    assert seen.json()["embedding"] == {"values": VECTORS[0]}
    assert "embeddings" not in seen.json()


@pytest.mark.fidelity(101)
@pytest.mark.parametrize("client", ["openai", "google"], ids=["chat-to-messages", "gemini-to-messages"])
def test_anthropic_embeds_nothing(listed: Listed, client: str) -> None:
    """It has no such endpoint: a 400 for either client, without an upstream call."""
    if client == "openai":
        with pytest.raises(openai.BadRequestError):
            listed.openai.client.embeddings.create(model="anthropic/claude-sonnet-5", input="One.")
    else:
        with pytest.raises(errors.ClientError) as refused:
            listed.google.client.models.embed_content(model="anthropic/claude-sonnet-5", contents="One.")
        assert refused.value.code == 400
    assert listed.upstream.requests == []
