"""What the decoder of a stream remembers of its candidates and their calls. It holds; `decode_stream` decides."""

from typing import Literal

import msgspec

from llmproxy_asgi.conversation import FinishReason, Seal
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.openai_chat.mappings import decode_finish
from llmproxy_asgi.translators.openai_chat.schema import CallDelta


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
        self.by_index: dict[int, OpenCall] = {}
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
