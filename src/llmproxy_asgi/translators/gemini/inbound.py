"""Serve Google's generateContent protocol: decode callers' requests and encode their responses.

Source: Google's Python SDK google-genai 3.4.0 (types, stream reader, error classes) and public documentation, read
2026-11-21. The path has the model, and whether the response is streamed and how: as server-sent events, or as a JSON
array that is sent element by element.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec
from msgspec import Raw
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import BadRequest, GatewayError
from llmproxy_asgi.translators.base import Headers, Inbound, InboundRequest, Problem, StreamEncoder
from llmproxy_asgi.translators.fields import missing
from llmproxy_asgi.translators.gemini import listing
from llmproxy_asgi.translators.gemini.errors import encode_problem
from llmproxy_asgi.translators.gemini.framing import ArrayInboundRequest
from llmproxy_asgi.translators.gemini.outline import OUTLINE, refuse_both_spellings, refuse_both_spellings_within
from llmproxy_asgi.translators.gemini.proto import ProtoNode, find_key
from llmproxy_asgi.translators.gemini.request_decoder import decode_request
from llmproxy_asgi.translators.gemini.response_encoder import encode_response
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.gemini.stream_encoder import GeminiStreamEncoder
from llmproxy_asgi.translators.raw_json import split_object
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds, Opened

_FIRST_BYTES = {
    "contents": (b"[", "an array"),
    "tools": (b"[", "an array"),
    "safetySettings": (b"[", "an array"),
    "systemInstruction": (b'{"', "an object"),
    "generationConfig": (b"{", "an object"),
    "toolConfig": (b"{", "an object"),
    "labels": (b"{", "an object"),
    "cachedContent": (b'"', "a string"),
    "serviceTier": (b'"', "a string"),
}
_NULL = ord("n")
_STREAM = "streamGenerateContent"
_COUNT = "countTokens"

SPELLING = {
    "messages": "contents",
    "tool_choice": "toolConfig",
    "service_tier": "serviceTier",
    **{
        name: f"generationConfig.{own}"
        for name, own in {
            "n": "candidateCount",
            "max_tokens": "maxOutputTokens",
            "temperature": "temperature",
            "top_p": "topP",
            "top_k": "topK",
            "seed": "seed",
            "stop": "stopSequences",
            "frequency_penalty": "frequencyPenalty",
            "presence_penalty": "presencePenalty",
            "logprobs": "responseLogprobs",
            "top_logprobs": "logprobs",
            "modalities": "responseModalities",
            "response_format": "responseSchema",
            "reasoning": "thinkingConfig",
            "reasoning_effort": "thinkingConfig",
        }.items()
    },
}
"""Common field names to this protocol's names."""


class GeminiInbound(Inbound):
    """The codec half for callers.

    `open` expects in `path`: `model` (the path between `models/` and the method), `method` and, for streams, `alt`.
    """

    protocol: ClassVar[str] = PROTOCOL
    keepalive: ClassVar[bytes] = b"\n"
    spelling = SPELLING

    @override
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = ir.EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        raw, values = OUTLINE.open(body, bounds)
        if path.get("method") == _COUNT:
            raw = _request_to_count(raw)
            OUTLINE.check(Opened(raw, values), bounds)
        refuse_both_spellings(raw)
        refuse_both_spellings_within(raw)
        for key, (first_bytes, expected) in _FIRST_BYTES.items():
            found = find_key(raw, key)
            first = memoryview(raw[found])[0] if found else _NULL
            if found and first not in first_bytes and (first != _NULL or key == "contents"):
                raise BadRequest(f"{found}: expected {expected}.", param=found, code="invalid_type")
        if find_key(raw, "contents") is None:
            raise missing("contents")
        stream = path.get("method") == _STREAM
        request_class = ArrayInboundRequest if stream and path.get("alt", "json") != "sse" else InboundRequest
        return request_class(
            protocol=PROTOCOL,
            model=_model(raw, path),
            stream=stream,
            raw=raw,
            size=len(body),
            values=values,
            path=path,
        )

    @override
    def decode(self, inbound_request: InboundRequest) -> ir.Request:
        return decode_request(inbound_request)

    @override
    def max_output_tokens(self, inbound_request: InboundRequest) -> int | None:
        try:
            config = ProtoNode.of_body(inbound_request.raw, "generationConfig")
            limit = config.get("maxOutputTokens") if config is not None else None
            return None if limit is None else limit.integer()
        except BadRequest:
            return None

    @override
    def encode(self, response: ir.Response, inbound_request: InboundRequest) -> bytes:
        return encode_response(response, inbound_request.model or response.model)

    @override
    def encoder(self, inbound_request: InboundRequest) -> StreamEncoder:
        return GeminiStreamEncoder(inbound_request)

    @override
    def problem(self, error: GatewayError, *, request_id: str | None = None) -> Problem:
        return encode_problem(error)

    @override
    def encode_count(self, tokens: int) -> bytes:
        return listing.encode_count(tokens)

    @override
    def list_models(self, names: Sequence[str]) -> bytes:
        return listing.list_models(names)

    @override
    def show_model(self, name: str) -> bytes:
        return listing.show_model(name)


def _model(raw: Mapping[str, Raw], path: Mapping[str, str]) -> str:
    """Return the path's model, else the body's."""
    model = path.get("model", "")
    if not model:
        node = ProtoNode.of_body(raw, "model")
        model = node.text() if node else ""
    return model.removeprefix("models/")


def _request_to_count(raw: Mapping[str, Raw]) -> dict[str, Raw]:
    """Return the fields of the request whose tokens to count, which may be in `generateContentRequest`."""
    key = find_key(raw, "generateContentRequest")
    if key is None:
        return dict(raw)
    try:
        return split_object(raw[key])
    except msgspec.MsgspecError:
        raise BadRequest(f"{key}: expected an object.", param=key, code="invalid_type") from None
