"""Gemini's embeddings, both halves: `:embedContent` for one content and `:batchEmbedContents` for several.

Upstreams are always asked for a batch, of one content if need be, so that one address serves both; which of the two a
caller used is in `InboundRequest.path["method"]`. The classic models count no tokens: usage is then estimated, and
marked.

Source: the types and converters of google-genai 3.4.0 (read 2026-11-21).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import BadRequest, GatewayError, UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Headers, InboundRequest, Problem, Translator, Upstream, UpstreamRequest
from llmproxy_asgi.translators.embeddings.base import (
    MOST_INPUTS,
    MOST_TOKENS_AT_ONCE,
    EmbeddingInbound,
    EmbeddingOutbound,
    check_count,
    check_sizes,
    readable,
)
from llmproxy_asgi.translators.embeddings.records import EmbeddingInput, EmbeddingRequest, Embeddings
from llmproxy_asgi.translators.estimate import weigh
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.gemini import listing
from llmproxy_asgi.translators.gemini.errors import decode_error, encode_problem, stream_error
from llmproxy_asgi.translators.gemini.outline import both_spellings, refuse_both_spellings
from llmproxy_asgi.translators.gemini.proto import ProtoNode, find_key
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.outline import Counted, Outline
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds

PROTOCOL: Final = "gemini-embeddings"
ONE: Final = "embedContent"
BATCH: Final = "batchEmbedContents"

_OUTLINE = Outline(
    both_spellings("model", "content", "requests", "taskType", "title", "outputDimensionality", "autoTruncate"),
    Counted("requests", "messages", least=MOST_INPUTS),
    values=MOST_TOKENS_AT_ONCE,
)
_EACH = Outline(both_spellings("model", "content", "taskType", "title", "outputDimensionality", "autoTruncate"))
"""The names in each of several requests."""
_TUNING = ("taskType", "title")
"""What one content may say beside itself and its vector's size; other vendors have no word for it."""


# ── to our callers ───────────────────────────────────────────────────────────────────────────────────────────────────


class GeminiEmbeddingInbound(EmbeddingInbound):
    """The half that serves callers. `path` must hold `model` and `method`, which is `ONE` or `BATCH`."""

    protocol = PROTOCOL

    @override
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = ir.EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        opened, values = _OUTLINE.open(body, bounds)
        refuse_both_spellings(opened)
        wanted = "content" if path.get("method") == ONE else "requests"
        if find_key(opened, wanted) is None:
            raise missing(wanted)
        return InboundRequest(
            protocol=PROTOCOL,
            model=path.get("model", "").removeprefix("models/"),
            raw=opened,
            size=len(body),
            values=values,
            path=path,
        )

    @override
    def decode(self, inbound_request: InboundRequest) -> EmbeddingRequest:
        asked = _asked(inbound_request)
        sizes = {size.integer(1) if (size := each.get("outputDimensionality")) else None for each in asked}
        if len(sizes) > 1:
            raise refusals.refusal(
                "This gateway does not support several sizes in one call",
                "requests[].outputDimensionality",
                "send the same size everywhere",
            )
        return EmbeddingRequest(
            protocol=PROTOCOL, model=inbound_request.model, inputs=tuple(map(_input, asked)), dimensions=sizes.pop()
        )

    @override
    def encode(self, response: Embeddings, inbound_request: InboundRequest) -> bytes:
        found = [raw({"values": vector}) for vector in response.vectors]  # one by one, in short steps
        answer: JSONObject = (
            {"embedding": found[0]} if inbound_request.path.get("method") == ONE else {"embeddings": found}
        )
        if not response.usage.estimated:
            counts = {"promptTokenCount": response.usage.input, "totalTokenCount": response.usage.total}
            answer["usageMetadata"] = counts
        return msgspec.json.encode(answer)

    @override
    def problem(self, error: GatewayError, *, request_id: str | None = None) -> Problem:
        return encode_problem(error)

    @override
    def list_models(self, names: Sequence[str]) -> bytes:
        return listing.list_models(names)

    @override
    def show_model(self, name: str) -> bytes:
        return listing.show_model(name)


def _asked(inbound_request: InboundRequest) -> list[ProtoNode]:
    """Return the inputs to embed, one object each."""
    if inbound_request.path.get("method") == ONE:
        nodes = {key: Node.of(inbound_request.raw, key) for key in inbound_request.raw}
        return [ProtoNode({key: node.value for key, node in nodes.items() if node is not None}, "")]
    requests = ProtoNode.of_body(inbound_request.raw, "requests")
    if requests is None:
        raise missing("requests")
    entries = requests.array()
    if not entries:
        requests.fail("must hold at least one request.", code="empty_array")
    for entry in entries:
        _check_names(entry.object(), entry.path)
    return entries


def _check_names(entry: Mapping[str, Any], path: str) -> None:
    """Refuse what one server would read in one way and another in another.

    Raises:
        BadRequest: A name is a second spelling, or there in both.
    """
    _EACH.check_names(entry.keys(), within=f"{path}.")
    refuse_both_spellings(entry.keys(), within=f"{path}.")


def _input(asked: ProtoNode) -> EmbeddingInput:
    content = asked.need("content")
    texts = []
    for part in content.required_array("parts"):
        text = part.get("text")
        if text is None:
            raise refusals.refusal("Only text can be embedded", part.path, "send text")
        texts.append(text.text())
    if not any(texts):
        raise BadRequest(f"{content.path}: must hold a text.", param=content.path, code="invalid_value")
    tuning = {key: node.text() for key in _TUNING if (node := asked.get(key)) is not None}
    return EmbeddingInput(text="\n".join(texts), extras={PROTOCOL: tuning} if tuning else ir.EMPTY)


# ── to upstreams ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Embedding(msgspec.Struct, gc=False):
    values: list[float]


class _Frame(msgspec.Struct, gc=False, rename="camel"):
    """An answer whose vectors are still unread: read one by one, or passed on."""

    embeddings: list[msgspec.Raw] | None = None
    usage_metadata: Any = None
    error: Any = None


_EMBEDDING = msgspec.json.Decoder(_Embedding)
_FRAME = msgspec.json.Decoder(_Frame)


class GeminiEmbeddingOutbound(EmbeddingOutbound):
    """The half that calls upstreams; the address is that of `:batchEmbedContents`."""

    protocol = PROTOCOL
    many = ("embeddings", "*")

    @override
    def encode(self, request: EmbeddingRequest, upstream: Upstream) -> UpstreamRequest:
        losses = Losses()
        for fields in request.extras.values():
            losses.add(*(f"dropped:{key}" for key in fields))
        model = f"models/{upstream.model}"
        requests = [_request(each, model, request.dimensions) for each in request.inputs]
        return UpstreamRequest(body=msgspec.json.encode({"requests": requests}), stream=False, warnings=losses.words)

    @override
    def passthrough_request(self, inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
        model = raw(f"models/{upstream.model}")
        if inbound_request.path.get("method") == ONE:
            return UpstreamRequest(
                body=b'{"requests":[%b]}' % join_object({**inbound_request.raw, "model": model}), stream=False
            )
        values = dict(inbound_request.raw)
        key = find_key(values, "requests") or "requests"
        requests = [join_object({**each, "model": model}) for each in _entries(values[key], key)]
        values[key] = msgspec.Raw(b"[" + b",".join(requests) + b"]")
        return UpstreamRequest(body=join_object(values), stream=False)

    @override
    def decode(
        self, body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, *, received_at: datetime
    ) -> Embeddings:
        answer = _read(body)
        sent = msgspec.json.decode(upstream_request.body, type=_Sent).requests
        check_count(len(answer.embeddings), len(sent))
        vectors = tuple(tuple(readable(_EMBEDDING, each).values) for each in answer.embeddings)
        usage = _usage(answer.usage_metadata)
        return Embeddings(
            model=upstream.client_model, vectors=vectors, usage=_estimated(sent) if usage.estimated else usage
        )

    @override
    def passthrough_response(self, body: bytes, inbound_request: InboundRequest, upstream: Upstream) -> ir.Batch:
        answer = _read(body)
        usage = _usage(answer.usage_metadata)
        if inbound_request.path.get("method") == ONE:
            check_count(len(answer.embeddings), 1)
            values = split_object(body)
            del values["embeddings"]
            body = join_object({"embedding": answer.embeddings[0], **values})
        return ir.Batch(() if usage.estimated else (ir.UsageReported(usage),), body)

    @override
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        return decode_error(status, headers, body)


class _SentPart(msgspec.Struct, frozen=True, gc=False):
    text: str = ""


class _SentContent(msgspec.Struct, frozen=True, gc=False):
    parts: tuple[_SentPart, ...] = ()


class _SentOne(msgspec.Struct, frozen=True, gc=False):
    content: _SentContent = _SentContent()


class _Sent(msgspec.Struct, gc=False):
    """Of a request that we wrote: the texts of its contents."""

    requests: list[_SentOne]


def _estimated(sent: Sequence[_SentOne]) -> ir.Usage:
    """How many tokens the texts are by the common rule of thumb; the classic models count none."""
    texts = (part.text for one in sent for part in one.content.parts)
    return ir.Usage(input=sum(-(-weigh(text.encode()) // 100) for text in texts), estimated=True)


def _request(each: EmbeddingInput, model: str, dimensions: int | None) -> JSONObject:
    if each.tokens:
        raise refusals.token_ids("input")
    fields: JSONObject = {"model": model, "content": {"parts": [{"text": each.text}]}}
    if dimensions is not None:
        fields["outputDimensionality"] = dimensions
    return {**fields, **each.extras.get(PROTOCOL, {})}


def _entries(requests: msgspec.Raw, key: str) -> list[dict[str, msgspec.Raw]]:
    try:
        entries = msgspec.json.decode(requests, type=list[dict[str, msgspec.Raw]])
    except msgspec.MsgspecError:
        raise BadRequest(f"{key}: expected an array of objects.", param=key, code="invalid_type") from None
    for number, entry in enumerate(entries):
        _check_names(entry, f"{key}[{number}]")
    return entries


def _read(body: bytes) -> Any:
    answer = readable(_FRAME, body)
    if answer.error:
        raise stream_error(answer.error)
    if answer.embeddings is None:
        raise UpstreamProtocolError("The upstream's answer holds no embeddings.")
    check_sizes(answer.embeddings)
    return answer


def _usage(found: Any) -> ir.Usage:
    tokens = found.get("promptTokenCount") if isinstance(found, dict) else None
    if type(tokens) is not int or not 0 <= tokens <= ir.MOST_TOKENS:
        return ir.Usage(estimated=True)
    return ir.Usage(input=tokens, extras={PROTOCOL: found})


TRANSLATOR = Translator(PROTOCOL, GeminiEmbeddingInbound(), GeminiEmbeddingOutbound())
