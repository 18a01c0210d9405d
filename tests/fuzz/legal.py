"""What an answer must look like, whatever was asked: each protocol's errors, whole answers and streams.

Written from the outside, without a translator: every check is of what a client's library relies on. What was relayed
from an upstream is the upstream's to answer for; of that only the framing and the end are looked at.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from fuzz.seeds import CHAT, COMPLETIONS, EMBEDDINGS, GEMINI, MESSAGES, RESPONSES

_STATUSES = frozenset({*range(400, 500), 502, 503, 504, 529})
"""An upstream's own refusal of a request keeps its status."""
_LINE_END = re.compile(rb"\r\n|\n|\r")
_FINISHES = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_DONE = "[DONE]"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")


class Illegal(AssertionError):
    """Something that no client of the protocol could read."""


def _fail(text: str, shown: object = "") -> NoReturn:
    raise Illegal(f"{text}: {str(shown)[:500]}" if shown != "" else text)


def _need(condition: object, text: str, shown: object = "") -> None:
    if not condition:
        _fail(text, shown)


def read(data: bytes | str) -> Any:
    """JSON by its own rules: no NaN, and text that is Unicode.

    Raises:
        Illegal: It is none.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        return json.loads(text, parse_constant=_fail, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        _fail(f"no JSON ({error})", data)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 4000 else float("inf")  # Python has a bound of its own; JSON has none


def frames(data: bytes) -> list[tuple[str | None, str]]:
    """The events of a stream: their names and data; every one of them must be whole."""
    found = []
    name: str | None = None
    lines: list[str] = []
    rest = _LINE_END.split(data)
    _need(rest[-1] == b"" and (len(rest) < 2 or rest[-2] == b""), "the stream does not end with a frame", data[-100:])
    for line in rest:
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ")
        if not line:
            if lines:
                found.append((name, "\n".join(lines)))
            name, lines = None, []
        elif field == b"event":
            name = text.decode("utf-8", "replace")
        elif field == b"data":
            lines.append(text.decode("utf-8", "replace"))
    return found


# ── heads and errors ─────────────────────────────────────────────────────────────────────────────────────────────────


def check_head(status: int, headers: Mapping[bytes, bytes], body: bytes, *, head: bool = False) -> None:
    """What every answer has: headers that fit into their lines, a length that is right, a request's id."""
    for name, value in headers.items():
        _need(re.fullmatch(rb"[a-z0-9-]+", name), "a header's name", name)
        _need(not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value), "a header's value", value)
    length = headers.get(b"content-length")
    _need(length is None or head or int(length) == len(body), "the length is another", length)
    _need(_REQUEST_ID.fullmatch(headers.get(b"x-request-id", b"")), "no request id", headers)
    _need(status == 200 or status in _STATUSES, "a status that is never answered", f"{status} {body!r}")


def check_error(protocol: str, status: int, body: bytes) -> None:
    """An error of this protocol's, as an answer of its own."""
    tree = read(body)
    error = _error_object(protocol, tree)
    if protocol == GEMINI:
        _need(error["code"] == status, "the error says another status", tree)


def _error_object(protocol: str, tree: Any) -> Any:
    _need(isinstance(tree, dict) and isinstance(tree.get("error"), dict), "no error object", tree)
    error = tree["error"]
    _need(isinstance(error.get("message"), str), "no message", tree)
    if protocol == MESSAGES:
        _need(tree.get("type") == "error" and isinstance(error.get("type"), str), "no error of Messages'", tree)
    elif protocol == GEMINI:
        _need(type(error.get("code")) is int and isinstance(error.get("status"), str), "no error of Google's", tree)
    else:
        _need(isinstance(error.get("type"), str) and "param" in error and "code" in error, "no error of OpenAI's", tree)
    return error


# ── whole answers ────────────────────────────────────────────────────────────────────────────────────────────────────


def check_whole(protocol: str, body: bytes, *, relayed: bool = False, method: str = "") -> None:
    """A whole answer.

    Args:
        protocol: The caller's.
        body: All of it.
        relayed: Whether an upstream wrote it.
        method: Which of a protocol's questions it answers, where it has several.
    """
    tree = read(body)
    _need(isinstance(tree, dict), "no object", tree)
    if relayed:
        return
    if method == "count":
        counted = tree.get("totalTokens" if protocol == GEMINI else "input_tokens")
        _need(type(counted) is int and counted >= 0, "no count", tree)
    elif method == "embed":
        vectors = tree["embeddings"] if "embeddings" in tree else [tree.get("embedding")]
        _need(all(isinstance(vector, dict) and _numbers(vector.get("values")) for vector in vectors), "vectors", tree)
    else:
        _WHOLE[protocol](tree)


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def _head(tree: Any, kind: str) -> None:
    known = tree.get("object") == kind and isinstance(tree.get("id"), str) and isinstance(tree.get("model"), str)
    _need(known and type(tree.get("created")) is int, f"no head of {kind}", tree)


def _usage(usage: Any, *names: str) -> None:
    counted = isinstance(usage, dict) and all(type(usage.get(name)) is int and usage[name] >= 0 for name in names)
    _need(counted, "no usage", usage)


_CHAT_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


def _chat_whole(tree: Any) -> None:
    _head(tree, "chat.completion")
    _need(isinstance(tree.get("choices"), list) and tree["choices"], "no choices", tree)
    for choice in tree["choices"]:
        message = choice["message"]
        _need(type(choice.get("index")) is int and message.get("role") == "assistant", "no choice", choice)
        _need(message.get("content") is None or isinstance(message["content"], str), "the content", message)
        _need(choice.get("finish_reason") in _FINISHES, "the finish", choice)
        for call in message.get("tool_calls") or ():
            _need(isinstance(call.get("id"), str), "a call without id", call)
            body, said = (call["custom"], "input") if call["type"] == "custom" else (call["function"], "arguments")
            _need(isinstance(body.get("name"), str) and isinstance(body.get(said), str), "a call", call)
    if tree.get("usage") is not None:
        _usage(tree["usage"], *_CHAT_USAGE)


def _completions_whole(tree: Any) -> None:
    _head(tree, "text_completion")
    _need(isinstance(tree.get("choices"), list) and tree["choices"], "no choices", tree)
    for choice in tree["choices"]:
        _need(isinstance(choice.get("text"), str) and choice.get("finish_reason") in _FINISHES, "no choice", choice)


def _responses_whole(tree: Any) -> None:
    _response(tree)
    _need(tree["status"] in {"completed", "incomplete", "failed", "queued", "in_progress", "cancelled"}, "status", tree)


def _response(tree: Any) -> None:
    _need(isinstance(tree, dict) and tree.get("object") == "response", "no response", tree)
    _need(isinstance(tree.get("id"), str) and isinstance(tree.get("model"), str), "no response's head", tree)
    _need(isinstance(tree.get("output"), list), "no output", tree)
    for item in tree["output"]:
        _need(isinstance(item, dict) and isinstance(item.get("type"), str), "an item", item)
        if item["type"] == "message":
            _need(item.get("role") == "assistant" and isinstance(item.get("content"), list), "a message", item)
        elif item["type"] == "function_call":
            strings = all(isinstance(item.get(name), str) for name in ("call_id", "name", "arguments"))
            _need(strings, "a call", item)
    if tree.get("usage") is not None:
        _usage(tree["usage"], "input_tokens", "output_tokens", "total_tokens")


def _messages_whole(tree: Any) -> None:
    _message(tree)
    _need(isinstance(tree.get("stop_reason"), str), "no stop reason", tree)
    for block in tree["content"]:
        _block(block)


def _message(tree: Any) -> None:
    _need(tree.get("type") == "message" and tree.get("role") == "assistant", "no message", tree)
    _need(isinstance(tree.get("id"), str) and isinstance(tree.get("model"), str), "no message's head", tree)
    _need(isinstance(tree.get("content"), list), "no content", tree)
    _usage(tree.get("usage"), "input_tokens", "output_tokens")


_BLOCKS: Mapping[str, tuple[tuple[str, type], ...]] = {
    "text": (("text", str),),
    "thinking": (("thinking", str), ("signature", str)),
    "redacted_thinking": (("data", str),),
    "tool_use": (("id", str), ("name", str), ("input", dict)),
    "server_tool_use": (("id", str), ("name", str), ("input", dict)),
}


def _block(block: Any) -> None:
    _need(isinstance(block, dict) and isinstance(block.get("type"), str), "a block", block)
    for name, kind in _BLOCKS.get(block["type"], ()):
        _need(isinstance(block.get(name), kind), f"a block's {name}", block)


def _gemini_whole(tree: Any) -> None:
    _chunk(tree)
    blocked = isinstance(tree.get("promptFeedback"), dict)
    finished = [candidate for candidate in tree.get("candidates", ()) if isinstance(candidate.get("finishReason"), str)]
    _need(blocked or finished, "no candidate has finished", tree)


def _chunk(tree: Any) -> None:
    _need(isinstance(tree, dict), "no chunk", tree)
    for candidate in tree.get("candidates", ()):
        content = candidate.get("content", {})
        _need(isinstance(content, dict) and isinstance(content.get("parts", []), list), "a candidate", candidate)
        for part in content.get("parts", []):
            _need(isinstance(part, dict), "a part", part)
            _need(isinstance(part.get("text", ""), str), "a part's text", part)
            call = part.get("functionCall", {"name": ""})
            _need(isinstance(call, dict) and isinstance(call.get("name"), str), "a call", part)
    if "usageMetadata" in tree:
        counts = [value for name, value in tree["usageMetadata"].items() if name.endswith("Count")]
        _need(all(type(count) is int and count >= 0 for count in counts), "usage", tree)


def _embeddings_whole(tree: Any) -> None:
    _need(tree.get("object") == "list" and isinstance(tree.get("data"), list), "no list", tree)
    for entry in tree["data"]:
        vector = entry.get("embedding")
        _need(isinstance(vector, str) or _numbers(vector), "a vector", entry)


_WHOLE = {
    CHAT: _chat_whole,
    COMPLETIONS: _completions_whole,
    RESPONSES: _responses_whole,
    MESSAGES: _messages_whole,
    GEMINI: _gemini_whole,
    EMBEDDINGS: _embeddings_whole,
}


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_stream(protocol: str, data: bytes, *, relayed: bool, array: bool = False) -> bool:
    """A stream, from its first byte to its last.

    Args:
        protocol: The caller's.
        data: All of it.
        relayed: Whether an upstream wrote most of it, so that only framing and end are ours.
        array: Whether it is a JSON array of chunks, not events (Gemini's way without `alt=sse`).

    Returns:
        Whether it ended well; else with an error.
    """
    if array:
        elements = read(data)
        _need(isinstance(elements, list), "no array", elements)
        return _gemini_stream([(None, json.dumps(each)) for each in elements], relayed=relayed)
    return _STREAM[protocol](frames(data), relayed=relayed)


Events = list[tuple[str | None, str]]


def _chat_stream(events: Events, *, relayed: bool) -> bool:
    return _choices(events, CHAT, "chat.completion.chunk", relayed=relayed)


def _completions_stream(events: Events, *, relayed: bool) -> bool:
    return _choices(events, COMPLETIONS, "text_completion", relayed=relayed)


def _choices(events: Events, protocol: str, kind: str, *, relayed: bool) -> bool:
    _need(events, "an empty stream")
    last = events[-1][1].strip() if relayed else events[-1][1]
    well = last == _DONE
    if not well:
        _error_object(protocol, read(last))
    _need(_DONE not in [data for _, data in events[:-1]], "something follows the end")
    if relayed:
        return well
    finished: dict[int, bool] = {}
    calls: dict[int, set[int]] = {}
    for name, data in events[:-1]:
        tree = read(data)
        _need(name is None, "a named event", name)
        _head(tree, kind)
        if tree.get("usage") is not None:
            _usage(tree["usage"], *_CHAT_USAGE)
        for choice in tree["choices"]:
            index = choice["index"]
            _need(type(index) is int and not finished.get(index), "a choice continues after its finish", tree)
            finished[index] = choice.get("finish_reason") is not None
            _need(not finished[index] or choice["finish_reason"] in _FINISHES, "the finish", choice)
            if protocol == CHAT:
                _chat_delta(choice["delta"], calls.setdefault(index, set()))
            else:
                _need(isinstance(choice.get("text"), str), "no text", choice)
    _need(not well or (finished and all(finished.values())), "a choice never finished", events[-3:])
    return well


def _chat_delta(delta: Any, known: set[int]) -> None:
    _need(isinstance(delta, dict), "no delta", delta)
    for field in ("content", "refusal", "reasoning_content"):
        _need(delta.get(field) is None or isinstance(delta[field], str), field, delta)
    for call in delta.get("tool_calls") or ():
        number = call["index"]
        if number not in known:
            body = call.get("function") or call.get("custom")
            named = isinstance(call.get("id"), str) and isinstance(body, dict) and isinstance(body.get("name"), str)
            _need(number == len(known) and named, "a call begins without its name", call)
            known.add(number)


_LIFE_ENDS: Mapping[Any, bool] = {
    "response.completed": True,
    "response.incomplete": True,
    "response.failed": False,
    "error": False,
}


def _responses_stream(events: Events, *, relayed: bool) -> bool:
    _need(events, "an empty stream")
    trees = [(name, read(data)) for name, data in (events[-1:] if relayed else events)]
    last = trees[-1][1].get("type") or (trees[-1][0] if relayed else None)
    _need(last in _LIFE_ENDS, "the stream has no end", trees[-1])
    if relayed:
        return _LIFE_ENDS[last]
    items: dict[int, str] = {}
    for number, (name, tree) in enumerate(trees):
        kind = tree.get("type")
        _need(name == kind, "the event's name is another", (name, kind))
        _need(tree.get("sequence_number") == number, "the numbering", tree)
        _need(number == len(trees) - 1 or kind not in _LIFE_ENDS, "something follows the end", kind)
        if isinstance(kind, str) and kind.startswith("response.") and "response" in tree:
            _response(tree["response"])
        if kind == "response.output_item.added":
            _need(tree["output_index"] == len(items), "items are not numbered in turn", tree)
            items[tree["output_index"]] = "open"
        elif kind == "response.output_item.done":
            _need(items.get(tree["output_index"]) == "open", "an item ends twice", tree)
            items[tree["output_index"]] = "done"
        elif "output_index" in tree:
            _need(items.get(tree["output_index"]) == "open", "an event of no open item", tree)
    if last != "error":
        _need(trees[0][1]["type"] == "response.created", "the stream does not begin", trees[0])
    well = _LIFE_ENDS[last]
    if well:
        _need("open" not in items.values(), "an item stays open", items)
        _need(len(trees[-1][1]["response"]["output"]) == len(items), "other items at the end", trees[-1])
    return well


def _messages_stream(events: Events, *, relayed: bool) -> bool:
    _need(events, "an empty stream")
    trees = [(name, read(data)) for name, data in (events[-1:] if relayed else events)]
    last = trees[-1][1]
    well = (last.get("type") or (trees[-1][0] if relayed else None)) == "message_stop"
    if not well:
        _error_object(MESSAGES, last)
    if relayed:
        return well
    order = _Blocks()
    for number, (name, tree) in enumerate(trees):
        _need(name == tree.get("type"), "the event's name is another", (name, tree))
        if number < len(trees) - 1:
            order.take(tree)
    _need(not well or (order.stopped and order.open is None), "it stops in the middle", events[-4:])
    return well


class _Blocks:
    """The order of events within a message."""

    def __init__(self) -> None:
        self.begun = False
        self.stopped = False
        self.open: int | None = None
        self._next = 0

    def take(self, tree: Any) -> None:
        """The next event."""
        kind = tree["type"]
        if kind == "ping":
            return
        if kind == "message_start":
            _need(not self.begun, "it starts twice", tree)
            self.begun = True
            _message(tree["message"])
            return
        _need(self.begun and not self.stopped, "an event outside of the message", tree)
        if kind == "content_block_start":
            _need(self.open is None and tree["index"] == self._next, "a block starts out of turn", tree)
            self.open, self._next = tree["index"], self._next + 1
            _block(tree["content_block"])
        elif kind in {"content_block_delta", "content_block_stop"}:
            _need(tree["index"] == self.open, "an event of no open block", tree)
            self.open = None if kind == "content_block_stop" else self.open
        elif kind == "message_delta":
            _need(self.open is None and isinstance(tree["delta"].get("stop_reason"), str), "no stop reason", tree)
            self.stopped = True
        else:
            _fail("an unknown event", tree)


def _gemini_stream(events: Events, *, relayed: bool) -> bool:
    _need(events, "an empty stream")
    try:
        last = read(events[-1][1])
    except Illegal:
        if not relayed:
            raise
        last = None  # what an upstream says behind its finish
    if isinstance(last, dict) and "error" in last:
        _error_object(GEMINI, last)
        well = False
    else:
        well = True
    if relayed:
        return well
    finished = False
    for name, data in events if well else events[:-1]:
        tree = read(data)
        _need(name is None, "a named event", name)
        _chunk(tree)
        finished |= isinstance(tree.get("promptFeedback"), dict) and "blockReason" in tree["promptFeedback"]
        finished |= any(isinstance(candidate.get("finishReason"), str) for candidate in tree.get("candidates", ()))
    _need(finished or not well, "no candidate has finished", events[-2:])
    return well


_STREAM = {
    CHAT: _chat_stream,
    COMPLETIONS: _completions_stream,
    RESPONSES: _responses_stream,
    MESSAGES: _messages_stream,
    GEMINI: _gemini_stream,
}
