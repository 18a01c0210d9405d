"""Warnings about request fields that were dropped or changed for the upstream."""

from collections.abc import Sequence

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators import refusals

_VITAL = ("conversation", "prompt", "cachedContent", "continuationToken", "thread")
"""Fields that refer to a part of the conversation stored by their vendor."""
_OF_ITEMS = "openai-responses"
"""The protocol whose conversations hold items of many kinds that no other knows."""
_ESTIMATED = "estimated:"
_MOST = 64
_LONGEST = 100
_OTHERS = "dropped:others"
"""Instead of more than so many warnings. Names in them are callers' text, and all of them stand in one header."""
_UNMISSED = frozenset({"safetySettings"})
"""Fields that other protocols do not have, dropped without a warning."""


def refuse_missing_part(request: ir.Request, protocol: str) -> None:
    """Refuse a request of which another vendor holds a part: without that, the answer would be wrong.

    So it would be with a tool that only programs of that vendor's may call.

    Raises:
        Unsupported: Names the field.
    """
    for tool in request.tools:
        for other, fields in tool.extras.items():
            callers = fields.get("allowed_callers")
            if other != protocol and isinstance(callers, list) and callers and "direct" not in callers:
                raise refusals.programmatic_tool(tool)
    for other, fields in request.extras.items():
        for key in _VITAL:
            if other != protocol and fields.get(key):
                raise refusals.foreign_reference(key)


def refuse_held_elsewhere(request: ir.Request) -> None:
    """Refuse a request of which its vendor holds a part, where no upstream can read that part.

    Raises:
        Unsupported: Names the field.
    """
    for fields in request.extras.values():
        for key in _VITAL:
            if fields.get(key):
                raise refusals.foreign_reference(key)


def unread(part: ir.Opaque, role: str) -> str:
    """Return the warning about a part that only another protocol has.

    Raises:
        Unsupported: The answer would be wrong without it: what the caller says, and the state of a compaction.
    """
    if part.kind == "compaction_trigger":
        raise refusals.compaction()
    if part.kind.startswith(("compaction", "context_compaction")):
        raise refusals.compacted_elsewhere(part.kind)
    if role != "assistant" and part.protocol == _OF_ITEMS and not part.extras:
        raise refusals.unsupported_part(part.kind)
    return f"dropped:{part.kind}"


def unsaid_extras(request: ir.Request, protocol: str) -> list[str]:
    """Return the warnings about a request's fields that only another protocol has."""
    others = (fields for other, fields in request.extras.items() if other != protocol)
    return [f"dropped:{key}" for fields in others for key in fields if key not in _UNMISSED]


def refuse_losses(warnings: Sequence[str]) -> None:
    """Refuse a request of which something would be lost or changed; what is only estimated is neither.

    Raises:
        Unsupported: Names the first of the fields in `param`, and all of them in its message.
    """
    lost = [warning for warning in warnings if not warning.startswith(_ESTIMATED)]
    if lost:
        raise refusals.refusal(
            "The upstream does not support the whole request, and x-llmproxy-strict allows no change",
            lost[0].partition(":")[2],
            f"leave out what would be lost or changed, {', '.join(lost)}",
        )


class Losses:
    """The warnings of one request, each once, in the order they came up.

    A warning is `dropped:`, `clamped:`, `downgraded:`, `emulated:` or `moved:`, and what it happened to.
    """

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: dict[str, None] = {}

    def add(self, *words: str) -> None:
        """Note these, as far as there is room: of very many only that there are others, of a long one its beginning."""
        for word in words:
            self._words[word[:_LONGEST] if len(self._words) < _MOST else _OTHERS] = None

    @property
    def words(self) -> tuple[str, ...]:
        """All that were noted."""
        return tuple(self._words)
