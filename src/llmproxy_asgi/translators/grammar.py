"""The legal order of stream events, as a table.

::

    stream := Started body* ending
    body   := part event | Finished | UsageReported
    part   := PartStarted PartDelta* PartEnded      per (candidate, index); parts of one candidate may overlap
    ending := Ended | Failed                        Ended: every part ended, every candidate finished, one at the least

`Passed` may stand anywhere before the ending, even before `Started`; `Failed` may be the only event there is.
`Grammar` checks all of it, for tests of whoever makes events; `FITS` is for those who read them, too. It repairs and
reorders nothing. What a restated part holds is its vendor's affair: only its kind and its call are compared with the
header.
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
    """What an event can break."""

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


class GrammarError(ValueError):
    """An event that may not stand where it stands."""

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
"""Each delta, and the parts in which it may stand."""


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
"""What may come when, for the stream as a whole; a rule in the place of a state says which one would be broken."""


class _Candidate:
    """What has been seen of one candidate."""

    __slots__ = ("calls", "finished", "open", "parts")

    def __init__(self) -> None:
        self.parts = 0
        self.open: dict[int, Part] = {}
        self.calls = False
        self.finished = False


class Grammar:
    """Checks a row of events one by one."""

    def __init__(self) -> None:
        self._state = _State.NEW
        self._candidates: dict[int, _Candidate] = {}

    @property
    def complete(self) -> bool:
        """Whether the row has had its ending."""
        return self._state is _State.OVER

    def check(self, event: StreamEvent) -> None:
        """Take the next event.

        Raises:
            GrammarError: It may not stand here.
        """
        follows = _ORDER[self._state][type(event)]
        if isinstance(follows, Rule):
            raise GrammarError(follows, event)
        broken = self._broken(event)
        if broken is not None:
            raise GrammarError(broken, event)
        self._state = follows

    def _broken(self, event: StreamEvent) -> Rule | None:
        """The rule that this event breaks within its candidate; else it is taken note of."""
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
        candidate = self._candidates.setdefault(event.candidate, _Candidate())
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
        candidate = self._candidates.setdefault(event.candidate, _Candidate())
        if candidate.finished:
            return Rule.FINISHED_IS_LAST
        if candidate.open:
            return Rule.PARTS_END_FIRST
        candidate.finished = True
        reason = event.finish.reason
        # Whoever ran out of tokens or was cut off may leave a call behind without asking for it.
        unsaid = reason is FinishReason.STOP if candidate.calls else reason is FinishReason.TOOL_CALLS
        return Rule.CALLS_ARE_SAID if unsaid else None

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
