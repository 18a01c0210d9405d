"""What the scripted upstream says: the same few words in both protocols, whole or as a stream."""

import json
from collections.abc import Sequence
from typing import Any

from llmproxy_asgi.testing import Hold, Received, Scenario, json_answer, sse_answer

PIECES = ("Rain ", "is ", "coming.")
WORDS = "".join(PIECES)

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


def answer(received: Received) -> Scenario:
    """Whatever was asked for."""
    stream = received.json().get("stream", False)
    if received.path == CHAT:
        return sse_answer(chat_frames()) if stream else json_answer(200, CHAT_ANSWER)
    if received.path == MESSAGES:
        return sse_answer(messages_frames()) if stream else json_answer(200, MESSAGES_ANSWER)
    raise LookupError(f"unexpected request for {received.path}")


def held(path: str) -> Scenario:
    """A stream that stops after its first words until the scenario's gate opens."""
    frames = chat_frames() if path == CHAT else messages_frames()
    spoken = next(index for index, frame in enumerate(frames) if PIECES[0].encode() in frame)
    return sse_answer([*frames[: spoken + 1], Hold(), *frames[spoken + 1 :]])


CHAT_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "gpt-test",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
}

MESSAGES_ANSWER: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test",
    "content": [{"type": "text", "text": WORDS}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 3},
}


def chat_frames() -> Sequence[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-test"}

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return b"data: %b\n\n" % json.dumps({**head, "choices": choices}).encode()

    spoken = [chunk({"content": piece}) for piece in PIECES]
    return [chunk({"role": "assistant", "content": ""}), *spoken, chunk({}, "stop"), b"data: [DONE]\n\n"]


def messages_frames() -> Sequence[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())

    begun = {**MESSAGES_ANSWER, "content": [], "stop_reason": None, "usage": {"input_tokens": 5, "output_tokens": 1}}
    deltas = [event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece}) for piece in PIECES]
    return [
        event("message_start", message=begun),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *deltas,
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 3}),
        event("message_stop"),
    ]
