"""The official SDKs as callers: what each makes of an answer, in the same few words for both.

A caller asks in its own protocol's words. What it saw is an `Answer`: the SDK's own object in `whole`, and beside it
the little that both have (text, calls, how it ended).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anthropic
import httpx2
import openai
from anyio.from_thread import BlockingPortal
from openai.lib.streaming.chat import ChatCompletionStreamState
from typing_extensions import override

from support.pairs.wires import CHAT, MESSAGES, Call


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolPair:
    """One way through the gateway: whose SDK, which kind of it, streamed or not, and to whose upstream."""

    client: str
    upstream: str
    mode: str = "sync"
    stream: bool = False

    @override
    def __str__(self) -> str:
        return f"{self.client}-to-{self.upstream}-{self.mode}-{'stream' if self.stream else 'whole'}"

    @property
    def passthrough(self) -> bool:
        """Whether both sides speak one protocol."""
        return self.client == self.upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an SDK saw. `whole` and `events` are its own objects."""

    text: str
    calls: tuple[Call, ...]
    finish: str | None
    whole: Any
    headers: httpx2.Headers
    events: list[Any] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What the gateway says it lost."""
        return [word.strip() for word in self.headers.get("x-llmproxy-warnings", "").split(",") if word.strip()]


class ChatCaller:
    """OpenAI's SDK, both kinds.

    Args:
        base: The gateway's address.
        key: What it sends as its key.
        portal: Where asynchronous calls run.
    """

    protocol = CHAT

    def __init__(self, base: str, key: str, portal: BlockingPortal) -> None:
        self.portal = portal
        options: Any = {"base_url": base + "/v1", "api_key": key, "max_retries": 0, "timeout": 30.0}
        self.client = openai.OpenAI(**options, http_client=openai.DefaultHttpx2Client(trust_env=False))
        self.aclient = openai.AsyncOpenAI(**options, http_client=openai.DefaultAsyncHttpx2Client(trust_env=False))

    def close(self) -> None:
        """Close both clients."""
        self.client.close()
        self.portal.call(self.aclient.close)

    def ask(self, pair: ProtocolPair, on_event: Callable[[Any], None] | None = None, **request: Any) -> Answer:
        """One call; raises what the SDK raises.

        Args:
            pair: Sync or async, streamed or whole.
            on_event: Told of each event of a stream as it comes.
            request: The SDK's own arguments.
        """
        if pair.mode == "async":
            return self.portal.call(partial(self.ask_async, pair, on_event, **request))
        return self._stream(on_event, request) if pair.stream else self._whole(request)

    async def ask_async(
        self, pair: ProtocolPair, on_event: Callable[[Any], None] | None = None, **request: Any
    ) -> Answer:
        """The same on the portal's event loop."""
        return await (self._astream(on_event, request) if pair.stream else self._awhole(request))

    def _whole(self, request: dict[str, Any]) -> Answer:
        raw = self.client.chat.completions.with_raw_response.create(**request)
        return _chat_answer(raw.parse(), raw.headers, [])

    async def _awhole(self, request: dict[str, Any]) -> Answer:
        raw = await self.aclient.chat.completions.with_raw_response.create(**request)
        return _chat_answer(raw.parse(), raw.headers, [])

    def _stream(self, on_event: Callable[[Any], None] | None, request: dict[str, Any]) -> Answer:
        reader = _ChatReader(on_event)
        with self.client.chat.completions.create(stream=True, **request) as stream:
            for chunk in stream:
                reader.take(chunk)
            return reader.answer(stream.response.headers)

    async def _astream(self, on_event: Callable[[Any], None] | None, request: dict[str, Any]) -> Answer:
        reader = _ChatReader(on_event)
        async with await self.aclient.chat.completions.create(stream=True, **request) as stream:
            async for chunk in stream:
                reader.take(chunk)
            return reader.answer(stream.response.headers)


class _ChatReader:
    """The SDK's own accumulator, fed chunk by chunk."""

    def __init__(self, on_event: Callable[[Any], None] | None) -> None:
        self._on_event = on_event
        self._chunks: list[Any] = []
        self._state: Any = ChatCompletionStreamState()

    def take(self, chunk: Any) -> None:
        self._chunks.append(chunk)
        self._state.handle_chunk(chunk)
        if self._on_event is not None:
            self._on_event(chunk)

    def answer(self, headers: httpx2.Headers) -> Answer:
        return _chat_answer(self._state.current_completion_snapshot, headers, self._chunks)


def _chat_answer(whole: Any, headers: httpx2.Headers, events: list[Any]) -> Answer:
    choice = whole.choices[0]
    calls = [
        Call(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in choice.message.tool_calls or ()
        if call.type == "function"
    ]
    return Answer(
        text=choice.message.content or "",
        calls=tuple(calls),
        finish=choice.finish_reason,
        whole=whole,
        headers=headers,
        events=events,
    )


class MessagesCaller:
    """Anthropic's SDK, both kinds; the arguments are those of `ChatCaller`."""

    protocol = MESSAGES

    def __init__(self, base: str, key: str, portal: BlockingPortal) -> None:
        self.portal = portal
        options: Any = {"base_url": base, "api_key": key, "max_retries": 0, "timeout": 30.0}
        self.client = anthropic.Anthropic(**options, http_client=anthropic.DefaultHttpxClient(trust_env=False))
        self.aclient = anthropic.AsyncAnthropic(
            **options, http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False)
        )

    def close(self) -> None:
        """Close both clients."""
        self.client.close()
        self.portal.call(self.aclient.close)

    def ask(self, pair: ProtocolPair, on_event: Callable[[Any], None] | None = None, **request: Any) -> Answer:
        """One call; see `ChatCaller.ask`."""
        if pair.mode == "async":
            return self.portal.call(partial(self.ask_async, pair, on_event, **request))
        asked = {"max_tokens": 2000, **request}
        return self._stream(on_event, asked) if pair.stream else self._whole(asked)

    async def ask_async(
        self, pair: ProtocolPair, on_event: Callable[[Any], None] | None = None, **request: Any
    ) -> Answer:
        """The same on the portal's event loop."""
        asked = {"max_tokens": 2000, **request}
        return await (self._astream(on_event, asked) if pair.stream else self._awhole(asked))

    def _whole(self, request: dict[str, Any]) -> Answer:
        raw = self.client.messages.with_raw_response.create(**request)
        return _messages_answer(raw.parse(), raw.headers, [])

    async def _awhole(self, request: dict[str, Any]) -> Answer:
        raw = await self.aclient.messages.with_raw_response.create(**request)
        return _messages_answer(await raw.parse(), raw.headers, [])

    def _stream(self, on_event: Callable[[Any], None] | None, request: dict[str, Any]) -> Answer:
        events = []
        with self.client.messages.stream(**request) as stream:
            for event in stream:
                events.append(event)
                if on_event is not None:
                    on_event(event)
            return _messages_answer(stream.get_final_message(), stream.response.headers, events)

    async def _astream(self, on_event: Callable[[Any], None] | None, request: dict[str, Any]) -> Answer:
        events = []
        async with self.aclient.messages.stream(**request) as stream:
            async for event in stream:
                events.append(event)
                if on_event is not None:
                    on_event(event)
            return _messages_answer(await stream.get_final_message(), stream.response.headers, events)


def _messages_answer(whole: Any, headers: httpx2.Headers, events: list[Any]) -> Answer:
    blocks = whole.content
    calls = [
        Call(id=block.id, name=block.name, arguments=json.dumps(block.input))
        for block in blocks
        if block.type == "tool_use"
    ]
    return Answer(
        text="".join(block.text for block in blocks if block.type == "text"),
        calls=tuple(calls),
        finish=whole.stop_reason,
        whole=whole,
        headers=headers,
        events=events,
    )
