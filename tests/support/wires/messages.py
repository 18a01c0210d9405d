"""What the tests of the Messages translator share: openings, upstreams, wires, and the official SDK as a reader."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
import httpx2

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import Message, Request, StreamEvent, Text
from llmproxy_asgi.translators.anthropic_messages import TRANSLATOR
from llmproxy_asgi.translators.base import InboundRequest, StreamDecoder, Upstream, UpstreamRequest

INBOUND, OUTBOUND = TRANSLATOR.inbound, TRANSLATOR.outbound
RECEIVED_AT = datetime(2026, 11, 21, tzinfo=UTC)

WIRES = Path(__file__).parents[2] / "wires" / "anthropic_messages"
STREAMS = sorted(path.name for path in WIRES.glob("*.sse"))


def wire(name: str) -> bytes:
    """A recorded stream or answer."""
    return (WIRES / name).read_bytes()


def opened(body: dict[str, Any] | None = None, **headers: str) -> InboundRequest:
    """A request as the inbound half opens it; underscores in header names become dashes."""
    whole = {"model": "asked", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **(body or {})}
    raw = json.dumps({key: value for key, value in whole.items() if value is not ...}).encode()
    return INBOUND.open(raw, headers={name.replace("_", "-"): value for name, value in headers.items()})


def decoded(body: dict[str, Any] | None = None, **headers: str) -> Request:
    """A request as the inbound half reads it."""
    return INBOUND.decode(opened(body, **headers))


def upstream(*, issuer: str = "anthropic", model: str = "claude-upstream-1", **capabilities: Any) -> Upstream:
    """Where a request goes."""
    return Upstream(
        provider="claude", model=model, client_model="asked", issuer=issuer, capabilities=Capabilities(**capabilities)
    )


def request(*messages: Message, **fields: Any) -> Request:
    """A request from another protocol; a plain question where no messages are given."""
    given = messages or (Message(role="user", parts=(Text(text="Hi"),)),)
    return Request(**{"protocol": "made-up", "model": "asked", **fields, "messages": given})


def encoded(asked: Request, to: Upstream | None = None) -> tuple[dict[str, Any], UpstreamRequest]:
    """What the upstream gets, as JSON and as it is."""
    upstream_request = OUTBOUND.encode(asked, to or upstream())
    return json.loads(upstream_request.body), upstream_request


def plain_upstream_request() -> UpstreamRequest:
    """A request to the upstream of which its answer needs to know nothing."""
    return UpstreamRequest(body=b"", stream=True)


def drained(decoder: StreamDecoder, pieces: Iterable[bytes]) -> list[StreamEvent]:
    """All events of a stream that comes in these pieces."""
    events: list[StreamEvent] = []
    for piece in pieces:
        events.extend(decoder.feed(piece).events)
    events.extend(decoder.close().events)
    return events


def events_of(name: str, upstream_request: UpstreamRequest | None = None) -> list[StreamEvent]:
    """A recorded stream as events."""
    return drained(OUTBOUND.decoder(upstream_request or plain_upstream_request(), upstream()), [wire(name)])


def written(events: Sequence[StreamEvent], inbound_request: InboundRequest | None = None) -> bytes:
    """A stream as the inbound half writes it."""
    return INBOUND.encoder(inbound_request or opened({"stream": True})).feed(events)


def frames(stream: bytes) -> list[tuple[str, dict[str, Any]]]:
    """A stream's events by name, read strictly: one event line, one data line, one blank line."""
    found = []
    for frame in stream.decode().split("\n\n")[:-1]:
        event, data = frame.split("\n")
        found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def read_by_sdk(stream: bytes) -> tuple[Any, list[Any]]:
    """What Anthropic's own client makes of these bytes: the whole message and the row of events."""
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    with (
        sdk(answer) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]) as read,
    ):
        events = list(read)
        return read.get_final_message(), events


def sdk(answer: httpx2.Response) -> anthropic.Anthropic:
    """Anthropic's own client, given this answer whatever it asks."""
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _: answer))
    return anthropic.Anthropic(api_key="test", base_url="http://upstream.invalid", http_client=http, max_retries=0)
