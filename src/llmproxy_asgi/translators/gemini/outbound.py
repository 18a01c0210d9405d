"""Calling an upstream that speaks Google's generateContent.

Source: Google's Python SDK google-genai 3.4.0 and public documentation, read 2026-11-21; nothing here was tried on the
vendor's own endpoint. The model stands in the path, so a request of this very protocol goes on as it came.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

import msgspec
from msgspec import Raw
from typing_extensions import override

from llmproxy_asgi.conversation import Batch, JSONObject, Request, Response, UsageReported
from llmproxy_asgi.errors import UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import Headers, Intake, Outbound, Outgoing, StreamDecoder, Upstream
from llmproxy_asgi.translators.counts import read_count
from llmproxy_asgi.translators.gemini.errors import decode_error, error_in
from llmproxy_asgi.translators.gemini.grounding import searches
from llmproxy_asgi.translators.gemini.hosted_tools import GEMINI
from llmproxy_asgi.translators.gemini.mappings import decode_usage
from llmproxy_asgi.translators.gemini.message_decoder import is_own_file
from llmproxy_asgi.translators.gemini.outline import both_spellings
from llmproxy_asgi.translators.gemini.passthrough import ChunkRelay, with_name
from llmproxy_asgi.translators.gemini.proto import either, spelled
from llmproxy_asgi.translators.gemini.request_encoder import encode_request
from llmproxy_asgi.translators.gemini.schema import CHUNK, PROTOCOL, STAND_IN, Chunk, usage_object
from llmproxy_asgi.translators.gemini.stream_decoder import ChunkStream
from llmproxy_asgi.translators.hosted_tools import refuse_encoded, refuse_spliced
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.translators.seals import unwrap, usable
from llmproxy_asgi.translators.stops import StoppingDecoder, Stops
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.translators.vendor_references import ReferencePattern, reject_vendor_ids
from llmproxy_asgi.wire.json_body import decode

_WRAPPED = b"bGxtcHJveHkx"
"""How every wrapped seal begins, in either alphabet."""
_SIGNATURE = re.compile(rb'"thought_?[sS]ignature"\s*:\s*"(?!skip_thought_|context_engineering_)')
_UNREADABLE = "The upstream's answer cannot be read."

_KEPT = "file_?uri|file_?search_?store_?names|rag_?corpus|datastore"
_STORES = ("fileSearchStoreNames", "ragCorpus", "datastore")
"""What tools may name of Google's stores."""


class GeminiOutbound(Outbound):
    """The half that calls upstreams."""

    protocol: ClassVar[str] = PROTOCOL
    pauses: ClassVar[bool] = True
    many: ClassVar[tuple[str, ...]] = ("candidates", "*", "logprobsResult", "*", "*")
    stream_beginnings: ClassVar[tuple[bytes, ...]] = (*Outbound.stream_beginnings, b"[")

    @override
    def encode(self, request: Request, upstream: Upstream) -> Outgoing:
        refuse_encoded(request, upstream.capabilities, GEMINI, protocol=PROTOCOL)
        return encode_request(request, upstream)

    @override
    def splice(self, intake: Intake, upstream: Upstream) -> Outgoing:
        values = dict(intake.raw)
        refuse_spliced(values, upstream.capabilities, GEMINI)
        if not upstream.capabilities.stored:
            _reject_vendor_ids(values)
        warnings: tuple[str, ...] = ()
        if "model" in values:
            values["model"] = raw(f"models/{upstream.model}")
        contents = values.get("contents")
        if contents is not None and _WRAPPED in bytes(contents):
            values["contents"], warnings = _with_native_state(contents, upstream)
        return Outgoing(body=join_object(values), stream=intake.stream, warnings=warnings)

    @override
    def decoder(self, outgoing: Outgoing, upstream: Upstream) -> StreamDecoder:
        decoder = ChunkStream(outgoing, upstream)
        return StoppingDecoder(decoder, outgoing.stop) if outgoing.stop else decoder

    @override
    def relay(self, intake: Intake, upstream: Upstream) -> StreamDecoder:
        return ChunkRelay(intake, upstream)

    @override
    def decode(self, body: bytes, outgoing: Outgoing, upstream: Upstream, *, received_at: datetime) -> Response:
        try:
            events = ChunkStream(outgoing, upstream).whole(body, received_at)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise error_in(body) or UpstreamProtocolError(_UNREADABLE) from None
        return fold(Stops(outgoing.stop).feed(events) if outgoing.stop else events)

    @override
    def restore(self, body: bytes, intake: Intake, upstream: Upstream) -> Batch:
        answer = _read(body)
        found = max((searches(each.grounding_metadata) for each in answer.candidates or ()), default=0)
        usage = usage_object(answer.usage_metadata)
        events = (UsageReported(decode_usage(usage, found)),) if usage else ()
        return Batch(events, with_name(body, upstream.asked))

    @override
    def encode_count(self, outgoing: Outgoing, upstream: Upstream) -> Outgoing:
        values = split_object(outgoing.body)
        if spelled(values, "contents") is None or len(values) > 1:
            # Whatever is more than contents is counted only as a whole request, which names its model once more.
            values = {"generateContentRequest": Raw(join_object({"model": raw(f"models/{upstream.model}"), **values}))}
        return msgspec.structs.replace(outgoing, body=join_object(values), stream=False)

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
    """Refuse what names a file, a cache or a store of Google's, who keeps them for whoever has the key."""
    for key, cache in either(values, "cachedContent"):
        if bytes(cache) not in {b"null", b'""'}:
            raise refusals.vendor_reference(key)
    turns = ("contents", "systemInstruction", "system_instruction")
    reject_vendor_ids(values, _FILES, within=turns)
    reject_vendor_ids(values, _STORE_NAMES, within=("tools",))


def _files(found: Mapping[str, Any]) -> list[str] | None:
    for file, given in either(found, "fileData"):
        for uri, address in either(given, "fileUri") if isinstance(given, dict) else ():
            if isinstance(address, str) and is_own_file(address):
                return [f"{file}.{uri}"]
    for result, given in either(found, "functionResponse"):
        for key, parts in either(given, "parts") if isinstance(given, dict) else ():
            for number, part in enumerate(parts if isinstance(parts, list) else ()):
                if isinstance(part, dict) and (inner := _files(part)):
                    return [f"{result}.{key}[{number}].{inner[0]}"]
    if spelled(found, "functionCall") or spelled(found, "functionResponse"):
        return None  # what functions are called with and what they answer is no file of Google's
    return []


def _stores(found: Mapping[str, Any]) -> list[str]:
    named = (entry for name in _STORES for entry in either(found, name))
    return [key for key, value in named if value and isinstance(value, str | list)]  # else a parameter of that name


_FILES = ReferencePattern(
    _KEPT, both_spellings("fileData", "fileUri", "functionResponse", "functionCall", "parts"), _files
)
_STORE_NAMES = ReferencePattern(_KEPT, both_spellings(*_STORES), _stores)


def _read(body: bytes) -> Chunk:
    try:
        answer = decode_replaced(CHUNK, body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise error_in(body) or UpstreamProtocolError(_UNREADABLE) from None
    if (answer.error is not None or not answer.candidates) and (error := error_in(body)) is not None:
        raise error
    if not answer.candidates and not (answer.prompt_feedback or {}).get("blockReason"):
        raise UpstreamProtocolError("The upstream's answer holds no candidate.")
    return answer


def _with_native_state(contents: Raw, upstream: Upstream) -> tuple[Raw, tuple[str, ...]]:
    """The conversation with state that we wrapped taken out, or put back where this upstream made it.

    A caller who talked to somebody else before holds that upstream's state in Google's clothes, and would be refused
    with it. Bodies without wrapped state never come here.
    """
    try:
        turns = decode(contents)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return contents, ()  # the upstream says what is wrong with it
    dropped = False
    kept: list[object] = []
    for turn in turns:
        parts = turn.get("parts") if isinstance(turn, dict) else None
        if not isinstance(parts, list):
            kept.append(turn)
            continue
        native, lost = _native_parts(parts, upstream)
        dropped |= lost
        if native:
            kept.append({**turn, "parts": native})
    return Raw(msgspec.json.encode(kept)), ("dropped:reasoning",) if dropped else ()


def _native_parts(parts: list[object], upstream: Upstream) -> tuple[list[object], bool]:
    """The parts of one content, and whether state had to go. Then the thoughts go as well: they are not Google's."""
    kept: list[object] = []
    lost = False
    for part in parts:
        key = spelled(part, "thoughtSignature") if isinstance(part, dict) else None
        given = part[key] if key and isinstance(part, dict) else None
        seal = unwrap(given) if isinstance(given, str) else None
        if seal is None or key is None or not isinstance(part, dict):
            kept.append(part)
        elif usable(seal, upstream) and seal.data:
            kept.append({**part, key: seal.data})
        else:
            lost = True
            bare: JSONObject = {name: value for name, value in part.items() if name != key}
            if spelled(bare, "functionCall") and upstream.capabilities.thinking != "budget":
                bare["thoughtSignature"] = STAND_IN
            if bare != {"text": ""}:
                kept.append(bare)
    if lost:
        kept = [part for part in kept if not (isinstance(part, dict) and part.get("thought") is True)]
    return kept, lost
