"""The pairs {Chat, Messages} client x {Chat, Messages} upstream, end to end: official SDKs, sockets, scripted wires.

`wires` says what upstreams answer, `callers` are the official SDKs, `stage` puts a gateway between them. Nothing here
imports a translator: what is expected is written out in the tests.
"""

from support_pairs.callers import Answer, ChatCaller, Lane, MessagesCaller
from support_pairs.stage import KEY, MODELS, Stage, gateway_config, staged
from support_pairs.wires import (
    CHAT,
    MESSAGES,
    Call,
    Reply,
    chat_chunks,
    chat_whole,
    delta,
    event,
    messages_events,
    messages_whole,
    sse,
)

__all__ = [
    "CHAT",
    "KEY",
    "MESSAGES",
    "MODELS",
    "Answer",
    "Call",
    "ChatCaller",
    "Lane",
    "MessagesCaller",
    "Reply",
    "Stage",
    "chat_chunks",
    "chat_whole",
    "delta",
    "event",
    "gateway_config",
    "messages_events",
    "messages_whole",
    "sse",
    "staged",
]
