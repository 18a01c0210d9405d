"""What the decoder of a stream remembers of its candidates and their calls. It holds; `decode_stream` decides."""

from typing import Literal

import msgspec

from llmproxy_asgi.conversation import Seal
from llmproxy_asgi.translators.names import DistinctIds


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
        "last_call",
        "length",
        "number",
        "open_index",
        "parts",
        "refused",
        "seals",
        "starts",
        "style",
        "texts",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.parts = 0
        self.kind: Literal["", "text", "reasoning", "refusal", "audio"] = ""
        """Which part is open beside the calls: at most one flows at a time."""
        self.open_index = -1
        self.length = 0
        self.starts: list[tuple[int, int]] = []
        """Where in the message each text part begins, and its index."""
        self.texts: list[str] = []
        """The pieces of the open reasoning part."""
        self.seals: list[Seal] = []
        self.style: Literal["full", "summary"] = "full"
        self.detail: int | None = None
        self.calls: list[OpenCall] = []
        self.call_ids = DistinctIds()
        self.by_index: dict[int, OpenCall] = {}
        self.by_id: dict[str, OpenCall] = {}
        self.last_call: OpenCall | None = None
        self.refused = False
        self.finish: str | None = None

    def part(self) -> int:
        """The index of a new part."""
        self.parts += 1
        return self.parts - 1
