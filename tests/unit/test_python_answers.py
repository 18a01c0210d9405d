"""What calls from Python tell beside the answer's words, and what they say to a typing mistake."""

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, get_args

import httpx2
import pytest
from openai.types import EmbeddingCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

import llmproxy_asgi
from llmproxy_asgi import Ended, Gateway, Message, MisuseError, PartDelta, Text, TextDelta, UnknownArgument
from llmproxy_asgi.conversation import Candidate, Delta, Finish, FinishReason, Response, StreamEvent, Usage
from llmproxy_asgi.translators.registry import translator
from support.gateway import chat_answer, chat_frames

pytestmark = pytest.mark.anyio

HELLO = [{"role": "user", "content": "hi"}]


def gateway(sent: list[dict[str, Any]], *, failures: int = 0) -> Gateway:
    """One name over a Claude; its first answers are failures."""
    words = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "hello"}]}
    message = {**words, "id": "msg_1", "model": "claude-up", "stop_reason": "end_turn", "stop_sequence": None}

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        if len(sent) <= failures:
            return httpx2.Response(500, json={})
        if sent[-1].get("stream"):
            events: list[dict[str, Any]] = [
                {"type": "message_start", "message": {**message, "content": [], "usage": {"input_tokens": 3}}},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
                {"type": "message_stop"},
            ]
            body = b"".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events)
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
        return httpx2.Response(200, json={**message, "usage": {"input_tokens": 3, "output_tokens": 5}})

    claude = {"type": "anthropic", "api_key": "k", "models": [{"name": "smart", "upstream": "claude-up"}]}
    config = {"providers": {"claude": {**claude, "retry": {"attempts": 3, "backoff": 0}}}}
    return Gateway(config, transport=httpx2.MockTransport(answer))


async def test_a_response_has_the_metadata_of_http_headers() -> None:
    """Warnings, served model, provider, request id and attempts."""
    sent: list[dict[str, Any]] = []
    async with gateway(sent, failures=1) as opened:
        reply = await opened.complete(model="smart", messages=HELLO, seed=1)
    assert (reply.text, reply.model, reply.provider, reply.attempts) == ("hello", "claude-up", "claude", 2)
    assert "dropped:seed" in reply.warnings
    assert reply.request_id
    assert "seed" not in sent[-1]


async def test_the_last_event_of_a_stream_has_the_metadata() -> None:
    """It has the same fields as a complete response."""
    async with gateway([]) as opened:
        events = [event async for event in opened.stream(model="smart", messages=HELLO, seed=1)]
    last = events[-1]
    assert isinstance(last, Ended)
    assert (last.model, last.provider, last.attempts) == ("claude-up", "claude", 1)
    assert "dropped:seed" in last.warnings
    assert last.request_id


async def test_embeddings_have_the_metadata() -> None:
    """Embeddings have the same fields."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}]
        return httpx2.Response(200, json={"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1}})

    block = {"type": "openai-compatible", "base_url": "https://a.example/v1", "api_key": "k"}
    async with Gateway({"providers": {"p": block}}, transport=httpx2.MockTransport(answer)) as opened:
        found = await opened.embed(model="p/e", input="hi")
    assert (found.model, found.provider, found.attempts) == ("e", "p", 1)
    assert found.request_id


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("temprature", "'temperature'"),
        ("max_token", "'max_tokens'"),
        ("Tools", "'tools'"),
        ("qqq", "extra_body"),
        ("timeout", "`timeout` of the provider"),
    ],
)
async def test_an_unknown_argument_is_refused_with_a_suggestion(argument: str, hint: str) -> None:
    """Send nothing; the error is a `TypeError`, as for any Python function."""
    sent: list[dict[str, Any]] = []
    wrong: dict[str, Any] = {argument: 1}
    async with gateway(sent) as opened:
        with pytest.raises(UnknownArgument) as caught:
            await opened.complete(model="smart", messages=HELLO, **wrong)
        assert hint in str(caught.value)
        assert argument in str(caught.value)
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, MisuseError)
        with pytest.raises(TypeError):
            await opened.count_tokens(model="smart", messages=HELLO, **wrong)
        with pytest.raises(TypeError):
            await anext(opened.stream(model="smart", messages=HELLO, **wrong))
        with pytest.raises(TypeError):
            await opened.embed(model="smart", input="hi", **wrong)
    assert sent == []


async def test_a_mistake_in_the_hosts_code_is_no_refusal_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """Raise it; logs and metrics show no refused request."""
    caplog.set_level(logging.INFO, logger="llmproxy_asgi")
    async with gateway([]) as opened:
        with pytest.raises(UnknownArgument):
            await opened.complete(model="smart", messages=HELLO, qqq=1)
        with pytest.raises(MisuseError):
            await opened.complete(model="smart", messages=HELLO, extra_body="min_p")
    assert caplog.records == []


async def test_extra_body_reaches_the_upstream() -> None:
    """As with OpenAI's client."""
    sent: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(200, json=chat_answer("hello"))

    block = {"type": "openai-compatible", "base_url": "https://a.example/v1", "api_key": "k"}
    async with Gateway({"providers": {"p": block}}, transport=httpx2.MockTransport(answer)) as opened:
        await opened.complete(model="p/m", messages=HELLO, extra_body={"min_p": 0.1}, temperature=0.5)
        with pytest.raises(MisuseError):
            await opened.complete(model="p/m", messages=HELLO, extra_body="min_p")
    assert (sent[0]["min_p"], sent[0]["temperature"], len(sent)) == (0.1, 0.5, 1)


def test_every_parameter_of_openais_client_is_known() -> None:
    """Accept every parameter that OpenAI's client accepts."""
    assert set(CompletionCreateParamsBase.__annotations__) <= translator("openai-chat").inbound.fields
    assert set(EmbeddingCreateParams.__annotations__) <= translator("openai-embeddings").inbound.fields


def test_events_and_deltas_are_public_and_have_a_type() -> None:
    """Each has a type of its own."""
    events = list(get_args(StreamEvent))
    deltas = list(get_args(Delta))
    assert all(getattr(llmproxy_asgi, each.__name__) is each for each in (*events, *deltas))
    for kinds in (events, deltas):
        assert len({each.type for each in kinds}) == len(kinds)
    assert PartDelta(0, 0, TextDelta("a")).type == "part_delta"
    assert TextDelta("a").type == "text"


async def test_a_stream_can_be_read_by_type() -> None:
    """Read a stream without importing a class."""

    async def frames() -> AsyncIterator[bytes]:
        for frame in chat_frames("hel", "lo"):
            yield frame

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=frames())

    block = {"type": "openai-compatible", "base_url": "https://a.example/v1", "api_key": "k"}
    async with Gateway({"providers": {"p": block}}, transport=httpx2.MockTransport(answer)) as opened:
        kinds = [event.type async for event in opened.stream(model="p/m", messages=HELLO)]
    assert (kinds[0], kinds[-1]) == ("started", "ended")
    assert {"part_started", "part_delta", "part_ended", "finished", "usage"} <= set(kinds)


def test_representations_are_short() -> None:
    """They fit on one line, however long the text is, without defaults."""
    text = "word " * 10_000
    parts = tuple(Text(text=text) for _ in range(50))
    response = Response(
        id="x",
        model="m",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        candidates=(Candidate(parts=parts, finish=Finish(reason=FinishReason.STOP)),),
        usage=Usage(input=3, output=5),
        warnings=("dropped:seed",),
    )
    shown = repr(response)
    assert len(shown) < 500
    assert shown.startswith("Response(text='word word")
    assert "model='m'" in shown
    assert "usage=Usage(input=3, output=5)" in shown
    assert "warnings=['dropped:seed']" in shown
    assert repr(Message(role="user", parts=(Text(text="hi"),))) == "Message(role='user', parts=[Text(text='hi')])"
    assert len(repr(Message(role="user", parts=parts))) < 500
    assert repr(PartDelta(0, 1, TextDelta("hi"))) == "PartDelta(candidate=0, index=1, delta=TextDelta(text='hi'))"
    assert repr(Ended()) == "Ended()"
    assert len(repr(PartDelta(0, 1, TextDelta(text)))) < 200
