"""Place system messages for models that do not accept them everywhere.

Chat templates of open models (Qwen 3.5 and later, Gemma 3) refuse a second system message, one that is not first, and a
conversation without a user turn. Encoders call this after `pairing.pair`, where a model's capabilities say so.
"""

from collections.abc import Sequence

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.translators.losses import Losses

FIRST_TURN = "."
"""The user's text where a conversation must begin with a user turn and has none."""
BETWEEN_TEXTS = "\n\n"
"""The separator of joined texts."""


def place_instructions(messages: Sequence[ir.Message], can: Capabilities, losses: Losses) -> Sequence[ir.Message]:
    """Return the conversation with its system messages where the model accepts them.

    Leading ones become one message unless the model accepts several. Later ones become text of the user unless the
    model accepts them midway: before the next user turn if it follows directly, else after the user turn before them.
    """
    if can.several_system and can.system_midway:
        return messages
    later = messages[1:]
    if later and "system" not in [message.role for message in later]:
        return messages
    leading = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    head, rest = messages[:leading], messages[leading:]
    if not can.several_system:
        if len(head) > 1:
            losses.add("moved:system_message")
            head = (_joined(head, can, losses),)
        if head and not rest:
            losses.add("emulated:first_user_turn")
            rest = (ir.Message(role="user", parts=(ir.Text(text=FIRST_TURN),)),)
    if not can.system_midway and any(message.role == "system" for message in rest):
        losses.add("downgraded:system_message")
        rest = _said_by_user(rest)
    return (*head, *rest)


def _joined(messages: Sequence[ir.Message], can: Capabilities, losses: Losses) -> ir.Message:
    if any(message.name for message in messages):
        losses.add("dropped:name")
    parts = [part for message in messages for part in message.parts]
    texts = [part.text for part in parts if isinstance(part, ir.Text) and not (part.cache_mark and can.cache_marks)]
    if len(texts) == len(parts):
        parts = [ir.Text(text=BETWEEN_TEXTS.join(filter(None, texts)))]
    return msgspec.structs.replace(messages[0], parts=tuple(parts), name=None)


def _said_by_user(messages: Sequence[ir.Message]) -> Sequence[ir.Message]:
    kept: list[ir.Message] = []
    waiting: list[ir.Part] = []
    for message in messages:
        if message.role == "system":
            waiting += message.parts
            continue
        if waiting and message.role == "user":
            kept.append(msgspec.structs.replace(message, parts=(*waiting, *message.parts)))
        else:
            _settle(kept, waiting)
            kept.append(message)
        waiting = []
    _settle(kept, waiting)
    return kept


def _settle(kept: list[ir.Message], waiting: Sequence[ir.Part]) -> None:
    """Add held texts to the user turn before them, else as a separate user turn."""
    if not waiting:
        return
    if kept and kept[-1].role == "user":
        kept[-1] = msgspec.structs.replace(kept[-1], parts=(*kept[-1].parts, *waiting))
    else:
        kept.append(ir.Message(role="user", parts=tuple(waiting)))
