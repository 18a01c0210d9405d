import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from llmproxy_asgi.inprocess import anthropic_client, openai_client

pytestmark = pytest.mark.anyio

HANG = 20.0  # seconds after which a wait is a failure; nothing here depends on how long it takes
WORDS = ("Hello", ", ", "world")
QUESTION: Any = [{"role": "user", "content": "greet"}]


def chat_frames() -> Iterator[bytes]:
    for number, word in enumerate([*WORDS, None]):
        delta: dict[str, Any] = {"content": word} if word is not None else {}
        if number == 0:
            delta["role"] = "assistant"
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if word is None else None}
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def message_frames() -> Iterator[bytes]:
    usage = {"input_tokens": 2, "output_tokens": 0}
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 3},
        },
        {"type": "message_stop"},
    ]
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


class Toy:
    """An application that speaks just enough Chat and Messages, and sends a frame only when it is allowed to."""

    def __init__(self) -> None:
        self.allowed = asyncio.Semaphore(0)
        self.sent = 0
        self.ended = asyncio.Event()
        self.scopes: list[Scope] = []
        self.fails_after: int | None = None

    def allow(self, frames: int) -> None:
        for _ in range(frames):
            self.allowed.release()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        asked = await Request(scope, receive).json()
        try:
            if scope["path"] == "/v1/chat/completions":
                await self._answer(scope, receive, send, chat_frames() if asked.get("stream") else None)
            elif scope["path"] == "/v1/messages":
                await self._answer(scope, receive, send, message_frames() if asked.get("stream") else None)
            else:
                raise LookupError(scope["path"])
        finally:
            self.ended.set()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, frames: Iterator[bytes] | None) -> None:
        if frames is None:
            error = {"type": "invalid_request_error", "message": "only streams here", "code": "stream"}
            await JSONResponse({"type": "error", "error": error}, 400)(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for frame in frames:
            await self.allowed.acquire()
            if self.sent == self.fails_after:
                raise ValueError("the toy broke")
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            self.sent += 1
        await send({"type": "http.response.body"})


@asynccontextmanager
async def leaving_no_task() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    async with asyncio.timeout(HANG):
        yield
    for _ in range(20):
        await asyncio.sleep(0)  # the SDKs leave the closing of their generators to the loop
    assert asyncio.all_tasks() - before == set()


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


async def test_openai_client_reads_each_chunk_when_it_is_sent() -> None:
    """The SDK hands out chunk n while the application has not been allowed to send chunk n+1."""
    toy = Toy()
    async with leaving_no_task(), openai_client(toy) as client:
        assert isinstance(client, openai.AsyncOpenAI)
        stream = await client.chat.completions.create(model="m", messages=QUESTION, stream=True)
        words = []
        for number in range(1, len(WORDS) + 1):
            toy.allow(1)
            words.append((await anext(stream)).choices[0].delta.content)
            assert toy.sent == number
        toy.allow(2)
        rest = [chunk.choices[0].finish_reason async for chunk in stream]
        assert (tuple(words), rest) == (WORDS, ["stop"])
    assert toy.ended.is_set()


async def test_anthropic_client_reads_each_event_when_it_is_sent() -> None:
    """The SDK hands out event n while the application has not been allowed to send event n+1, in the order sent."""
    toy = Toy()
    async with leaving_no_task(), anthropic_client(toy) as client:
        assert isinstance(client, anthropic.AsyncAnthropic)
        stream = await client.messages.create(model="m", messages=QUESTION, max_tokens=9, stream=True)
        kinds = []
        for number in range(1, 5):
            toy.allow(1)
            kinds.append((await anext(stream)).type)
            assert toy.sent == number
        toy.allow(4)
        kinds += [event.type async for event in stream]
        deltas = ["content_block_delta"] * len(WORDS)
        assert kinds[:2] == ["message_start", "content_block_start"]
        assert kinds[2:] == [*deltas, "content_block_stop", "message_delta", "message_stop"]
    assert toy.ended.is_set()


async def test_anthropic_helper_assembles_the_whole_message() -> None:
    """The SDK's own accumulation finds a complete and legal stream."""
    toy = Toy()
    toy.allow(100)
    async with (
        leaving_no_task(),
        anthropic_client(toy) as client,
        client.messages.stream(model="m", messages=QUESTION, max_tokens=9) as stream,
    ):
        assert await stream.get_final_text() == "".join(WORDS)


async def test_openai_stream_that_is_closed_ends_the_application() -> None:
    """`close()` returns when nothing of the call is left."""
    toy = Toy()
    async with leaving_no_task(), openai_client(toy) as client:
        stream = await client.chat.completions.create(model="m", messages=QUESTION, stream=True)
        toy.allow(1)
        await anext(stream)
        assert not toy.ended.is_set()
        await stream.close()
        assert toy.ended.is_set()


async def test_anthropic_stream_that_is_left_ends_the_application() -> None:
    """Leaving the SDK's block in the middle reaches the application."""
    toy = Toy()
    async with leaving_no_task(), anthropic_client(toy) as client:
        async with client.messages.stream(model="m", messages=QUESTION, max_tokens=9) as stream:
            toy.allow(1)
            await anext(stream)
        assert toy.ended.is_set()


async def test_client_that_is_closed_ends_streams_nobody_closed() -> None:
    """The owner of the client ends everything with it."""
    toy = Toy()
    async with leaving_no_task():
        async with openai_client(toy) as client:
            stream = await client.chat.completions.create(model="m", messages=QUESTION, stream=True)
            toy.allow(1)
            await anext(stream)
        assert toy.ended.is_set()
        await stream.close()


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
async def test_broken_stream_is_an_error_of_the_iteration(vendor: str) -> None:
    """A failure after the head never looks like the end of the answer, and its cause can be found."""
    toy = Toy()
    toy.fails_after = 2
    toy.allow(100)
    async with leaving_no_task(), openai_client(toy) as one, anthropic_client(toy) as other:
        stream: Any
        if vendor == "openai":
            stream = await one.chat.completions.create(model="m", messages=QUESTION, stream=True)
        else:
            stream = await other.messages.create(model="m", messages=QUESTION, max_tokens=9, stream=True)
        for _ in range(2):
            await anext(stream)
        # One SDK wraps it as a failed connection, the other doesn't.
        with pytest.raises((httpx2.RemoteProtocolError, openai.APIConnectionError)) as caught:
            await anext(stream)
        assert {httpx2.RemoteProtocolError, ValueError} <= {type(cause) for cause in causes(caught.value)}
        await stream.close()


async def test_statuses_become_the_exceptions_of_each_sdk() -> None:
    """An answer with an error status is read by each SDK as over a socket."""
    toy = Toy()
    async with leaving_no_task(), openai_client(toy) as one, anthropic_client(toy) as other:
        with pytest.raises(openai.BadRequestError, match="only streams here"):
            await one.chat.completions.create(model="m", messages=QUESTION)
        with pytest.raises(anthropic.BadRequestError, match="only streams here"):
            await other.messages.create(model="m", messages=QUESTION, max_tokens=9)


async def test_failure_before_the_head_reaches_the_caller() -> None:
    """What the application raised is the SDK's error or the cause of it, and nothing is retried."""
    toy = Toy()
    async with leaving_no_task(), openai_client(toy) as one, anthropic_client(toy) as other:
        for call in (
            one.embeddings.create(model="m", input="x"),
            other.messages.count_tokens(model="m", messages=QUESTION),
        ):
            with pytest.raises((LookupError, anthropic.APIConnectionError)) as caught:
                await call
            assert LookupError in {type(cause) for cause in causes(caught.value)}
    assert len(toy.scopes) == 2


async def test_timeout_of_the_sdk_holds() -> None:
    """An application that is silent for too long is the SDK's own timeout error, and is ended."""
    toy = Toy()
    async with leaving_no_task(), openai_client(toy, timeout=0.05) as client:
        stream = await client.chat.completions.create(model="m", messages=QUESTION, stream=True)
        with pytest.raises((openai.APITimeoutError, httpx2.ReadTimeout)):
            await anext(stream)
        await stream.close()
        assert toy.ended.is_set()


async def test_each_client_carries_its_own_principal() -> None:
    """Two clients over one application are two callers, and neither has a key to show."""
    toy = Toy()
    toy.allow(100)
    async with (
        leaving_no_task(),
        openai_client(toy, scope_extra={"who": "ann"}) as ann,
        openai_client(toy, scope_extra={"who": "bob"}) as bob,
    ):
        for client in (ann, bob, ann):
            stream = await client.chat.completions.create(model="m", messages=QUESTION, stream=True)
            assert [chunk async for chunk in stream]
    assert [scope["who"] for scope in toy.scopes] == ["ann", "bob", "ann"]
    assert {name for scope in toy.scopes for name, _ in scope["headers"]}.isdisjoint({b"authorization", b"x-api-key"})
