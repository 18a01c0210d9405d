"""What goes through the codecs in the benchmark: streams as the four vendors write them, and one long conversation.

A stream holds pieces of one kind between its vendor's beginning and end. The pieces are as long as tokens, some of them
outside of ASCII, some with what JSON must escape; together they are what any reader of the answer has to find again.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from llmproxy_asgi.conversation import ArgumentsDelta, PartDelta, ReasoningDelta, StreamEvent, TextDelta
from llmproxy_asgi.translators.base import AnyTranslator, InboundRequest, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.registry import translator

Kind = Literal["text", "reasoning", "arguments"]
Protocol = Literal["openai-chat", "openai-responses", "anthropic-messages", "gemini"]
Pair: TypeAlias = tuple[Protocol, Protocol]
"""What the upstream speaks, and what the caller does."""

KINDS: tuple[Kind, ...] = get_args(Kind)
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
PAIRS: tuple[Pair, ...] = tuple(itertools.product(PROTOCOLS, PROTOCOLS))

TITLES: dict[Protocol, str] = {
    "openai-chat": "Chat",
    "openai-responses": "Responses",
    "anthropic-messages": "Messages",
    "gemini": "Gemini",
}
ASKED = "bench-large"
_NATIVE = "bench-large-2026-10-01"
"""The upstream's own name of the model: another one, so that a relay has to put ours in its place."""

_PIECES = (
    *(" The", " reading", " room", " opens", " at", " ten", ",", " and", " covered", " cups", " are", " welcome"),
    *(" at", " the", " long", " tables", ".", "\n\n", " Ask", ' for "', "Frau", " Grün", 'e"', " in", " 東京", ":"),
    *(" she", " keeps", " the", " keys", " 😀", " until", " half", " past", " four", ";", " \\o/", " then", " home"),
)


class Stream(NamedTuple):
    """One upstream's answer, frame by frame, and its text."""

    frames: list[bytes]
    said: str

    def reads(self, size: int | None) -> list[bytes]:
        """The bytes as they may come in: this many at a time, or one event at a time."""
        if size is None:
            return self.frames
        whole = b"".join(self.frames)
        return [whole[at : at + size] for at in range(0, len(whole), size)]

    def data(self) -> list[bytes]:
        """The JSON of each event, taken out of its frame."""
        lines = (line for frame in self.frames for line in frame.splitlines())
        found = (line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: "))
        return [data for data in found if data != b"[DONE]"]


def stream(protocol: Protocol, kind: Kind, deltas: int, *, lean: bool = False) -> Stream:
    """An answer with this many pieces of one kind.

    Args:
        protocol: Who writes it.
        kind: Of what.
        deltas: How many pieces.
        lean: With nothing but what must be there, as small servers write it: many events to a read.
    """
    pieces = list(itertools.islice(itertools.cycle(_PIECES), deltas))
    said = "".join(pieces)
    if kind == "arguments":
        said = json.dumps({"text": said}, ensure_ascii=False, separators=(",", ":"))
        if protocol != "gemini":  # its pieces are values and no JSON text
            pieces = [json.dumps(piece, ensure_ascii=False)[1:-1] for piece in pieces]
            pieces[0] = '{"text":"' + pieces[0]
            pieces[-1] += '"}'
    return Stream(_WRITERS[protocol](kind, pieces, lean), said)


# ── as the vendors write it ──────────────────────────────────────────────────────────────────────────────────────────


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _unnamed(value: Any) -> bytes:
    return b"data: %b\n\n" % _json(value)


def _named(value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), _json(value))


def _chat(kind: Kind, pieces: list[str], lean: bool) -> list[bytes]:
    head: dict[str, Any] = {
        "id": "chatcmpl-Q7bX2mN4vC9zL1kJ",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": _NATIVE,
        "service_tier": "default",
        "system_fingerprint": "fp_5d1e0a77c3",
    }

    def chunk(delta: dict[str, Any], finish: str | None = None, *, usage: Any = None) -> bytes:
        if lean and finish is None:
            return _unnamed({"choices": [{"delta": delta}]})
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _unnamed({**head, "choices": [choice], "usage": usage, "obfuscation": "aZ3kQ9"})

    def piece(text: str) -> dict[str, Any]:
        if kind == "text":
            return {"content": text}
        if kind == "reasoning":
            return {"reasoning_content": text} if lean else {"content": None, "reasoning_content": text}
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}

    first = {"role": "assistant", "content": "" if kind == "text" else None}
    frames = [_unnamed({**head, "choices": [{"index": 0, "delta": first, "logprobs": None, "finish_reason": None}]})]
    if kind == "arguments":
        function = {"name": "write", "arguments": ""}
        frames.append(chunk({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}))
    frames += [chunk(piece(text)) for text in pieces]
    usage = {"prompt_tokens": 74, "completion_tokens": len(pieces), "total_tokens": 74 + len(pieces)}
    frames.append(chunk({}, "tool_calls" if kind == "arguments" else "stop", usage=usage))
    return [*frames, b"data: [DONE]\n\n"]


def _messages(kind: Kind, pieces: list[str], lean: bool) -> list[bytes]:
    del lean  # there is nothing that could be left out
    block, key = {
        "text": ({"type": "text", "text": ""}, "text"),
        "reasoning": ({"type": "thinking", "thinking": "", "signature": ""}, "thinking"),
        "arguments": ({"type": "tool_use", "id": "toolu_01A", "name": "write", "input": {}}, "partial_json"),
    }[kind]
    word = {"text": "text_delta", "reasoning": "thinking_delta", "arguments": "input_json_delta"}[kind]
    usage = {"input_tokens": 74, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "msg_01Q7bX2mN4vC9zL1kJ",
        "type": "message",
        "role": "assistant",
        "model": _NATIVE,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    stop = {"stop_reason": "tool_use" if kind == "arguments" else "end_turn", "stop_sequence": None}
    return [
        _named({"type": "message_start", "message": message}),
        _named({"type": "content_block_start", "index": 0, "content_block": block}),
        _named({"type": "ping"}),
        *(_named({"type": "content_block_delta", "index": 0, "delta": {"type": word, key: text}}) for text in pieces),
        _named({"type": "content_block_stop", "index": 0}),
        _named({"type": "message_delta", "delta": stop, "usage": {**usage, "output_tokens": len(pieces)}}),
        _named({"type": "message_stop"}),
    ]


def _responses(kind: Kind, pieces: list[str], lean: bool) -> list[bytes]:
    said = "".join(pieces)
    answer: dict[str, Any] = {
        "id": "resp_Q7bX2mN4vC9zL1kJ",
        "object": "response",
        "created_at": 1790000000,
        "status": "in_progress",
        "model": _NATIVE,
        "output": [],
        "parallel_tool_calls": True,
        "store": False,
        "tools": [],
        "usage": None,
    }
    place: dict[str, Any] = {"item_id": "item_1", "output_index": 0}
    text: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item: dict[str, Any]
    around: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    more: dict[str, Any] = {}
    if kind == "text":
        item = {"id": "item_1", "type": "message", "role": "assistant", "content": []}
        whole = {**item, "status": "completed", "content": [{**text, "text": said}]}
        place["content_index"] = 0
        around[0].append({"type": "response.content_part.added", **place, "part": text})
        around[1].append({"type": "response.output_text.done", **place, "text": said, "logprobs": []})
        around[1].append({"type": "response.content_part.done", **place, "part": whole["content"][0]})
        name, more = "response.output_text.delta", {"logprobs": []}
    elif kind == "reasoning":
        item = {"id": "item_1", "type": "reasoning", "summary": []}
        part = {"type": "summary_text", "text": ""}
        whole = {**item, "summary": [{**part, "text": said}]}
        place["summary_index"] = 0
        around[0].append({"type": "response.reasoning_summary_part.added", **place, "part": part})
        around[1].append({"type": "response.reasoning_summary_text.done", **place, "text": said})
        around[1].append({"type": "response.reasoning_summary_part.done", **place, "part": {**part, "text": said}})
        name = "response.reasoning_summary_text.delta"
    else:
        item = {"id": "item_1", "type": "function_call", "call_id": "call_1", "name": "write", "arguments": ""}
        whole = {**item, "status": "completed", "arguments": said}
        around[1].append({"type": "response.function_call_arguments.done", **place, "arguments": said})
        name = "response.function_call_arguments.delta"
    if not lean:
        more = {**more, "obfuscation": "aZ3kQ9"}
    tokens = {"input_tokens": 74, "output_tokens": len(pieces), "total_tokens": 74 + len(pieces)}
    ended = {**answer, "status": "completed", "output": [whole], "usage": tokens}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": answer},
        {"type": "response.in_progress", "response": answer},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}},
        *around[0],
        *({"type": name, **place, "delta": piece, **more} for piece in pieces),
        *around[1],
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        {"type": "response.completed", "response": ended},
    ]
    return [_named({**event, "sequence_number": number}) for number, event in enumerate(events)]


def _gemini(kind: Kind, pieces: list[str], lean: bool) -> list[bytes]:
    prompt = {"promptTokenCount": 74, "totalTokenCount": 74, "promptTokensDetails": [{"modality": "TEXT"}]}
    head = {"usageMetadata": prompt, "modelVersion": _NATIVE, "responseId": "Q7bX2mN4vC9zL1kJ"}

    def chunk(part: dict[str, Any], finish: str | None = None) -> bytes:
        if lean and finish is None:
            return _unnamed({"candidates": [{"content": {"parts": [part]}}]})
        candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        return _unnamed({"candidates": [candidate], **head})

    if kind != "arguments":
        mark = {"thought": True} if kind == "reasoning" else {}
        return [*(chunk({"text": text, **mark}) for text in pieces), chunk({"text": ""}, "STOP")]
    frames = [chunk({"functionCall": {"id": "call_1", "name": "write", "willContinue": True}})]
    for text in pieces:
        piece = {"jsonPath": "$.text", "stringValue": text, "willContinue": True}
        frames.append(chunk({"functionCall": {"partialArgs": [piece], "willContinue": True}}))
    return [*frames, chunk({"functionCall": {}}), chunk({"text": ""}, "STOP")]


_WRITERS: dict[Protocol, Callable[[Kind, list[str], bool], list[bytes]]] = {
    "openai-chat": _chat,
    "openai-responses": _responses,
    "anthropic-messages": _messages,
    "gemini": _gemini,
}


# ── through the codecs ───────────────────────────────────────────────────────────────────────────────────────────────


class Codec:
    """The way of one stream from its upstream's bytes to its caller's."""

    def __init__(self, pair: Pair) -> None:
        upstream, caller = pair
        inbound, outbound = translator(caller).inbound, translator(upstream).outbound
        inbound_request = _inbound_request(caller)
        self._decoder: StreamDecoder
        self._write: Callable[[Sequence[StreamEvent]], bytes] | None = None
        if upstream == caller:
            self._decoder = outbound.passthrough_stream(inbound_request, UPSTREAM)
        else:
            self._decoder = outbound.decoder(UpstreamRequest(body=b"", stream=True), UPSTREAM)
            self._write = inbound.encoder(inbound_request).feed
        self._read = self._decoder.feed

    def feed(self, read: bytes) -> bytes:
        """What one read becomes."""
        batch = self._read(read)
        return batch.raw or b"" if self._write is None else self._write(batch.events)

    def close(self) -> bytes:
        """What the body's end becomes."""
        batch = self._decoder.close()
        return batch.raw or b"" if self._write is None else self._write(batch.events)


UPSTREAM = Upstream(provider="bench", model=_NATIVE, client_model=ASKED, issuer="bench")
_BODIES: dict[Protocol, dict[str, Any]] = {
    "openai-chat": {"messages": [{"role": "user", "content": "When?"}], "stream_options": {"include_usage": True}},
    "openai-responses": {"input": "When?"},
    "anthropic-messages": {"messages": [{"role": "user", "content": "When?"}], "max_tokens": 64},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "When?"}]}]},
}
_PATH = {"model": ASKED, "method": "streamGenerateContent", "alt": "sse"}


def opened(protocol: Protocol, body: bytes) -> InboundRequest:
    """A request as it came in."""
    path = _PATH if protocol == "gemini" else {}
    return translator(protocol).inbound.open(body, headers={"anthropic-version": "2023-06-01"}, path=path)


def _inbound_request(protocol: Protocol) -> InboundRequest:
    return opened(protocol, _json({"model": ASKED, "stream": True, **_BODIES[protocol]}))


_DELTAS: dict[Kind, type[TextDelta | ReasoningDelta | ArgumentsDelta]] = {
    "text": TextDelta,
    "reasoning": ReasoningDelta,
    "arguments": ArgumentsDelta,
}


def heard(caller: Protocol, kind: Kind, written: bytes) -> str:
    """What a caller reads of one kind, by the eyes of the decoder for that protocol's upstreams.

    Raises:
        AssertionError: The stream does not end as it should.
    """
    decoder = translator(caller).outbound.decoder(UpstreamRequest(body=b"", stream=True), UPSTREAM)
    events: list[StreamEvent] = [*decoder.feed(written).events, *decoder.close().events]
    assert type(events[-1]).__name__ == "Ended", events[-1]
    deltas = [event.delta for event in events if isinstance(event, PartDelta)]
    return "".join(delta.text for delta in deltas if isinstance(delta, _DELTAS[kind]))


# ── one long conversation ────────────────────────────────────────────────────────────────────────────────────────────


class Asked(NamedTuple):
    """One conversation as a caller of one protocol sends it."""

    protocol: Protocol
    body: bytes


def conversations(messages: int = 200, tools: int = 16) -> list[Asked]:
    """The same conversation with tools in each of the protocols: written in Chat, translated into the others."""
    chat = _json({"model": ASKED, "messages": _turns(messages), "tools": [_tool(number) for number in range(tools)]})
    found = [Asked("openai-chat", chat)]
    request = translator("openai-chat").inbound.decode(opened("openai-chat", chat))
    for protocol in PROTOCOLS[1:]:
        half: AnyTranslator = translator(protocol)
        body = json.loads(half.outbound.encode(request, UPSTREAM).body)
        if protocol != "gemini":
            body["model"] = ASKED
        found.append(Asked(protocol, _json(body)))
    return found


def _turns(messages: int) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [{"role": "system", "content": "You answer questions about a library. " * 12}]
    for number in itertools.count():
        call = {"name": f"look_up_{number % 16}", "arguments": json.dumps({"shelf": f"A{number}", "copies": [1, 2]})}
        turns += [
            {"role": "user", "content": f"Question {number}: is the book on shelf A{number} still there? " * 4},
            {"role": "assistant", "tool_calls": [{"id": f"call_{number}", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": f"call_{number}", "content": '{"there": true, "copies": 2}' * 6},
            {"role": "assistant", "content": "Two copies are there, and one more comes back on Friday. " * 5},
        ]
        if len(turns) >= messages:
            return [*turns[: messages - 1], {"role": "user", "content": "And the next one?"}]
    raise AssertionError("endless")


def _tool(number: int) -> dict[str, Any]:
    properties = {
        "shelf": {"type": "string", "description": "The shelf's letter and number."},
        "copies": {"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 20},
        "status": {"type": "string", "enum": ["there", "lent", "lost"]},
        "place": {"type": "object", "properties": {"floor": {"type": "integer"}, "room": {"type": "string"}}},
    }
    schema = {"type": "object", "properties": properties, "required": ["shelf"], "additionalProperties": False}
    described = {"name": f"look_up_{number}", "description": "Look a book up by its shelf. " * 3, "parameters": schema}
    return {"type": "function", "function": described}
