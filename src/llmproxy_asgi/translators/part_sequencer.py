"""Put overlapping parts in sequence, for protocols whose clients read one part at a time.

While a part is open, events of later parts are held back; when it ends, they follow in the order of their starts.
"""

from collections.abc import Sequence
from typing import TypeAlias

from llmproxy_asgi.conversation import PartDelta, PartEnded, PartStarted

PartEvent: TypeAlias = PartStarted | PartDelta | PartEnded

_NONE = -1


class PartSequencer:
    """Sequence the parts of one candidate."""

    __slots__ = ("_held", "open")

    def __init__(self) -> None:
        self.open = _NONE
        """The index of the open part. Its deltas need not pass through `feed`."""
        self._held: dict[int, list[PartEvent]] = {}

    def feed(self, event: PartEvent) -> Sequence[PartEvent]:
        """Return the events that can be sent now, after this one."""
        index = event.index
        if index == self.open:
            return self._after(event) if type(event) is PartEnded else (event,)
        if type(event) is PartStarted:
            if self.open == _NONE:
                self.open = index
                return (event,)
            self._held[index] = [event]
        elif index in self._held:
            self._held[index].append(event)
        return ()

    def _after(self, ended: PartEnded) -> Sequence[PartEvent]:
        released: list[PartEvent] = [ended]
        self.open = _NONE
        while self._held and self.open == _NONE:
            index = next(iter(self._held))
            held = self._held.pop(index)
            released += held
            if type(held[-1]) is not PartEnded:
                self.open = index
        return released
