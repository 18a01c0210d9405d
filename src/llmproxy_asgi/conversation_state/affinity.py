"""Find the issuer of the reasoning state that a conversation carries, to prefer its targets.

State that is not sent back to its issuer is lost, and with it the reasoning and the upstream's cache. This only orders
targets, never removes one, and reads nothing but the conversation.
"""

from collections.abc import Mapping

import msgspec

from llmproxy_asgi.conversation import Message, Request, Seal
from llmproxy_asgi.conversation_state.reasoning import (
    NO_REASONING,
    CachedReasoning,
    CachedReasoningByKey,
    cached_by_part,
)
from llmproxy_asgi.translators.base import Upstream


class IssuerPin(msgspec.Struct, frozen=True):
    """The issuer of reasoning state (see `Seal.issuer`), and its model where that is known."""

    issuer: str
    model: str | None = None


def pin(request: Request, cached: CachedReasoningByKey = NO_REASONING) -> IssuerPin | None:
    """Return the issuer of the state in the newest sealed message; None if there is none, or more than one.

    Args:
        request: The request as it came.
        cached: Cached reasoning of its calls (see `ReasoningCache.find`); it counts as if the caller had sent it.
    """
    by_part = cached_by_part(request.messages, cached) if cached else {}
    for message in reversed(request.messages):
        seals = _seals(message, by_part) if message.role == "assistant" else []
        if seals:
            issuers = {seal.issuer for seal in seals}
            models = {seal.model for seal in seals}
            model = models.pop() if len(models) == 1 else None
            return IssuerPin(issuers.pop(), model) if len(issuers) == 1 else None
    return None


def distance(pinned: IssuerPin | None, upstream: Upstream) -> int:
    """Return how far an upstream is from a conversation's issuer: 0 the same, 1 another of its models, 2 any other.

    It is the key of a stable sort of targets.
    """
    if pinned is None:
        return 0
    if upstream.issuer != pinned.issuer:
        return 2
    return 0 if pinned.model is None or pinned.model == upstream.model else 1


def _seals(message: Message, by_part: Mapping[int, CachedReasoning]) -> list[Seal]:
    seals = [seal for part in message.parts for seal in part.seals]
    if seals or not by_part:
        return seals
    for part in message.parts:
        entry = by_part.get(id(part))
        if entry is not None:
            seals += [seal for part in (*entry.first, *entry.close) for seal in part.seals]
            seals += entry.seals
    return seals
