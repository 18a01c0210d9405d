"""The legal order of stream events, as tables that the builder of events runs on and the validator checks against.

::

    stream := Started body* ending
    body   := part event | Finished | UsageReported
    part   := PartStarted PartDelta* PartEnded      per (candidate, index); parts of one candidate may overlap
    ending := Ended | Failed                        Ended: every part ended, every candidate finished, one at the least

`Passed` may occur anywhere before the ending, even before `Started`; `Failed` may be the only event.
"""

from enum import Enum, StrEnum, auto
from typing import TypeAlias

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


class State(Enum):
    """The state of a stream."""

    NEW = auto()
    OPEN = auto()
    OVER = auto()


ORDER: dict[State, dict[type[ir.StreamEvent], State | Rule]] = {
    State.NEW: {
        ir.Passed: State.NEW,
        ir.Started: State.OPEN,
        ir.Failed: State.OVER,
        ir.PartStarted: Rule.BEGINS_WITH_STARTED,
        ir.PartDelta: Rule.BEGINS_WITH_STARTED,
        ir.PartEnded: Rule.BEGINS_WITH_STARTED,
        ir.Finished: Rule.BEGINS_WITH_STARTED,
        ir.UsageReported: Rule.BEGINS_WITH_STARTED,
        ir.Ended: Rule.BEGINS_WITH_STARTED,
    },
    State.OPEN: {
        ir.Passed: State.OPEN,
        ir.Started: Rule.STARTS_ONCE,
        ir.PartStarted: State.OPEN,
        ir.PartDelta: State.OPEN,
        ir.PartEnded: State.OPEN,
        ir.Finished: State.OPEN,
        ir.UsageReported: State.OPEN,
        ir.Failed: State.OVER,
        ir.Ended: State.OVER,
    },
    State.OVER: dict.fromkeys(
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

Piece: TypeAlias = ir.TextDelta | ir.ReasoningDelta | ir.RefusalDelta | ir.ArgumentsDelta
"""A delta that is more of its part's text."""
PIECES: dict[type[ir.PartBase], type[Piece]] = {
    part: delta
    for delta in (ir.TextDelta, ir.ReasoningDelta, ir.RefusalDelta, ir.ArgumentsDelta)
    for part in FITS[delta]
}
"""By part: the delta of its text."""


def consistent(reason: ir.FinishReason, *, called: bool) -> ir.FinishReason:
    """Return the finish reason that fits the calls; an answer that was cut off may hold calls and say so."""
    if called and reason is ir.FinishReason.STOP:
        return ir.FinishReason.TOOL_CALLS
    return ir.FinishReason.STOP if reason is ir.FinishReason.TOOL_CALLS and not called else reason
