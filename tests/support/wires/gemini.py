"""What the tests of Google's protocol share: openings, upstreams, wires, and the official SDK as a reader."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from google import genai
from google.genai import types

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import Message, Request, StreamEvent, Text
from llmproxy_asgi.translators.base import InboundRequest, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.gemini import TRANSLATOR

INBOUND, OUTBOUND = TRANSLATOR.inbound, TRANSLATOR.outbound
RECEIVED_AT = datetime(2026, 11, 21, tzinfo=UTC)

WIRES = Path(__file__).parents[2] / "wires" / "gemini"
STREAMS = sorted(path.name for path in WIRES.glob("*.sse"))
HELLO = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


def wire(name: str) -> bytes:
    """A recorded stream or answer."""
    return (WIRES / name).read_bytes()


def opened(
    body: Mapping[str, Any] | None = None, *, stream: bool = False, alt: str = "sse", **path: str
) -> InboundRequest:
    """A request as the inbound half opens it; a plain question where no contents are given."""
    method = "streamGenerateContent" if stream else "generateContent"
    whole = {**HELLO, **(body or {})}
    raw = json.dumps({key: value for key, value in whole.items() if value is not ...}).encode()
    return INBOUND.open(raw, headers={}, path={"model": "asked", "method": method, "alt": alt, **path})


def decoded(body: Mapping[str, Any] | None = None) -> Request:
    """A request as the inbound half reads it."""
    return INBOUND.decode(opened(body))


def upstream(*, issuer: str = "gemini", model: str = "gemini-upstream-1", **capabilities: Any) -> Upstream:
    """Where a request goes."""
    able = Capabilities(**{"custom_tools": False, **capabilities})
    return Upstream(provider="google", model=model, client_model="asked", issuer=issuer, capabilities=able)


def request(*messages: Message, **fields: Any) -> Request:
    """A request from another protocol; a plain question where no messages are given."""
    given = messages or (Message(role="user", parts=(Text(text="Hi"),)),)
    return Request(**{"protocol": "made-up", "model": "asked", **fields, "messages": given})


def encoded(asked: Request, to: Upstream | None = None) -> tuple[dict[str, Any], UpstreamRequest]:
    """What the upstream gets, as JSON and as it is."""
    upstream_request = OUTBOUND.encode(asked, to or upstream())
    return json.loads(upstream_request.body), upstream_request


def plain_upstream_request(**fields: Any) -> UpstreamRequest:
    """A request to the upstream of which its answer needs to know little."""
    return UpstreamRequest(body=b"", stream=True, **fields)


def chunk(*parts: Mapping[str, Any], finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """One chunk with one candidate; `fields` are the chunk's own."""
    candidate: dict[str, Any] = {"index": index}
    if parts:
        candidate["content"] = {"role": "model", "parts": list(parts)}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "gemini-upstream-1", "responseId": "r1", **fields}


def events_bytes(*chunks: Mapping[str, Any]) -> bytes:
    """Chunks as server-sent events."""
    return b"".join(b"data: " + json.dumps(each).encode() + b"\r\n\r\n" for each in chunks)


def drained(decoder: StreamDecoder, pieces: Iterable[bytes]) -> list[StreamEvent]:
    """All events of a stream that comes in these pieces."""
    events: list[StreamEvent] = []
    for piece in pieces:
        events.extend(decoder.feed(piece).events)
    events.extend(decoder.close().events)
    return events


def passed_through(decoder: StreamDecoder, pieces: Iterable[bytes]) -> tuple[list[StreamEvent], bytes]:
    """All events of a passed-through stream, and what its caller gets."""
    batches = [*(decoder.feed(piece) for piece in pieces), decoder.close()]
    return [event for batch in batches for event in batch.events], b"".join(batch.raw or b"" for batch in batches)


def read(
    stream: bytes, upstream_request: UpstreamRequest | None = None, to: Upstream | None = None
) -> list[StreamEvent]:
    """A stream as events."""
    return drained(OUTBOUND.decoder(upstream_request or plain_upstream_request(), to or upstream()), [stream])


def told(*chunks: Mapping[str, Any], upstream_request: UpstreamRequest | None = None) -> list[StreamEvent]:
    """The events of a stream of these chunks."""
    return read(events_bytes(*chunks), upstream_request)


def written(events: Sequence[StreamEvent], inbound_request: InboundRequest | None = None) -> bytes:
    """A stream as the inbound half writes it."""
    return INBOUND.encoder(inbound_request or opened(stream=True)).feed(events)


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    """A stream's chunks, read as strictly as Google's own client: `data: ` lines and blank ones."""
    found: list[dict[str, Any]] = []
    waiting: list[str] = []
    for line in stream.decode().split("\n"):
        if not line:
            found += [json.loads("\n".join(waiting))] if waiting else []
            waiting = []
            continue
        assert line.startswith("data: "), line
        waiting.append(line.removeprefix("data: "))
    assert not waiting
    return found


def sdk(answer: bytes, *, status: int = 200, seen: Callable[[httpx2.Request], None] | None = None) -> genai.Client:
    """Google's own client, given this answer whatever it asks."""

    def respond(request: httpx2.Request) -> httpx2.Response:
        if seen is not None:
            seen(request)
        kind = "application/json" if answer[:1] in b"{[" else "text/event-stream"
        return httpx2.Response(status, headers={"content-type": kind}, content=answer)

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    options = types.HttpOptions(base_url="http://upstream.invalid", httpx_client=http)
    return genai.Client(api_key="test", vertexai=False, http_options=options)


def streamed_by_sdk(stream: bytes) -> list[Any]:
    """What Google's own client makes of a stream, chunk by chunk."""
    with sdk(stream) as client:
        return list(client.models.generate_content_stream(model="asked", contents="Hi"))


def answered_by_sdk(body: bytes) -> Any:
    """What Google's own client makes of a whole answer."""
    with sdk(body) as client:
        return client.models.generate_content(model="asked", contents="Hi")
