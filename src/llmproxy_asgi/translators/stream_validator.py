"""Check the order of stream events against the tables of `codec/grammar.py`, for tests of decoders.

Nothing is repaired or reordered. The content of a restated part is not compared: only its kind and its call must equal
the header's.
"""

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.codec.grammar import FITS, ORDER, Rule, State, consistent


class StreamRuleError(ValueError):
    """An event that is illegal at its position."""

    def __init__(self, rule: Rule, event: ir.StreamEvent) -> None:
        super().__init__(f"{rule}: {type(event).__name__}")
        self.rule = rule


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
        self._state = State.NEW
        self._candidates: dict[int, _CandidateState] = {}

    @property
    def complete(self) -> bool:
        """Whether the stream has ended."""
        return self._state is State.OVER

    def check(self, event: ir.StreamEvent) -> None:
        """Check the next event.

        Raises:
            StreamRuleError: The event is illegal here.
        """
        follows = ORDER[self._state][type(event)]
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
        return None if consistent(reason, called=candidate.calls) is reason else Rule.CALLS_ARE_SAID

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
