"""Tell the calls of a candidate apart, for `stream_decoder` and `distinct_calls`."""

from collections.abc import Sequence

import msgspec

from llmproxy_asgi.translators.codec.events import CallBuilder
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
    """What is known of a call; its name and its id may come late."""

    __slots__ = ("arguments", "call_id", "custom", "index", "is_named", "name", "named_again", "part", "scanner")

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.named_again = False
        """Whether a delta after complete arguments repeated the name; the next arguments are another call's."""
        self.custom = False
        self.arguments: list[str] = []
        self.part: CallBuilder | None = None
        """Its part in translation, whose pieces are `arguments`."""
        self.index = -1
        """Its index in passthrough, as the client sees it; -1 if the client has not seen it."""
        self.is_named = False
        """Whether the client has seen its name in passthrough."""
        self.scanner = ObjectScanner()

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a complete JSON object."""
        return self.scanner.is_whole(self.arguments)


class OpenCalls:
    """The calls of one candidate."""

    __slots__ = ("by_id", "by_index", "calls", "last")

    def __init__(self) -> None:
        self.calls: list[OpenCall] = []
        self.by_index: dict[int | None, OpenCall] = {}
        self.by_id: dict[str, OpenCall] = {}
        self.last: OpenCall | None = None

    def restated(self, call: CallDelta, position: int) -> OpenCall | None:
        """Return the streamed call that a complete message restates, by id or position; None if there is none."""
        known = self.by_id.get(call.id) if call.id else None
        if known is not None or position >= len(self.calls):
            return known
        return None if call.id and self.calls[position].call_id else self.calls[position]


def find_call(calls: OpenCalls, delta: CallDelta, *, whole: bool = False) -> OpenCall:
    """Return the call of a delta: by index, or by id if the index is missing or ambiguous.

    Args:
        calls: The calls of the delta's candidate, to which a new one is added.
        delta: The delta.
        whole: Whether it is from a complete response, in which each delta is a call.
    """
    name = ""
    if delta.index is None:
        found = calls.by_id.get(delta.id) if delta.id else calls.last
    else:
        found = calls.by_index.get(delta.index)
        if found is not None and delta.id and found.call_id and delta.id != found.call_id:
            # Google's endpoint has index 0 for all parallel calls; an id with a name starts a call.
            known = calls.by_id.get(delta.id)
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
        calls.calls.append(found)
    if delta.index is not None:
        calls.by_index[delta.index] = found
    calls.last = found
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
    return bool(piece.name and call.name and (piece.name != call.name or call.arguments))
