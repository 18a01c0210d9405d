"""OpenAI's SDK as a caller of Responses; streams are read through its own helper, which checks every id on the way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import httpx2
import openai
from anyio.from_thread import BlockingPortal

from support.pairs.callers import Answer, ProtocolPair
from support.pairs.wires import RESPONSES, Call

_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})


class ResponsesCaller:
    """OpenAI's SDK, both kinds; the arguments are those of `ChatCaller`.

    `Answer.finish` is the response's status. A stream that fails is no exception for this SDK: its answer has the
    status `failed`, and one that ends without any last event is an `AssertionError`.
    """

    protocol = RESPONSES

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
        """One call; see `ChatCaller.ask`."""
        if pair.mode == "async":
            return self.portal.call(partial(self.ask_async, pair, on_event, **request))
        return self._stream(on_event, request) if pair.stream else self._whole(request)

    async def ask_async(
        self, pair: ProtocolPair, on_event: Callable[[Any], None] | None = None, **request: Any
    ) -> Answer:
        """The same on the portal's event loop."""
        return await (self._astream(on_event, request) if pair.stream else self._awhole(request))

    def _whole(self, request: dict[str, Any]) -> Answer:
        raw = self.client.responses.with_raw_response.create(**request)
        return _answer(raw.parse(), raw.headers, [])

    async def _awhole(self, request: dict[str, Any]) -> Answer:
        raw = await self.aclient.responses.with_raw_response.create(**request)
        return _answer(raw.parse(), raw.headers, [])

    def _stream(self, on_event: Callable[[Any], None] | None, request: dict[str, Any]) -> Answer:
        events: list[Any] = []
        with self.client.responses.stream(**request) as stream:
            for event in stream:
                events.append(event)
                if on_event is not None:
                    on_event(event)
            return _answer(_last(events), stream._response.headers, events)

    async def _astream(self, on_event: Callable[[Any], None] | None, request: dict[str, Any]) -> Answer:
        events: list[Any] = []
        async with self.aclient.responses.stream(**request) as stream:
            async for event in stream:
                events.append(event)
                if on_event is not None:
                    on_event(event)
            return _answer(_last(events), stream._response.headers, events)


def _last(events: list[Any]) -> Any:
    """What the last event says of the response."""
    assert events, "nothing was streamed"
    assert events[-1].type in _LAST, f"the last event is {events[-1].type}"
    return events[-1].response


def _answer(whole: Any, headers: httpx2.Headers, events: list[Any]) -> Answer:
    calls = [
        Call(
            id=item.call_id, name=item.name, arguments=item.input if item.type == "custom_tool_call" else item.arguments
        )
        for item in whole.output
        if item.type in {"function_call", "custom_tool_call"}
    ]
    return Answer(
        text=whole.output_text,
        calls=tuple(calls),
        finish=whole.status,
        whole=whole,
        headers=headers,
        events=events,
    )
