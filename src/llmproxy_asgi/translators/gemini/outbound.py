"""Call upstreams with Google's generateContent protocol.

Source: Google's Python SDK google-genai 3.4.0 and public documentation, read 2026-11-21; not tested against the
vendor's own endpoint. The model is in the path, so a request of the same protocol passes unchanged.
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
from llmproxy_asgi.errors import UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import Headers, InboundRequest, Outbound, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.gemini.errors import decode_error, error_in
from llmproxy_asgi.translators.gemini.framing import MANY
from llmproxy_asgi.translators.gemini.grounding import count_searches
from llmproxy_asgi.translators.gemini.hosted_tools import GEMINI
from llmproxy_asgi.translators.gemini.mappings import decode_usage
from llmproxy_asgi.translators.gemini.message_decoder import is_google_file
from llmproxy_asgi.translators.gemini.outline import both_spellings
from llmproxy_asgi.translators.gemini.passthrough import GeminiPassthrough, with_client_model
from llmproxy_asgi.translators.gemini.proto import find_items, find_key
from llmproxy_asgi.translators.gemini.request_encoder import encode_request
from llmproxy_asgi.translators.gemini.schema import CHUNK, PLACEHOLDER_SIGNATURE, PROTOCOL, Chunk, usage_object
from llmproxy_asgi.translators.gemini.stream_decoder import GeminiStreamDecoder
from llmproxy_asgi.translators.hosted_tools import refuse_in_passthrough, refuse_in_translation
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.translators.seals import unwrap, usable
from llmproxy_asgi.translators.stop_sequences import StopSequenceDecoder, StopSequenceFilter
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.translators.token_counts import read_count
from llmproxy_asgi.translators.vendor_references import ReferencePattern, reject_vendor_ids
from llmproxy_asgi.wire.json_body import decode

_WRAPPED_PREFIX = b"bGxtcHJveHkx"
"""The first bytes of every wrapped seal, in either base64 alphabet."""
_SIGNATURE = re.compile(rb'"thought_?[sS]ignature"\s*:\s*"(?!skip_thought_|context_engineering_)')
_UNREADABLE = "The upstream's answer cannot be read."

_REFERENCE_FIELDS = "file_?uri|file_?search_?store_?names|rag_?corpus|datastore"
_STORES = ("fileSearchStoreNames", "ragCorpus", "datastore")
"""Fields of tools that name Google's stores."""


class GeminiOutbound(Outbound):
    """The codec half for upstreams."""

    protocol: ClassVar[str] = PROTOCOL
    pauses: ClassVar[bool] = True
    many: ClassVar[tuple[str, ...]] = MANY
    stream_beginnings: ClassVar[tuple[bytes, ...]] = (*Outbound.stream_beginnings, b"[")

    @override
    def encode(self, request: ir.Request, upstream: Upstream) -> UpstreamRequest:
        refuse_in_translation(request, upstream.capabilities, GEMINI, protocol=PROTOCOL)
        return encode_request(request, upstream)

    @override
    def passthrough_request(self, inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
        values = dict(inbound_request.raw)
        refuse_in_passthrough(values, upstream.capabilities, GEMINI)
        if not upstream.capabilities.stored:
            _reject_vendor_ids(values)
        warnings: tuple[str, ...] = ()
        if "model" in values:
            values["model"] = raw(f"models/{upstream.model}")
        contents = values.get("contents")
        if contents is not None and _WRAPPED_PREFIX in bytes(contents):
            values["contents"], warnings = _with_native_state(contents, upstream)
        return UpstreamRequest(body=join_object(values), stream=inbound_request.stream, warnings=warnings)

    @override
    def decoder(self, upstream_request: UpstreamRequest, upstream: Upstream) -> StreamDecoder:
        decoder = GeminiStreamDecoder(upstream_request, upstream)
        return StopSequenceDecoder(decoder, upstream_request.stop) if upstream_request.stop else decoder

    @override
    def passthrough_stream(self, inbound_request: InboundRequest, upstream: Upstream) -> StreamDecoder:
        return GeminiPassthrough(inbound_request, upstream)

    @override
    def decode(
        self, body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, *, received_at: datetime
    ) -> ir.Response:
        try:
            events = GeminiStreamDecoder(upstream_request, upstream).decode_response(body, received_at)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise error_in(body) or UpstreamProtocolError(_UNREADABLE) from None
        return fold(StopSequenceFilter(upstream_request.stop).feed(events) if upstream_request.stop else events)

    @override
    def passthrough_response(self, body: bytes, inbound_request: InboundRequest, upstream: Upstream) -> ir.Batch:
        chunk = _read(body)
        search_count = max((count_searches(each.grounding_metadata) for each in chunk.candidates or ()), default=0)
        usage = usage_object(chunk.usage_metadata)
        events = (ir.UsageReported(decode_usage(usage, search_count)),) if usage else ()
        return ir.Batch(events, with_client_model(body, upstream.client_model))

    @override
    def encode_count(self, upstream_request: UpstreamRequest, upstream: Upstream) -> UpstreamRequest:
        values = split_object(upstream_request.body)
        if find_key(values, "contents") is None or len(values) > 1:
            # Fields other than contents are counted only in a complete request, which must repeat its model.
            values = {"generateContentRequest": Raw(join_object({"model": raw(f"models/{upstream.model}"), **values}))}
        return msgspec.structs.replace(upstream_request, body=join_object(values), stream=False)

    @override
    def decode_count(self, body: bytes) -> int:
        return read_count(body, "totalTokens")

    @override
    def replays_reasoning(self, body: bytes) -> bool:
        return _SIGNATURE.search(body) is not None

    @override
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        return decode_error(status, headers, body)


def _reject_vendor_ids(values: dict[str, Raw]) -> None:
    """Refuse ids of files, caches and stores that Google keeps per API key."""
    for key, cache in find_items(values, "cachedContent"):
        if bytes(cache) not in {b"null", b'""'}:
            raise refusals.vendor_reference(key)
    entries = ("contents", "systemInstruction", "system_instruction")
    reject_vendor_ids(values, _FILES, within=entries)
    reject_vendor_ids(values, _STORE_NAMES, within=("tools",))


def _files(found: Mapping[str, Any]) -> list[str] | None:
    for file, given in find_items(found, "fileData"):
        for uri, address in find_items(given, "fileUri") if isinstance(given, dict) else ():
            if isinstance(address, str) and is_google_file(address):
                return [f"{file}.{uri}"]
    for result, given in find_items(found, "functionResponse"):
        for key, parts in find_items(given, "parts") if isinstance(given, dict) else ():
            for number, part in enumerate(parts if isinstance(parts, list) else ()):
                if isinstance(part, dict) and (inner := _files(part)):
                    return [f"{result}.{key}[{number}].{inner[0]}"]
    if find_key(found, "functionCall") or find_key(found, "functionResponse"):
        return None  # a function's arguments and results can't name a file of Google's
    return []


def _stores(found: Mapping[str, Any]) -> list[str]:
    named = (entry for name in _STORES for entry in find_items(found, name))
    # A value of another type belongs to a parameter with that name.
    return [key for key, value in named if value and isinstance(value, str | list)]


_FILES = ReferencePattern(
    _REFERENCE_FIELDS, both_spellings("fileData", "fileUri", "functionResponse", "functionCall", "parts"), _files
)
_STORE_NAMES = ReferencePattern(_REFERENCE_FIELDS, both_spellings(*_STORES), _stores)


def _read(body: bytes) -> Chunk:
    try:
        chunk = decode_replaced(CHUNK, body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise error_in(body) or UpstreamProtocolError(_UNREADABLE) from None
    if (chunk.error is not None or not chunk.candidates) and (error := error_in(body)) is not None:
        raise error
    if not chunk.candidates and not (chunk.prompt_feedback or {}).get("blockReason"):
        raise UpstreamProtocolError("The upstream's answer holds no candidate.")
    return chunk


def _with_native_state(contents: Raw, upstream: Upstream) -> tuple[Raw, tuple[str, ...]]:
    """Unwrap state that this upstream issued, and remove other wrapped state.

    The upstream would refuse another upstream's state that a caller got in Google's format. Only called for bodies with
    wrapped state.
    """
    try:
        entries = decode(contents)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return contents, ()  # the upstream reports the error
    dropped = False
    result: list[object] = []
    for content in entries:
        parts = content.get("parts") if isinstance(content, dict) else None
        if not isinstance(parts, list):
            result.append(content)
            continue
        native, lost = _native_parts(parts, upstream)
        dropped |= lost
        if native:
            result.append({**content, "parts": native})
    return Raw(msgspec.json.encode(result)), ("dropped:reasoning",) if dropped else ()


def _native_parts(parts: list[object], upstream: Upstream) -> tuple[list[object], bool]:
    """Return the parts of one content, and whether state was removed; then thoughts are removed too: not Google's."""
    result: list[object] = []
    lost = False
    for part in parts:
        key = find_key(part, "thoughtSignature") if isinstance(part, dict) else None
        given = part[key] if key and isinstance(part, dict) else None
        seal = unwrap(given) if isinstance(given, str) else None
        if seal is None or key is None or not isinstance(part, dict):
            result.append(part)
        elif usable(seal, upstream) and seal.data:
            result.append({**part, key: seal.data})
        else:
            lost = True
            bare: JSONObject = {name: value for name, value in part.items() if name != key}
            if find_key(bare, "functionCall") and upstream.capabilities.thinking != "budget":
                bare["thoughtSignature"] = PLACEHOLDER_SIGNATURE
            if bare != {"text": ""}:
                result.append(bare)
    if lost:
        result = [part for part in result if not (isinstance(part, dict) and part.get("thought") is True)]
    return result, lost
