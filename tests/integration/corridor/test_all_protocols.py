"""Responses and Gemini beside Chat and Messages: their official clients over every upstream protocol."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from google import genai
from google.genai import errors, types

from llmproxy_asgi import LLMProxy
from support.gateway import served

KEY = "llmp_abcdefghijklmnopqrstuvwxyz"
UPSTREAMS = ("openai-chat", "openai-responses", "anthropic-messages", "gemini")
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    providers = {name: {"type": "simulated", "protocol": name} for name in UPSTREAMS}
    config = {"providers": providers, "access": {"mode": "keys", "keys": [{"name": "ci", "key": KEY}]}}
    with served(LLMProxy(config)) as address:
        yield address


@pytest.fixture
def responses(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base + "/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def gemini(base: str) -> Iterator[genai.Client]:
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=base))
    yield client
    client.close()


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_responses_answers_and_streams(responses: openai.OpenAI, upstream: str) -> None:
    """The official client reads an answer, a stream and a tool call of every upstream."""
    model = f"{upstream}/echo"
    assert responses.responses.create(model=model, input="hello there").output_text.endswith("hello there")
    with responses.responses.stream(model=model, input="hello there") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text
    assert final.usage is not None
    assert final.usage.output_tokens > 0
    tool: Any = {"type": "function", "name": "weather", "parameters": TOOL, "strict": False}
    called = responses.responses.create(model=f"{upstream}/tools", input="weather?", tools=[tool])
    (call,) = [item for item in called.output if item.type == "function_call"]
    assert "city" in json.loads(call.arguments)
    again: list[Any] = [
        {"role": "user", "content": "weather?"},
        *(item.model_dump(exclude_none=True) for item in called.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"},
    ]
    assert "12 degrees" in responses.responses.create(model=f"{upstream}/tools", input=again, tools=[tool]).output_text


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_gemini_answers_and_streams(gemini: genai.Client, upstream: str) -> None:
    """Google's client reads an answer, a stream and a tool call of every upstream."""
    model = f"{upstream}/echo"
    answer = gemini.models.generate_content(model=model, contents="hello there")
    assert (answer.text or "").endswith("hello there")
    pieces = list(gemini.models.generate_content_stream(model=model, contents="hello there"))
    assert "".join(piece.text or "" for piece in pieces) == answer.text
    declared = types.FunctionDeclaration(name="weather", parameters_json_schema=TOOL)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declared])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    called = gemini.models.generate_content(model=f"{upstream}/tools", contents="weather?", config=config)
    calls = called.function_calls or []
    assert [call.name for call in calls] == ["weather"]
    assert "city" in (calls[0].args or {})


def test_the_json_array_of_geminis_other_streaming(base: str) -> None:
    """Without `alt=sse` the stream is one JSON array."""
    body = {"contents": [{"parts": [{"text": "hello"}]}]}
    path = "/v1beta/models/openai-chat/echo:streamGenerateContent"
    answer = httpx2.post(f"{base}{path}?key={KEY}", json=body, trust_env=False)
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json()) > 1


@pytest.mark.parametrize("method", ["generate_content", "generate_content_stream"])
def test_geminis_errors_are_its_own(gemini: genai.Client, method: str) -> None:
    """Status and words as Google's client wants them."""
    with pytest.raises(errors.ClientError) as unknown:
        list(getattr(gemini.models, method)(model="nobody/x", contents="x"))
    assert (unknown.value.code, unknown.value.status) == (404, "NOT_FOUND")
    with pytest.raises(errors.ServerError) as failed:
        list(getattr(gemini.models, method)(model="gemini/error-500", contents="x"))
    assert failed.value.code == 502


def test_a_key_in_the_query_counts_on_geminis_paths_alone(base: str) -> None:
    """No other protocol sends keys in addresses."""
    body = {"model": "openai-chat/echo", "messages": [{"role": "user", "content": "x"}]}
    assert httpx2.post(f"{base}/v1/chat/completions?key={KEY}", json=body, trust_env=False).status_code == 401
    contents = {"contents": [{"parts": [{"text": "x"}]}]}
    for root in ("v1", "v1beta"):
        path = f"{base}/{root}/models/gemini/echo:generateContent"
        assert httpx2.post(path, json=contents, trust_env=False).status_code == 401
        assert httpx2.post(f"{path}?key={KEY}", json=contents, trust_env=False).status_code == 200


def test_models_are_listed_for_google_too(gemini: genai.Client, base: str) -> None:
    """In its own shape, under both versions."""
    assert any("echo" in (model.name or "") for model in gemini.models.list())
    listed = httpx2.get(f"{base}/v1beta/models", headers={"x-goog-api-key": KEY}, trust_env=False).json()
    assert listed["models"]


def test_what_a_vendor_would_keep_is_not_asked_for(responses: openai.OpenAI) -> None:
    """Conversations and prompts of the vendor's are refused by name: nothing is kept behind a shared key."""
    for asked in ({"conversation": "conv_1"}, {"prompt": {"id": "pmpt_1"}}):
        with pytest.raises(openai.BadRequestError) as refused:
            responses.responses.create(model="openai-responses/echo", input="x", extra_body=asked)
        assert refused.value.param == next(iter(asked))
