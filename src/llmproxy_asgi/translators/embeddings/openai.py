"""OpenAI's Embeddings, both halves.

Vectors cross the wire as lists of numbers or as base64 of little-endian float32; the official Python SDK asks for the
latter unless told otherwise. Upstreams are asked for lists, which all compatible servers give, and read in either form.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21).
"""

import sys
from array import array
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators.base import Headers, InboundRequest, Translator, Upstream, UpstreamRequest
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
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.openai.errors import decode_error, decode_error_object
from llmproxy_asgi.translators.openai.fields import integer, others, string
from llmproxy_asgi.translators.openai.inbound import OpenAIInbound
from llmproxy_asgi.translators.outline import Counted, Outline
from llmproxy_asgi.translators.raw_json import join_object, raw, replace_model
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds

PROTOCOL: Final = "openai-embeddings"

_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user"})
_OUTLINE = Outline(
    {*_KNOWN, "extra_body", "input_type", "messages", "task", "truncate"},
    Counted("input", "messages", least=MOST_INPUTS),
    values=MOST_TOKENS_AT_ONCE,
)
_ENCODINGS = ("float", "base64")


# ── to our callers ───────────────────────────────────────────────────────────────────────────────────────────────────


class OpenAIEmbeddingInbound(OpenAIInbound[EmbeddingRequest, Embeddings], EmbeddingInbound):
    """The half that serves callers."""

    protocol = PROTOCOL
    fields = _KNOWN

    @override
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = ir.EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        opened, values = _OUTLINE.open(body, bounds)
        given = opened.get("input")
        if given is None or memoryview(given)[0] == ord("n"):
            raise missing("input")
        if memoryview(given)[0] not in b'"[' and (read := Node.of(opened, "input")) is not None:
            read.refuse("a string or an array")
        integer(opened, "dimensions", low=1)
        _encoding(opened)
        model = Node.of(opened, "model")
        return InboundRequest(
            protocol=PROTOCOL,
            model=model.text() if model else "",
            raw=opened,
            size=len(body),
            values=values,
            path=path,
        )

    @override
    def decode(self, inbound_request: InboundRequest) -> EmbeddingRequest:
        given = Node.of(inbound_request.raw, "input")
        if given is None:
            raise missing("input")
        unknown = others(inbound_request.raw, _KNOWN)
        return EmbeddingRequest(
            protocol=PROTOCOL,
            model=inbound_request.model,
            inputs=_inputs(given),
            dimensions=integer(inbound_request.raw, "dimensions", low=1),
            end_user=string(inbound_request.raw, "user"),
            extras={PROTOCOL: unknown} if unknown else ir.EMPTY,
        )

    @override
    def encode(self, response: Embeddings, inbound_request: InboundRequest) -> bytes:
        shown = _base64 if _encoding(inbound_request.raw) == "base64" else _floats
        usage = response.usage
        return msgspec.json.encode(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": index, "embedding": raw(shown(vector))}
                    for index, vector in enumerate(response.vectors)
                ],
                "model": inbound_request.model or response.model,
                "usage": {"prompt_tokens": usage.input, "total_tokens": usage.total},
            }
        )


def _encoding(opened: Mapping[str, msgspec.Raw]) -> str:
    node = Node.of(opened, "encoding_format")
    return node.choice(_ENCODINGS) if node else "float"


def _inputs(given: Node) -> tuple[EmbeddingInput, ...]:
    if type(given.value) is str:
        return (_input(given),)
    entries = given.array()
    if not entries:
        given.fail("must hold at least one input.", code="empty_array")
    if type(entries[0].value) is int:
        return (_input(given),)
    return tuple(map(_input, entries))


def _input(node: Node) -> EmbeddingInput:
    if not node.value:
        node.fail("must not be empty.")
    if type(node.value) is list:
        if not all(type(token) is int for token in node.value):
            node.refuse("a string or an array of token ids")
        return EmbeddingInput(tokens=tuple(node.value))
    return EmbeddingInput(text=node.text())


def _floats(vector: tuple[float, ...]) -> tuple[float, ...]:
    return vector


def _base64(vector: tuple[float, ...]) -> str:
    packed = array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode("ascii")


# ── to upstreams ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Item(msgspec.Struct, gc=False):
    embedding: list[float] | str
    index: int | None = None


class _Frame(msgspec.Struct, gc=False):
    """An answer whose vectors are still unread: read one by one, or passed on."""

    data: list[msgspec.Raw] | None = None
    model: str | None = None
    usage: Any = None
    error: Any = None


_ITEM = msgspec.json.Decoder(_Item)
_FRAME = msgspec.json.Decoder(_Frame)


class OpenAIEmbeddingOutbound(EmbeddingOutbound):
    """The half that calls upstreams."""

    protocol = PROTOCOL
    many = ("data", "*")

    @override
    def encode(self, request: EmbeddingRequest, upstream: Upstream) -> UpstreamRequest:
        own = request.extras.get(PROTOCOL, {})
        losses = Losses()
        for protocol, fields in request.extras.items():
            if protocol != PROTOCOL:
                losses.add(*(f"dropped:{key}" for key in fields))
        for each in request.inputs:
            losses.add(*(f"dropped:{key}" for fields in each.extras.values() for key in fields))
        given = [list(each.tokens) if each.tokens else each.text for each in request.inputs]
        body: dict[str, Any] = {"model": upstream.model, "input": given}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        if request.end_user is not None:
            body["user"] = request.end_user
        return UpstreamRequest(body=msgspec.json.encode({**body, **own}), stream=False, warnings=losses.words)

    @override
    def passthrough_request(self, inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
        values = dict(inbound_request.raw)
        if inbound_request.model != upstream.model or "model" not in values:
            values["model"] = raw(upstream.model)
        return UpstreamRequest(body=join_object(values), stream=False)

    @override
    def decode(
        self, body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, *, received_at: datetime
    ) -> Embeddings:
        answer = _read(body)
        check_count(len(answer.data), len(msgspec.json.decode(upstream_request.body, type=_Sent).input))
        items: list[_Item] = [readable(_ITEM, each) for each in answer.data]
        placed = {position if item.index is None else item.index: item for position, item in enumerate(items)}
        if sorted(placed) != list(range(len(items))):
            raise UpstreamProtocolError("The upstream's embeddings are not numbered one after the other.")
        vectors = tuple(_vector(placed[index].embedding) for index in range(len(items)))
        return Embeddings(model=upstream.client_model, vectors=vectors, usage=_usage(answer.usage))

    @override
    def passthrough_response(self, body: bytes, inbound_request: InboundRequest, upstream: Upstream) -> ir.Batch:
        answer = _read(body)
        if answer.model != upstream.client_model:
            body = replace_model(body, upstream.client_model)
        usage = _usage(answer.usage)
        return ir.Batch(() if usage.estimated else (ir.UsageReported(usage),), body)

    @override
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        return decode_error(status, headers, body, protocol=PROTOCOL)


class _Sent(msgspec.Struct, gc=False):
    """Of a request that we wrote: how many inputs there are."""

    input: list[msgspec.Raw]


def _read(body: bytes) -> Any:
    answer = readable(_FRAME, body)
    if answer.error:
        raise decode_error_object(answer.error, protocol=PROTOCOL)
    if answer.data is None:
        raise UpstreamProtocolError("The upstream's answer holds no embeddings.")
    check_sizes(answer.data)
    return answer


def _vector(found: list[float] | str) -> tuple[float, ...]:
    if isinstance(found, list):
        return tuple(found)
    unpacked = array("f")
    try:
        unpacked.frombytes(b64decode(found, validate=True))
    except (NotBase64, ValueError):
        raise UpstreamProtocolError("The upstream sent an embedding that cannot be read.") from None
    if sys.byteorder == "big":
        unpacked.byteswap()
    return tuple(unpacked)


def _usage(found: Any) -> ir.Usage:
    """Return the token count; an upstream without a count yields an estimated usage of zero."""
    tokens = found.get("prompt_tokens") if isinstance(found, dict) else None
    if type(tokens) is not int or not 0 <= tokens <= ir.MOST_TOKENS:
        return ir.Usage(estimated=True)
    return ir.Usage(input=tokens, extras={PROTOCOL: found})


TRANSLATOR = Translator(PROTOCOL, OpenAIEmbeddingInbound(), OpenAIEmbeddingOutbound())
