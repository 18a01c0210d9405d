"""Parts that overlap, given out one after the other, for protocols whose callers read parts in a row.

While a part is open, events of the others wait; when it ends, they follow in the order of their starts. What waits is
bounded by what came.
"""

from collections.abc import Sequence
from typing import TypeAlias

from llmproxy_asgi.conversation import PartDelta, PartEnded, PartStarted

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
            index = next(iter(self._waiting))
            waited = self._waiting.pop(index)
            given += waited
            if type(waited[-1]) is not PartEnded:
                self.open = index
        return given
