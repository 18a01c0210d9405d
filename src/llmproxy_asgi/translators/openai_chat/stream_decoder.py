"""Decode an upstream's stream of chunks.

It tolerates deviations of compatible servers: missing or repeated roles, null deltas, empty or missing `choices`, a
call's id and name late, repeated or missing, index 0 for all parallel calls, usage in any chunk, two finish reasons, no
`[DONE]`. A stream that breaks the protocol ends with `Failed`; nothing is raised.

A candidate's finish is emitted at the stream's end, because some servers send it before their last content; the last
known reason counts. A stream is complete if each candidate has a finish reason; `[DONE]` is not enough.
"""

from functools import partial
from typing import Any, ClassVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.events import CallBuilder, CandidateBuilder, EventBuilder, MediaBuilder
from llmproxy_asgi.translators.codec.sse import UNREADABLE, JSONEventDecoder
from llmproxy_asgi.translators.media import standard_base64
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.errors import decode_error_object, error_in
from llmproxy_asgi.translators.openai.mappings import TIER_IN, dated
from llmproxy_asgi.translators.openai_chat.candidates import OpenCall, OpenCalls, find_call
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
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.wire.sse import only_data

_DONE = b"[DONE]"
_AUDIO_FIELDS = ("data", "transcript", "id")
_TEXT, _REASONING = ir.TextDelta, ir.ReasoningDelta
_RAW = ir.Reasoning(raw=True)


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


class ChatCandidate(CandidateBuilder):
    """One candidate: one part is open at a time, besides calls, which are open to the end."""

    def __init__(self, number: int, events: EventBuilder[Any]) -> None:
        super().__init__(number, events)
        self.calls = OpenCalls()
        self.detail: int | None = None
        """The index of the entry of `reasoning_details` that is the current part."""
        self.word: str | None = None
        """The finish reason."""

    def take_finish(self, word: str) -> None:
        """Record a finish reason; an unknown or blank one does not replace a known one."""
        reason = decode_finish(word)
        before = decode_finish(self.word) if self.word else None
        if reason and (reason is not ir.FinishReason.UNKNOWN or before in (None, ir.FinishReason.UNKNOWN)):
            self.word = word


class ChatStreamDecoder(JSONEventDecoder[ChatCandidate]):
    """The decoder of one response."""

    candidate: ClassVar[type[ChatCandidate]] = ChatCandidate
    many = (MANY,)
    error = staticmethod(partial(decode_error_object, protocol=PROTOCOL))
    find_error = staticmethod(partial(error_in, protocol=PROTOCOL))

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        super().__init__(upstream_request, upstream)
        self._id = ""
        self._decoder: msgspec.json.Decoder[Chunk] | msgspec.json.Decoder[NextChunk] = CHUNK
        self._candidates = self._events.candidates
        self._whole = False
        self._usage: Any = None
        self._tier: ir.ServiceTier | None = None
        self._finishing = False  # after a finish reason, usage is read from all fields that may contain it

    def decode_whole(self, chunk: Chunk) -> list[ir.StreamEvent]:
        """Decode a complete response as a stream of one chunk.

        A complete body needs no finish reason: if a server omits it, none is reported.
        """
        self._whole = True
        self._chunk(chunk, None)
        for candidate in self._candidates.values():
            candidate.word = candidate.word or ""
        if not self._events.over:
            self.end()
        return self._events.take()

    @override
    def block(self, block: bytes) -> None:
        lines = only_data(block)
        if lines is None:
            super().block(block)
            return
        for line in lines:
            data = line if line[:1] == b"{" else line.strip()
            if data == _DONE:
                self.end()
            elif data:
                self.event(None, data)
            if self._events.over:
                return

    @override
    def event(self, name: str | None, data: bytes) -> None:
        try:
            chunk = self._decoder.decode(data)
        except UNREADABLE:
            chunk = self.repaired(CHUNK, data)
        if (chunk.error or not chunk.choices) and (error := self.find_error(data)) is not None:
            self._events.fail(error)
        else:
            self._chunk(chunk, data)

    @override
    def done(self) -> None:
        self.end()

    @override
    def end(self) -> None:
        if not self._candidates or any(each.word is None for each in self._candidates.values()):
            super().end()
            return
        for _, candidate in sorted(self._candidates.items()):
            candidate.close()
            for call in candidate.calls.calls:
                if call.name and call.part is not None and not call.part.started:
                    self._start_call(candidate, call, call.part)
            native = candidate.word or ""
            reason = decode_finish(native) or ir.FinishReason.UNKNOWN
            if candidate.called and not native:
                reason = ir.FinishReason.TOOL_CALLS
            candidate.finish(ir.Finish(reason=reason, native=native or None))
        if self._usage is not None:
            self._report()
        self._events.end(service_tier=self._tier)

    # ── chunks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _chunk(self, chunk: NextChunk, data: bytes | None) -> None:
        """Decode a chunk; `data` is None if its usage was read before."""
        choices = chunk.choices
        if not self._id:
            self._start(chunk)
        if chunk.service_tier is not None:
            self._tier = TIER_IN.get(chunk.service_tier, self._tier)
        for choice in choices or ():
            number = choice.index or 0
            candidate = self._candidates.get(number) or self._events.candidate(number)
            if choice.delta is not None:
                self._delta(candidate, choice.delta)
            if (
                choice.logprobs is not None
                or choice.finish_reason is not None
                or choice.message is not ABSENT
                or choice.error is not None
            ):
                self._beside_delta(candidate, choice)
                if self._events.over:
                    return
        usage = chunk.usage
        if usage is None and (self._finishing or not choices) and data is not None:
            usage = usage_of(decode_replaced(COUNTED_CHUNK, data))
        if usage is not None:
            self._usage = usage
            if not choices:
                self._report()

    def _start(self, chunk: NextChunk) -> None:
        if isinstance(chunk, Chunk) and (chunk.choices or chunk.id):
            event = started(chunk, self._upstream, self._upstream_request.nonce)
            self._id = event.id
            self._decoder = NEXT_CHUNK
            self._events.emit(event)

    def _report(self) -> None:
        """Emit usage at once, so that it is known if the caller disconnects now."""
        usage = decode_usage(self._usage)
        self._usage = None
        if self._id:
            self._events.usage(usage)

    def _beside_delta(self, candidate: ChatCandidate, choice: ChunkChoice) -> None:
        """Decode the fields of a choice beside its delta."""
        if choice.message is not ABSENT and (choice.delta is None or choice.finish_reason):
            self._restate(candidate, choice.message)
        if choice.logprobs is not None:
            self._logprobs(candidate, choice.logprobs)
        if choice.error is not None or choice.finish_reason in FAILED:
            error = choice.error or FAILED.get(choice.finish_reason or "", {})
            self._events.fail(decode_error_object(error, protocol=PROTOCOL))
        elif choice.finish_reason:
            self._finishing = True
            candidate.take_finish(choice.finish_reason)

    def _restate(self, candidate: ChatCandidate, message: msgspec.Raw) -> None:
        """Emit the parts of a message, sent besides or instead of deltas, that were not streamed."""
        try:
            whole = decode_replaced(MESSAGE, bytes(message))
        except UNREADABLE:
            return
        calls = candidate.calls
        if not (candidate.count or calls.calls):
            self._delta(candidate, whole)
            return
        content = whole.content
        if type(content) is str and (rest := candidate.unstreamed(content)):
            self._delta(candidate, Delta(content=rest))
        for position, call in enumerate(whole.tool_calls or ()):
            known = calls.restated(call, position)
            if known is None or known.part is None:
                self._call(candidate, call)
            elif call.function is not None and type(call.function.arguments) is str:
                known.part.restate(call.function.arguments)

    # ── text, refusals, audio, images, citations ─────────────────────────────────────────────────────────────────────

    def _delta(self, candidate: ChatCandidate, delta: Delta) -> None:
        if delta.reasoning_content is not None or delta.reasoning_details is not None or delta.reasoning is not None:
            self._reasoning(candidate, delta)
        content = delta.content
        if content:
            if isinstance(content, str):
                part = candidate.current
                if part is None or part.kind is not _TEXT:
                    part = candidate.switch(ir.Text(text=""))
                part.append(content)
            else:
                self._content_parts(candidate, content)
        if (
            delta.refusal
            or delta.annotations
            or delta.audio is not None
            or delta.images
            or delta.function_call is not None
        ):
            self._other_fields(candidate, delta)
        if delta.tool_calls:
            if candidate.current is not None:
                candidate.close()
            for call in delta.tool_calls:
                self._call(candidate, call)

    def _other_fields(self, candidate: ChatCandidate, delta: Delta) -> None:
        """Decode rare fields; after the text and before the calls, as in a complete message."""
        for entry in delta.annotations or ():
            self._add_citation(candidate, entry)
        if delta.refusal:
            part = candidate.current
            if part is None or part.kind is not ir.RefusalDelta:
                part = candidate.switch(ir.Refusal(text=""))
            part.append(delta.refusal)
        for entry in delta.images or ():
            if (image := _image(entry)) is not None:
                candidate.close()
                candidate.whole(image)
        if type(delta.audio) is dict:
            self._add_audio(candidate, delta.audio)
        if delta.function_call is not None:
            candidate.close()
            self._call(candidate, CallDelta(index=-1, function=delta.function_call))

    def _logprobs(self, candidate: ChatCandidate, found: Any) -> None:
        tokens = decode_logprobs(found)
        if tokens and not candidate.count:
            candidate.switch(ir.Text(text=""))
        candidate.logprobs(tokens)

    def _content_parts(self, candidate: ChatCandidate, content: list[Any]) -> None:
        """Decode content as a list of typed parts, which Mistral's reasoning models send."""
        for entry in content:
            if type(entry) is not dict:
                continue
            inner = entry.get("text")
            thinking = entry.get("thinking")
            if type(thinking) is list:
                texts = [each.get("text") for each in thinking if type(each) is dict]
                self._add_reasoning(candidate, "".join(text for text in texts if type(text) is str))
            elif type(inner) is str and inner:
                self._delta(candidate, Delta(content=inner))

    def _add_audio(self, candidate: ChatCandidate, audio: dict[str, Any]) -> None:
        data, transcript, known = (found if type(found := audio.get(key)) is str else "" for key in _AUDIO_FIELDS)
        part = candidate.current
        if not isinstance(part, MediaBuilder):
            if not (data or transcript or known):
                return
            header = ir.Media(kind="audio", source=ir.InlineData(data=""), id=known or None)
            candidate.switch(header, part := MediaBuilder(candidate))
        if data or transcript:
            part.add(data, transcript)

    def _add_citation(self, candidate: ChatCandidate, entry: Any) -> None:
        """Decode a citation, whose span starts at the message's start; drop it if its text has ended."""
        citation = decode_annotation(entry)
        if citation is None:
            return
        if candidate.text is None:
            candidate.switch(ir.Text(text=""))
        if candidate.text is not None:
            candidate.text.cite_in_candidate(citation)

    # ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _reasoning(self, candidate: ChatCandidate, delta: Delta) -> None:
        details = read_details(delta.reasoning_details) if delta.reasoning_details is not None else ()
        if not details or not any(detail.text for detail in details):  # else both fields have the same text
            readable = delta.reasoning_content or (delta.reasoning if type(delta.reasoning) is str else None)
            if readable:
                self._add_reasoning(candidate, readable)
        for detail in details:
            self._detail(candidate, detail)

    def _add_reasoning(
        self, candidate: ChatCandidate, text: str, header: ir.Reasoning = _RAW, detail: int | None = None
    ) -> None:
        part = candidate.current
        another = detail is not None and candidate.detail is not None and detail != candidate.detail
        if part is None or part.kind is not _REASONING or another or (part.seals and text):
            part = candidate.switch(header)
            candidate.detail = detail
        elif detail is not None:
            candidate.detail = detail
        if text:
            part.append(text)

    def _detail(self, candidate: ChatCandidate, detail: Detail) -> None:
        if detail.text:
            header = ir.Reasoning(style="summary" if detail.style == "summary" else "full", raw=detail.raw)
            self._add_reasoning(candidate, detail.text, header, detail.index)
        known: dict[str, Any] = {"issuer": self._upstream.issuer, "model": self._upstream.model, "form": detail.form}
        if detail.signature:
            self._seal(candidate, decode_seal(detail.signature, kind="signature", **known), detail)
        if detail.data:
            seal = decode_seal(detail.data, kind="encrypted", item_id=detail.id or None, **known)
            self._seal(candidate, seal, detail)

    def _seal(self, candidate: ChatCandidate, seal: ir.Seal, detail: Detail) -> None:
        call = candidate.calls.by_id.get(detail.id) if detail.id else None
        if call is not None and call.part is not None:
            call.part.seal(seal)
            return
        part = candidate.current
        other = seal.kind == "signature" and None not in (detail.index, candidate.detail)
        if part is None or part.kind is not _REASONING or part.seals or (other and detail.index != candidate.detail):
            part = candidate.switch(ir.Reasoning(redacted=seal.kind == "redacted"))
            candidate.detail = detail.index
        part.seal(seal)

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, candidate: ChatCandidate, delta: CallDelta) -> None:
        name: str | None = None
        text: str | None = None
        if delta.function is not None:
            name = delta.function.name
            given = delta.function.arguments
            text = given if given is None or type(given) is str else msgspec.json.encode(given).decode()
        elif delta.custom is not None:
            name, text = delta.custom.name, delta.custom.input
        calls = candidate.calls
        call = calls.by_index.get(delta.index)
        if call is None or name or delta.id or call.named_again or self._whole:
            call = self._find_call(candidate, delta, name)
        else:
            calls.last = call
        part = call.part
        if part is None:
            part = call.part = candidate.call()
            call.arguments = part.pieces
        if text:
            part.append(text)
        if part.index < 0 and call.name and (call.call_id or text):
            self._start_call(candidate, call, part)
        blob = google_signature(delta.extra_content) if delta.extra_content is not None else None
        if blob is not None:
            issuer, model = self._upstream.issuer, self._upstream.model
            part.seal(decode_seal(blob, issuer=issuer, kind="signature", model=model))

    def _find_call(self, candidate: ChatCandidate, delta: CallDelta, name: str | None) -> OpenCall:
        """Return the call of a delta, with what the delta adds to its id, name and kind."""
        call = find_call(candidate.calls, delta, whole=self._whole)
        if delta.id and not call.call_id:
            call.call_id = delta.id
            candidate.calls.by_id[delta.id] = call
        call.custom = call.custom or (delta.function is None and delta.custom is not None)
        call.name = call.name or name or ""
        return call

    def _start_call(self, candidate: ChatCandidate, call: OpenCall, part: CallBuilder) -> None:
        seeds = (self._id, str(candidate.number), str(candidate.count))
        part.start(call.name, call.call_id, *seeds, custom=call.custom)


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
