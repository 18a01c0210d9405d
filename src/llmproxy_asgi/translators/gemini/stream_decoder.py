"""Decode responses of a generateContent upstream into events: a stream's chunks, or a complete response as one chunk.

The parts of a chunk continue those of the last chunk: texts and thoughts are pieces, everything else is complete. There
is no end marker; a stream is complete if each candidate has a finish reason. So the ends of parts and candidates are
emitted at the stream's end, and late data (citations, counts, a finish reason after the last call) is still applied.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError, UpstreamError, UpstreamFailed, UpstreamProtocolError, UpstreamRefused
from llmproxy_asgi.translators.base import StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.custom_tools import unwrapped_input
from llmproxy_asgi.translators.gemini.errors import error_in
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
from llmproxy_asgi.translators.media import joined_base64, standard_base64
from llmproxy_asgi.translators.names import DistinctIds, derived
from llmproxy_asgi.translators.surrogates import SurrogateJoiner
from llmproxy_asgi.wire.surrogates import mark_halves, replace_halves

_NOTHING = ir.Batch(())
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
NO_FINISH_REASON = "The upstream's stream ended without a finish reason."


class GeminiStreamDecoder(StreamDecoder):
    """The decoder of one stream."""

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        self._upstream_request = upstream_request
        self._upstream = upstream
        self._frames = ChunkSplitter(upstream.max_event)
        self._candidates: dict[int, _CandidateDecoder] = {}
        self._started = False
        self._finished = False
        self._id = ""
        self._usage: JSONObject = {}
        self._last_usage = ABSENT
        self._searches = 0
        self._blocked: ir.Finish | None = None
        self._joiner: SurrogateJoiner | None = None

    @override
    def feed(self, data: bytes) -> ir.Batch:
        if self._finished:
            return _NOTHING
        events: list[ir.StreamEvent] = []
        try:
            for frame in self._frames.feed(data):
                try:
                    chunk = CHUNK.decode(frame)
                except _UNREADABLE:
                    chunk, frame = self._decode_marked(frame)  # noqa: PLW2901 - decoded again for an unknown part
                self._chunk(chunk, frame, events)
        except (UpstreamError, *_UNREADABLE) as error:
            return self._failed(events, error)
        return ir.Batch(events if self._joiner is None else self._joiner.join(events))

    def _decode_marked(self, frame: bytes) -> tuple[Chunk, bytes]:
        """Decode an invalid chunk: raise its error if it has one, else replace halves of surrogate pairs."""
        if (error := error_in(frame)) is not None:
            raise error
        marked = mark_halves(frame) or frame
        chunk = CHUNK.decode(marked)
        self._joiner = self._joiner or SurrogateJoiner()
        return chunk, marked

    @override
    def close(self) -> ir.Batch:
        if self._finished:
            return _NOTHING
        events: list[ir.StreamEvent] = []
        try:
            for frame in self._frames.close():
                self._chunk(*self._decode_marked(frame), events)
            self._end(events)
        except (UpstreamError, *_UNREADABLE) as error:
            return self._failed(events, error)
        self._finished = True
        return ir.Batch(events if self._joiner is None else self._joiner.join(events))

    def decode_response(self, body: bytes, received_at: datetime) -> list[ir.StreamEvent]:
        """Decode a complete response into events.

        Raises:
            UpstreamError: The body is no response, or is an error.
            msgspec.MsgspecError: The body can't be decoded.
        """
        body = replace_halves(body) or body
        chunk = CHUNK.decode(body)
        events: list[ir.StreamEvent] = []
        for candidate in chunk.candidates or ():
            self._candidate(candidate.index or 0).locate_parts(candidate)
        self._chunk(chunk, body, events, received_at)
        self._end(events)
        return events

    def _failed(self, events: list[ir.StreamEvent], error: Exception) -> ir.Batch:
        self._finished = True
        if not isinstance(error, GatewayError):
            error = UpstreamProtocolError("The upstream sent a chunk that cannot be read.")
        events.append(ir.Failed(error))
        return ir.Batch(events)

    def _chunk(self, chunk: Chunk, raw: bytes, events: list[ir.StreamEvent], date: datetime = ir.UNDATED) -> None:
        if chunk.error is not None or not chunk.candidates:
            self._chunk_without_candidates(chunk, raw)
        if chunk.usage_metadata is not ABSENT:
            self._last_usage = chunk.usage_metadata
        if not self._started:
            self._start(chunk, events, date)
        for position, candidate in enumerate(chunk.candidates or ()):
            number = candidate.index or 0
            decoder = self._candidates.get(number) or self._candidate(number)
            if candidate.logprobs_result:
                decoder.logprobs(candidate.logprobs_result, events)
            if candidate.content is not None:
                for number_in_content, part in enumerate(candidate.content.parts or ()):
                    if part.text is not None:
                        decoder.text(part.text, part, events)
                    else:
                        self._part(decoder, part, (raw, position, number_in_content), events)
            if candidate.finish_reason or candidate.grounding_metadata or candidate.citation_metadata:
                self._update_candidate(decoder, candidate, events)

    def _start(self, chunk: Chunk, events: list[ir.StreamEvent], date: datetime) -> None:
        self._refuse_malformed_call(chunk)
        self._started = True
        self._id = chunk.response_id or ""
        self._usage = usage_object(self._last_usage)
        usage = decode_usage(self._usage) if self._usage else None
        created_at = decode_timestamp(chunk.create_time, date)
        events.append(
            ir.Started(
                self._id, self._upstream.client_model, created_at, usage, None, ir.EMPTY, self._upstream_request.nonce
            )
        )

    def _refuse_malformed_call(self, chunk: Chunk) -> None:
        """Raise a failure, which may be retried, if the response is only a malformed call."""
        for candidate in chunk.candidates or ():
            reason = FINISH_IN.get(candidate.finish_reason or "")
            if reason is ir.FinishReason.MALFORMED_CALL and not (candidate.content and candidate.content.parts):
                raise UpstreamFailed("The upstream's model made a call that cannot be read.", code="malformed_call")

    def _candidate(self, number: int) -> "_CandidateDecoder":
        decoder = self._candidates.get(number)
        if decoder is None:
            decoder = self._candidates[number] = _CandidateDecoder(number, self._upstream, self._upstream_request.nonce)
        return decoder

    def _update_candidate(
        self, decoder: "_CandidateDecoder", candidate: Candidate, events: list[ir.StreamEvent]
    ) -> None:
        """Update a candidate from fields other than its content."""
        if candidate.grounding_metadata or candidate.citation_metadata:
            decoder.add_citations(candidate)
            decoder.grounding = candidate.grounding_metadata or decoder.grounding
            self._searches = max(self._searches, count_searches(candidate.grounding_metadata))
        if candidate.continuation_token:
            decoder.token = candidate.continuation_token
        native = candidate.finish_reason
        if native == MISSING_SIGNATURE:
            raise missing_signature_error()
        if not native or not native.strip() or native == UNSPECIFIED:
            return
        if native in FINISH_IN or decoder.reason not in FINISH_IN:  # the last known reason wins
            decoder.reason, decoder.message = native, candidate.finish_message

    def _chunk_without_candidates(self, chunk: Chunk, raw: bytes) -> None:
        """Decode a chunk without candidates or with an error: raise its error, or record a blocked prompt."""
        if (error := error_in(raw)) is not None:
            raise error
        if chunk.prompt_feedback and not chunk.candidates:
            self._feedback(chunk.prompt_feedback)

    def _feedback(self, feedback: JSONObject) -> None:
        native = feedback.get("blockReason")
        if isinstance(native, str) and native:
            message = feedback.get("blockReasonMessage")
            self._blocked = ir.Finish(
                reason=ir.FinishReason.CONTENT_FILTER,
                native=native,
                message=message if isinstance(message, str) and message else None,
            )

    def _part(
        self,
        decoder: "_CandidateDecoder",
        part: WirePart,
        location: tuple[bytes, int, int],
        events: list[ir.StreamEvent],
    ) -> None:
        if part.function_call is not None:
            self._call(decoder, part.function_call, part, events)
        elif part.inline_data is not None:
            decoder.media(part.inline_data, part, events)
        elif part.file_data is not None and part.file_data.file_uri:
            stored = ir.StoredFile(protocol=PROTOCOL, id=part.file_data.file_uri)
            decoder.add_part(_media(part.file_data.mime_type, stored), part, events)
        else:
            native = _native_part(*location)
            kind = next((key for key in native if key not in {"thought", "thoughtSignature"}), "")
            if kind:
                decoder.add_part(ir.Opaque(protocol=PROTOCOL, kind=kind, data=native), None, events)
            elif part.thought_signature:
                decoder.text("", part, events)

    def _call(
        self, decoder: "_CandidateDecoder", call: FunctionCall, part: WirePart, events: list[ir.StreamEvent]
    ) -> None:
        arguments = bytes(call.args).decode().strip() if call.args is not ABSENT else ""
        if call.partial_args or call.will_continue or decoder.partial is not None:
            if decoder.partial is None:
                decoder.partial = PartialCall(call.id or "", call.name or "", part.thought_signature)
            decoder.partial.add(call.partial_args or ())
            if call.will_continue:
                return
            partial, decoder.partial = decoder.partial, None
            restated = arguments if arguments.startswith("{") and arguments != "{}" else partial.arguments()
            call = FunctionCall(id=partial.call_id or call.id, name=partial.name or call.name)
            part = WirePart(thought_signature=part.thought_signature or partial.signature)
            arguments = restated  # from the last piece, if it restates them
        if not call.name:
            raise UpstreamProtocolError("The upstream called a function without a name.")
        seeds = (self._id, str(decoder.number), str(decoder.calls), call.name, arguments)
        call_id = decoder.call_ids.of(call.id or "", *seeds)
        custom = call.name in self._upstream_request.emulated
        arguments = "{}" if arguments in {"", "null"} else arguments
        decoder.calls += 1
        decoder.call(
            ir.ToolCall(
                call_id=self._upstream_request.call_ids.get(call_id, call_id),
                name=self._upstream_request.names.get(call.name, call.name),
                namespace=self._upstream_request.namespaces.get(call.name),
                arguments=unwrapped_input(arguments) if custom else arguments,
                kind="custom" if custom else "function",
            ),
            part,
            events,
        )

    def _end(self, events: list[ir.StreamEvent]) -> None:
        if not self._started:
            raise UpstreamProtocolError("The upstream sent an empty response.")
        finishes = [ir.Finished(0, self._blocked)] if self._blocked and not self._candidates else []
        for number, candidate in sorted(self._candidates.items()):
            if candidate.reason is None or candidate.partial is not None:
                raise UpstreamProtocolError(NO_FINISH_REASON)
            called = bool(candidate.calls)
            finish = decode_finish(candidate.reason, candidate.message, called=called, token=candidate.token)
            finishes.append(ir.Finished(number, finish))
        if not finishes:
            raise UpstreamProtocolError(NO_FINISH_REASON)
        for candidate in self._candidates.values():
            candidate.close(events)
            if self._upstream_request.shows_searches:
                for part in search_parts(
                    candidate.grounding,
                    derived("search_", self._id, str(candidate.number), self._upstream_request.nonce),
                ):
                    candidate.add_part(part, None, events)
        events += finishes
        usage = {**self._usage, **usage_object(self._last_usage)}
        if usage:
            events.append(ir.UsageReported(decode_usage(usage, self._searches)))
        events.append(ir.Ended())


class _CandidateDecoder:
    """The decoder of one candidate; one part is open at a time, the last one until the stream's end."""

    __slots__ = (
        "_base",
        "_citations",
        "_index",
        "_kind",
        "_media",
        "_part_offsets",
        "_parts",
        "_pieces",
        "_seals",
        "_tokens",
        "_upstream",
        "call_ids",
        "calls",
        "grounding",
        "message",
        "number",
        "partial",
        "reason",
        "token",
    )

    def __init__(self, number: int, upstream: Upstream, nonce: str) -> None:
        self.number = number
        self.calls = 0
        self.call_ids = DistinctIds(nonce)
        self.grounding: JSONObject | None = None
        self.reason: str | None = None
        self.message: str | None = None
        self.token: str | None = None
        self.partial: PartialCall | None = None
        self._upstream = upstream
        self._parts = 0
        self._kind = ""
        self._index = -1
        self._pieces: list[str] = []
        self._seals: list[ir.Seal] = []
        self._media: ir.Media | None = None
        self._base = 0
        self._part_offsets: dict[int, int] = {}
        self._citations: dict[tuple[object, ...], LocatedCitation] = {}
        self._tokens: tuple[ir.TokenLogprob, ...] = ()

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

    def text(self, text: str, part: WirePart, events: list[ir.StreamEvent]) -> None:
        """Decode a piece of text or of a thought."""
        kind = "thought" if part.thought else "text"
        signature = part.thought_signature
        if self._kind != kind or (signature and not text and kind == "text"):
            if not text and not signature:
                return
            self.close(events)
            self._open(kind, ir.Reasoning(style="summary") if part.thought else ir.Text(text=""), events)
        if text:
            self._pieces.append(text)
            delta = ir.ReasoningDelta(text) if part.thought else ir.TextDelta(text)
            events.append(ir.PartDelta(self.number, self._index, delta))
        if signature:
            self._seal(signature, events)
            self.close(events)

    def call(self, call: ir.ToolCall, part: WirePart, events: list[ir.StreamEvent]) -> None:
        """Decode a call, which is always complete."""
        self.close(events)
        if part.thought_signature:  # set at the start, for protocols that put state before a call
            call = msgspec.structs.replace(call, seals=(self._new_seal(part.thought_signature),))
        self._open("call", msgspec.structs.replace(call, arguments=""), events)
        events.append(ir.PartDelta(self.number, self._index, ir.ArgumentsDelta(call.arguments)))
        events.append(ir.PartEnded(self.number, self._index, call))
        self._kind = ""

    def media(self, blob: Blob, part: WirePart, events: list[ir.StreamEvent]) -> None:
        """Decode a complete image or file, or a piece of audio."""
        data = standard_base64(blob.data or "")
        kind = media_kind(blob.mime_type)
        if kind != "audio":
            self.add_part(_media(blob.mime_type, ir.InlineData(data=data)), part, events)
            return
        if self._kind != "audio" or self._media is None or self._media.media_type != blob.mime_type:
            self.close(events)
            self._media = _media(blob.mime_type, ir.InlineData(data=""))
            self._open("audio", self._media, events)
        self._pieces.append(data)
        events.append(ir.PartDelta(self.number, self._index, ir.MediaDelta(data)))
        if part.thought_signature:
            self._seal(part.thought_signature, events)

    def add_part(self, decoded: ir.Part, part: WirePart | None, events: list[ir.StreamEvent]) -> None:
        """Add a complete part."""
        self.close(events)
        self._open("complete", decoded, events)
        if part is not None and part.thought_signature:
            self._seal(part.thought_signature, events)
            decoded = msgspec.structs.replace(decoded, seals=tuple(self._seals))
        events.append(ir.PartEnded(self.number, self._index, decoded))
        self._kind = ""

    def logprobs(self, native: msgspec.Raw, events: list[ir.StreamEvent]) -> None:
        """Emit this chunk's log probabilities with the open part, or else with the next."""
        self._tokens += decode_logprobs(native)
        if self._kind:
            self._emit_logprobs(events)

    def close(self, events: list[ir.StreamEvent]) -> None:
        """End the open part."""
        kind, self._kind = self._kind, ""
        if not kind:
            return
        part: ir.Part | None = None
        text = "".join(self._pieces)
        seals = tuple(self._seals)
        citations: tuple[ir.Citation, ...] = ()
        if kind == "text":
            citations = tuple(citations_in_text(self._citations.values(), text, self._base)) if self._citations else ()
            self._base += len(text.encode("utf-8", "surrogatepass"))
            events += [ir.PartDelta(self.number, self._index, ir.CitationDelta(citation)) for citation in citations]
            part = ir.Text(text=text, citations=citations, seals=seals) if seals else None
        elif kind == "thought":
            part = ir.Reasoning(text=text, style="summary", seals=seals) if seals else None
        elif kind == "audio" and self._media is not None:
            part = msgspec.structs.replace(self._media, source=_joined_audio(self._pieces), seals=seals)
        events.append(ir.PartEnded(self.number, self._index, part))

    def _open(self, kind: str, header: ir.Part, events: list[ir.StreamEvent]) -> None:
        self._kind = kind
        self._index = self._parts
        self._parts += 1
        self._pieces = []
        self._seals = []
        events.append(ir.PartStarted(self.number, self._index, header))
        self._emit_logprobs(events)

    def _emit_logprobs(self, events: list[ir.StreamEvent]) -> None:
        tokens, self._tokens = self._tokens, ()
        if tokens:
            events.append(ir.PartDelta(self.number, self._index, ir.LogprobsDelta(tokens)))

    def _seal(self, signature: str, events: list[ir.StreamEvent]) -> None:
        seal = self._new_seal(signature)
        self._seals.append(seal)
        events.append(ir.PartDelta(self.number, self._index, ir.SealDelta(seal)))

    def _new_seal(self, signature: str) -> ir.Seal:
        upstream = self._upstream
        data = standard_base64(signature)
        return ir.Seal(issuer=upstream.issuer, model=upstream.model, kind="signature", data=data)


def _media(media_type: str | None, source: ir.Source) -> ir.Media:
    return ir.Media(kind=media_kind(media_type), source=source, media_type=media_type)


def _joined_audio(pieces: Sequence[str]) -> ir.InlineData:
    try:
        return ir.InlineData(data=joined_base64(pieces))
    except ValueError:
        raise UpstreamProtocolError("The upstream sent audio that cannot be decoded.") from None


def _native_part(raw: bytes, candidate: int, part: int) -> JSONObject:
    """Return an unknown part as plain JSON values."""
    native: JSONObject = msgspec.json.decode(raw)["candidates"][candidate]["content"]["parts"][part]
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
