"""Build the events of one answer, which are legal by construction.

A decoder opens a part under its vendor's key, adds to it, and ends it or leaves that to the end of its candidate::

    events = EventBuilder(upstream_request)
    events.start(answer_id, model, created_at)
    text = events.candidate(0).open(ir.Text(text=""), key=block_index)
    text.append("Hello")
    events.candidate(0).finish(finish)
    events.end(usage)

One rule for what the tables of `grammar.py` forbid: an upstream's content that cannot be placed (a piece of a part that
has ended, a part before the first event) is an `UpstreamProtocolError`, which ends the stream; what only repeats
something (a second start, a part that ends twice, text that was streamed before) is dropped.
"""

from collections import deque
from collections.abc import Hashable, Mapping, MutableSequence
from datetime import datetime
from typing import Any, ClassVar, Generic

import msgspec
from typing_extensions import TypeVar, override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.base import UpstreamRequest
from llmproxy_asgi.translators.codec.grammar import FITS, ORDER, PIECES, Piece, Rule, State, consistent
from llmproxy_asgi.translators.custom_tools import unwrapped_input
from llmproxy_asgi.translators.media import joined_base64
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.pairing import is_object
from llmproxy_asgi.translators.restated_text import unstreamed_suffix

NO_END = "The upstream's stream ended without its end sign."


class _Refused(list[ir.StreamEvent]):
    """Refuses events of a part that has ended."""

    @override
    def append(self, _event: ir.StreamEvent, /) -> None:
        raise UpstreamProtocolError("The upstream continued a part that had ended.")


class _Pending:
    """Where a part adds its pieces: the events that have not been taken, or one of the two below."""

    __slots__ = ("pending",)

    def __init__(self, pending: MutableSequence[ir.StreamEvent]) -> None:
        self.pending = pending


_DROPPED, _REFUSED = _Pending(deque(maxlen=0)), _Pending(_Refused())


class PartBuilder:
    """One part of a candidate. This base class is for parts that are complete when they start."""

    __slots__ = (
        *("_candidate", "_piece", "_sink", "citations", "cited", "ended", "has_logprobs"),
        *("header", "index", "kind", "number", "seals"),
    )
    has_text: ClassVar[bool] = False

    def __init__(self, candidate: "CandidateBuilder") -> None:
        self._candidate = candidate
        self._sink: _Pending = _DROPPED
        self._piece: type[Piece] = ir.TextDelta
        self.kind: type[Piece] | None = None
        """The delta of its text; None for a part that has ended, or was complete when it started."""
        self.header: ir.Part
        """The part as it started."""
        self.number = candidate.number
        self.index = -1
        """Its number in the candidate; -1 until it starts."""
        self.ended = False
        self.seals: list[ir.Seal] = []
        self.citations: list[ir.Citation] = []
        self.cited = 0
        """How many citations the upstream sent, unreadable ones included."""
        self.has_logprobs = False

    @property
    def started(self) -> bool:
        """Whether the part has started."""
        return self.index >= 0

    def begin(self, header: ir.Part) -> None:
        """Start the part: emit its header, then what was added before."""
        candidate = self._candidate
        self.header = header
        if self.has_text:
            self.kind = self._piece = PIECES[type(header)]
        self.index = candidate.register(self)
        self._sink = candidate.events
        candidate.events.emit(ir.PartStarted(self.number, self.index, header))
        for seal in self.seals:
            self._emit(ir.SealDelta(seal))
        if candidate.tokens:
            tokens, candidate.tokens = candidate.tokens, ()
            self.logprobs(tokens)

    def append(self, piece: str) -> None:
        """Add a piece of text, which parts of this kind don't have."""
        raise UpstreamProtocolError("The upstream continued a part that was complete.")

    def seal(self, seal: ir.Seal) -> None:
        """Add sealed state, once."""
        if not (self.ended or any(known.data == seal.data for known in self.seals)):
            self.seals.append(seal)
            self._emit(ir.SealDelta(seal))

    def cite(self, citation: ir.Citation | None) -> None:
        """Add a citation, whose span is within this part; None if it is unreadable."""
        self.cited += 1
        if citation is not None and not self.ended and isinstance(self.header, FITS[ir.CitationDelta]):
            self.citations.append(citation)
            self._emit(ir.CitationDelta(citation))

    def logprobs(self, tokens: tuple[ir.TokenLogprob, ...]) -> None:
        """Add log probabilities."""
        if tokens:
            self.has_logprobs = True
            self._emit(ir.LogprobsDelta(tokens))

    def end(self, part: ir.Part | None = None) -> None:
        """End the part, once.

        Args:
            part: The complete part, if the upstream's last event has more than the events before it.
        """
        if self.index >= 0 and not self.ended:
            self._candidate.ending(self)
            whole = part or self.whole()
            self.ended = True
            self.kind = None
            self._sink = _REFUSED
            self._candidate.forget(self)
            self._candidate.events.emit(ir.PartEnded(self.number, self.index, whole))

    def whole(self) -> ir.Part | None:
        """Return the complete part; None if folding its deltas is enough."""
        header = self.header
        return msgspec.structs.replace(header, seals=(*header.seals, *self.seals)) if self.seals else header

    def _emit(self, delta: ir.Delta) -> None:
        if self.index >= 0 and not self.ended:
            self._candidate.events.emit(ir.PartDelta(self.number, self.index, delta))


class TextBuilder(PartBuilder):
    """A text or a refusal, which is not kept."""

    __slots__ = ("last", "length", "start")
    has_text: ClassVar[bool] = True

    def __init__(self, candidate: "CandidateBuilder") -> None:
        super().__init__(candidate)
        self.start = candidate.text_length
        """Code points of the candidate's texts before this one."""
        self.length = 0
        """Code points so far."""
        self.last = ""
        """The last piece."""

    @override
    def append(self, piece: str) -> None:
        """Add a piece of the text."""
        self.length += len(piece)
        self.last = piece
        self._sink.pending.append(ir.PartDelta(self.number, self.index, self._piece(piece)))

    def restate(self, text: str) -> None:
        """Add the end of a restated text that was not streamed."""
        if not self.ended and (rest := unstreamed_suffix(text, self.length, self.last)):
            self.append(rest)

    def cite_in_candidate(self, citation: ir.Citation) -> None:
        """Add a citation whose span is within all texts of the candidate."""
        start, end = citation.start, citation.end
        if start is not None and end is not None:
            citation = msgspec.structs.replace(citation, start=max(0, start - self.start), end=max(0, end - self.start))
        self.cite(citation)

    @override
    def whole(self) -> ir.Part | None:
        return None


class KeptBuilder(PartBuilder):
    """Reasoning, or a text whose end needs all of it."""

    __slots__ = ("pieces",)
    has_text: ClassVar[bool] = True

    def __init__(self, candidate: "CandidateBuilder") -> None:
        super().__init__(candidate)
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.pieces)

    @override
    def append(self, piece: str) -> None:
        """Add a piece of the text."""
        self.pieces.append(piece)
        self._sink.pending.append(ir.PartDelta(self.number, self.index, self._piece(piece)))

    def restate(self, text: str) -> None:
        """Add the end of a restated text that was not streamed."""
        streamed = self.text
        if not self.ended and (rest := unstreamed_suffix(text, len(streamed), streamed)):
            self.append(rest)

    @override
    def whole(self) -> ir.Part | None:
        header, text = self.header, self.text
        seals = (*header.seals, *self.seals)
        if isinstance(header, ir.Reasoning):
            redacted = not text and (header.redacted or any(seal.kind == "redacted" for seal in seals))
            return msgspec.structs.replace(header, text=text, seals=seals, redacted=redacted)
        if isinstance(header, ir.Text) and seals:
            return msgspec.structs.replace(header, text=text, citations=tuple(self.citations), seals=seals)
        return None


class MediaBuilder(PartBuilder):
    """Audio that comes in pieces of base64 text."""

    __slots__ = ("_data", "_transcript")

    def __init__(self, candidate: "CandidateBuilder") -> None:
        super().__init__(candidate)
        self._data: list[str] = []
        self._transcript: list[str] = []

    def add(self, data: str, transcript: str = "") -> None:
        """Add a piece of the data and of the transcript."""
        self._data.append(data)
        self._transcript.append(transcript)
        self._emit(ir.MediaDelta(data, transcript))

    @override
    def whole(self) -> ir.Part:
        assert isinstance(self.header, ir.Media)
        try:
            source = ir.InlineData(data=joined_base64(self._data))
        except ValueError:
            raise UpstreamProtocolError("The upstream sent audio that cannot be decoded.") from None
        transcript = "".join(self._transcript) or self.header.transcript
        return msgspec.structs.replace(self.header, source=source, transcript=transcript, seals=tuple(self.seals))


class CallBuilder(KeptBuilder):
    """A call, which starts when its name and its id are known; what is added before then is held.

    The input of an emulated free-text tool is unwrapped from its arguments, so it is held until they are complete.
    """

    __slots__ = ("initial", "unwraps")

    def __init__(self, candidate: "CandidateBuilder") -> None:
        super().__init__(candidate)
        self.kind = self._piece = ir.ArgumentsDelta
        self.unwraps = False
        """Whether it is a call of an emulated free-text tool."""
        self.initial = ""
        """The arguments if none are streamed."""

    def start(self, name: str, call_id: str, *seeds: str, custom: bool = False, **fields: Any) -> None:
        """Start the call of a client's tool, with the client's name and id.

        Args:
            name: The upstream's name of the tool.
            call_id: The upstream's id; replaced if it is empty or repeated.
            seeds: What tells the call from others, to derive its id.
            custom: Whether the upstream knows the tool as one with free-text input.
            fields: Other fields of the part.

        Raises:
            UpstreamProtocolError: The name is empty.
        """
        if not name:
            raise UpstreamProtocolError("The upstream made a call without a name.")
        candidate = self._candidate
        request = candidate.request
        candidate.called = True
        self.unwraps = not custom and name in request.emulated
        fields["namespace"] = fields.get("namespace") or request.namespaces.get(name)
        self.begin(
            ir.ToolCall(
                call_id=candidate.call_ids.of(request.call_ids.get(call_id, call_id), *seeds),
                name=request.names.get(name, name),
                kind="custom" if custom or self.unwraps else "function",
                **fields,
            )
        )

    @override
    def begin(self, header: ir.Part) -> None:
        super().begin(header)
        if self.unwraps:
            self._sink = _DROPPED
        elif held := self.text:
            self._sink.pending.append(ir.PartDelta(self.number, self.index, ir.ArgumentsDelta(held)))

    def update(self, **fields: Any) -> None:
        """Set fields of the complete part that its start lacked."""
        self.header = msgspec.structs.replace(self.header, **fields)

    @override
    def whole(self) -> ir.Part:
        assert isinstance(self.header, ir.ToolCall | ir.ServerToolCall)
        text = self.text
        free_text = isinstance(self.header, ir.ToolCall) and self.header.kind == "custom"
        is_streamed = not self.unwraps and bool(text.strip())
        if not text.strip() and (self.unwraps or not free_text):
            text = self.initial or "{}"
        if self.unwraps:
            text = unwrapped_input(text)
        elif isinstance(self.header, ir.ToolCall) and not free_text and not is_object(text):
            self._candidate.complete = False
        if text and not is_streamed:
            self._emit(ir.ArgumentsDelta(text))
        seals = (*self.header.seals, *self.seals)
        return msgspec.structs.replace(self.header, arguments=text, seals=seals)


BuilderT = TypeVar("BuilderT", bound=PartBuilder)


class CandidateBuilder:
    """One candidate. A protocol subclasses it for its own state of a candidate.

    Args:
        number: The candidate's index.
        events: The builder of the answer.
    """

    builders: ClassVar[Mapping[type[ir.PartBase], type[PartBuilder]]] = {
        ir.Text: TextBuilder,
        ir.Refusal: TextBuilder,
        ir.Reasoning: KeptBuilder,
    }
    """By part: its builder, if it is not complete when it starts."""

    def __init__(self, number: int, events: "EventBuilder[Any]") -> None:
        self.number = number
        self.events = events
        self.request = events.request
        self.call_ids = DistinctIds(self.request.nonce)
        self.parts: dict[Hashable, PartBuilder] = {}
        """By vendor's key: the last part with this key, which may have ended."""
        self.current: PartBuilder | None = None
        """The open part of `switch`."""
        self.count = 0
        """How many parts have started."""
        self.text: TextBuilder | None = None
        """The last text."""
        self.called = False
        self.complete = True
        """Whether the arguments of all ended calls are complete."""
        self.refused = False
        self.finished = False
        self._open: dict[int, PartBuilder] = {}
        self.tokens: tuple[ir.TokenLogprob, ...] = ()
        """The log probabilities that wait for a part."""

    @property
    def text_length(self) -> int:
        """Code points of its texts."""
        return 0 if self.text is None else self.text.start + self.text.length

    def unstreamed(self, text: str) -> str:
        """Return the end of its restated text that was not streamed."""
        return unstreamed_suffix(text, self.text_length, "" if self.text is None else self.text.last)

    def open(self, header: ir.Part, key: Hashable = None) -> PartBuilder:
        """Start a part; end the open part with the same key, if there is one."""
        return self.begin(self.builders.get(type(header), PartBuilder)(self), header, key)

    def begin(self, part: BuilderT, header: ir.Part, key: Hashable = None) -> BuilderT:
        """Start a part with this builder, as `open` does."""
        if key is not None:
            self._keyed(part, key)
        part.begin(header)
        if type(header) is ir.Text and isinstance(part, TextBuilder):
            self.text = part
        return part

    def call(self, key: Hashable = None) -> CallBuilder:
        """Return a call of a client's tool, for `CallBuilder.start`."""
        return self._keyed(CallBuilder(self), key)

    def switch(self, header: ir.Part, part: PartBuilder | None = None) -> PartBuilder:
        """End the current part and start the next, for vendors that send one part at a time."""
        self.close()
        self.current = self.open(header) if part is None else self.begin(part, header)
        return self.current

    def close(self) -> None:
        """End the current part."""
        if self.current is not None:
            current, self.current = self.current, None
            current.end()

    def whole(self, part: ir.Part) -> None:
        """Add a complete part; the call of a hosted tool starts without its arguments, which follow as a delta."""
        if isinstance(part, ir.ServerToolCall):
            call = self.begin(CallBuilder(self), msgspec.structs.replace(part, arguments=""))
            call.append(part.arguments)
            call.end()
        else:
            self.open(part).end(part)

    def logprobs(self, tokens: tuple[ir.TokenLogprob, ...]) -> None:
        """Add log probabilities to the last part if it is open, else to the next one."""
        last = self._open.get(self.count - 1)
        if last is not None:
            last.logprobs(tokens)
        else:
            self.tokens += tokens

    def finish(self, finish: ir.Finish) -> None:
        """End all parts and the candidate, once. The finish reason is made to fit the calls."""
        if self.finished:
            return
        self.close()
        for part in list(self._open.values()):
            part.end()
        reason = finish.reason
        if self.called and self.complete and reason is ir.FinishReason.UNKNOWN:
            reason = ir.FinishReason.TOOL_CALLS
        reason = consistent(reason, called=self.called)
        if reason is ir.FinishReason.STOP and self.refused:
            reason = ir.FinishReason.REFUSAL
        if reason is not finish.reason:
            finish = msgspec.structs.replace(finish, reason=reason)
        self.finished = True
        self.events.emit(ir.Finished(self.number, finish))

    def ending(self, part: PartBuilder) -> None:
        """Add what is known only when this part ends; for subclasses."""

    def register(self, part: PartBuilder) -> int:
        """Assign the number of a part that starts.

        Raises:
            UpstreamProtocolError: The candidate has finished.
        """
        if self.finished:
            raise UpstreamProtocolError("The upstream continued an answer that had ended.")
        index = self.count
        self.count += 1
        self._open[index] = part
        self.refused = self.refused or type(part.header) is ir.Refusal
        return index

    def forget(self, part: PartBuilder) -> None:
        """Note that a part ends."""
        del self._open[part.index]

    def _keyed(self, part: BuilderT, key: Hashable) -> BuilderT:
        if key is not None:
            before = self.parts.get(key)
            if before is not None:
                before.end()
            self.parts[key] = part
        return part


CandidateT = TypeVar("CandidateT", bound=CandidateBuilder, default=CandidateBuilder)


class EventBuilder(_Pending, Generic[CandidateT]):
    """The builder of one answer's events.

    Args:
        request: The upstream request, with its renamed tools and call ids.
        candidate: The class of its candidates.
    """

    __slots__ = ("_candidate", "_state", "candidates", "over", "request")

    def __init__(self, request: UpstreamRequest, candidate: type[CandidateT]) -> None:
        super().__init__([])
        self.request = request
        self.candidates: dict[int, CandidateT] = {}
        self.over = False
        self._candidate = candidate
        self._state = State.NEW

    @property
    def started(self) -> bool:
        """Whether the answer has started."""
        return self._state is not State.NEW

    def take(self) -> list[ir.StreamEvent]:
        """Return the events since the last call."""
        events, self.pending = self.pending, []
        return list(events)

    def emit(self, event: ir.StreamEvent) -> None:
        """Add an event, as the table of legal events has it.

        Raises:
            UpstreamProtocolError: The answer has not started.
        """
        follows = ORDER[self._state][type(event)]
        if type(follows) is State:
            self._state = follows
            self.over = follows is State.OVER
            self.pending.append(event)
        elif follows is Rule.BEGINS_WITH_STARTED:
            raise UpstreamProtocolError("The upstream's stream did not begin with its first event.")

    def start(
        self,
        answer_id: str,
        model: str,
        created_at: datetime = ir.UNDATED,
        usage: ir.Usage | None = None,
        service_tier: ir.ServiceTier | None = None,
    ) -> None:
        """Start the answer, once."""
        self.emit(ir.Started(answer_id, model, created_at, usage, service_tier, ir.EMPTY, self.request.nonce))

    def candidate(self, number: int) -> CandidateT:
        """Return a candidate, maybe a new one.

        Raises:
            UpstreamProtocolError: There are too many.
        """
        found = self.candidates.get(number)
        if found is None:
            if len(self.candidates) == ir.MOST_CANDIDATES:
                raise UpstreamProtocolError(f"The upstream's answer has more than {ir.MOST_CANDIDATES} candidates.")
            found = self.candidates[number] = self._candidate(number, self)
        return found

    def passed(self, protocol: str, name: str | None, data: bytes) -> None:
        """Pass an event that has no protocol-neutral form."""
        self.emit(ir.Passed(protocol, name, data))

    def usage(self, usage: ir.Usage | None) -> None:
        """Report the usage so far."""
        if usage is not None:
            self.emit(ir.UsageReported(usage))

    def end(self, usage: ir.Usage | None = None, service_tier: ir.ServiceTier | None = None) -> None:
        """End the answer; without a candidate, or with one that has not finished, it fails."""
        if not self.candidates or not all(candidate.finished for candidate in self.candidates.values()):
            self.fail(UpstreamProtocolError(NO_END))
        self.usage(usage)
        self.emit(ir.Ended(service_tier))

    def fail(self, error: GatewayError) -> None:
        """End the answer with an error."""
        self.emit(ir.Failed(error))
