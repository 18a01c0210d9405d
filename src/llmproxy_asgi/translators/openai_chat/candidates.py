"""The state of a stream's candidates and calls, for `stream_decoder`."""

from collections.abc import Sequence
from typing import Literal

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.openai_chat.mappings import decode_finish
from llmproxy_asgi.translators.openai_chat.schema import CallDelta, CustomDelta, FunctionDelta

_SPACE = " \t\r\n"
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class ObjectScanner:
    """Tells whether text that arrives in pieces is a complete JSON object. Each piece is searched once."""

    __slots__ = ("_depth", "_in_string", "_is_blank", "_is_whole", "_read", "_tail")

    def __init__(self) -> None:
        self._read = 0
        self._depth = 0
        self._in_string = False
        self._tail = ""
        """A backslash whose escaped character has not arrived."""
        self._is_blank = True
        self._is_whole: bool | None = None
        """Whether the text up to its first balanced end is an object; None: it has no such end yet."""

    def is_whole(self, pieces: Sequence[str]) -> bool:
        """Return whether these pieces together are an object; further ones may be appended between two calls."""
        for piece in pieces[self._read :]:
            self._search(piece)
        self._read = len(pieces)
        if self._is_whole is None and not (self._is_blank or self._in_string or self._depth):
            # No text after a balanced one makes an object of it if it is none: it is decoded at most once.
            try:
                _OBJECT.decode("".join(pieces))
                self._is_whole = True
            except (ValueError, RecursionError):
                self._is_whole = False
        return self._is_whole is True

    def _search(self, piece: str) -> None:
        if piece.strip(_SPACE):
            self._is_blank = False
            self._is_whole = None if self._is_whole is None else False
        if self._is_whole is not None:
            return
        text = self._tail + piece
        self._tail = "\\" if (len(text) - len(text.rstrip("\\"))) % 2 else ""
        text = text[: len(text) - len(self._tail)]
        if "\\" in text:
            text = text.replace("\\\\", "").replace('\\"', "")
        parts = text.split('"')
        outside = "".join(parts[self._in_string :: 2])
        self._in_string ^= not len(parts) % 2
        self._depth += outside.count("{") + outside.count("[") - outside.count("}") - outside.count("]")


class OpenCall:
    """The state of a call, which starts when its name is known, and its id is known or derived."""

    __slots__ = (
        "arguments",
        "call_id",
        "custom",
        "index",
        "name",
        "named_again",
        "pending",
        "scanner",
        "seals",
        "started",
        "unwrap",
    )

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.named_again = False
        """Whether a delta after complete arguments repeated the name; the next arguments are another call's."""
        self.custom = False
        self.unwrap = False
        """Whether it is a custom tool sent as a function, whose arguments are emitted when they are complete."""
        self.started = False
        self.index = -1
        self.arguments: list[str] = []
        self.pending: list[str] = []
        """The arguments that came before the call started; there are none in `arguments` then."""
        self.scanner = ObjectScanner()
        self.seals: list[ir.Seal] = []

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a complete JSON object."""
        return self.scanner.is_whole(self.arguments or self.pending)


class OpenCandidate:
    """The state of one candidate."""

    __slots__ = (
        "by_id",
        "by_index",
        "call_ids",
        "calls",
        "detail",
        "finish",
        "kind",
        "last",
        "last_call",
        "length",
        "number",
        "open_index",
        "parts",
        "raw",
        "refused",
        "seals",
        "starts",
        "style",
        "texts",
    )

    def __init__(self, number: int, nonce: str = "") -> None:
        self.number = number
        self.parts = 0
        self.kind: Literal["", "text", "reasoning", "refusal", "audio"] = ""
        """The kind of the open part besides calls; at most one is open."""
        self.open_index = -1
        self.length = 0
        self.last = ""
        """The last delta of text; `length` is the text's length so far, in code points."""
        self.starts: list[tuple[int, int]] = []
        """The offset of each text part in the message, and its index."""
        self.texts: list[str] = []
        """The deltas of the open reasoning part."""
        self.seals: list[ir.Seal] = []
        self.style: Literal["full", "summary"] = "full"
        self.raw = False
        self.detail: int | None = None
        self.calls: list[OpenCall] = []
        self.call_ids = DistinctIds(nonce)
        self.by_index: dict[int | None, OpenCall] = {}
        self.by_id: dict[str, OpenCall] = {}
        self.last_call: OpenCall | None = None
        self.refused = False
        self.finish: str | None = None

    def take_finish(self, word: str) -> None:
        """Record a finish reason; an unknown or blank one does not replace a known one."""
        reason = decode_finish(word)
        if reason is None:
            return
        before = decode_finish(self.finish) if self.finish else None
        if reason is not ir.FinishReason.UNKNOWN or before in (None, ir.FinishReason.UNKNOWN):
            self.finish = word

    def restated_call(self, call: CallDelta, position: int) -> OpenCall | None:
        """Return the streamed call that a complete message restates, by id or position; None if there is none."""
        known = self.by_id.get(call.id) if call.id else None
        if known is not None or position >= len(self.calls):
            return known
        return None if call.id and self.calls[position].call_id else self.calls[position]

    @property
    def whole(self) -> bool:
        """Whether all calls have complete arguments."""
        return all(call.custom or call.is_whole or not call.arguments for call in self.calls if call.started)

    def part(self) -> int:
        """Return the index of a new part."""
        self.parts += 1
        return self.parts - 1


def find_call(candidate: OpenCandidate, delta: CallDelta, *, whole: bool = False) -> OpenCall:
    """Return the call of a delta: by index, or by id if the index is missing or ambiguous.

    Args:
        candidate: The delta's candidate, to which a new call is added.
        delta: The delta.
        whole: Whether it is from a complete response, in which each delta is a call.
    """
    name = ""
    if delta.index is None:
        found = candidate.by_id.get(delta.id) if delta.id else candidate.last_call
    else:
        found = candidate.by_index.get(delta.index)
        if found is not None and delta.id and found.call_id and delta.id != found.call_id:
            # Google's endpoint has index 0 for all parallel calls; an id with a name starts a call.
            known = candidate.by_id.get(delta.id)
            named = delta.function or delta.custom
            begins = named is not None and named.name
            found = known or (None if begins else found)
    if found is not None and delta.function is not None and _begins_another(found, delta.function):
        before, found = found, None
        name = "" if delta.function.name else before.name
    elif found is not None and delta.custom is not None and _begins_free_text(found, delta.custom):
        found = None
    if found is None or whole:
        found = OpenCall()
        found.name = name
        candidate.calls.append(found)
    if delta.index is not None:
        candidate.by_index[delta.index] = found
    candidate.last_call = found
    return found


def _begins_another(call: OpenCall, piece: FunctionDelta) -> bool:
    """Return whether a delta with a call's index or id starts another call.

    Servers without distinct ids use one index for all parallel calls. A name after complete arguments belongs to
    another call, unless the server repeats the name in each delta and sends no more arguments.
    """
    if not call.name or not (piece.name or call.named_again):
        return False
    if piece.name and piece.name != call.name:
        return True
    if piece.arguments:
        return call.is_whole
    call.named_again = call.named_again or call.is_whole
    return False


def _begins_free_text(call: OpenCall, piece: CustomDelta) -> bool:
    """Return whether a delta of a custom call starts another one: it names the tool after earlier input."""
    return bool(piece.name and call.name and (piece.name != call.name or call.arguments or call.pending))
