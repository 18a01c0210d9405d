"""Stop sequences that the upstream does not support: the gateway cuts the text at them.

Text that may begin a stop sequence is held back until it cannot be one, so no part of a stop sequence reaches the
client. The upstream continues after the cut and is read to its end for its usage; nothing of that is sent.
"""

from collections.abc import Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import ErrorT, StreamDecoder
from llmproxy_asgi.translators.losses import Losses

MAX_SEQUENCES = 64
MAX_LENGTH = 1_000
"""Characters of a stop sequence. Both are bounded because every delta is compared with each sequence, which blocks the
event loop."""


def emulate_stops(stops: Sequence[str], losses: Losses) -> tuple[str, ...]:
    """Return the first of the stop sequences, within the limits, for the gateway to emulate.

    Args:
        stops: The sequences that the upstream does not support.
        losses: Receives the warnings: that sequences are emulated, and that some exceed the limits.
    """
    if not stops:
        return ()
    left = dict.fromkeys(stop for stop in stops if stop)
    found = tuple(stop for stop in left if len(stop) <= MAX_LENGTH)[:MAX_SEQUENCES]
    if found:
        losses.add("emulated:stop")
    if len(found) < len(left):
        losses.add("clamped:stop")
    return found


class StopSequenceFilter:
    """Cuts the events of one answer at stop sequences.

    Args:
        sequences: The stop sequences; at least one, none empty.
    """

    __slots__ = ("_candidates", "_sequences")

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequences)
        self._candidates: dict[int, _CandidateFilter] = {}

    def feed(self, events: Sequence[ir.StreamEvent]) -> list[ir.StreamEvent]:
        """Return the events to send."""
        out: list[ir.StreamEvent] = []
        for event in events:
            match event:
                case ir.PartStarted() | ir.PartDelta() | ir.PartEnded() | ir.Finished():
                    known = self._candidates.get(event.candidate)
                    if known is None:
                        known = self._candidates[event.candidate] = _CandidateFilter(self._sequences, event.candidate)
                    known.process(event, out)
                case ir.Failed():
                    for known in self._candidates.values():
                        known.release(out)
                    out.append(event)
                case _:
                    out.append(event)
        return out


class _CandidateFilter:
    """The parts of one candidate."""

    __slots__ = ("_called", "_held", "_index", "_open", "_sequences", "_stopped")

    def __init__(self, sequences: Sequence[str], index: int) -> None:
        self._sequences = sequences
        self._index = index
        self._held: dict[int, str] = {}  # by open text part: the text not sent yet
        self._open: set[int] = set()
        self._stopped: str | None = None
        self._called = False  # a call before the cut, so the finish reason stays tool_calls

    def process(
        self, event: ir.PartStarted | ir.PartDelta | ir.PartEnded | ir.Finished, out: list[ir.StreamEvent]
    ) -> None:
        """Process one event."""
        match event:
            case ir.Finished(finish=finish):
                if self._stopped is not None and not self._called:
                    finish = msgspec.structs.replace(
                        finish, reason=ir.FinishReason.STOP_SEQUENCE, stop_sequence=self._stopped
                    )
                out.append(ir.Finished(self._index, finish))
            case ir.PartEnded(index=index):
                if index in self._open:
                    self._open.remove(index)
                    self._release(index, out)
                    out.append(event if self._stopped is None else ir.PartEnded(self._index, index))
            case _ if self._stopped is not None:
                pass
            case ir.PartStarted(index=index, part=part):
                self._open.add(index)
                if isinstance(part, ir.Text):
                    self._held[index] = ""
                    out.append(ir.PartStarted(self._index, index, msgspec.structs.replace(part, text="")))
                    self._send(index, part.text, out)
                else:
                    self._called = self._called or isinstance(part, ir.ToolCall)
                    out.append(event)
            case ir.PartDelta(index=index, delta=ir.TextDelta(text=text)) if index in self._held:
                self._send(index, text, out)
            case _:
                out.append(event)

    def release(self, out: list[ir.StreamEvent]) -> None:
        """Send the held text: the stream is over."""
        for index in list(self._held):
            self._release(index, out)

    def _release(self, index: int, out: list[ir.StreamEvent]) -> None:
        held = self._held.pop(index, "")
        if held:
            out.append(ir.PartDelta(self._index, index, ir.TextDelta(held)))

    def _send(self, index: int, text: str, out: list[ir.StreamEvent]) -> None:
        text = self._held[index] + text
        found = _find_first(text, self._sequences)
        if found is not None:
            end, self._stopped = found
            self._held.clear()
            self._open.discard(index)
            if end:
                out.append(ir.PartDelta(self._index, index, ir.TextDelta(text[:end])))
            out.append(ir.PartEnded(self._index, index))
            return
        kept = _partial_length(text, self._sequences)
        sent = text[: len(text) - kept]
        self._held[index] = text[len(sent) :]
        if sent:
            out.append(ir.PartDelta(self._index, index, ir.TextDelta(sent)))


class StopSequenceDecoder(StreamDecoder):
    """Another decoder's events, cut at stop sequences.

    Args:
        decoder: Decodes the stream.
        sequences: The stop sequences.
    """

    def __init__(self, decoder: StreamDecoder, sequences: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = StopSequenceFilter(sequences)

    @override
    def feed(self, data: bytes) -> ir.Batch:
        return ir.Batch(self._stops.feed(self._decoder.feed(data).events))

    @override
    def close(self) -> ir.Batch:
        return ir.Batch(self._stops.feed(self._decoder.close().events))

    @override
    def broke(self, error: ErrorT) -> ErrorT:
        return self._decoder.broke(error)


def _find_first(text: str, sequences: Sequence[str]) -> tuple[int, str] | None:
    """Return start and text of the stop sequence that ends first; of several with one end, the longest."""
    hits = [(at + len(stop), at, stop) for stop in sequences if (at := text.find(stop)) >= 0]
    if not hits:
        return None
    _, at, stop = min(hits)
    return at, stop


def _partial_length(text: str, sequences: Sequence[str]) -> int:
    """Return how many characters at the end of a text may begin a stop sequence."""
    return max(_overlap(text, stop) for stop in sequences)


def _overlap(text: str, stop: str) -> int:
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return len(text) - at if at >= 0 else 0
