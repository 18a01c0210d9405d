"""The upstream side of Chat Completions."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import Headers, InboundRequest, Outbound, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.hosted_tools import refuse_in_passthrough, refuse_in_translation
from llmproxy_asgi.translators.openai.errors import decode_error, error_in
from llmproxy_asgi.translators.openai.hosted_tools import CHAT
from llmproxy_asgi.translators.openai_chat.distinct_calls import repair_response
from llmproxy_asgi.translators.openai_chat.flat_tools import nest_flat_tools
from llmproxy_asgi.translators.openai_chat.lost_reasoning import WatchedPassthroughDecoder, has_calls, with_reasoning
from llmproxy_asgi.translators.openai_chat.mappings import MANY, PROTOCOL, decode_usage, usage_of
from llmproxy_asgi.translators.openai_chat.passthrough import ChatScan
from llmproxy_asgi.translators.openai_chat.request_encoder import encode_request
from llmproxy_asgi.translators.openai_chat.schema import ANSWER, Answer, Chunk, ChunkChoice
from llmproxy_asgi.translators.openai_chat.stream_decoder import ChatStreamDecoder
from llmproxy_asgi.translators.passthrough import PassthroughDecoder
from llmproxy_asgi.translators.raw_json import join_object, raw, replace_model, split_object
from llmproxy_asgi.translators.stop_sequences import StopSequenceDecoder, StopSequenceFilter
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.translators.vendor_references import ReferencePattern, reject_vendor_ids

_FILE_KEYS = frozenset({"file_id", "file_data", "filename"})
_FALSE = msgspec.Raw(b"false")
_PASSTHROUGH_OPTIONS = msgspec.json.encode({"include_usage": True})


class ChatOutbound(Outbound):
    """The Chat Completions codec for upstreams."""

    protocol = PROTOCOL
    many = MANY

    @override
    def encode(self, request: ir.Request, upstream: Upstream) -> UpstreamRequest:
        refuse_in_translation(request, upstream.capabilities, CHAT, protocol=PROTOCOL)
        return encode_request(request, upstream)

    @override
    def passthrough_request(self, inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
        values = dict(inbound_request.raw)
        warnings: tuple[str, ...] = ()
        refuse_in_passthrough(values, upstream.capabilities, CHAT)
        nest_flat_tools(values)
        if not upstream.capabilities.stored:
            warnings = _disable_storage(values)
        if inbound_request.model != upstream.model or "model" not in values:
            values["model"] = raw(upstream.model)
        if inbound_request.stream and upstream.capabilities.stream_usage and not inbound_request.include_usage:
            values["stream_options"] = _with_usage(values.get("stream_options"))
        return UpstreamRequest(body=join_object(values), stream=inbound_request.stream, warnings=warnings)

    @override
    def lacks_reasoning(self, inbound_request: InboundRequest, upstream: Upstream) -> bool:
        return upstream.capabilities.needs_reasoning_content and has_calls(inbound_request)

    @override
    def with_reasoning(self, inbound_request: InboundRequest, request: ir.Request) -> InboundRequest:
        return with_reasoning(inbound_request, request)

    @override
    def decoder(self, upstream_request: UpstreamRequest, upstream: Upstream) -> StreamDecoder:
        decoder = ChatStreamDecoder(upstream_request, upstream)
        return StopSequenceDecoder(decoder, upstream_request.stop) if upstream_request.stop else decoder

    @override
    def passthrough_stream(self, inbound_request: InboundRequest, upstream: Upstream) -> StreamDecoder:
        asked = Node.of(inbound_request.raw, "n") if "n" in inbound_request.raw else None
        scan = ChatScan(upstream, keep_usage=inbound_request.include_usage, candidates=asked.integer() if asked else 1)
        passthrough = PassthroughDecoder(scan, client_model=upstream.client_model, max_event=upstream.max_event)
        if not upstream.capabilities.needs_reasoning_content:
            return passthrough
        return WatchedPassthroughDecoder(
            passthrough, ChatStreamDecoder(UpstreamRequest(body=b"", stream=True), upstream)
        )

    @override
    def decode(
        self, body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, *, received_at: datetime
    ) -> ir.Response:
        answer = _read(body)
        choices = [
            ChunkChoice(
                delta=choice.message,
                index=position if choice.index is None else choice.index,
                finish_reason=choice.finish_reason,
                logprobs=choice.logprobs or None,
                error=choice.error,
            )
            for position, choice in enumerate(answer.choices or ())
        ]
        chunk = Chunk(
            choices=choices,
            id=answer.id,
            created=answer.created or received_at.timestamp(),
            usage=usage_of(answer),
            service_tier=answer.service_tier,
        )
        events = ChatStreamDecoder(upstream_request, upstream).decode_whole(chunk)
        return fold(StopSequenceFilter(upstream_request.stop).feed(events) if upstream_request.stop else events)

    @override
    def passthrough_response(self, body: bytes, inbound_request: InboundRequest, upstream: Upstream) -> ir.Batch:
        answer = _read(body)
        body = repair_response(body, answer.choices or ())
        if answer.model != upstream.client_model:
            body = replace_model(body, upstream.client_model)
        usage = decode_usage(usage_of(answer))
        return ir.Batch(() if usage is None else (ir.UsageReported(usage),), body)

    @override
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        return decode_error(status, headers, body, protocol=PROTOCOL)


def _disable_storage(values: dict[str, msgspec.Raw]) -> tuple[str, ...]:
    """Disable storage and refuse stored files, because several callers share the credential."""
    reject_vendor_ids(values, _REFERENCE_PATTERN, within=("messages",))
    if "store" not in values or bytes(values["store"]) != b"true":
        return ()
    values["store"] = _FALSE
    return ("dropped:store",)


def _names(found: Mapping[str, Any]) -> tuple[str, ...]:
    file = found.get("file")
    if isinstance(file, dict) and file.get("file_id"):
        return ("file.file_id",)
    audio = found.get("audio")
    if isinstance(audio, dict) and audio.get("id"):
        return ("audio.id",)  # audio of an earlier response, which the vendor sends to the model again
    return ("file_id",) if isinstance(found.get("file_id"), str) and found.keys() <= _FILE_KEYS else ()


_REFERENCE_PATTERN = ReferencePattern("file_id|audio", {"file", "audio", "id", *_FILE_KEYS}, _names)


def _read(body: bytes) -> Answer:
    try:
        answer = decode_replaced(ANSWER, body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        answer = None
    if answer is not None and answer.choices and not answer.error:
        return answer
    if (error := error_in(body, protocol=PROTOCOL)) is not None:
        raise error
    reason = "cannot be read" if answer is None else "holds no choice"
    raise UpstreamProtocolError(f"The upstream's answer {reason}.")


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    """Request usage in the caller's stream options; its other options keep their bytes."""
    if options is None or memoryview(options)[0] == ord("n"):
        return msgspec.Raw(_PASSTHROUGH_OPTIONS)
    values = split_object(options)
    values["include_usage"] = msgspec.Raw(b"true")
    return msgspec.Raw(join_object(values))
