"""What a scripted upstream of Responses says: whole answers, and streams with every event that the vendor sends."""

from collections.abc import Sequence
from typing import Any

from support.pairs.wires import CREATED, JSONObject, compact, fragments

RESPONSE_ID = "resp_7Rx"
RESPONSES_USAGE: JSONObject = {
    "input_tokens": 30,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 42,
}


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def message_item(*texts: str, item_id: str = "msg_up1", **more: Any) -> JSONObject:
    """Something said; each text is a delta of its stream."""
    part = {"type": "output_text", "text": texts, "annotations": [], "logprobs": []}
    item = {"id": item_id, "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    return {**item, **more}


def refusal_item(*texts: str, item_id: str = "msg_up1") -> JSONObject:
    """The model declines in words."""
    return message_item(item_id=item_id, content=[{"type": "refusal", "refusal": texts}])


def thought_item(summary: str | None = None, *, state: str | None = None, item_id: str = "rs_up1") -> JSONObject:
    """Something thought, and its state."""
    parts = [] if summary is None else [{"type": "summary_text", "text": summary}]
    sealed = {} if state is None else {"encrypted_content": state}
    return {"id": item_id, "type": "reasoning", "summary": parts, **sealed, "status": "completed"}


def call_item(call_id: str, name: str, arguments: str, *, item_id: str | None = None, **more: Any) -> JSONObject:
    """A call of a function."""
    item = {"id": item_id or f"fc_{call_id}", "type": "function_call", "status": "completed", "call_id": call_id}
    return {**item, "name": name, "arguments": arguments, **more}


def custom_item(call_id: str, name: str, text: str, **more: Any) -> JSONObject:
    """A call of a free-text tool."""
    item = {"id": f"ctc_{call_id}", "type": "custom_tool_call", "status": "completed", "call_id": call_id}
    return {**item, "name": name, "input": text, **more}


# ── whole ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def responses_whole(
    *items: JSONObject, status: str = "completed", usage: JSONObject | None = None, **more: Any
) -> JSONObject:
    """A whole answer."""
    return {
        "id": RESPONSE_ID,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "gpt-5.9-2026-10-01",
        "output": [_joined(item) for item in items],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}},
        "usage": usage or RESPONSES_USAGE,
        **more,
    }


def _joined(item: JSONObject) -> JSONObject:
    if item["type"] != "message":
        return item
    return {**item, "content": [_joined_part(part) for part in item["content"]]}


def _joined_part(part: JSONObject) -> JSONObject:
    key = "refusal" if part["type"] == "refusal" else "text"
    return {**part, key: "".join(part[key])}


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────

Told = tuple[str, JSONObject]


def responses_events(
    *items: JSONObject,
    status: str = "completed",
    usage: JSONObject | None = None,
    ends: bool = True,
    begun: JSONObject | None = None,
    **more: Any,
) -> list[bytes]:
    """A stream of these items.

    Args:
        items: In order; texts and calls come in pieces.
        status: What it ends with.
        usage: What the last event tells.
        ends: Whether it has its last event.
        begun: An item that is reported after the others, with one piece of its content, and never continued.
        more: For the last event's response.
    """
    first = {**responses_whole(status="in_progress"), "usage": None}
    told: list[Told] = [("response.created", {"response": first}), ("response.in_progress", {"response": first})]
    for index, item in enumerate(items):
        told += item_events(index, item)
    if begun is not None:
        told += [each for each in item_events(len(items), begun) if not each[0].endswith("done")]
    if ends:
        told.append((f"response.{status}", {"response": responses_whole(*items, status=status, usage=usage, **more)}))
    return numbered(told)


def numbered(told: Sequence[Told]) -> list[bytes]:
    """Events as frames, counted from 0."""
    return [responses_event(name, sequence_number=number, **fields) for number, (name, fields) in enumerate(told)]


def responses_event(name: str, **fields: Any) -> bytes:
    """One frame."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), compact({"type": name, **fields}))


def item_events(index: int, item: JSONObject) -> list[Told]:
    """The events of one item: added, filled, done."""
    at: JSONObject = {"item_id": item["id"], "output_index": index}
    head, told = {**item, "status": "in_progress"}, []
    match item["type"]:
        case "message":
            head["content"] = []
            for number, part in enumerate(item["content"]):
                told += _content_events({**at, "content_index": number}, part)
        case "reasoning":
            head["summary"] = []
            head.pop("encrypted_content", None)
            for number, part in enumerate(item["summary"]):
                told += _summary_events({**at, "summary_index": number}, part)
        case "function_call":
            head["arguments"] = ""
            told += _call_events("response.function_call_arguments", at, "arguments", item)
        case "custom_tool_call":
            head["input"] = ""
            told += _call_events("response.custom_tool_call_input", at, "input", item)
        case _:
            pass
    return [
        ("response.output_item.added", {"output_index": index, "item": head}),
        *told,
        ("response.output_item.done", {"output_index": index, "item": _joined(item)}),
    ]


def _content_events(at: JSONObject, part: JSONObject) -> list[Told]:
    whole = _joined_part(part)
    if part["type"] == "refusal":
        empty: JSONObject = {"type": "refusal", "refusal": ""}
        deltas = [("response.refusal.delta", {**at, "delta": piece}) for piece in part["refusal"]]
        done: list[Told] = [("response.refusal.done", {**at, "refusal": whole["refusal"]})]
    else:
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        deltas = [("response.output_text.delta", {**at, "delta": piece, "logprobs": []}) for piece in part["text"]]
        deltas += [
            ("response.output_text.annotation.added", {**at, "annotation_index": number, "annotation": each})
            for number, each in enumerate(part["annotations"])
        ]
        done = [("response.output_text.done", {**at, "text": whole["text"], "logprobs": part["logprobs"]})]
    return [
        ("response.content_part.added", {**at, "part": empty}),
        *deltas,
        *done,
        ("response.content_part.done", {**at, "part": whole}),
    ]


def _summary_events(at: JSONObject, part: JSONObject) -> list[Told]:
    text = part["text"]
    return [
        ("response.reasoning_summary_part.added", {**at, "part": {"type": "summary_text", "text": ""}}),
        *(("response.reasoning_summary_text.delta", {**at, "delta": piece}) for piece in fragments(text)),
        ("response.reasoning_summary_text.done", {**at, "text": text}),
        ("response.reasoning_summary_part.done", {**at, "part": part}),
    ]


def _call_events(stem: str, at: JSONObject, key: str, item: JSONObject) -> list[Told]:
    deltas: list[Told] = [(f"{stem}.delta", {**at, "delta": piece}) for piece in fragments(item[key])]
    return [*deltas, (f"{stem}.done", {**at, key: item[key]})]
