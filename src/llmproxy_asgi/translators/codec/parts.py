"""Encode a stream of events part by part: what the stream encoders of all protocols have in common.

`PartEncoder` dispatches the events of a stream and `PartWriter` those of one part; a protocol subclasses both and
implements their hooks. Done here, once for all protocols:

- Parts that a protocol can't write side by side are put in sequence (`PartSequencer`).
- Content that a part starts with is written as if it were its first delta, and content that the upstream only restates
  at the end is written then.
- A part's seals are those that its end restates, else those that came before.
- Other candidates are dropped where a protocol has only one.
- Usage, service tier and finish are kept until the protocol writes them.
- Nothing follows `Ended` or `Failed`, and a part that can't be encoded ends the stream as a failure of the upstream.

Streams consist almost only of deltas of text, reasoning and arguments. The encoder writes those without a call of any
hook if their writer has a `prefix` and a `suffix`: the prefix, the text as JSON, the suffix.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, assert_never, cast

import msgspec
from typing_extensions import TypeVar, override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.base import StreamEncoder
from llmproxy_asgi.translators.media import joined_base64
from llmproxy_asgi.translators.part_sequencer import PartEvent, PartSequencer

_json = msgspec.json.Encoder().encode


class PartWriter:
    """The writer of one part. Its hooks do nothing but collect, for parts that are written complete at their end."""

    def __init__(self, part: ir.Part, out: list[bytes]) -> None:
        self.part = part
        """The part as it started."""
        self.out = out
        self.candidate = self.index = -1
        self.prefix = b""
        """What precedes a piece of text; empty while `write` writes the pieces."""
        self.suffix = b""
        self.has_write = type(self).write is not PartWriter.write
        self.keeps = True
        """Whether the encoder collects `pieces`; else it counts them."""
        self.pieces: list[str] = []
        """Text, reasoning or arguments so far."""
        self.counted = 0
        """Code points that the encoder counted instead."""
        self.data: list[str] = []
        """Base64 text of media so far."""
        self.citations: list[ir.Citation] = []
        self.seals: list[ir.Seal] = []

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the part and write the content that it starts with."""
        self.add(_content(self.part))
        if isinstance(self.part, ir.Text):
            for citation in self.part.citations:
                self.cite(citation)
        self.seals += self.part.seals

    def write(self, text: str) -> None:
        """Write a piece of text, reasoning, refusal or arguments; never empty."""

    def cite(self, citation: ir.Citation) -> None:
        """Write a citation."""
        self.citations.append(citation)

    def seal(self, seal: ir.Seal) -> None:
        """Write a seal that came after the part's start."""
        self.seals.append(seal)

    def write_logprobs(self, tokens: Sequence[ir.TokenLogprob]) -> None:
        """Write log probabilities."""

    def write_media(self, delta: ir.MediaDelta) -> None:
        """Write a piece of audio or an image."""
        self.data.append(delta.data)

    def restate(self, text: str) -> None:
        """Write text that the upstream sends only at the part's end."""
        self.add(text)

    def end(self, part: ir.Part) -> None:
        """End the part.

        Args:
            part: As the upstream restates it, else as it started (see `arguments` and `media`).
        """

    @property
    def length(self) -> int:
        """Code points of text, reasoning or arguments so far."""
        return self.counted + sum(map(len, self.pieces))

    # ── called by the encoder and by hooks ───────────────────────────────────────────────────────────────────────────

    def add(self, text: str) -> None:
        """Add a piece of text; `PartEncoder.feed` does the same for most pieces."""
        if not text:
            return
        if self.keeps:
            self.pieces.append(text)
        else:
            self.counted += len(text)
        if self.prefix:
            self.out.append(self.prefix + _json(text) + self.suffix)
        elif self.has_write:
            self.write(text)

    def add_delta(self, delta: ir.Delta) -> None:
        """Add a delta of any kind."""
        match delta:
            case ir.TextDelta() | ir.ReasoningDelta() | ir.RefusalDelta() | ir.ArgumentsDelta():
                self.add(delta.text)
            case ir.CitationDelta(citation=citation):
                self.cite(citation)
            case ir.SealDelta(seal=seal):
                self.seal(seal)
            case ir.LogprobsDelta(tokens=tokens):
                self.write_logprobs(tokens)
            case ir.MediaDelta():
                self.write_media(delta)
            case _:
                assert_never(delta)

    def close(self, restated: ir.Part | None) -> None:
        """End the part with all that is still unwritten."""
        part = restated or self.part
        if not self.length:
            without_arguments = isinstance(part, ir.ToolCall) and part.kind == "function"
            self.restate(_content(part) or ("{}" if without_arguments else ""))
        if restated is not None and restated.seals:
            self.seals = list(restated.seals)
        self.end(part)

    def arguments(self, part: ir.Part) -> str:
        """Return the arguments of a call that ends: as restated, else those of its deltas."""
        restated = "" if part is self.part else _content(part)
        return restated or "".join(self.pieces)

    def media(self, part: ir.Media) -> ir.Media:
        """Return media that ends, with its data: as restated, else that of its deltas.

        Raises:
            UpstreamProtocolError: The pieces of its data can't be joined.
        """
        inline = part.source.data if isinstance(part.source, ir.InlineData) else ""
        if not any(self.data) or (inline and part is not self.part):
            return part
        try:
            data = joined_base64([inline, *self.data])
        except ValueError:
            raise UpstreamProtocolError("The upstream sent audio that cannot be decoded.") from None
        return msgspec.structs.replace(part, source=ir.InlineData(data=data))


class NullWriter(PartWriter):
    """A writer of a part that the protocol can't express."""

    def __init__(self, part: ir.Part, out: list[bytes]) -> None:
        super().__init__(part, out)
        self.keeps = False


class CandidateState:
    """The state of one candidate; protocols add to it in a subclass."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.finish = ir.Finish(reason=ir.FinishReason.UNKNOWN)


CandidateT = TypeVar("CandidateT", bound=CandidateState, default=CandidateState)


class PartEncoder(StreamEncoder, Generic[CandidateT]):
    """The encoder of one stream. Its hooks append bytes to `out`."""

    one_candidate: ClassVar[bool] = False
    """Whether the protocol has no other candidate than the first."""
    sequenced: ClassVar[tuple[type[ir.PartBase], ...]] = ()
    """The kinds of parts that can't overlap."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.candidates: dict[int, CandidateT] = {}
        self._sequencers: dict[int, PartSequencer] = {}
        self.usage: ir.Usage | None = None
        self.usage_reported = False
        """Whether there was a report of usage after the start."""
        self.tier: ir.ServiceTier | None = None
        self._writer = _NO_PART
        """The part that the last delta belonged to."""
        self._open: dict[tuple[int, int], PartWriter] = {}
        """The started parts, by candidate and index."""
        self._over = False

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def start(self, event: ir.Started) -> None:
        """Start the answer."""

    def start_candidate(self, number: int) -> CandidateT:
        """Start a candidate and return its state."""
        return cast("CandidateT", CandidateState(number))

    @abstractmethod
    def writer(self, candidate: CandidateT, part: ir.Part) -> PartWriter:
        """Return the writer of a part that starts."""

    def finish(self, candidate: CandidateT) -> None:
        """Finish a candidate."""

    @abstractmethod
    def end(self) -> None:
        """End the answer."""

    @abstractmethod
    def fail(self, error: GatewayError) -> None:
        """Write the protocol's error event."""

    def forward(self, event: ir.Passed) -> None:
        """Write a frame of the upstream, if it is of this protocol."""

    # ── dispatch ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        out = self.out
        writer = self._writer
        for event in events:
            if type(event) is ir.PartDelta:
                if event.index != writer.index or event.candidate != writer.candidate:
                    found = self._open.get((event.candidate, event.index))
                    if found is None:
                        self._event(event)
                        continue
                    writer = self._writer = found
                delta = event.delta
                if (
                    type(delta) is ir.TextDelta
                    or type(delta) is ir.ArgumentsDelta
                    or type(delta) is ir.ReasoningDelta
                    or type(delta) is ir.RefusalDelta
                ):
                    text = delta.text
                    if text:
                        if writer.keeps:
                            writer.pieces.append(text)
                        else:
                            writer.counted += len(text)
                        if writer.prefix:
                            out.append(writer.prefix + _json(text) + writer.suffix)
                        elif writer.has_write:
                            writer.write(text)
                else:
                    writer.add_delta(delta)
            else:
                self._event(event)
                writer = self._writer
        written = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return written

    def candidate(self, number: int) -> CandidateT:
        """Return a candidate; start it when it is new."""
        found = self.candidates.get(number)
        if found is None:
            found = self.candidates[number] = self.start_candidate(number)
            self._sequencers[number] = PartSequencer(self.sequenced)
        return found

    def _event(self, event: ir.StreamEvent) -> None:
        if self._over:
            return
        match event:
            case ir.PartStarted() | ir.PartDelta() | ir.PartEnded():
                self._part(event)
            case ir.Finished():
                self._finish(event)
            case ir.UsageReported(usage=usage):
                self.usage, self.usage_reported = usage, True
            case ir.Started():
                self.usage, self.tier = event.usage, event.service_tier
                self.start(event)
            case ir.Ended(service_tier=tier):
                self.tier = tier or self.tier
                self.end()
                self._close()
            case ir.Failed(error=error):
                self._fail(error)
            case ir.Passed():
                self.forward(event)
            case _:
                assert_never(event)

    def _part(self, event: PartEvent) -> None:
        """Encode an event of a part, and the events that waited for it; keep it where it has to wait itself."""
        if event.candidate and self.one_candidate:
            return
        candidate = self.candidate(event.candidate)
        try:
            for each in self._sequencers[event.candidate].feed(event):
                self._next_part_event(candidate, each)
        except UpstreamProtocolError as error:
            self._fail(error)

    def _next_part_event(self, candidate: CandidateT, event: PartEvent) -> None:
        key = (event.candidate, event.index)
        match event:
            case ir.PartStarted(part=part):
                writer = self._open[key] = self._writer = self.writer(candidate, part)
                writer.candidate, writer.index = key
                writer.start()
            case ir.PartDelta(delta=delta):
                if key in self._open:
                    self._open[key].add_delta(delta)
            case ir.PartEnded(part=part):
                found = self._open.pop(key, None)
                if found is not None:
                    self._writer = _NO_PART
                    found.close(part)
            case _:
                assert_never(event)

    def end_open_parts(self) -> None:
        """End the parts that the upstream left open."""
        while self._open:
            self._part(ir.PartEnded(*next(iter(self._open))))

    def _finish(self, event: ir.Finished) -> None:
        if event.candidate and self.one_candidate:
            return
        candidate = self.candidate(event.candidate)
        candidate.finish = event.finish
        self.finish(candidate)

    def _fail(self, error: GatewayError) -> None:
        self.fail(error)
        self._close()

    def _close(self) -> None:
        self._over = True
        self._open.clear()
        self._writer = _NO_PART


_NO_PART = PartWriter(ir.Text(text=""), [])


def _content(part: ir.Part) -> str:
    """Return the text that a part holds."""
    if isinstance(part, ir.Text | ir.Reasoning | ir.Refusal):
        return part.text
    return part.arguments if isinstance(part, ir.ToolCall | ir.ServerToolCall) else ""
