"""Google's SDK as a caller, both kinds."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx2
from anyio.from_thread import BlockingPortal
from google import genai
from google.genai import types

from support.pairs.callers import Answer, ProtocolPair
from support.pairs.wires import GEMINI, Call


class GeminiCaller:
    """Google's SDK; the arguments are those of `ChatCaller`.

    A request's arguments are `contents`, and whatever else stands in the SDK's `config`.
    """

    protocol = GEMINI

    def __init__(self, base: str, key: str, portal: BlockingPortal, **options: Any) -> None:
        self.portal = portal
        # Given its own, the SDK leaves aiohttp alone, whose way of being inherited it gets warned about.
        self._http = httpx2.Client(trust_env=False, timeout=30)
        self._ahttp = httpx2.AsyncClient(trust_env=False, timeout=30)
        http: Any = {"base_url": base, "httpx_client": self._http, "httpx_async_client": self._ahttp, **options}
        self.client = genai.Client(api_key=key, http_options=http)

    def close(self) -> None:
        """Close both clients."""
        self.client.close()
        self._http.close()
        self.portal.call(self._ahttp.aclose)

    def ask(self, pair: ProtocolPair, on_event: Callable[[Any], None] | None = None, **request: Any) -> Answer:
        """One call; see `ChatCaller.ask`."""
        if pair.mode == "async":
            return self.portal.call(partial(self.ask_async, pair, on_event, **request))
        asked = _asked(request)
        if not pair.stream:
            return _answer([self.client.models.generate_content(**asked)], [])
        chunks: list[types.GenerateContentResponse] = []
        for chunk in self.client.models.generate_content_stream(**asked):
            chunks.append(chunk)
            if on_event is not None:
                on_event(chunk)
        return _answer(chunks, chunks)

    async def ask_async(
        self, pair: ProtocolPair, on_event: Callable[[Any], None] | None = None, **request: Any
    ) -> Answer:
        """The same on the portal's event loop."""
        asked, models = _asked(request), self.client.aio.models
        if not pair.stream:
            return _answer([await models.generate_content(**asked)], [])
        chunks: list[types.GenerateContentResponse] = []
        async for chunk in await models.generate_content_stream(**asked):
            chunks.append(chunk)
            if on_event is not None:
                on_event(chunk)
        return _answer(chunks, chunks)


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    config = {"automatic_function_calling": {"disable": True}, **request}
    return {"model": config.pop("model"), "contents": config.pop("contents"), "config": config}


def _answer(chunks: list[types.GenerateContentResponse], events: list[Any]) -> Answer:
    """What was said in all: the SDK leaves it to its callers to join the pieces, and its own chats keep them apart."""
    said: dict[int, list[types.Part]] = {}
    ends: dict[int, types.Candidate] = {}
    for chunk in chunks:
        for candidate in chunk.candidates or ():
            index = candidate.index or 0
            said.setdefault(index, []).extend((candidate.content and candidate.content.parts) or ())
            ends[index] = candidate
    candidates = [
        ends[index].model_copy(update={"content": types.Content(role="model", parts=parts)})
        for index, parts in sorted(said.items())
    ]
    last = chunks[-1]
    whole = last.model_copy(update={"candidates": candidates or last.candidates})
    parts = said.get(0, [])
    finish = ends[0].finish_reason if ends else None
    told = last.sdk_http_response
    return Answer(
        text="".join(part.text or "" for part in parts if not part.thought),
        calls=tuple(
            Call(id=found.id or "", name=found.name or "", arguments=json.dumps(found.args or {}))
            for part in parts
            if (found := part.function_call) is not None
        ),
        finish=finish.value if finish else None,
        whole=whole,
        headers=httpx2.Headers((told and told.headers) or {}),
        events=events,
    )
