"""The upstream side of the Responses protocol.

Source: the openai Python SDK 3.52.0 and public documentation, read 2026-11-21; not tested on the vendor's own endpoint.
"""

import re
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators.answer_bounds import SMALL
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import Headers, InboundRequest, Outbound, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.hosted_tools import refuse_in_translation
from llmproxy_asgi.translators.openai.errors import decode_error, decode_error_object, error_in
from llmproxy_asgi.translators.openai.hosted_tools import RESPONSES
from llmproxy_asgi.translators.openai_responses.mappings import MANY, PROTOCOL, decode_usage
from llmproxy_asgi.translators.openai_responses.passthrough import ResponsesScan
from llmproxy_asgi.translators.openai_responses.request_encoder import encode_request
from llmproxy_asgi.translators.openai_responses.request_passthrough import passthrough_request
from llmproxy_asgi.translators.openai_responses.schema import (
    ANSWER,
    LARGE_ANSWER,
    PASSTHROUGH_ANSWER,
    Answer,
    LargeAnswer,
    PassthroughAnswer,
)
from llmproxy_asgi.translators.openai_responses.stream_decoder import ResponsesStreamDecoder, answer_extras
from llmproxy_asgi.translators.passthrough import PassthroughDecoder
from llmproxy_asgi.translators.raw_json import replace_model
from llmproxy_asgi.translators.stop_sequences import StopSequenceDecoder, StopSequenceFilter
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.translators.token_counts import read_count, without
from llmproxy_asgi.wire.json_body import decode
from llmproxy_asgi.wire.surrogates import replace_halves

_REASONING = re.compile(rb'"type"\s*:\s*"reasoning"')
"""Never matches in a string, in which quotes are escaped."""
_Answer = TypeVar("_Answer", Answer, LargeAnswer, PassthroughAnswer)
_UNFINISHED = frozenset({"queued", "in_progress"})
_NOT_COUNTED = frozenset(
    {
        "store",
        "stream",
        "stream_options",
        "background",
        "include",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "temperature",
        "top_logprobs",
        "top_p",
        "user",
    }
)
"""Fields that the vendor's token counter refuses; they don't change the count."""


class ResponsesOutbound(Outbound):
    """The Responses codec for upstreams."""

    protocol = PROTOCOL
    many = MANY

    @override
    def encode(self, request: ir.Request, upstream: Upstream) -> UpstreamRequest:
        refuse_in_translation(request, upstream.capabilities, RESPONSES, protocol=PROTOCOL)
        return encode_request(request, upstream)

    @override
    def passthrough_request(self, inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
        return passthrough_request(inbound_request, upstream)

    @override
    def decoder(self, upstream_request: UpstreamRequest, upstream: Upstream) -> StreamDecoder:
        decoder = ResponsesStreamDecoder(upstream_request, upstream)
        return StopSequenceDecoder(decoder, upstream_request.stop) if upstream_request.stop else decoder

    @override
    def passthrough_stream(self, inbound_request: InboundRequest, upstream: Upstream) -> StreamDecoder:
        return PassthroughDecoder(
            ResponsesScan(upstream), client_model=upstream.client_model, max_event=upstream.max_event
        )

    @override
    def decode(
        self, body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, *, received_at: datetime
    ) -> ir.Response:
        answer = _read(body, ANSWER) if len(body) <= SMALL else _read_large(body)
        if answer.created_at is None:
            answer.created_at = received_at.timestamp()
        events = ResponsesStreamDecoder(upstream_request, upstream).decode_whole(answer)
        response = fold(StopSequenceFilter(upstream_request.stop).feed(events) if upstream_request.stop else events)
        return msgspec.structs.replace(response, extras=answer_extras(body))

    @override
    def passthrough_response(self, body: bytes, inbound_request: InboundRequest, upstream: Upstream) -> ir.Batch:
        answer = _read(body, PASSTHROUGH_ANSWER)
        if answer.model != upstream.client_model:
            body = replace_model(body, upstream.client_model)
        usage = decode_usage(answer.usage, answer.tool_usage)
        return ir.Batch(() if usage is None else (ir.UsageReported(usage),), body)

    @override
    def encode_count(self, upstream_request: UpstreamRequest, upstream: Upstream) -> UpstreamRequest:
        return without(upstream_request, _NOT_COUNTED)

    @override
    def decode_count(self, body: bytes) -> int:
        return read_count(body, "input_tokens")

    @override
    def replays_reasoning(self, body: bytes) -> bool:
        return _REASONING.search(body) is not None

    @override
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        return decode_error(status, headers, body, protocol=PROTOCOL)


def _read_large(body: bytes) -> Answer:
    """Read a large response item by item; leave long lists of log probabilities as bytes."""
    answer = _read(body, LARGE_ANSWER)
    try:
        answer.output = [_read_item(item) for item in answer.output or ()]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UpstreamProtocolError("The upstream's answer cannot be read.") from None
    return answer


def _read_item(item: msgspec.Raw) -> Any:
    try:
        return decode(item, leaving="logprobs")
    except msgspec.DecodeError:
        replaced = replace_halves(bytes(item))
        if replaced is None:
            raise
        return decode(replaced, leaving="logprobs")


def _read(body: bytes, decoder: "msgspec.json.Decoder[_Answer]") -> _Answer:
    """Read a complete response; raise its error if it failed."""
    try:
        answer = decode_replaced(decoder, body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        error = error_in(body, protocol=PROTOCOL)
        raise error or UpstreamProtocolError("The upstream's answer cannot be read.") from None
    if answer.error or answer.status == "failed":
        if type(answer.error) is str and (error := error_in(body, protocol=PROTOCOL)) is not None:
            raise error
        raise decode_error_object(answer.error or {}, protocol=PROTOCOL)
    if answer.output is None and (error := error_in(body, protocol=PROTOCOL)) is not None:
        raise error
    if answer.output is None or answer.status in _UNFINISHED:
        raise UpstreamProtocolError("The upstream's answer is not one that is complete.")
    return answer
