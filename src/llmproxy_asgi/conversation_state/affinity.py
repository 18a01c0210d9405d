"""Which route a conversation belongs to: the one whose reasoning state it carries.

State that its maker does not get back is lost, and with it what was thought and what the upstream had cached. A hint
for the order of targets; it never takes one away, and looks at nothing but the conversation.
"""

from collections.abc import Mapping

import msgspec

from llmproxy_asgi.conversation import Message, Request, Seal
from llmproxy_asgi.custody.reasoning import NOTHING, Thought, Thoughts, kept_for
from llmproxy_asgi.translators.base import Upstream


class Pin(msgspec.Struct, frozen=True):
    """Whose state it is (see `Seal.issuer`), and of which of its models, where that is known."""

    issuer: str
    model: str | None = None


def pin(request: Request, thoughts: Thoughts = NOTHING) -> Pin | None:
    """The route whose state the newest sealed message carries; None where none does, or several routes' at once.

    Args:
        request: As it came.
        thoughts: What is kept for its calls (see `ReasoningCustody.find`); it counts as if the caller had sent it.
    """
    kept = kept_for(request.messages, thoughts) if thoughts else {}
    for message in reversed(request.messages):
        seals = _seals(message, kept) if message.role == "assistant" else []
        if seals:
            issuers = {seal.issuer for seal in seals}
            models = {seal.model for seal in seals}
            model = models.pop() if len(models) == 1 else None
            return Pin(issuers.pop(), model) if len(issuers) == 1 else None
    return None


def distance(pinned: Pin | None, upstream: Upstream) -> int:
    """How far an upstream is from a conversation's own: 0 the same, 1 another model of its maker, 2 any other.

    A key for a stable sort of targets, which keeps their order where they are equally far.
    """
    if pinned is None:
        return 0
    if upstream.issuer != pinned.issuer:
        return 2
    return 0 if pinned.model is None or pinned.model == upstream.model else 1


def _seals(message: Message, kept: Mapping[int, Thought]) -> list[Seal]:
    seals = [seal for part in message.parts for seal in part.seals]
    if seals or not kept:
        return seals
    for part in message.parts:
        thought = kept.get(id(part))
        if thought is not None:
            seals += [seal for part in (*thought.first, *thought.close) for seal in part.seals]
            seals += thought.seals
    return seals
