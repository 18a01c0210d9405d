"""What the decoder of a stream remembers of its candidates and their calls. It holds; `decode_stream` decides."""

from typing import Literal

import msgspec

from llmproxy_asgi.conversation import FinishReason, Seal
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.openai_chat.mappings import decode_finish
from llmproxy_asgi.translators.openai_chat.schema import CallDelta, CustomDelta, FunctionDelta


class OpenCall:
    """A call as far as it has come. It is told of when its name is known, and its id known or given up."""

    __slots__ = ("arguments", "call_id", "custom", "index", "name", "named_again", "pending", "seals", "told", "unwrap")

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.named_again = False
        """A piece behind its whole arguments named it once more; the next words are of another call."""
        self.custom = False
        self.unwrap = False
        """A custom tool that went as a function: its arguments are told of when they are whole."""
        self.told = False
        self.index = -1
        self.arguments: list[str] = []
        self.pending: list[str] = []
        self.seals: list[Seal] = []

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are a JSON object, to which nothing can be added."""
        try:
            return type(msgspec.json.decode("".join([*self.arguments, *self.pending]))) is dict
        except (ValueError, RecursionError):
            return False


class OpenCandidate:
    """What must be remembered of one candidate."""

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
        """Which part is open beside the calls: at most one flows at a time."""
        self.open_index = -1
        self.length = 0
        self.last = ""
        """The last piece of text, and how long the text is so far."""
        self.starts: list[tuple[int, int]] = []
        """Where in the message each text part begins, and its index."""
        self.texts: list[str] = []
        """The pieces of the open reasoning part."""
        self.seals: list[Seal] = []
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
        """Note a finish reason; one that is unknown or blank replaces none that is known."""
        reason = decode_finish(word)
        if reason is None:
            return
        before = decode_finish(self.finish) if self.finish else None
        if reason is not FinishReason.UNKNOWN or before in (None, FinishReason.UNKNOWN):
            self.finish = word

    def restated_call(self, call: CallDelta, position: int) -> OpenCall | None:
        """The call that a whole message restates: by its id, else by its place; None: it was not streamed."""
        known = self.by_id.get(call.id) if call.id else None
        if known is not None or position >= len(self.calls):
            return known
        return None if call.id and self.calls[position].call_id else self.calls[position]

    @property
    def whole(self) -> bool:
        """Whether each of its calls has all of its arguments."""
        return all(call.custom or call.is_whole or not call.arguments for call in self.calls if call.told)

    def part(self) -> int:
        """The index of a new part."""
        self.parts += 1
        return self.parts - 1


def find_call(candidate: OpenCandidate, delta: CallDelta, *, whole: bool = False) -> OpenCall:
    """The call that a piece belongs to: by index; by id where the index is missing or used twice.

    Args:
        candidate: Whose it is; takes a new one.
        delta: The piece.
        whole: Whether it is of a whole answer, in which each piece is a call.
    """
    name = ""
    if delta.index is None:
        found = candidate.by_id.get(delta.id) if delta.id else candidate.last_call
    else:
        found = candidate.by_index.get(delta.index)
        if found is not None and delta.id and found.call_id and delta.id != found.call_id:
            # Google's endpoint numbers all parallel calls 0; an id that comes with a name begins a call.
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
    """Whether a piece that its index or id gives to a call is the beginning of another.

    Servers that give no ids, or the same one, number all parallel calls alike. A name behind whole arguments is
    another call's, unless the server names a call in every piece and has no more to say of it.
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
    """Whether a piece of free text is the beginning of another call: its tool is named behind words of the first."""
    return bool(piece.name and call.name and (piece.name != call.name or call.arguments or call.pending))
