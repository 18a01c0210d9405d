"""Decode an upstream's stream of chunks.

It tolerates deviations of compatible servers: missing or repeated roles, null deltas, empty or missing `choices`, a
call's id and name late, repeated or missing, index 0 for all parallel calls, usage in any chunk, two finish reasons, no
`[DONE]`. A stream that breaks the protocol ends with `Failed`; nothing is raised.

A candidate's finish is emitted at the stream's end, because some servers send it before their last content; the last
known reason counts. A stream is complete if each candidate has a finish reason; `[DONE]` is not enough.
"""

from typing import Any, Literal

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.answer_bounds import event_check
from llmproxy_asgi.translators.base import StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.custom_tools import unwrapped_input
from llmproxy_asgi.translators.media import standard_base64
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.errors import decode_error_object, error_in
from llmproxy_asgi.translators.openai.mappings import TIER_IN, dated
from llmproxy_asgi.translators.openai_chat.candidates import OpenCall, OpenCandidate, find_call
from llmproxy_asgi.translators.openai_chat.mappings import (
    FAILED,
    MANY,
    PROTOCOL,
    decode_annotation,
    decode_finish,
    decode_logprobs,
    decode_usage,
    usage_of,
)
from llmproxy_asgi.translators.openai_chat.reasoning import Detail, decode_seal, google_signature, read_details
from llmproxy_asgi.translators.openai_chat.schema import (
    ABSENT,
    CHUNK,
    COUNTED_CHUNK,
    MESSAGE,
    NEXT_CHUNK,
    CallDelta,
    Chunk,
    ChunkChoice,
    Delta,
    NextChunk,
)
from llmproxy_asgi.translators.restated_text import unstreamed_suffix
from llmproxy_asgi.translators.stray_errors import read_loosely
from llmproxy_asgi.translators.surrogates import SurrogateJoiner, decode_marked, decode_replaced
from llmproxy_asgi.wire.sse import EventTooLarge, Frame, FrameSplitter, decode, only_data

_IS_CROWDED = event_check(MANY)
_NO_EVENTS = ir.Batch(())
_BLANK = b"\n\n"
_AUDIO_FIELDS = ("data", "transcript", "id")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def started(chunk: Any, upstream: Upstream, nonce: str = "") -> ir.Started:
    """Return the first event, from the first chunk with content (or the fields that passthrough reads of it)."""
    return ir.Started(
        chunk.id or derived("chatcmpl-", upstream.model, str(chunk.created), nonce),
        upstream.client_model,
        dated(chunk.created),
        None,
        TIER_IN.get(chunk.service_tier) if type(chunk.service_tier) is str else None,
        ir.EMPTY,
        nonce,
    )


class ChatStreamDecoder(StreamDecoder):
    """The decoder of one stream."""

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        self._names = upstream_request.names
        self._namespaces = upstream_request.namespaces
        self._call_ids = upstream_request.call_ids
        self._emulated = upstream_request.emulated
        self._upstream = upstream
        self._splitter = FrameSplitter(max_event=upstream.max_event, is_crowded=_IS_CROWDED)
        self._complete = self._splitter.complete
        self._nonce = upstream_request.nonce
        self._id = ""
        self._decoder: msgspec.json.Decoder[Chunk] | msgspec.json.Decoder[NextChunk] = CHUNK
        self._candidates: dict[int, OpenCandidate] = {}
        self._whole = False
        self._usage: Any = None
        self._tier: ir.ServiceTier | None = None
        self._finishing = False  # after a finish reason, usage is read from all fields that may contain it
        self._joiner: SurrogateJoiner | None = None
        self._over = False

    @override
    def feed(self, data: bytes) -> ir.Batch:
        if self._over:
            return _NO_EVENTS
        out: list[ir.StreamEvent] = []
        try:
            block = self._complete(data)
        except EventTooLarge as error:
            self._fail(UpstreamProtocolError(f"The upstream sent {error}."), out)
            return ir.Batch(out)
        if not block:
            return _NO_EVENTS
        lines = only_data(block)
        if lines is None:
            self._read(decode(block), out)
        else:
            for line in lines:
                self._read_data(line, out)
                if self._over:
                    break
        return ir.Batch(out if self._joiner is None else self._joiner.join(out))

    @override
    def close(self) -> ir.Batch:
        if self._over:
            return _NO_EVENTS
        out: list[ir.StreamEvent] = []
        tail = self._splitter.tail
        if tail:
            self._read(decode(tail + _BLANK), out)
        if not self._over:
            self._end(out)
        return ir.Batch(out if self._joiner is None else self._joiner.join(out))

    def decode_whole(self, chunk: Chunk) -> list[ir.StreamEvent]:
        """Decode a complete response as a stream of one chunk.

        A complete body needs no finish reason: if a server omits it, none is reported.
        """
        out: list[ir.StreamEvent] = []
        self._whole = True
        self._chunk(chunk, None, out)
        for candidate in self._candidates.values():
            candidate.finish = candidate.finish or ""
        if not self._over:
            self._end(out)
        return out

    def _read(self, frames: list[Frame], out: list[ir.StreamEvent]) -> None:
        for frame in frames:
            if frame.event == "error":
                self._fail(decode_error_object(read_loosely(frame.data), protocol=PROTOCOL), out)
            else:
                self._read_data(frame.data, out)
            if self._over:
                return

    def _read_data(self, data: bytes, out: list[ir.StreamEvent]) -> None:
        if data[:1] != b"{":
            data = data.strip()
            if data == b"[DONE]":
                self._end(out)
                return
            if not data:
                return
        try:
            chunk = self._decoder.decode(data)
        except _UNREADABLE:
            try:
                chunk = decode_marked(CHUNK, data)
            except _UNREADABLE:
                error = error_in(data, protocol=PROTOCOL)
                self._fail(error or UpstreamProtocolError("The upstream sent an event that cannot be read."), out)
                return
            self._joiner = self._joiner or SurrogateJoiner()
        if (chunk.error or not chunk.choices) and (error := error_in(data, protocol=PROTOCOL)) is not None:
            self._fail(error, out)
        else:
            self._chunk(chunk, data, out)

    # ── lifecycle ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _chunk(self, chunk: NextChunk, data: bytes | None, out: list[ir.StreamEvent]) -> None:
        """Decode a chunk; `data` is None if its usage was read before."""
        choices = chunk.choices
        if not self._id:
            self._start(chunk, out)
        if chunk.service_tier is not None:
            self._tier = TIER_IN.get(chunk.service_tier, self._tier)
        if choices:
            for choice in choices:
                self._choice(choice, out)
                if self._over:
                    return
        usage = chunk.usage
        if usage is None and (self._finishing or not choices) and data is not None:
            usage = usage_of(decode_replaced(COUNTED_CHUNK, data))
        if usage is not None:
            self._usage = usage
            if not choices:
                self._report(out)

    def _start(self, chunk: NextChunk, out: list[ir.StreamEvent]) -> None:
        if isinstance(chunk, Chunk) and (chunk.choices or chunk.id):
            event = started(chunk, self._upstream, self._nonce)
            self._id = event.id
            self._decoder = NEXT_CHUNK
            out.append(event)

    def _report(self, out: list[ir.StreamEvent]) -> None:
        """Emit usage at once, so that it is known if the caller disconnects now."""
        usage = decode_usage(self._usage)
        self._usage = None
        if usage is not None and self._id:
            out.append(ir.UsageReported(usage))

    def _choice(self, choice: ChunkChoice, out: list[ir.StreamEvent]) -> None:
        number = choice.index or 0
        candidate = self._candidates.get(number)
        if candidate is None:
            candidate = self._candidates[number] = OpenCandidate(number, self._nonce)
        delta = choice.delta
        if delta is not None:
            self._delta(candidate, delta, out)
        if choice.message is not ABSENT and (delta is None or choice.finish_reason):
            self._restate(candidate, choice.message, out)
        if choice.logprobs is not None:
            self._logprobs(candidate, choice.logprobs, out)
        if choice.finish_reason is not None or choice.error is not None:
            self._end_choice(candidate, choice, out)

    def _end_choice(self, candidate: OpenCandidate, choice: ChunkChoice, out: list[ir.StreamEvent]) -> None:
        if choice.error is not None or choice.finish_reason in FAILED:
            error = choice.error or FAILED.get(choice.finish_reason or "", {})
            self._fail(decode_error_object(error, protocol=PROTOCOL), out)
        elif choice.finish_reason:
            self._finishing = True
            candidate.take_finish(choice.finish_reason)

    def _restate(self, candidate: OpenCandidate, message: msgspec.Raw, out: list[ir.StreamEvent]) -> None:
        """Emit the parts of a message, sent besides or instead of deltas, that were not streamed."""
        try:
            whole = decode_replaced(MESSAGE, bytes(message))
        except _UNREADABLE:
            return
        if not (candidate.parts or candidate.calls):
            self._delta(candidate, whole, out)
            return
        content = whole.content
        if type(content) is str and (rest := unstreamed_suffix(content, candidate.length, candidate.last)):
            self._delta(candidate, Delta(content=rest), out)
        for position, call in enumerate(whole.tool_calls or ()):
            known = candidate.restated_call(call, position)
            if known is None:
                self._call(candidate, call, out)
            elif call.function is not None and type(call.function.arguments) is str:
                streamed = known.arguments or known.pending
                last = streamed[-1] if streamed else ""
                rest = unstreamed_suffix(call.function.arguments, sum(map(len, streamed)), last)
                if rest:
                    self._add_arguments(candidate, known, rest, out)

    def _end(self, out: list[ir.StreamEvent]) -> None:
        if not self._candidates or any(each.finish is None for each in self._candidates.values()):
            self._fail(UpstreamProtocolError("The upstream's stream ended without its end sign."), out)
            return
        for number in sorted(self._candidates):
            candidate = self._candidates[number]
            self._close_part(candidate, out)
            for call in candidate.calls:
                self._end_call(candidate, call, out)
            out.append(ir.Finished(number, self._finish(candidate)))
        if self._usage is not None:
            self._report(out)
        out.append(ir.Ended(self._tier))
        self._over = True

    def _finish(self, candidate: OpenCandidate) -> ir.Finish:
        native = candidate.finish or ""
        reason = decode_finish(native) or ir.FinishReason.UNKNOWN
        called = any(call.started for call in candidate.calls)
        if called and (
            reason is ir.FinishReason.STOP or not native or (reason is ir.FinishReason.UNKNOWN and candidate.whole)
        ):
            reason = ir.FinishReason.TOOL_CALLS
        elif reason is ir.FinishReason.TOOL_CALLS and not called:
            reason = ir.FinishReason.STOP
        elif reason is ir.FinishReason.STOP and candidate.refused:
            reason = ir.FinishReason.REFUSAL
        return ir.Finish(reason=reason, native=native or None)

    def _fail(self, error: GatewayError, out: list[ir.StreamEvent]) -> None:
        out.append(ir.Failed(error))
        self._over = True

    # ── text, reasoning, refusals, audio ─────────────────────────────────────────────────────────────────────────────

    def _delta(self, candidate: OpenCandidate, delta: Delta, out: list[ir.StreamEvent]) -> None:
        if delta.reasoning_content is not None or delta.reasoning_details is not None or delta.reasoning is not None:
            self._reasoning(candidate, delta, out)
        content = delta.content
        if content:
            if isinstance(content, str):
                if candidate.kind != "text":
                    self._open_text(candidate, out)
                candidate.length += len(content)
                candidate.last = content
                out.append(ir.PartDelta(candidate.number, candidate.open_index, ir.TextDelta(content)))
            else:
                self._content_parts(candidate, content, out)
        if (
            delta.refusal
            or delta.annotations
            or delta.audio is not None
            or delta.images
            or delta.function_call is not None
        ):
            self._other_fields(candidate, delta, out)
        if delta.tool_calls:
            if candidate.kind:
                self._close_part(candidate, out)
            for call in delta.tool_calls:
                self._call(candidate, call, out)

    def _other_fields(self, candidate: OpenCandidate, delta: Delta, out: list[ir.StreamEvent]) -> None:
        """Decode rare fields; after the text and before the calls, as in a complete message."""
        for entry in delta.annotations or ():
            self._add_citation(candidate, entry, out)
        if delta.refusal:
            if candidate.kind != "refusal":
                self._open_part(candidate, "refusal", ir.Refusal(text=""), out)
            candidate.refused = True
            out.append(ir.PartDelta(candidate.number, candidate.open_index, ir.RefusalDelta(delta.refusal)))
        for entry in delta.images or ():
            self._add_image(candidate, entry, out)
        if type(delta.audio) is dict:
            self._add_audio(candidate, delta.audio, out)
        if delta.function_call is not None:
            self._close_part(candidate, out)
            self._call(candidate, CallDelta(index=-1, function=delta.function_call), out)

    def _open_part(
        self,
        candidate: OpenCandidate,
        kind: Literal["text", "reasoning", "refusal", "audio"],
        part: ir.Part,
        out: list[Any],
    ) -> None:
        self._close_part(candidate, out)
        candidate.kind = kind
        candidate.open_index = candidate.part()
        out.append(ir.PartStarted(candidate.number, candidate.open_index, part))

    def _open_text(self, candidate: OpenCandidate, out: list[ir.StreamEvent]) -> None:
        self._open_part(candidate, "text", ir.Text(text=""), out)
        candidate.starts.append((candidate.length, candidate.open_index))

    def _close_part(self, candidate: OpenCandidate, out: list[ir.StreamEvent]) -> None:
        if not candidate.kind:
            return
        part: ir.Part | None = None
        if candidate.kind == "reasoning" and (candidate.seals or self._upstream.capabilities.needs_reasoning_content):
            text = "".join(candidate.texts)
            part = ir.Reasoning(
                text=text,
                style=candidate.style,
                raw=candidate.raw,
                redacted=_redacted(text, candidate.seals),
                seals=tuple(candidate.seals),
            )
        out.append(ir.PartEnded(candidate.number, candidate.open_index, part))
        candidate.kind = ""
        candidate.open_index = -1

    def _logprobs(self, candidate: OpenCandidate, found: Any, out: list[ir.StreamEvent]) -> None:
        tokens = decode_logprobs(found)
        if not tokens:
            return
        if not candidate.kind and not candidate.parts:
            self._open_text(candidate, out)
        index = candidate.open_index if candidate.kind else candidate.parts - 1
        if candidate.kind or any(call.index == index for call in candidate.calls):
            out.append(ir.PartDelta(candidate.number, index, ir.LogprobsDelta(tokens)))

    def _content_parts(self, candidate: OpenCandidate, content: list[Any], out: list[ir.StreamEvent]) -> None:
        """Decode content as a list of typed parts, which Mistral's reasoning models send."""
        for entry in content:
            if type(entry) is not dict:
                continue
            inner = entry.get("text")
            thinking = entry.get("thinking")
            if type(thinking) is list:
                texts = [each.get("text") for each in thinking if type(each) is dict]
                self._add_reasoning(candidate, "".join(text for text in texts if type(text) is str), out)
            elif type(inner) is str and inner:
                self._delta(candidate, Delta(content=inner), out)

    # ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _reasoning(self, candidate: OpenCandidate, delta: Delta, out: list[ir.StreamEvent]) -> None:
        details = read_details(delta.reasoning_details) if delta.reasoning_details is not None else ()
        if not details or not any(detail.text for detail in details):  # else both fields have the same text
            readable = delta.reasoning_content or (delta.reasoning if type(delta.reasoning) is str else None)
            if readable:
                self._add_reasoning(candidate, readable, out)
        for detail in details:
            self._detail(candidate, detail, out)

    def _add_reasoning(
        self,
        candidate: OpenCandidate,
        text: str,
        out: list[ir.StreamEvent],
        *,
        style: Literal["full", "summary"] = "full",
        detail: int | None = None,
        raw: bool = True,
    ) -> None:
        another = detail is not None and candidate.detail is not None and detail != candidate.detail
        if candidate.kind != "reasoning" or another or (candidate.seals and text):
            self._open_reasoning(candidate, out, style=style, detail=detail, raw=raw)
        if detail is not None:
            candidate.detail = detail
        if text:
            candidate.texts.append(text)
            out.append(ir.PartDelta(candidate.number, candidate.open_index, ir.ReasoningDelta(text)))

    def _open_reasoning(
        self,
        candidate: OpenCandidate,
        out: list[ir.StreamEvent],
        *,
        style: Literal["full", "summary"] = "full",
        detail: int | None = None,
        redacted: bool = False,
        raw: bool = False,
    ) -> None:
        self._open_part(candidate, "reasoning", ir.Reasoning(style=style, redacted=redacted, raw=raw), out)
        candidate.raw = raw
        candidate.texts = []
        candidate.seals = []
        candidate.style = style
        candidate.detail = detail

    def _detail(self, candidate: OpenCandidate, detail: Detail, out: list[ir.StreamEvent]) -> None:
        if detail.text:
            style: Literal["full", "summary"] = "summary" if detail.style == "summary" else "full"
            self._add_reasoning(candidate, detail.text, out, style=style, detail=detail.index, raw=detail.raw)
        issuer, model = self._upstream.issuer, self._upstream.model
        if detail.signature:
            seal = decode_seal(detail.signature, issuer=issuer, kind="signature", model=model, form=detail.form)
            self._seal(candidate, seal, detail, out)
        if detail.data:
            seal = decode_seal(
                detail.data,
                issuer=issuer,
                kind="encrypted",
                item_id=detail.id or None,
                model=model,
                form=detail.form,
            )
            self._seal(candidate, seal, detail, out)

    def _seal(self, candidate: OpenCandidate, seal: ir.Seal, detail: Detail, out: list[ir.StreamEvent]) -> None:
        call = candidate.by_id.get(detail.id) if detail.id else None
        if call is not None:
            self._seal_call(candidate, call, seal, out)
            return
        other = seal.kind == "signature" and None not in (detail.index, candidate.detail)
        if candidate.kind != "reasoning" or candidate.seals or (other and detail.index != candidate.detail):
            self._open_reasoning(candidate, out, detail=detail.index, redacted=seal.kind == "redacted")
        candidate.seals.append(seal)
        out.append(ir.PartDelta(candidate.number, candidate.open_index, ir.SealDelta(seal)))

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, candidate: OpenCandidate, delta: CallDelta, out: list[ir.StreamEvent]) -> None:
        name: str | None = None
        text: str | None = None
        if delta.function is not None:
            name = delta.function.name
            given = delta.function.arguments
            text = given if given is None or type(given) is str else msgspec.json.encode(given).decode()
        elif delta.custom is not None:
            name, text = delta.custom.name, delta.custom.input
        call = candidate.by_index.get(delta.index)
        if call is None or name or delta.id or call.named_again or self._whole:
            call = find_call(candidate, delta, whole=self._whole)
        else:
            candidate.last_call = call
        if delta.id and not call.call_id:
            call.call_id = candidate.call_ids.of(delta.id, self._id)
            candidate.by_id[delta.id] = call
        if delta.function is None and delta.custom is not None:
            call.custom = True
        if name and not call.name:
            call.name = name
        if text:
            self._add_arguments(candidate, call, text, out)
        if not call.started and call.name and (call.call_id or text):
            self._start_call(candidate, call, out)
        blob = google_signature(delta.extra_content) if delta.extra_content is not None else None
        if blob is not None:
            issuer, model = self._upstream.issuer, self._upstream.model
            self._seal_call(candidate, call, decode_seal(blob, issuer=issuer, kind="signature", model=model), out)

    def _add_arguments(self, candidate: OpenCandidate, call: OpenCall, text: str, out: list[ir.StreamEvent]) -> None:
        if not call.started:
            call.pending.append(text)
            return
        call.arguments.append(text)
        if not call.unwrap:
            out.append(ir.PartDelta(candidate.number, call.index, ir.ArgumentsDelta(text)))

    def _start_call(self, candidate: OpenCandidate, call: OpenCall, out: list[ir.StreamEvent]) -> None:
        if not call.call_id:
            seeds = (self._id, str(candidate.number), str(candidate.calls.index(call)))
            call.call_id = candidate.call_ids.of("", *seeds)
        call.started = True
        call.index = candidate.part()
        call.unwrap = call.name in self._emulated
        out.append(ir.PartStarted(candidate.number, call.index, self._part(call, "", ())))
        out.extend(ir.PartDelta(candidate.number, call.index, ir.SealDelta(seal)) for seal in call.seals)
        call.arguments, call.pending = call.pending, []
        if not call.unwrap:
            out.extend(ir.PartDelta(candidate.number, call.index, ir.ArgumentsDelta(text)) for text in call.arguments)

    def _part(self, call: OpenCall, arguments: str, seals: tuple[ir.Seal, ...]) -> ir.ToolCall:
        return ir.ToolCall(
            call_id=self._call_ids.get(call.call_id, call.call_id),
            name=self._names.get(call.name, call.name),
            namespace=self._namespaces.get(call.name),
            kind="custom" if call.custom or call.unwrap else "function",
            arguments=arguments,
            seals=seals,
        )

    def _end_call(self, candidate: OpenCandidate, call: OpenCall, out: list[ir.StreamEvent]) -> None:
        if not call.started:
            if not call.name:
                return  # a call without a name is unusable
            self._start_call(candidate, call, out)
        arguments = "".join(call.arguments)
        if call.unwrap:
            arguments = unwrapped_input(arguments)
            if arguments:
                out.append(ir.PartDelta(candidate.number, call.index, ir.ArgumentsDelta(arguments)))
        elif not arguments and not call.custom:
            arguments = "{}"
            out.append(ir.PartDelta(candidate.number, call.index, ir.ArgumentsDelta(arguments)))
        out.append(ir.PartEnded(candidate.number, call.index, self._part(call, arguments, tuple(call.seals))))

    def _seal_call(self, candidate: OpenCandidate, call: OpenCall, seal: ir.Seal, out: list[ir.StreamEvent]) -> None:
        if any(known.data == seal.data for known in call.seals):
            return
        call.seals.append(seal)
        if call.started:
            out.append(ir.PartDelta(candidate.number, call.index, ir.SealDelta(seal)))

    # ── images, audio, citations ─────────────────────────────────────────────────────────────────────────────────────

    def _add_image(self, candidate: OpenCandidate, entry: Any, out: list[ir.StreamEvent]) -> None:
        image = _image(entry)
        if image is not None:
            self._close_part(candidate, out)
            index = candidate.part()
            out.append(ir.PartStarted(candidate.number, index, image))
            out.append(ir.PartEnded(candidate.number, index, image))

    def _add_audio(self, candidate: OpenCandidate, audio: dict[str, Any], out: list[ir.StreamEvent]) -> None:
        data, transcript, known = (found if type(found := audio.get(key)) is str else "" for key in _AUDIO_FIELDS)
        if candidate.kind != "audio":
            if not (data or transcript or known):
                return
            head = ir.Media(kind="audio", source=ir.InlineData(data=""), id=known or None)
            self._open_part(candidate, "audio", head, out)
        if data or transcript:
            out.append(ir.PartDelta(candidate.number, candidate.open_index, ir.MediaDelta(data, transcript)))

    def _add_citation(self, candidate: OpenCandidate, entry: Any, out: list[ir.StreamEvent]) -> None:
        """Decode a citation; convert its span from the message's start to its text part's."""
        citation = decode_annotation(entry)
        if citation is None:
            return
        if candidate.kind != "text":
            if candidate.starts:
                return  # its text has ended
            self._open_text(candidate, out)
        offset = candidate.starts[-1][0]
        if citation.start is not None and citation.end is not None:
            citation = msgspec.structs.replace(
                citation, start=max(0, citation.start - offset), end=max(0, citation.end - offset)
            )
        out.append(ir.PartDelta(candidate.number, candidate.open_index, ir.CitationDelta(citation)))


def _redacted(text: str, seals: list[ir.Seal]) -> bool:
    return not text and any(seal.kind == "redacted" for seal in seals)


def _image(entry: Any) -> ir.Media | None:
    inner = entry.get("image_url") if type(entry) is dict else None
    url = inner.get("url") if type(inner) is dict else None
    if type(url) is not str or not url:
        return None
    if not url.startswith("data:"):
        return ir.Media(kind="image", source=ir.Link(url=url))
    head, _, data = url[5:].partition(",")
    return ir.Media(
        kind="image", source=ir.InlineData(data=standard_base64(data)), media_type=head.split(";")[0] or None
    )
