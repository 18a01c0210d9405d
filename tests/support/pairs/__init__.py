"""The pairs of protocols, the caller's and the upstream's, end to end: official SDKs, sockets, scripted wires.

`wires` says what upstreams answer, `callers` are the official SDKs, `harness` puts a gateway between them. Nothing here
imports a translator: what is expected is written out in the tests.
"""

from support.pairs.callers import Answer, ChatCaller, MessagesCaller, ProtocolPair
from support.pairs.gemini_caller import GeminiCaller
from support.pairs.harness import KEY, MODELS, PairHarness, gateway_config, pair_harness
from support.pairs.replies import Reply
from support.pairs.responses_caller import ResponsesCaller
from support.pairs.responses_wires import responses_event, responses_events, responses_whole
from support.pairs.wires import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Call,
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
    "GEMINI",
    "KEY",
    "MESSAGES",
    "MODELS",
    "RESPONSES",
    "Answer",
    "Call",
    "ChatCaller",
    "GeminiCaller",
    "MessagesCaller",
    "PairHarness",
    "ProtocolPair",
    "Reply",
    "ResponsesCaller",
    "chat_chunks",
    "chat_whole",
    "delta",
    "event",
    "gateway_config",
    "messages_events",
    "messages_whole",
    "pair_harness",
    "responses_event",
    "responses_events",
    "responses_whole",
    "sse",
]
