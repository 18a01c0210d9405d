"""What the tests of Responses share: makers of wires, and the official client as a reader."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai
from openai.types.responses import Response as SDKResponse
from openai.types.responses import ResponseStreamEvent

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import (
    EMPTY,
    Batch,
    Candidate,
    Finish,
    FinishReason,
    Part,
    Request,
    Response,
    Started,
    StreamEvent,
)
from llmproxy_asgi.translators.base import InboundRequest, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.openai_responses import TRANSLATOR
from llmproxy_asgi.translators.stream_validator import StreamValidator

WIRES = Path(__file__).parents[2] / "wires" / "openai_responses"
INBOUND = TRANSLATOR.inbound
OUTBOUND = TRANSLATOR.outbound
NOW = datetime(2026, 11, 21, tzinfo=UTC)
STARTED = Started("resp_1", "smart", NOW)
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}


def upstream(*, issuer: str = "openai", **capabilities: Any) -> Upstream:
    """Where requests go: the caller says `smart`, the upstream `big-1`."""
    return Upstream(
        provider="made-up",
        model="big-1",
        client_model="smart",
        issuer=issuer,
        capabilities=Capabilities(**capabilities),
    )


def body(**fields: Any) -> bytes:
    """A request's body."""
    return msgspec.json.encode({"model": "smart", "input": "Hello", **fields})


def inbound_request(**fields: Any) -> InboundRequest:
    """A request as it came in."""
    return INBOUND.open(body(**fields), headers={})


def decoded(**fields: Any) -> Request:
    """A request, read whole."""
    return INBOUND.decode(inbound_request(**fields))


def encoded(request: Request, **options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A request as it goes upstream, and its warnings."""
    upstream_request = OUTBOUND.encode(request, upstream(**options))
    return msgspec.json.decode(upstream_request.body), upstream_request.warnings


def passthrough_request(fields: Mapping[str, Any], **options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A request as it is passed on, and its warnings."""
    upstream_request = OUTBOUND.passthrough_request(inbound_request(**fields), upstream(**options))
    return msgspec.json.decode(upstream_request.body), upstream_request.warnings


def upstream_request(**fields: Any) -> UpstreamRequest:
    """What a decoder remembers of a request."""
    return UpstreamRequest(body=b"{}", stream=True, **fields)


def event(kind: str, **fields: Any) -> bytes:
    """One event of a stream."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))


def life(kind: str, **fields: Any) -> bytes:
    """One event of an answer's life."""
    status = kind.rpartition(".")[2]
    known = {"id": "resp_1", "object": "response", "created_at": 1_795_000_000, "model": "big-1"}
    whole = {**known, "status": "in_progress" if status == "created" else status, "output": [], **fields}
    return event(kind, response=whole, sequence_number=0)


def added(index: int, item: Mapping[str, Any]) -> bytes:
    """An item begins."""
    return event("response.output_item.added", output_index=index, item=item)


def done(index: int, item: Mapping[str, Any]) -> bytes:
    """An item is done."""
    return event("response.output_item.done", output_index=index, item=item)


CREATED = life("response.created")
COMPLETED = life("response.completed", usage=USAGE)


def wire(name: str) -> bytes:
    """A recorded stream or answer."""
    return (WIRES / name).read_bytes()


def read(decoder: StreamDecoder, *pieces: bytes) -> list[StreamEvent]:
    """All events of these reads."""
    return list(batched(decoder, *pieces).events)


def batched(decoder: StreamDecoder, *pieces: bytes) -> Batch:
    """All that these reads gave, joined."""
    batches = [*(decoder.feed(piece) for piece in pieces), decoder.close()]
    return Batch([each for batch in batches for each in batch.events], b"".join(batch.raw or b"" for batch in batches))


def events(*pieces: bytes, **options: Any) -> list[StreamEvent]:
    """The events of a stream, in their legal order."""
    found = read(OUTBOUND.decoder(upstream_request(), upstream(**options)), b"".join(pieces))
    validator = StreamValidator()
    for each in found:
        validator.check(each)
    return found


def answer(*parts: Part, reason: FinishReason = FinishReason.STOP, **fields: Any) -> Response:
    """A whole answer of one candidate."""
    candidate = Candidate(parts=parts, finish=Finish(reason=reason, **fields))
    return Response(id="resp_1", model="smart", created_at=NOW, candidates=(candidate,))


def written(row: Sequence[StreamEvent], **fields: Any) -> bytes:
    """A stream as its caller reads it."""
    return INBOUND.encoder(inbound_request(stream=True, **fields)).feed(row)


def frames(content: bytes) -> list[dict[str, Any]]:
    """The data of a stream's events."""
    return [msgspec.json.decode(block.partition(b"\ndata: ")[2]) for block in content.split(b"\n\n") if block]


def client(content: bytes, *, status: int = 200, headers: Mapping[str, str] = EMPTY) -> openai.OpenAI:
    """The official client, in front of an upstream that answers with these bytes."""
    kind = "application/json" if content.startswith(b"{") else "text/event-stream"

    def respond(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": kind, **headers}, content=content)

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    return openai.OpenAI(api_key="k", base_url="http://made-up/v1", http_client=http, max_retries=0)


def accumulated(content: bytes) -> SDKResponse:
    """What the official client's stream helper makes of a stream."""
    with client(content) as reader, reader.responses.stream(model="m", input="x") as stream:
        return stream.get_final_response()


def helped(content: bytes) -> list[Any]:
    """A stream, event by event, as the official client's stream helper reads it."""
    with client(content) as reader, reader.responses.stream(model="m", input="x") as stream:
        return list(stream)


def streamed(content: bytes) -> list[ResponseStreamEvent]:
    """A stream, event by event, as the official client reads it."""
    with client(content) as reader:
        return list(reader.responses.create(model="m", input="x", stream=True))


def answered(content: bytes) -> SDKResponse:
    """A whole answer, as the official client reads it."""
    with client(content) as reader:
        return reader.responses.create(model="m", input="x")
