"""The legal order of stream events, as a table.

::

    stream := Started body* ending
    body   := part event | Finished | UsageReported
    part   := PartStarted PartDelta* PartEnded      per (candidate, index); parts of one candidate may overlap
    ending := Ended | Failed                        Ended: every part ended, every candidate finished, one at the least

`Passed` may occur anywhere before the ending, even before `Started`; `Failed` may be the only event.
`StreamValidator` checks all of it, for tests of decoders; `FITS` is also used by readers of events. Nothing is repaired
or reordered. The content of a restated part is not compared: only its kind and its call must equal the header's.
"""

from enum import Enum, StrEnum, auto

from llmproxy_asgi.conversation import (
    ArgumentsDelta,
    CitationDelta,
    Delta,
    Ended,
    Failed,
    Finished,
    FinishReason,
    LogprobsDelta,
    Media,
    MediaDelta,
    Part,
    PartBase,
    PartDelta,
    PartEnded,
    PartStarted,
    Passed,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    SealDelta,
    ServerToolCall,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    UsageReported,
)


class Rule(StrEnum):
    """A rule that an event can break."""

    BEGINS_WITH_STARTED = "a stream begins with Started"
    STARTS_ONCE = "a stream has one Started"
    NOTHING_AFTER_THE_ENDING = "nothing follows Ended or Failed"
    PARTS_ARE_DENSE = "the parts of a candidate are numbered 0, 1, 2... in the order of their start"
    PART_IS_OPEN = "a delta or an end belongs to an open part"
    DELTA_FITS = "a delta fits the kind of its part"
    CALL_IS_NAMED = "a call has its id and its name when it starts"
    SAME_PART = "the part that ended is the part that started"
    FINISHED_IS_LAST = "nothing of a candidate follows its Finished"
    PARTS_END_FIRST = "a candidate finishes when all its parts have ended"
    CALLS_ARE_SAID = "a candidate finishes with tool_calls if it holds calls and ended by itself, and only then"
    ENDED_IS_WHOLE = "Ended comes when every candidate has finished, and there is one"


class StreamRuleError(ValueError):
    """An event that is illegal at its position."""

    def __init__(self, rule: Rule, event: StreamEvent) -> None:
        super().__init__(f"{rule}: {type(event).__name__}")
        self.rule = rule


FITS: dict[type[Delta], tuple[type[PartBase], ...]] = {
    TextDelta: (Text,),
    ReasoningDelta: (Reasoning,),
    RefusalDelta: (Refusal,),
    ArgumentsDelta: (ToolCall, ServerToolCall),
    MediaDelta: (Media,),
    CitationDelta: (Text,),
    SealDelta: (PartBase,),
    LogprobsDelta: (PartBase,),
}
"""Each delta, and the parts that accept it."""


class _State(Enum):
    NEW = auto()
    OPEN = auto()
    OVER = auto()


_ORDER: dict[_State, dict[type[StreamEvent], _State | Rule]] = {
    _State.NEW: {
        Passed: _State.NEW,
        Started: _State.OPEN,
        Failed: _State.OVER,
        PartStarted: Rule.BEGINS_WITH_STARTED,
        PartDelta: Rule.BEGINS_WITH_STARTED,
        PartEnded: Rule.BEGINS_WITH_STARTED,
        Finished: Rule.BEGINS_WITH_STARTED,
        UsageReported: Rule.BEGINS_WITH_STARTED,
        Ended: Rule.BEGINS_WITH_STARTED,
    },
    _State.OPEN: {
        Passed: _State.OPEN,
        Started: Rule.STARTS_ONCE,
        PartStarted: _State.OPEN,
        PartDelta: _State.OPEN,
        PartEnded: _State.OPEN,
        Finished: _State.OPEN,
        UsageReported: _State.OPEN,
        Failed: _State.OVER,
        Ended: _State.OVER,
    },
    _State.OVER: dict.fromkeys(
        (Passed, Started, PartStarted, PartDelta, PartEnded, Finished, UsageReported, Failed, Ended),
        Rule.NOTHING_AFTER_THE_ENDING,
    ),
}
"""The events allowed in each state of the stream, with the next state or the rule that the event breaks."""


class _CandidateState:
    """The state of one candidate."""

    __slots__ = ("calls", "finished", "open", "parts")

    def __init__(self) -> None:
        self.parts = 0
        self.open: dict[int, Part] = {}
        self.calls = False
        self.finished = False


class StreamValidator:
    """Checks a sequence of events one by one."""

    def __init__(self) -> None:
        self._state = _State.NEW
        self._candidates: dict[int, _CandidateState] = {}

    @property
    def complete(self) -> bool:
        """Whether the stream has ended."""
        return self._state is _State.OVER

    def check(self, event: StreamEvent) -> None:
        """Check the next event.

        Raises:
            StreamRuleError: The event is illegal here.
        """
        follows = _ORDER[self._state][type(event)]
        if isinstance(follows, Rule):
            raise StreamRuleError(follows, event)
        broken = self._broken(event)
        if broken is not None:
            raise StreamRuleError(broken, event)
        self._state = follows

    def _broken(self, event: StreamEvent) -> Rule | None:
        """Return the rule that this event breaks within its candidate; record a legal event."""
        match event:
            case PartDelta():
                return self._delta(event)
            case PartStarted():
                return self._start(event)
            case PartEnded():
                return self._end(event)
            case Finished():
                return self._finish(event)
            case Ended():
                whole = self._candidates and all(known.finished for known in self._candidates.values())
                return None if whole else Rule.ENDED_IS_WHOLE
            case _:
                return None

    def _start(self, event: PartStarted) -> Rule | None:
        candidate = self._candidates.setdefault(event.candidate, _CandidateState())
        part = event.part
        if candidate.finished:
            return Rule.FINISHED_IS_LAST
        if event.index != candidate.parts:
            return Rule.PARTS_ARE_DENSE
        if isinstance(part, ToolCall):
            if not (part.call_id and part.name):
                return Rule.CALL_IS_NAMED
            candidate.calls = True
        candidate.parts += 1
        candidate.open[event.index] = part
        return None

    def _end(self, event: PartEnded) -> Rule | None:
        candidate = self._candidates.get(event.candidate)
        header = candidate.open.pop(event.index, None) if candidate else None
        if header is None:
            return Rule.PART_IS_OPEN
        if event.part is not None and _identity(event.part) != _identity(header):
            return Rule.SAME_PART
        return None

    def _finish(self, event: Finished) -> Rule | None:
        candidate = self._candidates.setdefault(event.candidate, _CandidateState())
        if candidate.finished:
            return Rule.FINISHED_IS_LAST
        if candidate.open:
            return Rule.PARTS_END_FIRST
        candidate.finished = True
        reason = event.finish.reason
        # An answer that reached its limit or was cut off may hold a call without finishing with tool_calls.
        inconsistent = reason is FinishReason.STOP if candidate.calls else reason is FinishReason.TOOL_CALLS
        return Rule.CALLS_ARE_SAID if inconsistent else None

    def _delta(self, event: PartDelta) -> Rule | None:
        candidate = self._candidates.get(event.candidate)
        part = candidate.open.get(event.index) if candidate else None
        if part is None:
            return Rule.PART_IS_OPEN
        return None if isinstance(part, FITS[type(event.delta)]) else Rule.DELTA_FITS


def _identity(part: Part) -> tuple[type[PartBase], str | None, str | None]:
    if isinstance(part, ToolCall):
        return type(part), part.call_id, part.name
    return type(part), None, None
