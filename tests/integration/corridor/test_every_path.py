"""Claims that hold on every path alike: bad input by its field, lists of models, legacy completions, and keys."""

import logging
import ssl
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors, types

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream, json_answer
from support.gateway import served

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is encrypted, and reading the authorities for each client would take longer than its call."""
KEY, OTHER = "llmp_every-path-0123456789", "llmp_no-such-key-0123456789"
PROTOCOLS = ("openai-chat", "openai-responses", "anthropic-messages", "gemini")
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
    """Anthropic, and an old server that makes vectors."""
    if received.path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        return json_answer(200, {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 1}})
    return json_answer(200, {"input_tokens": 9} if received.path.endswith("/count_tokens") else FINE)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=playing) as made:
        yield made


@pytest.fixture(scope="module")
def base(upstream: ThreadedUpstream) -> Iterator[str]:
    """A model `m` that is Claude, a model `e` that makes vectors, and simulated ones in every protocol."""
    simulated = {name: {"type": "simulated", "protocol": name, "models": ["echo"]} for name in PROTOCOLS}
    claude = {"type": "anthropic", "base_url": upstream.base_url, "api_key": "sk-up", "models": ["m", "team/m"]}
    vectors = {"type": "openai-compatible", "base_url": upstream.base_url + "/v1", "models": ["e"]}
    config = {
        "providers": {"claude": claude, "vectors": vectors, **simulated},
        "access": {"mode": "keys", "keys": [{"name": "ci", "key": KEY}]},
    }
    with served(LLMProxy(config)) as address:
        yield address


@pytest.fixture(autouse=True)
def forgotten(upstream: ThreadedUpstream) -> None:
    upstream.requests.clear()


def send(base: str, path: str, body: Any = None, *, query: str = "", **headers: str) -> httpx2.Response:
    sent = {"authorization": f"Bearer {KEY}", **headers}
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    with httpx2.Client(timeout=30, trust_env=False, verify=PLAIN) as client:
        head = {**{name: value for name, value in sent.items() if value}, "content-type": "application/json"}
        if body is None:
            return client.get(base + path + query, headers=head)
        return client.post(base + path + query, headers=head, **content)


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────

HI = [{"role": "user", "content": "hi"}]
SAID = [{"role": "user", "parts": [{"text": "hi"}]}]
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI, COMPLETIONS, EMBEDDINGS = "/v1beta/models/m:generateContent", "/v1/completions", "/v1/embeddings"
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": HI},
    RESPONSES: {"model": "m", "input": "hi"},
    MESSAGES: {"model": "m", "max_tokens": 9, "messages": HI},
    GEMINI: {"contents": SAID},
    COMPLETIONS: {"model": "m", "prompt": "hi"},
    EMBEDDINGS: {"model": "e", "input": "hi"},
    "/v1/messages/count_tokens": {"model": "m", "messages": HI},
    "/v1/responses/input_tokens": {"model": "m", "input": "hi"},
    "/v1/models/m:countTokens": {"contents": SAID},
    "/v1beta/models/e:batchEmbedContents": {"requests": [{"model": "models/e", "content": SAID[0]}]},
}
GONE = object()
MISTAKES: list[tuple[str, str, Any, str]] = [
    (CHAT, "messages", GONE, "messages"),
    (CHAT, "messages", "hi", "messages"),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    (CHAT, "messages", [{"role": "wizard", "content": "x"}], "messages[0].role"),
    (CHAT, "max_completion_tokens", "many", "max_completion_tokens"),
    (CHAT, "tools", [{"type": "function", "function": {}}], "tools[0].function.name"),
    (CHAT, "stream", "yes", "stream"),
    (RESPONSES, "input", GONE, "input"),
    (RESPONSES, "input", 7, "input"),
    (RESPONSES, "input", [{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
    (RESPONSES, "max_output_tokens", "many", "max_output_tokens"),
    (RESPONSES, "text", "json", "text"),
    (RESPONSES, "tools", {}, "tools"),
    (MESSAGES, "messages", GONE, "messages"),
    (MESSAGES, "max_tokens", GONE, "max_tokens"),
    (MESSAGES, "max_tokens", -1, "max_tokens"),
    (MESSAGES, "system", 7, "system"),
    (MESSAGES, "tools", "all", "tools"),
    (GEMINI, "contents", GONE, "contents"),
    (GEMINI, "contents", {}, "contents"),
    (GEMINI, "contents", [{"role": "user", "parts": [{"text": 7}]}], "contents[0].parts[0].text"),
    (GEMINI, "generationConfig", {"temperature": "hot"}, "generationConfig.temperature"),
    (GEMINI, "generationConfig", {"maxOutputTokens": -1}, "generationConfig.maxOutputTokens"),
    (COMPLETIONS, "prompt", {}, "prompt"),
    (COMPLETIONS, "max_tokens", "many", "max_tokens"),
    (COMPLETIONS, "stop", 7, "stop"),
    (EMBEDDINGS, "input", GONE, "input"),
    (EMBEDDINGS, "input", {}, "input"),
    (EMBEDDINGS, "dimensions", "few", "dimensions"),
    (EMBEDDINGS, "encoding_format", "hex", "encoding_format"),
    ("/v1/messages/count_tokens", "messages", "hi", "messages"),
    ("/v1/responses/input_tokens", "input", 7, "input"),
    ("/v1/models/m:countTokens", "contents", 7, "contents"),
    ("/v1beta/models/e:batchEmbedContents", "requests", 7, "requests"),
]


def complaint(path: str, answer: httpx2.Response) -> tuple[str | None, str]:
    """The field, where the path's protocol has a place for it, and the message; the rest of its error is checked."""
    body = answer.json()
    error = body["error"]
    if ":" in path:
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
        return None, error["message"]
    assert error["type"] == "invalid_request_error"
    if path.startswith(MESSAGES):
        assert (body["type"], body["request_id"]) == ("error", answer.headers["request-id"])
        return None, error["message"]
    assert set(error) >= {"message", "type", "param", "code"}
    return error["param"], error["message"]


@pytest.mark.fidelity(98)
@pytest.mark.parametrize(
    ("path", "mistake", "named"),
    [(path, (field, value), named) for path, field, value, named in MISTAKES],
    ids=[f"{path}-{named}-{n}" for n, (path, _, _, named) in enumerate(MISTAKES)],
)
def test_98_a_mistake_is_a_400_that_names_the_field(
    base: str, upstream: ThreadedUpstream, path: str, mistake: tuple[str, Any], named: str
) -> None:
    """By its path within the body, in the shape of the protocol, and before any upstream is asked."""
    body = {key: each for key, each in {**GOOD[path], mistake[0]: mistake[1]}.items() if each is not GONE}
    answer = send(base, path, body)
    assert answer.status_code == 400, answer.text
    param, message = complaint(path, answer)
    assert named in (message if param is None else param)
    assert upstream.requests == []


@pytest.mark.fidelity(98)
@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    "body", [b"", b'{"model": "m", "mess', b"[]", b'{"a": NaN}'], ids=["none", "cut", "array", "nan"]
)
def test_98_a_body_that_is_no_object_is_a_400(base: str, upstream: ThreadedUpstream, path: str, body: bytes) -> None:
    """On every path, in its own shape."""
    answer = send(base, path, body)
    assert answer.status_code == 400, answer.text
    complaint(path, answer)
    assert upstream.requests == []


@pytest.mark.parametrize("path", GOOD)
def test_what_the_mistakes_are_made_of_is_right(base: str, path: str) -> None:
    """Without its mistake, each of those requests is served."""
    assert send(base, path, GOOD[path]).status_code == 200


@pytest.mark.fidelity(98)
def test_98_the_sdks_raise_their_own_class(base: str) -> None:
    """For what an SDK lets through."""
    wrong: Any = "hot"
    with openai.OpenAI(base_url=base + "/v1", api_key=KEY, max_retries=0) as client:
        chat: Any = [{"role": "user", "content": "hi"}]
        for call in (
            lambda: client.chat.completions.create(model="m", messages=chat, temperature=wrong),
            lambda: client.responses.create(model="m", input="hi", temperature=wrong),
            lambda: client.completions.create(model="m", prompt="hi", temperature=wrong),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                call()
            assert caught.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="e", input="hi", dimensions=wrong)
        assert caught.value.param == "dimensions"
    sdk = anthropic.Anthropic(base_url=base, api_key=KEY, max_retries=0)
    with sdk as messages, pytest.raises(anthropic.BadRequestError, match="stop_sequences"):
        messages.messages.create(model="m", max_tokens=9, messages=chat, stop_sequences=wrong)
    with google(base) as gemini, pytest.raises(errors.ClientError) as refused:
        gemini.models.generate_content(
            model="m", contents="hi", config=types.GenerateContentConfig(max_output_tokens=-1)
        )
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")


# ── lists of models ──────────────────────────────────────────────────────────────────────────────────────────────────


class google:  # noqa: N801  used as a function
    """Google's SDK, closed at the end."""

    def __init__(self, base: str, key: str = KEY) -> None:
        self._http = httpx2.Client(timeout=30, trust_env=False, verify=PLAIN)
        self._client = genai.Client(api_key=key, http_options=types.HttpOptions(base_url=base, httpx_client=self._http))

    def __enter__(self) -> genai.Client:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._http.close()


@pytest.mark.fidelity(99)
def test_99_three_sdks_list_and_get(base: str) -> None:
    """Each reads the same names in its own vendor's shape, and finds one of them, also where it holds a slash."""
    with openai.OpenAI(base_url=base + "/v1", api_key=KEY, max_retries=0) as chat:
        names = [model.id for model in chat.models.list()]
        assert [chat.models.retrieve(name).id for name in ("m", "team/m", "claude/m")] == ["m", "team/m", "claude/m"]
        with pytest.raises(openai.NotFoundError):
            chat.models.retrieve("nothing")
    with anthropic.Anthropic(base_url=base, api_key=KEY, max_retries=0) as messages:
        assert [model.id for model in messages.models.list()] == names
        assert messages.models.retrieve("team/m").id == "team/m"
        with pytest.raises(anthropic.NotFoundError):
            messages.models.retrieve("nothing")
    with google(base) as gemini:
        assert [model.name for model in gemini.models.list()] == [f"models/{name}" for name in names]
        found = gemini.models.get(model="team/m")
        assert found.name == "models/team/m"
        assert "countTokens" in (found.supported_actions or ())
        with pytest.raises(errors.ClientError) as refused:
            gemini.models.get(model="nothing")
        assert refused.value.code == 404
    assert {"m", "e", "team/m", "gemini/echo"} <= set(names)


@pytest.mark.fidelity(99)
@pytest.mark.parametrize(
    ("path", "headers", "key"),
    [
        ("/v1/models", {}, "object"),
        ("/v1/models", {"anthropic-version": "2026-10-21"}, "has_more"),
        ("/v1/models", {"x-goog-api-client": "google-genai-sdk/3.4.0"}, "models"),
        ("/v1/models", {"authorization": "", "x-goog-api-key": KEY}, "models"),
        ("/v1beta/models", {}, "models"),
    ],
)
def test_99_the_headers_choose_the_shape(base: str, path: str, headers: dict[str, str], key: str) -> None:
    """Whose SDK it is shows in what it sends; without a sign it is OpenAI's."""
    answer = send(base, path, **headers)
    assert answer.status_code == 200
    assert key in answer.json()


# ── legacy completions ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(102)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("upstream_protocol", PROTOCOLS)
def test_102_completions_over_every_protocol(base: str, upstream_protocol: str, stream: bool) -> None:
    """Two prompts are two choices, streamed or not; an echo of the prompt is refused by name."""
    model = f"{upstream_protocol}/echo"
    texts = {0: "", 1: ""}
    with openai.OpenAI(base_url=base + "/v1", api_key=KEY, max_retries=0) as client:
        if stream:
            options: Any = {"include_usage": True}
            chunks = list(
                client.completions.create(model=model, prompt=["first", "second"], stream=True, stream_options=options)
            )
            usage = chunks[-1].usage
            choices = [choice for chunk in chunks for choice in chunk.choices]
        else:
            whole = client.completions.create(model=model, prompt=["first", "second"])
            usage, choices = whole.usage, whole.choices
        for choice in choices:
            texts[choice.index] += choice.text
        assert texts[0].endswith("first")
        assert texts[1].endswith("second")
        assert sorted(choice.index for choice in choices if choice.finish_reason == "stop") == [0, 1]
        assert usage is not None
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model=model, prompt="first", echo=True, stream=stream)
        assert refused.value.param == "echo"


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

SENT: dict[str, tuple[dict[str, str], str]] = {
    "bearer": ({}, ""),
    "x-api-key": ({"authorization": "", "x-api-key": KEY}, ""),
    "x-goog-api-key": ({"authorization": "", "x-goog-api-key": KEY}, ""),
    "all-three": ({"x-api-key": KEY, "x-goog-api-key": KEY}, ""),
}
QUERY: dict[str, tuple[dict[str, str], str]] = {
    "query": ({"authorization": ""}, f"?key={KEY}"),
    "query-and-header": ({"authorization": "", "x-goog-api-key": KEY}, f"?alt=json&key={KEY}"),
}
WAYS = [(path, name) for path in GOOD for name in (*SENT, *(QUERY if ":" in path else ()))]


@pytest.mark.fidelity(103)
@pytest.mark.parametrize(("path", "way"), WAYS)
def test_103_a_key_counts_however_it_is_sent(base: str, upstream: ThreadedUpstream, path: str, way: str) -> None:
    """In any header, in several, and in the query of Gemini's paths; no upstream ever sees it."""
    headers, query = {**SENT, **QUERY}[way]
    assert send(base, path, GOOD[path], query=query, **headers).status_code == 200
    for received in upstream.requests:
        assert KEY not in f"{received.path} {received.headers} {received.body!r}"


@pytest.mark.fidelity(103)
@pytest.mark.parametrize("path", GOOD)
def test_103_two_keys_are_nobody(
    base: str, upstream: ThreadedUpstream, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two different ones are a 401 wherever they stand, and neither is logged or told."""
    caplog.set_level(logging.DEBUG)
    ways: list[tuple[dict[str, str], str]] = [({"x-api-key": OTHER}, ""), ({"x-goog-api-key": OTHER}, "")]
    if ":" in path:
        ways += [({}, f"?key={OTHER}"), ({"authorization": ""}, f"?key={KEY}&key={OTHER}")]
    for headers, query in ways:
        answer = send(base, path, GOOD[path], query=query, **headers)
        assert answer.status_code == 401, answer.text
        assert KEY not in answer.text
        assert OTHER not in answer.text
    assert upstream.requests == []
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("llmproxy")]
    assert not [line for line in ours if KEY in line or OTHER in line]


@pytest.mark.fidelity(103)
@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, COMPLETIONS, EMBEDDINGS])
def test_103_the_query_is_geminis_alone(base: str, path: str) -> None:
    """Elsewhere a key in an address is no key: it would end up in logs of others."""
    assert send(base, path, GOOD[path], query=f"?key={KEY}", authorization="").status_code == 401
