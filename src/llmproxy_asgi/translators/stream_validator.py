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

import llmproxy_asgi.conversation as ir


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

    def __init__(self, rule: Rule, event: ir.StreamEvent) -> None:
        super().__init__(f"{rule}: {type(event).__name__}")
        self.rule = rule


FITS: dict[type[ir.Delta], tuple[type[ir.PartBase], ...]] = {
    ir.TextDelta: (ir.Text,),
    ir.ReasoningDelta: (ir.Reasoning,),
    ir.RefusalDelta: (ir.Refusal,),
    ir.ArgumentsDelta: (ir.ToolCall, ir.ServerToolCall),
    ir.MediaDelta: (ir.Media,),
    ir.CitationDelta: (ir.Text,),
    ir.SealDelta: (ir.PartBase,),
    ir.LogprobsDelta: (ir.PartBase,),
}
"""Each delta, and the parts that accept it."""


class _State(Enum):
    NEW = auto()
    OPEN = auto()
    OVER = auto()


_ORDER: dict[_State, dict[type[ir.StreamEvent], _State | Rule]] = {
    _State.NEW: {
        ir.Passed: _State.NEW,
        ir.Started: _State.OPEN,
        ir.Failed: _State.OVER,
        ir.PartStarted: Rule.BEGINS_WITH_STARTED,
        ir.PartDelta: Rule.BEGINS_WITH_STARTED,
        ir.PartEnded: Rule.BEGINS_WITH_STARTED,
        ir.Finished: Rule.BEGINS_WITH_STARTED,
        ir.UsageReported: Rule.BEGINS_WITH_STARTED,
        ir.Ended: Rule.BEGINS_WITH_STARTED,
    },
    _State.OPEN: {
        ir.Passed: _State.OPEN,
        ir.Started: Rule.STARTS_ONCE,
        ir.PartStarted: _State.OPEN,
        ir.PartDelta: _State.OPEN,
        ir.PartEnded: _State.OPEN,
        ir.Finished: _State.OPEN,
        ir.UsageReported: _State.OPEN,
        ir.Failed: _State.OVER,
        ir.Ended: _State.OVER,
    },
    _State.OVER: dict.fromkeys(
        (
            ir.Passed,
            ir.Started,
            ir.PartStarted,
            ir.PartDelta,
            ir.PartEnded,
            ir.Finished,
            ir.UsageReported,
            ir.Failed,
            ir.Ended,
        ),
        Rule.NOTHING_AFTER_THE_ENDING,
    ),
}
"""The events allowed in each state of the stream, with the next state or the rule that the event breaks."""


class _CandidateState:
    """The state of one candidate."""

    __slots__ = ("calls", "finished", "open", "parts")

    def __init__(self) -> None:
        self.parts = 0
        self.open: dict[int, ir.Part] = {}
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

    def check(self, event: ir.StreamEvent) -> None:
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

    def _broken(self, event: ir.StreamEvent) -> Rule | None:
        """Return the rule that this event breaks within its candidate; record a legal event."""
        match event:
            case ir.PartDelta():
                return self._delta(event)
            case ir.PartStarted():
                return self._start(event)
            case ir.PartEnded():
                return self._end(event)
            case ir.Finished():
                return self._finish(event)
            case ir.Ended():
                whole = self._candidates and all(known.finished for known in self._candidates.values())
                return None if whole else Rule.ENDED_IS_WHOLE
            case _:
                return None

    def _start(self, event: ir.PartStarted) -> Rule | None:
        candidate = self._candidates.setdefault(event.candidate, _CandidateState())
        part = event.part
        if candidate.finished:
            return Rule.FINISHED_IS_LAST
        if event.index != candidate.parts:
            return Rule.PARTS_ARE_DENSE
        if isinstance(part, ir.ToolCall):
            if not (part.call_id and part.name):
                return Rule.CALL_IS_NAMED
            candidate.calls = True
        candidate.parts += 1
        candidate.open[event.index] = part
        return None

    def _end(self, event: ir.PartEnded) -> Rule | None:
        candidate = self._candidates.get(event.candidate)
        header = candidate.open.pop(event.index, None) if candidate else None
        if header is None:
            return Rule.PART_IS_OPEN
        if event.part is not None and _identity(event.part) != _identity(header):
            return Rule.SAME_PART
        return None

    def _finish(self, event: ir.Finished) -> Rule | None:
        candidate = self._candidates.setdefault(event.candidate, _CandidateState())
        if candidate.finished:
            return Rule.FINISHED_IS_LAST
        if candidate.open:
            return Rule.PARTS_END_FIRST
        candidate.finished = True
        reason = event.finish.reason
        # An answer that reached its limit or was cut off may hold a call without finishing with tool_calls.
        inconsistent = reason is ir.FinishReason.STOP if candidate.calls else reason is ir.FinishReason.TOOL_CALLS
        return Rule.CALLS_ARE_SAID if inconsistent else None

    def _delta(self, event: ir.PartDelta) -> Rule | None:
        candidate = self._candidates.get(event.candidate)
        part = candidate.open.get(event.index) if candidate else None
        if part is None:
            return Rule.PART_IS_OPEN
        return None if isinstance(part, FITS[type(event.delta)]) else Rule.DELTA_FITS


def _identity(part: ir.Part) -> tuple[type[ir.PartBase], str | None, str | None]:
    if isinstance(part, ir.ToolCall):
        return type(part), part.call_id, part.name
    return type(part), None, None
