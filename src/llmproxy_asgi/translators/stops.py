"""Stop sequences that an upstream does not take: the text is cut where the caller wanted it to end.

What could be the beginning of a stop sequence is held back until it is known not to be one: nothing of it leaks. The
upstream goes on behind the cut, and is read to its end for the sake of its usage; none of that is told.
"""

from collections.abc import Sequence

import msgspec
from typing_extensions import override

from llmproxy_asgi.conversation import (
    Batch,
    Failed,
    Finished,
    FinishReason,
    PartDelta,
    PartEnded,
    PartStarted,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
)
from llmproxy_asgi.translators.base import ErrorT, StreamDecoder
from llmproxy_asgi.translators.losses import Losses

MOST = 64
LONGEST = 1_000
"""How many stops are looked for in an answer, and their characters: every piece of it is compared with each of them,
while nobody else is served."""


def emulated(stops: Sequence[str], losses: Losses) -> tuple[str, ...]:
    """Those of the stops that are cut here, the first ones, because the upstream does not take them.

    Args:
        stops: Which it does not take.
        losses: Where it is noted that they are cut here, and if there are too many or too long ones.
    """
    if not stops:
        return ()
    left = dict.fromkeys(stop for stop in stops if stop)
    found = tuple(stop for stop in left if len(stop) <= LONGEST)[:MOST]
    if found:
        losses.add("emulated:stop")
    if len(found) < len(left):
        losses.add("clamped:stop")
    return found


class Stops:
    """Cuts the events of one answer.

    Args:
        sequences: What stops it; at least one, none of them empty.
    """

    __slots__ = ("_candidates", "_sequences")

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequences)
        self._candidates: dict[int, _Candidate] = {}

    def feed(self, events: Sequence[StreamEvent]) -> list[StreamEvent]:
        """The events as they are told."""
        told: list[StreamEvent] = []
        for event in events:
            match event:
                case PartStarted() | PartDelta() | PartEnded() | Finished():
                    known = self._candidates.get(event.candidate)
                    if known is None:
                        known = self._candidates[event.candidate] = _Candidate(self._sequences, event.candidate)
                    known.take(event, told)
                case Failed():
                    for known in self._candidates.values():
                        known.release(told)
                    told.append(event)
                case _:
                    told.append(event)
        return told


class _Candidate:
    """One candidate's parts."""

    __slots__ = ("_called", "_held", "_index", "_open", "_sequences", "_stopped")

    def __init__(self, sequences: Sequence[str], index: int) -> None:
        self._sequences = sequences
        self._index = index
        self._held: dict[int, str] = {}  # the text parts that are open, and what of each is not told yet
        self._open: set[int] = set()
        self._stopped: str | None = None
        self._called = False  # before the cut: then the caller is due to answer, whatever was said behind the calls

    def take(self, event: PartStarted | PartDelta | PartEnded | Finished, told: list[StreamEvent]) -> None:
        """One more event."""
        match event:
            case Finished(finish=finish):
                if self._stopped is not None and not self._called:
                    finish = msgspec.structs.replace(
                        finish, reason=FinishReason.STOP_SEQUENCE, stop_sequence=self._stopped
                    )
                told.append(Finished(self._index, finish))
            case PartEnded(index=index):
                if index in self._open:
                    self._open.remove(index)
                    self._release(index, told)
                    told.append(event if self._stopped is None else PartEnded(self._index, index))
            case _ if self._stopped is not None:
                pass
            case PartStarted(index=index, part=part):
                self._open.add(index)
                if isinstance(part, Text):
                    self._held[index] = ""
                    told.append(PartStarted(self._index, index, msgspec.structs.replace(part, text="")))
                    self._say(index, part.text, told)
                else:
                    self._called = self._called or isinstance(part, ToolCall)
                    told.append(event)
            case PartDelta(index=index, delta=TextDelta(text=text)) if index in self._held:
                self._say(index, text, told)
            case _:
                told.append(event)

    def release(self, told: list[StreamEvent]) -> None:
        """Nothing more comes: what was held back was no stop."""
        for index in list(self._held):
            self._release(index, told)

    def _release(self, index: int, told: list[StreamEvent]) -> None:
        held = self._held.pop(index, "")
        if held:
            told.append(PartDelta(self._index, index, TextDelta(held)))

    def _say(self, index: int, text: str, told: list[StreamEvent]) -> None:
        text = self._held[index] + text
        found = _first(text, self._sequences)
        if found is not None:
            end, self._stopped = found
            self._held.clear()
            self._open.discard(index)
            if end:
                told.append(PartDelta(self._index, index, TextDelta(text[:end])))
            told.append(PartEnded(self._index, index))
            return
        kept = _beginning(text, self._sequences)
        said = text[: len(text) - kept]
        self._held[index] = text[len(said) :]
        if said:
            told.append(PartDelta(self._index, index, TextDelta(said)))


class StoppingDecoder(StreamDecoder):
    """Another decoder's events, cut.

    Args:
        decoder: Reads the stream.
        sequences: What stops its text.
    """

    def __init__(self, decoder: StreamDecoder, sequences: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = Stops(sequences)

    @override
    def feed(self, data: bytes) -> Batch:
        return Batch(self._stops.feed(self._decoder.feed(data).events))

    @override
    def close(self) -> Batch:
        return Batch(self._stops.feed(self._decoder.close().events))

    @override
    def broke(self, error: ErrorT) -> ErrorT:
        return self._decoder.broke(error)


def _first(text: str, sequences: Sequence[str]) -> tuple[int, str] | None:
    """Where the stop begins that is complete first, and which it is; of several that end together, the longest."""
    hits = [(at + len(stop), at, stop) for stop in sequences if (at := text.find(stop)) >= 0]
    if not hits:
        return None
    _, at, stop = min(hits)
    return at, stop


def _beginning(text: str, sequences: Sequence[str]) -> int:
    """How many characters at a text's end may be the beginning of a stop."""
    return max(_shared(text, stop) for stop in sequences)


def _shared(text: str, stop: str) -> int:
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return len(text) - at if at >= 0 else 0
