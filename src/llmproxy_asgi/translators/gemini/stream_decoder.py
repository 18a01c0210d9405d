"""Decode responses of a generateContent upstream into events: a stream's chunks, or a complete response as one chunk.

The parts of a chunk continue those of the last chunk: texts and thoughts are pieces, everything else is complete. There
is no end marker; a stream is complete if each candidate has a finish reason. So the ends of parts and candidates are
emitted at the stream's end, and late data (citations, counts, a finish reason after the last call) is still applied.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import UpstreamFailed, UpstreamProtocolError, UpstreamRefused
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.events import (
    CandidateBuilder,
    EventBuilder,
    KeptBuilder,
    MediaBuilder,
    PartBuilder,
)
from llmproxy_asgi.translators.codec.sse import UNREADABLE, JSONEventDecoder
from llmproxy_asgi.translators.gemini.errors import error_in, stream_error
from llmproxy_asgi.translators.gemini.framing import ChunkSplitter
from llmproxy_asgi.translators.gemini.grounding import (
    LocatedCitation,
    citations_in_text,
    count_searches,
    decode_grounding,
    search_parts,
)
from llmproxy_asgi.translators.gemini.mappings import (
    FINISH_IN,
    MISSING_SIGNATURE,
    UNSPECIFIED,
    decode_finish,
    decode_logprobs,
    decode_usage,
    media_kind,
)
from llmproxy_asgi.translators.gemini.partial_args import PartialCall
from llmproxy_asgi.translators.gemini.schema import (
    ABSENT,
    CHUNK,
    PROTOCOL,
    Blob,
    Candidate,
    Chunk,
    FunctionCall,
    usage_object,
)
from llmproxy_asgi.translators.gemini.schema import Part as WirePart
from llmproxy_asgi.translators.media import standard_base64
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.surrogates import decode_marked
from llmproxy_asgi.wire.surrogates import replace_halves

NO_FINISH_REASON = "The upstream's stream ended without a finish reason."
_TEXT, _REASONING = ir.TextDelta, ir.ReasoningDelta
_ANYTHING = msgspec.json.Decoder(Any)


class GeminiCandidate(CandidateBuilder):
    """One candidate; one part is open at a time, the last one until the stream's end."""

    builders: ClassVar[Mapping[type[ir.PartBase], type[PartBuilder]]] = {
        **CandidateBuilder.builders,
        ir.Text: KeptBuilder,  # for citations, whose offsets are in bytes
    }

    def __init__(self, number: int, events: EventBuilder[Any]) -> None:
        super().__init__(number, events)
        self.grounding: JSONObject | None = None
        self.reason: str | None = None
        self.message: str | None = None
        self.token: str | None = None
        self.partial: PartialCall | None = None
        self._base = 0
        """Bytes of the ended texts."""
        self._part_offsets: dict[int, int] = {}
        self._citations: dict[tuple[object, ...], LocatedCitation] = {}

    def locate_parts(self, candidate: Candidate) -> None:
        """Record the offsets of a complete response's parts, then its citations, whose offsets start at their part."""
        parts = candidate.content.parts if candidate.content else None
        base = 0
        for number, part in enumerate(parts or ()):
            self._part_offsets[number] = base
            if part.text and not part.thought:
                base += len(part.text.encode("utf-8", "surrogatepass"))
        self.add_citations(candidate)

    def add_citations(self, candidate: Candidate) -> None:
        """Record a candidate's citations."""
        for found in decode_grounding(candidate.grounding_metadata, candidate.citation_metadata, self._part_offsets):
            citation = found.citation
            key = (found.start, found.end, citation.kind, citation.url, citation.title, citation.cited_text)
            self._citations.setdefault(key, found)  # chunks may repeat citations

    @override
    def ending(self, part: PartBuilder) -> None:
        if isinstance(part, KeptBuilder) and part.kind is _TEXT:
            text = part.text
            if self._citations:
                for citation in citations_in_text(self._citations.values(), text, self._base):
                    part.cite(citation)
            self._base += len(text.encode("utf-8", "surrogatepass"))


class GeminiStreamDecoder(JSONEventDecoder[GeminiCandidate]):
    """The decoder of one response."""

    candidate: ClassVar[type[GeminiCandidate]] = GeminiCandidate
    error = staticmethod(stream_error)
    find_error = staticmethod(error_in)

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        super().__init__(upstream_request, upstream)
        self._frames = ChunkSplitter(upstream.max_event)
        self._complete = self._frames.feed
        self._candidates = self._events.candidates
        self._started = False
        self._id = ""
        self._usage: JSONObject = {}
        self._last_usage = ABSENT
        self._searches = 0
        self._blocked: ir.Finish | None = None

    def decode_response(self, body: bytes, received_at: datetime) -> list[ir.StreamEvent]:
        """Decode a complete response into events.

        Raises:
            UpstreamError: The body is no response, or is an error.
            msgspec.MsgspecError: The body can't be decoded.
        """
        body = replace_halves(body) or body
        chunk = CHUNK.decode(body)
        for candidate in chunk.candidates or ():
            self._events.candidate(candidate.index or 0).locate_parts(candidate)
        self._chunk(chunk, body, received_at)
        self.end()
        return self._events.take()

    @override
    def block(self, block: Sequence[bytes]) -> None:
        for data in block:
            try:
                chunk = CHUNK.decode(data)
            except UNREADABLE:
                chunk = self.repaired(CHUNK, data)
            self._chunk(chunk, data)

    @override
    def event(self, name: str | None, data: bytes) -> None:
        self.block((data,))

    @override
    def tail(self) -> Sequence[bytes]:
        return self._frames.close()

    @override
    def end(self) -> None:
        events, candidates = self._events, self._candidates
        if not self._started:
            raise UpstreamProtocolError("The upstream sent an empty response.")
        if not candidates and self._blocked is not None:
            events.candidate(0).finish(self._blocked)
        elif not candidates or any(each.reason is None or each.partial for each in candidates.values()):
            raise UpstreamProtocolError(NO_FINISH_REASON)
        else:
            for candidate in candidates.values():
                self._close(candidate)
            for _, candidate in sorted(candidates.items()):
                candidate.finish(decode_finish(candidate.reason or "", candidate.message, token=candidate.token))
        usage = {**self._usage, **usage_object(self._last_usage)}
        events.end(decode_usage(usage, self._searches) if usage else None)

    def _close(self, candidate: GeminiCandidate) -> None:
        candidate.close()
        if self._upstream_request.shows_searches:
            search_id = derived("search_", self._id, str(candidate.number), self._upstream_request.nonce)
            for part in search_parts(candidate.grounding, search_id):
                candidate.whole(part)

    # ── chunks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _chunk(self, chunk: Chunk, raw: bytes, date: datetime = ir.UNDATED) -> None:
        if chunk.usage_metadata is not ABSENT:
            self._last_usage = chunk.usage_metadata
        if chunk.error is not None or not self._started or not chunk.candidates:
            self._begin(chunk, raw, date)
        for position, candidate in enumerate(chunk.candidates or ()):
            number = candidate.index or 0
            builder = self._candidates.get(number) or self._events.candidate(number)
            if candidate.logprobs_result:
                builder.logprobs(decode_logprobs(candidate.logprobs_result))
            if candidate.content is not None:
                for number_in_content, part in enumerate(candidate.content.parts or ()):
                    text, current = part.text, builder.current
                    if (
                        text
                        and current is not None
                        and current.kind is (_REASONING if part.thought else _TEXT)
                        and part.thought_signature is None
                    ):
                        current.append(text)
                    elif text is None and part.function_call is not None:
                        self._call(builder, part.function_call, part)
                    else:
                        self._part(builder, part, (raw, position, number_in_content))
            if candidate.finish_reason or candidate.grounding_metadata or candidate.citation_metadata:
                self._update_candidate(builder, candidate)

    def _begin(self, chunk: Chunk, raw: bytes, date: datetime) -> None:
        """Decode what is beside the candidates of the first chunk, or of one without any."""
        if chunk.error is not None or not chunk.candidates:
            self._chunk_without_candidates(chunk, raw)
        if self._started:
            return
        self._refuse_malformed_call(chunk)
        self._started = True
        self._id = chunk.response_id or ""
        self._usage = usage_object(self._last_usage)
        usage = decode_usage(self._usage) if self._usage else None
        self._events.start(self._id, self._upstream.client_model, decode_timestamp(chunk.create_time, date), usage)

    def _refuse_malformed_call(self, chunk: Chunk) -> None:
        """Raise a failure, which may be retried, if the response is only a malformed call."""
        for candidate in chunk.candidates or ():
            reason = FINISH_IN.get(candidate.finish_reason or "")
            if reason is ir.FinishReason.MALFORMED_CALL and not (candidate.content and candidate.content.parts):
                raise UpstreamFailed("The upstream's model made a call that cannot be read.", code="malformed_call")

    def _update_candidate(self, builder: GeminiCandidate, candidate: Candidate) -> None:
        """Update a candidate from fields other than its content."""
        if candidate.grounding_metadata or candidate.citation_metadata:
            builder.add_citations(candidate)
            builder.grounding = candidate.grounding_metadata or builder.grounding
            self._searches = max(self._searches, count_searches(candidate.grounding_metadata))
        if candidate.continuation_token:
            builder.token = candidate.continuation_token
        native = candidate.finish_reason
        if native == MISSING_SIGNATURE:
            raise missing_signature_error()
        if not native or not native.strip() or native == UNSPECIFIED:
            return
        if native in FINISH_IN or builder.reason not in FINISH_IN:  # the last known reason wins
            builder.reason, builder.message = native, candidate.finish_message

    def _chunk_without_candidates(self, chunk: Chunk, raw: bytes) -> None:
        """Decode a chunk without candidates or with an error: raise its error, or record a blocked prompt."""
        if (error := error_in(raw)) is not None:
            raise error
        feedback = chunk.prompt_feedback or {}
        native, message = feedback.get("blockReason"), feedback.get("blockReasonMessage")
        if not chunk.candidates and isinstance(native, str) and native:
            self._blocked = ir.Finish(
                reason=ir.FinishReason.CONTENT_FILTER,
                native=native,
                message=message if isinstance(message, str) and message else None,
            )

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _text(self, candidate: GeminiCandidate, text: str, part: WirePart) -> None:
        """Decode a piece of text or of a thought."""
        if not text and not part.thought_signature:
            return
        current = candidate.current
        separate = bool(part.thought_signature and not text and not part.thought)
        if separate or current is None or current.kind is not (_REASONING if part.thought else _TEXT):
            current = candidate.switch(ir.Reasoning(style="summary") if part.thought else ir.Text(text=""))
        if text:
            current.append(text)
        if part.thought_signature:
            current.seal(self._seal(part.thought_signature))
            candidate.close()

    def _part(self, candidate: GeminiCandidate, part: WirePart, location: tuple[bytes, int, int]) -> None:
        if part.text is not None:
            self._text(candidate, part.text, part)
        elif part.inline_data is not None:
            self._media(candidate, part.inline_data, part)
        elif part.file_data is not None and part.file_data.file_uri:
            stored = ir.StoredFile(protocol=PROTOCOL, id=part.file_data.file_uri)
            self._whole(candidate, _media(part.file_data.mime_type, stored), part)
        else:
            native = _native_part(*location)
            kind = next((key for key in native if key not in {"thought", "thoughtSignature"}), "")
            if kind:
                candidate.close()
                candidate.whole(ir.Opaque(protocol=PROTOCOL, kind=kind, data=native))
            elif part.thought_signature:
                self._text(candidate, "", part)

    def _whole(self, candidate: GeminiCandidate, decoded: ir.Part, part: WirePart) -> None:
        """Add a complete part."""
        whole = candidate.switch(decoded)
        if part.thought_signature:
            whole.seal(self._seal(part.thought_signature))
        candidate.close()

    def _media(self, candidate: GeminiCandidate, blob: Blob, part: WirePart) -> None:
        """Decode a complete image or file, or a piece of audio."""
        data = standard_base64(blob.data or "")
        if media_kind(blob.mime_type) != "audio":
            self._whole(candidate, _media(blob.mime_type, ir.InlineData(data=data)), part)
            return
        audio, header = candidate.current, _media(blob.mime_type, ir.InlineData(data=""))
        if not isinstance(audio, MediaBuilder) or audio.header != header:
            candidate.switch(header, audio := MediaBuilder(candidate))
        audio.add(data)
        if part.thought_signature:
            audio.seal(self._seal(part.thought_signature))

    def _call(self, candidate: GeminiCandidate, call: FunctionCall, part: WirePart) -> None:
        """Decode a call, which is complete, or a piece of one."""
        arguments = bytes(call.args).decode().strip() if call.args is not ABSENT else ""
        signature = part.thought_signature
        if call.partial_args or call.will_continue or candidate.partial is not None:
            partial = candidate.partial or PartialCall(call.id or "", call.name or "", signature)
            partial.add(call.partial_args or ())
            candidate.partial = partial if call.will_continue else None
            if call.will_continue:
                return
            call = FunctionCall(id=partial.call_id or call.id, name=partial.name or call.name)
            signature = signature or partial.signature
            if not arguments.startswith("{") or arguments == "{}":  # else the last piece restates them
                arguments = partial.arguments()
        candidate.close()
        name = call.name or ""
        builder = candidate.call()
        # Its seal is set at the start, for protocols that put state before a call.
        seals = (self._seal(signature),) if signature else ()
        seeds = (self._id, str(candidate.number), str(candidate.count), name, arguments)
        builder.start(name, call.id or "", *seeds, seals=seals)
        builder.append("" if arguments == "null" else arguments)
        builder.end()

    def _seal(self, signature: str) -> ir.Seal:
        upstream = self._upstream
        data = standard_base64(signature)
        return ir.Seal(issuer=upstream.issuer, model=upstream.model, kind="signature", data=data)


def _media(media_type: str | None, source: ir.Source) -> ir.Media:
    return ir.Media(kind=media_kind(media_type), source=source, media_type=media_type)


def _native_part(raw: bytes, candidate: int, part: int) -> JSONObject:
    """Return an unknown part as plain JSON values."""
    whole: Any = decode_marked(_ANYTHING, raw)
    native: JSONObject = whole["candidates"][candidate]["content"]["parts"][part]
    return native


def missing_signature_error() -> UpstreamRefused:
    """Return the error for a missing signature, which the request must fix."""
    return UpstreamRefused("The upstream requires the signature of an earlier call.", code="missing_thought_signature")


def decode_timestamp(text: str | None, otherwise: datetime = ir.UNDATED) -> datetime:
    """Decode the time when the upstream started."""
    try:
        found = datetime.fromisoformat(text) if text else otherwise
    except ValueError:
        return otherwise
    return found if found.tzinfo else found.replace(tzinfo=UTC)
