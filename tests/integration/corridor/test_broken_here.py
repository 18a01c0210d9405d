"""Responses streams that break off in the gateway: a shutdown, a server that cancels, a bug."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.rendering import ResponseStream
from llmproxy_asgi.testing import Gate, Hold, ThreadedUpstream, Upstream, sse_answer
from support.pairs import CHAT, RESPONSES, Reply
from support.pairs.harness import MODELS, PROVIDERS, gateway_config
from support.pairs.responses_wires import message_item, responses_events

BODY = {"input": "Hello?", "stream": True}
UNTOLD = b" and more"
"""What the upstream still holds back."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def halfway(protocol: str) -> list[Any]:
    """An answer that stops in the middle of its text."""
    if protocol == CHAT:
        frames = Reply(texts=("Half", UNTOLD.decode())).frames(CHAT)
    else:
        frames = responses_events(message_item("Half", UNTOLD.decode()))
    first = next(number for number, frame in enumerate(frames) if UNTOLD in frame)
    return [*frames[:first], Hold(Gate())]


class Caller:
    """One request straight to the application, and the events that were sent so far."""

    def __init__(self, proxy: LLMProxy, body: dict[str, Any]) -> None:
        self._body = json.dumps(body).encode()
        self._sent = b""
        self.heard = asyncio.Event()
        self.task = asyncio.create_task(proxy(self._scope(), self._receive, self._send))

    @property
    def events(self) -> list[Any]:
        lines = self._sent.split(b"\n")
        return [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]

    def _scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/responses",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }

    async def _receive(self) -> Any:
        if not self._body:
            await asyncio.Event().wait()
        body, self._body = self._body, b""
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Any) -> None:
        self._sent += message.get("body", b"")
        if b"Half" in self._sent:
            self.heard.set()


async def drained(proxy: LLMProxy, caller: Caller) -> None:
    """The host drains, and its window is over at once."""
    await proxy.drain(0)
    await caller.task


async def cancelled(_: LLMProxy, caller: Caller) -> None:
    """The server ends the task without a word."""
    caller.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller.task


async def failed(_: LLMProxy, caller: Caller) -> None:
    """A bug of the gateway: see the patch."""
    await caller.task


@pytest.mark.anyio
@pytest.mark.parametrize("store", [False, True], ids=["relayed as it is", "kept"])
@pytest.mark.parametrize("protocol", [RESPONSES, CHAT])
@pytest.mark.parametrize(("way", "why"), [(drained, "shutting down"), (cancelled, "shutting down"), (failed, "log")])
async def test_a_stream_that_we_break_off_ends_as_its_own_failure(
    upstream: ThreadedUpstream, monkeypatch: pytest.MonkeyPatch, protocol: str, *, store: bool, way: Any, why: str
) -> None:
    """Its last event is `response.failed` with the stream's id and the next number, for every upstream."""
    if way is failed:
        told = ResponseStream.next

        async def next_(self: ResponseStream) -> bytes | None:
            data = await told(self)
            if data and b"Half" in data:
                monkeypatch.setattr(ResponseStream, "next", broken)
            return data

        async def broken(_: ResponseStream) -> bytes | None:
            raise ZeroDivisionError

        monkeypatch.setattr(ResponseStream, "next", next_)
    upstream.default = sse_answer(halfway(protocol))
    config = {**gateway_config(upstream), "access": {"mode": "open"}}
    proxy = LLMProxy(config)
    async with proxy.gateway:
        body = {**BODY, "model": f"{PROVIDERS[protocol]}/{MODELS[protocol]}", "store": store}
        caller = Caller(proxy, body)
        async with asyncio.timeout(30):
            await caller.heard.wait()
            await way(proxy, caller)
    first, *_, before, last = caller.events
    assert last["type"] == "response.failed"
    assert last["response"]["id"] == first["response"]["id"]
    assert last["sequence_number"] == before["sequence_number"] + 1
    assert last["response"]["status"] == "failed"
    assert why in last["response"]["error"]["message"]


@pytest.mark.anyio
async def test_a_stream_that_has_ended_gets_no_second_end(
    upstream: ThreadedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails behind the last event is nothing to the caller."""
    upstream.default = sse_answer(Reply(texts=("Half",)).frames(RESPONSES))
    streams: list[ResponseStream] = []
    told = ResponseStream.next

    async def next_(self: ResponseStream) -> bytes | None:
        streams.append(self)
        return await told(self)

    monkeypatch.setattr(ResponseStream, "next", next_)
    proxy = LLMProxy({**gateway_config(upstream), "access": {"mode": "open"}})
    async with proxy.gateway:
        caller = Caller(proxy, {**BODY, "model": f"{PROVIDERS[RESPONSES]}/{MODELS[RESPONSES]}", "store": False})
        await caller.task
    assert caller.events[-1]["type"] == "response.completed"
    assert await streams[-1].fail(GatewayError("too late")) == b""
