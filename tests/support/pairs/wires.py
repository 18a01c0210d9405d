"""What the scripted upstreams of Chat and Messages say: whole answers and streams, as the vendors send them.

Those of the other protocols are in files of their own; `replies` holds answers that all of them can give.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmproxy_asgi.testing import Scenario, Step, sse_answer

CHAT, RESPONSES, MESSAGES, GEMINI = "chat", "responses", "messages", "gemini"

JSONObject: TypeAlias = dict[str, Any]

CHAT_ID, MESSAGE_ID = "chatcmpl-7Wx", "msg_01Ab"
CREATED = 1_795_000_000
CHAT_USAGE: JSONObject = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
MESSAGES_USAGE: JSONObject = {"input_tokens": 30, "output_tokens": 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


def sse(frames: Iterable[bytes | Step], **options: Any) -> Scenario:
    """A stream of these frames."""
    return sse_answer(frames, **options)


# ── Chat ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def chat_call(call: Call) -> JSONObject:
    """A call in a whole answer."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def call_deltas(number: int, call: Call) -> list[JSONObject]:
    """A call in a stream: its head, then its arguments in fragments."""
    head = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    rest = [{"index": number, "function": {"arguments": piece}} for piece in fragments(call.arguments)]
    return [{"tool_calls": [entry]} for entry in [head, *rest]]


def chat_whole(*, finish: str | None = "stop", usage: JSONObject | None = None, **message: Any) -> JSONObject:
    """A whole Chat answer."""
    said = {"role": "assistant", "content": None, "refusal": None, **message}
    return {
        "id": CHAT_ID,
        "object": "chat.completion",
        "created": CREATED,
        "model": "gpt-5.9-2026-10-01",
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish}],
        "usage": usage or CHAT_USAGE,
    }


def delta(change: JSONObject, finish: str | None = None, **more: Any) -> bytes:
    """One chunk with one choice."""
    return chunk(choices=[{"index": 0, "delta": change, "finish_reason": finish}], **more)


def chunk(**fields: Any) -> bytes:
    """One frame of a Chat stream."""
    head = {"id": CHAT_ID, "object": "chat.completion.chunk", "created": CREATED, "model": "gpt-5.9-2026-10-01"}
    return b"data: " + compact({**head, **fields}) + b"\n\n"


def chat_chunks(
    *deltas: JSONObject, finish: str | None = "stop", usage: JSONObject | None = None, done: bool = True
) -> list[bytes]:
    """A Chat stream: the role, these deltas, the finish, usage and the end sign."""
    frames = [delta({"role": "assistant", "content": ""}), *(delta(change) for change in deltas)]
    if finish is not None:
        frames.append(delta({}, finish))
    frames.append(chunk(choices=[], usage=usage or CHAT_USAGE))
    return [*frames, b"data: [DONE]\n\n"] if done else frames


# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def messages_whole(
    *blocks: JSONObject, stop: str | None = "end_turn", usage: JSONObject | None = None, **more: Any
) -> JSONObject:
    """A whole Messages answer. A call's `input` may be its JSON text, a text may be several pieces."""
    return {
        "id": MESSAGE_ID,
        "type": "message",
        "role": "assistant",
        "model": "claude-upstream-20261001",
        "content": [_whole_block(block) for block in blocks],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage or MESSAGES_USAGE,
        **more,
    }


def _whole_block(block: JSONObject) -> JSONObject:
    if block["type"].endswith("tool_use") and isinstance(block["input"], str):
        return {**block, "input": json.loads(block["input"])}
    if block["type"] == "text" and not isinstance(block["text"], str):
        return {**block, "text": "".join(block["text"])}
    return block


def event(kind: str, **fields: Any) -> bytes:
    """One event of a Messages stream."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), compact({"type": kind, **fields}))


def messages_start(usage: JSONObject | None = None) -> bytes:
    """How a Messages stream begins."""
    counted = {**(usage or MESSAGES_USAGE), "output_tokens": 1}
    return event("message_start", message={**messages_whole(stop=None), "usage": counted})


def messages_end(stop: str | None = "end_turn", usage: JSONObject | None = None, **more: Any) -> list[bytes]:
    """How it ends."""
    told = {"stop_reason": stop, "stop_sequence": None, **more}
    return [event("message_delta", delta=told, usage=usage or {"output_tokens": 12}), event("message_stop")]


def messages_events(
    *blocks: JSONObject,
    stop: str | None = "end_turn",
    usage: JSONObject | None = None,
    end_usage: JSONObject | None = None,
    **more: Any,
) -> list[bytes]:
    """A Messages stream of these blocks; texts and calls come in pieces."""
    frames = [messages_start(usage), event("ping")]
    for index, block in enumerate(blocks):
        frames += block_events(index, block)
    return [*frames, *messages_end(stop, end_usage, **more)]


def block_events(index: int, block: JSONObject) -> list[bytes]:
    """One block: its start, its deltas, its stop."""
    head, changes = _opened(block)
    return [
        event("content_block_start", index=index, content_block=head),
        *(event("content_block_delta", index=index, delta=change) for change in changes),
        event("content_block_stop", index=index),
    ]


def _opened(block: JSONObject) -> tuple[JSONObject, list[JSONObject]]:
    match block["type"]:
        case "text":
            pieces = [block["text"]] if isinstance(block["text"], str) else block["text"]
            changes = [{"type": "text_delta", "text": piece} for piece in pieces]
            changes += [{"type": "citations_delta", "citation": each} for each in block.get("citations") or ()]
            return {"type": "text", "text": ""}, changes
        case "tool_use" | "server_tool_use":
            given = block["input"]
            text = given if isinstance(given, str) else json.dumps(given)
            changes = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *fragments(text)]]
            return {**block, "input": {}}, [] if text == "{}" else changes
        case "thinking":
            changes = [{"type": "thinking_delta", "thinking": block["thinking"]}] if block["thinking"] else []
            if "signature" in block:
                changes.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, changes
        case _:
            return block, []


def compact(value: JSONObject) -> bytes:
    """JSON as the vendors send it: without spaces, non-ASCII as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def fragments(text: str, size: int = 7) -> Sequence[str]:
    """A text in pieces."""
    return [text[start : start + size] for start in range(0, len(text), size)]
