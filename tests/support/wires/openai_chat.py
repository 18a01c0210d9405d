"""What the tests of Chat Completions share: makers of wires, and the official client as a reader."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import EMPTY, Batch, Request, StreamEvent
from llmproxy_asgi.translators.base import InboundRequest, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.openai_chat import TRANSLATOR

WIRES = Path(__file__).parents[2] / "wires" / "openai_chat"
INBOUND = TRANSLATOR.inbound
OUTBOUND = TRANSLATOR.outbound


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
    said = [{"role": "user", "content": "Hello"}]
    return msgspec.json.encode({"model": "smart", "messages": said, **fields})


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


def upstream_request(**fields: Any) -> UpstreamRequest:
    """What a decoder remembers of a request."""
    return UpstreamRequest(body=b"{}", stream=True, **fields)


def chunk(choices: Iterable[Mapping[str, Any]] = (), **fields: Any) -> bytes:
    """One event of a stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_795_000_000, "model": "big-1"}
    return b"data: " + msgspec.json.encode({**head, "choices": list(choices), **fields}) + b"\n\n"


def delta(found: Mapping[str, Any] = EMPTY, *, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    """One event of a stream, with one choice."""
    return chunk([{"index": index, "delta": dict(found), "finish_reason": finish, **fields}])


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def wire(name: str) -> bytes:
    """A recorded stream or answer."""
    return (WIRES / name).read_bytes()


def read(decoder: StreamDecoder, *pieces: bytes) -> list[StreamEvent]:
    """All events of these reads."""
    return list(batched(decoder, *pieces).events)


def batched(decoder: StreamDecoder, *pieces: bytes) -> Batch:
    """All that these reads gave, joined."""
    batches = [*(decoder.feed(piece) for piece in pieces), decoder.close()]
    return Batch(
        [event for batch in batches for event in batch.events], b"".join(batch.raw or b"" for batch in batches)
    )


def events(*pieces: bytes, **options: Any) -> list[StreamEvent]:
    """The events of a stream."""
    return read(OUTBOUND.decoder(upstream_request(), upstream(**options)), b"".join(pieces))


def client(content: bytes, *, status: int = 200, headers: Mapping[str, str] = EMPTY) -> openai.OpenAI:
    """The official client, in front of an upstream that answers with these bytes."""
    kind = "application/json" if content.startswith(b"{") else "text/event-stream"

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": kind, **headers}, content=content)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://made-up/v1", http_client=http, max_retries=0)


def accumulated(content: bytes) -> ChatCompletion:
    """What the official client's accumulator makes of a stream."""
    with client(content) as reader, reader.chat.completions.stream(model="m", messages=[]) as stream:
        for _ in stream:
            pass
        return stream.current_completion_snapshot


def chunks(content: bytes) -> list[ChatCompletionChunk]:
    """A stream, chunk by chunk, as the official client reads it."""
    with client(content) as reader:
        return list(reader.chat.completions.create(model="m", messages=[], stream=True))


def answered(content: bytes) -> ChatCompletion:
    """A whole answer, as the official client reads it."""
    with client(content) as reader:
        return reader.chat.completions.create(model="m", messages=[])
