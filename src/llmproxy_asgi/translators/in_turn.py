"""Parts that overlap, given out one after the other, for protocols whose callers read parts in a row.

While a part is open, events of the others wait; when it ends, they follow in the order of their starts, but reasoning
before the calls that wait with it: Responses and Messages have it there, and some Chat servers send it behind. A call
that has begun to be written cannot be moved any more. What waits is bounded by what came.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from llmproxy_asgi.conversation import Part, PartDelta, PartEnded, PartStarted, Reasoning, ToolCall

PartEvent: TypeAlias = PartStarted | PartDelta | PartEnded

_NONE = -1


class InTurn:
    """The parts of one candidate."""

    __slots__ = ("_waiting", "open")

    def __init__(self) -> None:
        self.open = _NONE
        """The index of the part whose turn it is. Its deltas need not be given to `take`."""
        self._waiting: dict[int, list[PartEvent]] = {}

    def take(self, event: PartEvent) -> Sequence[PartEvent]:
        """The events whose turn it is now, after this one."""
        index = event.index
        if index == self.open:
            return self._after(event) if type(event) is PartEnded else (event,)
        if type(event) is PartStarted:
            if self.open == _NONE:
                self.open = index
                return (event,)
            self._waiting[index] = [event]
        elif index in self._waiting:
            self._waiting[index].append(event)
        return ()

    def _after(self, ended: PartEnded) -> Sequence[PartEvent]:
        given: list[PartEvent] = [ended]
        self.open = _NONE
        while self._waiting and self.open == _NONE:
            index = next_in_turn(self._waiting)
            waited = self._waiting.pop(index)
            given += waited
            if type(waited[-1]) is not PartEnded:
                self.open = index
        return given


def next_in_turn(waiting: Mapping[int, Sequence[PartEvent]]) -> int:
    """Whose turn it is of parts that wait: the first one's; of the first reasoning's, if that is a call."""
    first = next(iter(waiting))
    if len(waiting) > 1 and type(_part(waiting[first])) is ToolCall:
        return next((index for index in waiting if type(_part(waiting[index])) is Reasoning), first)
    return first


def _part(events: Sequence[PartEvent]) -> Part | None:
    """The part that these events begin with."""
    begin = events[0]
    return begin.part if isinstance(begin, PartStarted) else None
