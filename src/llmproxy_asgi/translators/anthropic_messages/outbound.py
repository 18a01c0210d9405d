"""Call upstreams with Anthropic's Messages protocol.

Source: Anthropic's Python SDK 2.11.0 and public documentation, read 2026-11-21; not tested against the vendor's own
endpoint. Models' capabilities are data (`families.py`, the catalog), not code.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

import msgspec
from msgspec import Raw
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import UpstreamError
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import is_foreign
from llmproxy_asgi.translators.anthropic_messages.errors import decode_error
from llmproxy_asgi.translators.anthropic_messages.hosted_tools import MESSAGES
from llmproxy_asgi.translators.anthropic_messages.message_encoder import thinking_block
from llmproxy_asgi.translators.anthropic_messages.passthrough import MessagesScan
from llmproxy_asgi.translators.anthropic_messages.request_encoder import encode_request
from llmproxy_asgi.translators.anthropic_messages.response_decoder import decode_response, decode_response_body
from llmproxy_asgi.translators.anthropic_messages.schema import FIRST_VERSION, PROTOCOL
from llmproxy_asgi.translators.anthropic_messages.stream_decoder import MessagesStreamDecoder
from llmproxy_asgi.translators.anthropic_messages.usage import decode_usage
from llmproxy_asgi.translators.assemble import fold, unfold
from llmproxy_asgi.translators.base import Headers, InboundRequest, Outbound, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.hosted_tools import refuse_in_passthrough, refuse_in_translation
from llmproxy_asgi.translators.passthrough import PassthroughDecoder
from llmproxy_asgi.translators.raw_json import join_object, replace_model
from llmproxy_asgi.translators.seals import WRAPPED, unwrap, usable
from llmproxy_asgi.translators.stop_sequences import StopSequenceDecoder, StopSequenceFilter
from llmproxy_asgi.translators.token_counts import read_count, without
from llmproxy_asgi.translators.vendor_references import ReferencePattern, reject_vendor_ids
from llmproxy_asgi.wire.json_body import decode

_THINKING_BLOCK = re.compile(rb'"type"\s*:\s*"(?:redacted_)?thinking"')
"""Can't match in a text, because quotes are escaped there."""
_NOT_COUNTED = frozenset(
    {
        "max_tokens",
        "stream",
        "stop_sequences",
        "temperature",
        "top_p",
        "top_k",
        "metadata",
        "service_tier",
        "container",
        "inference_geo",
        "diagnostics",
    }
)
"""Fields that the vendor's token counter refuses; they don't change the count."""


class MessagesOutbound(Outbound):
    """The codec half for upstreams."""

    protocol: ClassVar[str] = PROTOCOL
    pauses: ClassVar[bool] = True

    @override
    def encode(self, request: ir.Request, upstream: Upstream) -> UpstreamRequest:
        refuse_in_translation(request, upstream.capabilities, MESSAGES, protocol=PROTOCOL)
        return encode_request(request, upstream)

    @override
    def passthrough_request(self, inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
        raw = dict(inbound_request.raw)
        refuse_in_passthrough(raw, upstream.capabilities, MESSAGES)
        if not upstream.capabilities.stored:
            _reject_vendor_ids(raw)
        raw["model"] = Raw(msgspec.json.encode(upstream.model))
        warnings: tuple[str, ...] = ()
        messages = raw.get("messages")
        if messages is not None and WRAPPED in bytes(messages):
            raw["messages"], warnings = _with_native_state(messages, upstream)
        betas = (("anthropic-beta", ",".join(inbound_request.betas)),) if inbound_request.betas else ()
        return UpstreamRequest(
            body=join_object(raw),
            stream=inbound_request.stream,
            headers=(("anthropic-version", inbound_request.version or FIRST_VERSION), *betas),
            warnings=warnings,
        )

    @override
    def decoder(self, upstream_request: UpstreamRequest, upstream: Upstream) -> StreamDecoder:
        decoder = MessagesStreamDecoder(upstream_request, upstream)
        return StopSequenceDecoder(decoder, upstream_request.stop) if upstream_request.stop else decoder

    @override
    def passthrough_stream(self, inbound_request: InboundRequest, upstream: Upstream) -> StreamDecoder:
        return PassthroughDecoder(
            MessagesScan(upstream.client_model), client_model=upstream.client_model, max_event=upstream.max_event
        )

    @override
    def decode(
        self, body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, *, received_at: datetime
    ) -> ir.Response:
        response = decode_response(body, upstream_request, upstream, received_at)
        return (
            fold(StopSequenceFilter(upstream_request.stop).feed(tuple(unfold(response))))
            if upstream_request.stop
            else response
        )

    @override
    def passthrough_response(self, body: bytes, inbound_request: InboundRequest, upstream: Upstream) -> ir.Batch:
        response = decode_response_body(body)
        events = (ir.UsageReported(decode_usage(response.usage)),) if response.usage else ()
        return ir.Batch(
            events, body if response.model == upstream.client_model else replace_model(body, upstream.client_model)
        )

    @override
    def encode_count(self, upstream_request: UpstreamRequest, upstream: Upstream) -> UpstreamRequest:
        return without(upstream_request, _NOT_COUNTED)

    @override
    def decode_count(self, body: bytes) -> int:
        return read_count(body, "input_tokens")

    @override
    def replays_reasoning(self, body: bytes) -> bool:
        return _THINKING_BLOCK.search(body) is not None

    @override
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        return decode_error(status, headers, body)


def _reject_vendor_ids(raw: dict[str, Raw]) -> None:
    """Refuse ids of files, containers and conversations that the vendor stores per API key."""
    if Node.of(raw, "thread") is not None:
        raise refusals.vendor_reference("thread")
    container = raw.get("container")
    if container is not None:
        node = Node.of(raw, "container")
        value = node.value if node is not None else None
        if isinstance(value, str) or (isinstance(value, dict) and value.get("id")):
            raise refusals.vendor_reference("container")
    reject_vendor_ids(raw, _FILES, within=("system", "messages"))
    reject_vendor_ids(raw, _SKILLS, within=("container",))


def _custom_skill(found: Mapping[str, Any]) -> tuple[str, ...]:
    return ("skill_id",) if found.get("type") == "custom" else ()


def _file_id(found: Mapping[str, Any]) -> tuple[str, ...] | None:
    if found.get("type") == "tool_use":
        return None  # a tool's arguments can't name a file of the vendor
    is_file = found.get("type") in {"file", "container_upload"} and isinstance(found.get("file_id"), str)
    return ("file_id",) if is_file else ()


_FILES = ReferencePattern("file_id", {"type", "file_id"}, _file_id)
_SKILLS = ReferencePattern("skill_id", {"type", "skill_id"}, _custom_skill)


def _with_native_state(messages: Raw, upstream: Upstream) -> tuple[Raw, tuple[str, ...]]:
    """Unwrap state that this upstream issued, and remove other wrapped state and foreign searches.

    The upstream would refuse another upstream's state that a caller got in Anthropic's format. Only called for bodies
    with wrapped state.
    """
    try:
        messages = decode(messages)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return messages, ()  # the upstream reports the error
    dropped = searched = False
    result: list[object] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            result.append(message)
            continue
        remaining = [block for block in content if not server_tools.is_foreign(block)]
        blocks = [native for block in remaining if (native := _native_block(block, upstream)) is not None]
        dropped |= len(blocks) < len(remaining)
        searched |= len(remaining) < len(content)
        if blocks:
            result.append({**message, "content": blocks})
    lost = (("dropped:reasoning",) if dropped else ()) + (("dropped:web_search",) if searched else ())
    return Raw(msgspec.json.encode(result)), lost


def _native_block(block: object, upstream: Upstream) -> object:
    if isinstance(block, dict) and isinstance(block.get("citations"), list):
        return {**block, "citations": [each for each in block["citations"] if not is_foreign(each)]}
    if not isinstance(block, dict) or block.get("type") not in {"thinking", "redacted_thinking"}:
        return block
    native: JSONObject = block
    data = native.get("signature") or native.get("data")
    seal = unwrap(data) if isinstance(data, str) else None
    if seal is None:
        return native
    if not seal.data or not usable(seal, upstream) or seal.kind == "encrypted":
        return None
    return thinking_block(str(native.get("thinking") or ""), seal)
