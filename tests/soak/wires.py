"""What the upstreams of a soak say, in four protocols: one text, in pieces or whole, and what it cost.

A stream is three lists of frames: what begins it, one frame for each piece, and what ends it.
"""

import json
from typing import Any, NamedTuple

from soak.plan import Errand, Wire

_CREATED = 1_795_000_000
_MODEL = "m-2026-10-01"


class Spoken(NamedTuple):
    """The frames of a stream."""

    beginning: list[bytes]
    pieces: list[bytes]
    end: list[bytes]


def whole(errand: Errand, wire: Wire) -> dict[str, Any]:
    """A whole answer."""
    text = "".join(errand.texts())
    match wire:
        case "chat":
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return {**_chat("chat.completion"), "choices": [choice], "usage": _chat_usage(errand)}
        case "responses":
            return _response("completed", [_item(text, "completed")], _responses_usage(errand))
        case "messages":
            said = [{"type": "text", "text": text}]
            return {**_message(), "content": said, "stop_reason": "end_turn", "usage": _messages_usage(errand)}
        case "gemini":
            return _gemini(errand, text, finish="STOP")


def spoken(errand: Errand, wire: Wire, *, wants_usage: bool) -> Spoken:
    """A stream.

    Args:
        errand: Whose text it is.
        wire: The protocol.
        wants_usage: Whether the caller of Chat asked for the chunk that tells usage; others always tell it.
    """
    match wire:
        case "chat":
            return _spoken_chat(errand, wants_usage=wants_usage)
        case "responses":
            return _spoken_responses(errand)
        case "messages":
            return _spoken_messages(errand)
        case "gemini":
            pieces = [_data(_gemini(errand, text)) for text in errand.texts()]
            return Spoken([], pieces, [_data(_gemini(errand, "", finish="STOP"))])


def failure(wire: Wire) -> bytes:
    """The error that a stream may begin with, though its status said 200."""
    text = "Overloaded; try again."
    match wire:
        case "chat":
            return _data({"error": {"message": text, "type": "server_error", "code": "server_error"}})
        case "responses":
            return _event("error", {"sequence_number": 0, "code": "server_error", "message": text, "param": None})
        case "messages":
            return _event("error", {"error": {"type": "overloaded_error", "message": text}})
        case "gemini":
            return _data({"error": {"code": 503, "message": text, "status": "UNAVAILABLE"}})


# ── Chat ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _chat(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-soak", "object": kind, "created": _CREATED, "model": _MODEL}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({**_chat("chat.completion.chunk"), "choices": [choice]})


def _spoken_chat(errand: Errand, *, wants_usage: bool) -> Spoken:
    told = _data({**_chat("chat.completion.chunk"), "choices": [], "usage": _chat_usage(errand)})
    return Spoken(
        [_chunk({"role": "assistant", "content": ""})],
        [_chunk({"content": text}) for text in errand.texts()],
        [_chunk({}, "stop"), *([told] if wants_usage else []), b"data: [DONE]\n\n"],
    )


def _chat_usage(errand: Errand) -> dict[str, Any]:
    return {
        "prompt_tokens": errand.input,
        "completion_tokens": errand.output,
        "total_tokens": errand.input + errand.output,
        "prompt_tokens_details": {"cached_tokens": errand.cached},
    }


# ── Responses ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _response(status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
    head = {"id": "resp_soak", "object": "response", "created_at": _CREATED, "status": status, "model": _MODEL}
    rest = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None}
    return {**head, **rest, "output": output, "usage": usage}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _item(text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {"id": "msg_soak", "type": "message", "role": "assistant", "status": status, "content": content}


def _spoken_responses(errand: Errand) -> Spoken:
    text = "".join(errand.texts())
    first = _response("in_progress", [], None)
    at: dict[str, Any] = {"item_id": "msg_soak", "output_index": 0, "content_index": 0}
    beginning: list[tuple[str, dict[str, Any]]] = [
        ("created", {"response": first}),
        ("in_progress", {"response": first}),
        ("output_item.added", {"output_index": 0, "item": _item(None, "in_progress")}),
        ("content_part.added", {**at, "part": _part("")}),
    ]
    pieces = [("output_text.delta", {**at, "delta": piece}) for piece in errand.texts()]
    last = _response("completed", [_item(text, "completed")], _responses_usage(errand))
    end: list[tuple[str, dict[str, Any]]] = [
        ("output_text.done", {**at, "text": text}),
        ("content_part.done", {**at, "part": _part(text)}),
        ("output_item.done", {"output_index": 0, "item": _item(text, "completed")}),
        ("completed", {"response": last}),
    ]
    frames = [
        _event(f"response.{name}", {"sequence_number": number, **fields})
        for number, (name, fields) in enumerate([*beginning, *pieces, *end])
    ]
    return Spoken(frames[: len(beginning)], frames[len(beginning) : -len(end)], frames[-len(end) :])


def _responses_usage(errand: Errand) -> dict[str, Any]:
    return {
        "input_tokens": errand.input,
        "input_tokens_details": {"cached_tokens": errand.cached},
        "output_tokens": errand.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": errand.input + errand.output,
    }


# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _message() -> dict[str, Any]:
    return {"id": "msg_soak", "type": "message", "role": "assistant", "model": _MODEL, "stop_sequence": None}


def _spoken_messages(errand: Errand) -> Spoken:
    usage = {**_messages_usage(errand), "output_tokens": 1}
    started = {**_message(), "content": [], "stop_reason": None, "usage": usage}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    return Spoken(
        [
            _event("message_start", {"message": started}),
            _event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ],
        [
            _event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}})
            for text in errand.texts()
        ],
        [
            _event("content_block_stop", {"index": 0}),
            _event("message_delta", {"delta": stop, "usage": {"output_tokens": errand.output}}),
            _event("message_stop", {}),
        ],
    )


def _messages_usage(errand: Errand) -> dict[str, Any]:
    return {
        "input_tokens": errand.input - errand.cached,
        "cache_read_input_tokens": errand.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": errand.output,
    }


# ── Gemini ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gemini(errand: Errand, text: str, *, finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    output = errand.output if finish is not None else 1
    usage = {
        "promptTokenCount": errand.input,
        "cachedContentTokenCount": errand.cached,
        "candidatesTokenCount": output,
        "totalTokenCount": errand.input + output,
    }
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": _MODEL, "responseId": "soak"}


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\n" + _data({"type": name, **fields})
