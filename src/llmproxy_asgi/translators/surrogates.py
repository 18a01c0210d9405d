"""Join surrogate pairs that an upstream split across the deltas of a part.

A decoder reads strictly until JSON is invalid because of a lone surrogate. From then on its events pass through
`SurrogateJoiner`: a surrogate at the end of a delta is held for the next delta of the part; a lone one becomes U+FFFD.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.wire.json_body import elements
from llmproxy_asgi.wire.surrogates import HIGH, LOW, REPLACEMENT, joined, mark_halves, replace_halves

_MARKS = re.compile(f"([{HIGH}])([{LOW}])|[{HIGH}{LOW}]")
_ENDS_WITH_HIGH = re.compile(f"[{HIGH}]\\Z")
_ANYTHING = msgspec.json.Decoder(Any)
_TEXTS = (ir.TextDelta, ir.ReasoningDelta, ir.RefusalDelta, ir.ArgumentsDelta)

_Piece: TypeAlias = ir.TextDelta | ir.ReasoningDelta | ir.RefusalDelta | ir.ArgumentsDelta
_T = TypeVar("_T")


def decode_marked(decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
    """Decode JSON that strict decoding refused, with marks in the place of lone surrogates.

    Raises:
        msgspec.MsgspecError: It is invalid for another reason.
        UnicodeDecodeError: Likewise.
        RecursionError: Likewise.
    """
    return decoder.decode(mark_halves(data) or data)


def decode_replaced(decoder: "msgspec.json.Decoder[_T]", data: bytes | msgspec.Raw) -> _T:
    """Decode JSON with U+FFFD in the place of lone surrogates. Without any, it costs no more than strict decoding.

    Raises:
        msgspec.MsgspecError: It cannot be read.
        UnicodeDecodeError: Likewise.
        RecursionError: Likewise.
    """
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        replaced = replace_halves(bytes(data))
        if replaced is None:
            raise
        return decoder.decode(replaced)


def each_entry(array: msgspec.Raw) -> Iterator[Any]:
    """Decode the entries of a list that may be very long, one by one; None for an invalid one."""
    try:
        entries = elements(array)
    except msgspec.MsgspecError:
        return
    for entry in entries:
        try:
            yield decode_replaced(_ANYTHING, entry)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            yield None


class SurrogateJoiner:
    """Joins the marked halves in the events of one stream."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], _Piece] = {}

    def join(self, events: Iterable[ir.StreamEvent]) -> list[ir.StreamEvent]:
        """Return the events without marks. A delta that is held completely is left out."""
        out: list[ir.StreamEvent] = []
        for event in events:
            if isinstance(event, ir.PartDelta) and isinstance(event.delta, _TEXTS):
                self._delta(event, event.delta, out)
            elif isinstance(event, ir.PartEnded):
                held = self._held.pop((event.candidate, event.index), None)
                if held is not None:
                    out.append(ir.PartDelta(event.candidate, event.index, type(held)(REPLACEMENT)))
                out.append(event if event.part is None else msgspec.structs.replace(event, part=_clean(event.part)))
            elif isinstance(event, ir.PartStarted):
                out.append(msgspec.structs.replace(event, part=_clean(event.part)))
            else:
                out.append(event)
        return out

    def _delta(self, event: ir.PartDelta, delta: _Piece, out: list[ir.StreamEvent]) -> None:
        place = (event.candidate, event.index)
        held = self._held.pop(place, None)
        text = delta.text if held is None else held.text + delta.text
        if _ENDS_WITH_HIGH.search(text):
            self._held[place] = type(delta)(text[-1])
            text = text[:-1]
        if text:
            out.append(ir.PartDelta(event.candidate, event.index, type(delta)(_unmarked(text))))


def _unmarked(text: str) -> str:
    return _MARKS.sub(lambda found: joined(found[1], found[2]) if found[2] else REPLACEMENT, text)


def _clean(part: ir.Part) -> ir.Part:
    if isinstance(part, ir.Text | ir.Reasoning | ir.Refusal):
        return msgspec.structs.replace(part, text=_unmarked(part.text)) if part.text else part
    if isinstance(part, ir.ToolCall):
        return msgspec.structs.replace(part, arguments=_unmarked(part.arguments)) if part.arguments else part
    return part
