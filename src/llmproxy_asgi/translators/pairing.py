"""A conversation put into the order that strict upstreams demand.

Callers trim histories, interrupt tools, answer parallel calls one by one and in any order. Upstreams want every call
answered exactly once, directly after the step that made it. Encoders call `drop_empty`, `pair` and `merge`, in this
order, as far as their protocol needs them. Nothing here invents words of the user or of the model.
"""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from llmproxy_asgi.conversation import Message, Role


class Paired(msgspec.Struct, frozen=True):
    """A conversation in order, and what had to be made up or left out for it."""

    messages: tuple[Message, ...]
    warnings: tuple[str, ...] = ()


def pair(messages: Sequence[Message]) -> Paired:
    """Calls and results of each step put together: one tool message right after the assistant message.

    Raises:
        BadRequest: A result names a call that is not in the conversation.
    """
    raise NotImplementedError


def merge(messages: Sequence[Message], roles: Collection[Role] = ("user", "assistant")) -> tuple[Message, ...]:
    """Neighbouring messages of one role made one; parts are appended, never glued."""
    raise NotImplementedError


def drop_empty(messages: Sequence[Message], *, blank: bool = False, keep_sealed: bool = False) -> tuple[Message, ...]:
    """Empty texts left out, and messages that hold nothing then.

    Args:
        messages: The conversation.
        blank: Leave out texts of white space alone as well (Anthropic refuses them).
        keep_sealed: Keep an empty text that carries seals (Gemini seals them).
    """
    raise NotImplementedError


def arguments_object(text: str) -> dict[str, Any]:
    """A call's arguments as an object, whatever the model wrote.

    Nothing or `null` is `{}`, another JSON value is `{"value": ...}`, anything else is `{"_raw": text}`.
    """
    raise NotImplementedError


def arguments_raw(text: str) -> msgspec.Raw:
    """`arguments_object` as JSON, keeping the very text (number spelling, key order) where it is an object already."""
    raise NotImplementedError
