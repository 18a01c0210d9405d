"""Put overlapping parts in sequence, for protocols whose clients read one part at a time.

While a part is open, events of later parts of the kinds to be sequenced are held back; when it ends, they follow in the
order of their starts, except that reasoning precedes the tool calls held back with it: Responses and Messages place it
there, and some Chat servers send it after the call. A call that is partly written stays where it is.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import llmproxy_asgi.conversation as ir

PartEvent: TypeAlias = ir.PartStarted | ir.PartDelta | ir.PartEnded

_NONE = -1


class PartSequencer:
    """Sequence the parts of one candidate.

    Args:
        kinds: The kinds of parts to be sequenced; events of others pass at once.
    """

    __slots__ = ("_held", "_kinds", "_open")

    def __init__(self, kinds: tuple[type[ir.PartBase], ...]) -> None:
        self._kinds = kinds
        self._open = _NONE
        self._held: dict[int, list[PartEvent]] = {}

    def feed(self, event: PartEvent) -> Sequence[PartEvent]:
        """Return the events that can be sent now, after this one. Deltas of a started part need not be fed."""
        index = event.index
        if index == self._open:
            return self._after(event) if type(event) is ir.PartEnded else (event,)
        if index in self._held:
            self._held[index].append(event)
            return ()
        if type(event) is ir.PartStarted and isinstance(event.part, self._kinds):
            if self._open != _NONE:
                self._held[index] = [event]
                return ()
            self._open = index
        return (event,)

    def _after(self, ended: ir.PartEnded) -> Sequence[PartEvent]:
        released: list[PartEvent] = [ended]
        self._open = _NONE
        while self._held and self._open == _NONE:
            index = _next_held(self._held)
            held = self._held.pop(index)
            released += held
            if type(held[-1]) is not ir.PartEnded:
                self._open = index
        return released


def _next_held(held: Mapping[int, Sequence[PartEvent]]) -> int:
    """Return the index of the part to send next: the first one, or the first reasoning if that one is a tool call."""
    first = next(iter(held))
    if len(held) > 1 and type(_part(held[first])) is ir.ToolCall:
        return next((index for index in held if type(_part(held[index])) is ir.Reasoning), first)
    return first


def _part(events: Sequence[PartEvent]) -> ir.Part | None:
    """Return the part that these events start, if its start is among them."""
    begin = events[0]
    return begin.part if isinstance(begin, ir.PartStarted) else None
