"""Streams of services that only resemble a vendor: what they restate, where they put counts, errors and ends."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from llmproxy_asgi.conversation import (
    UNDATED,
    ArgumentsDelta,
    Failed,
    FinishReason,
    PartDelta,
    Reasoning,
    Response,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    UsageReported,
)
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import InboundRequest, Upstream, UpstreamRequest
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.translators.stream_validator import StreamValidator

CHAT, RESPONSES, MESSAGES, GEMINI = "openai-chat", "openai-responses", "anthropic-messages", "gemini"
UPSTREAM = Upstream(provider="p", model="m", client_model="asked", issuer="p")
OUTGOING = UpstreamRequest(body=b"{}", stream=True, nonce="n1")
Frame = dict[str, Any] | str | bytes


def wire(protocol: str, *frames: Frame) -> bytes:
    """A stream as this protocol frames it; text and bytes stand for whole frames."""
    out: list[bytes] = []
    for frame in frames:
        if isinstance(frame, str | bytes):
            out.append(frame.encode() if isinstance(frame, str) else frame)
            continue
        named = b"event: " + frame["type"].encode() + b"\n" if protocol in {RESPONSES, MESSAGES} else b""
        out.append(named + b"data: " + json.dumps(frame).encode() + b"\n\n")
    return b"".join(out)


def read(protocol: str, content: bytes, *cuts: int) -> list[StreamEvent]:
    """The events of a stream that comes in pieces."""
    decoder = translator(protocol).outbound.decoder(OUTGOING, UPSTREAM)
    events: list[StreamEvent] = []
    begin = 0
    for end in (*cuts, len(content)):
        events += decoder.feed(content[begin:end]).events
        begin = end
    return [*events, *decoder.close().events]


def told(protocol: str, *frames: Frame) -> Response:
    """The answer that a stream told, which is the same wherever it is cut and never breaks the grammar."""
    content = wire(protocol, *frames)
    events = read(protocol, content)
    validator = StreamValidator()
    for event in events:
        validator.check(event)
    whole = fold(events)
    for cut in range(1, len(content)):
        assert fold(read(protocol, content, cut)) == whole, cut
    return whole


def streamed(protocol: str, *frames: Frame) -> str:
    """All text and arguments as they were streamed."""
    events = read(protocol, wire(protocol, *frames))
    return "".join(
        event.delta.text
        for event in events
        if isinstance(event, PartDelta) and isinstance(event.delta, TextDelta | ArgumentsDelta)
    )


def failure(protocol: str, *frames: Frame) -> GatewayError:
    """The error that a stream ends with, wherever it is cut."""
    content = wire(protocol, *frames)
    ends = [read(protocol, content, cut)[-1] for cut in range(len(content))]
    errors = [last.error for last in ends if isinstance(last, Failed)]
    assert len(errors) == len(content)
    assert len({(error.status, error.message) for error in errors}) == 1
    return errors[0]


# ── the protocols' frames ────────────────────────────────────────────────────────────────────────────────────────────


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk of Chat's; fields that begin with `choice_` stand in the choice."""
    inner = {key.removeprefix("choice_"): value for key, value in fields.items() if key.startswith("choice_")}
    outer = {key: value for key, value in fields.items() if not key.startswith("choice_")}
    choice = {"index": 0, "finish_reason": finish, **({} if delta is None else {"delta": delta}), **inner}
    return {"id": "chatcmpl-1", "choices": [choice], **outer}


def chat_call(arguments: str, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **fields, "function": {"name": fields.get("name"), "arguments": arguments}}]}


DONE = "data: [DONE]\n\n"
CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}


def item(what: str, place: int, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.output_item.{what}", "output_index": place, "item": fields}


def completed(*output: dict[str, Any], kind: str = "completed", **fields: Any) -> dict[str, Any]:
    response = {"id": "resp_1", "status": kind, "output": list(output), **fields}
    return {"type": f"response.{kind}", "response": response}


def on_item(kind: str, place: int, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": place, "content_index": 0, **fields}


STARTED = {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 3, "output_tokens": 1}}}


def block(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": fields}


def piece(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ends(reason: str | None, **fields: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}, **fields}


STOPPED = {"type": "message_stop"}


def gemini(*parts: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": list(parts)}, **({"finishReason": finish} if finish else {})}
    return {"candidates": [candidate], **fields}


MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f"}
ARGUMENTS = '{"path":"a"}'

# ── what is restated as whole ────────────────────────────────────────────────────────────────────────────────────────

RESTATED: dict[str, tuple[str, Sequence[Frame], str]] = {
    "arguments done": (
        RESPONSES,
        [
            CREATED,
            item("added", 0, **CALL, arguments=""),
            on_item("function_call_arguments.delta", 0, delta='{"path":'),
            on_item("function_call_arguments.done", 0, arguments=ARGUMENTS),
            item("done", 0, **CALL, arguments=ARGUMENTS),
            completed(),
        ],
        ARGUMENTS,
    ),
    "arguments in the item alone": (
        RESPONSES,
        [
            CREATED,
            item("added", 0, **CALL, arguments=""),
            on_item("function_call_arguments.delta", 0, delta='{"path":'),
            item("done", 0, **CALL, arguments=ARGUMENTS),
            completed(),
        ],
        ARGUMENTS,
    ),
    "arguments in the last event alone": (
        RESPONSES,
        [
            CREATED,
            item("added", 0, **CALL, arguments=""),
            on_item("function_call_arguments.delta", 0, delta='{"path":'),
            completed({**CALL, "arguments": ARGUMENTS}),
        ],
        ARGUMENTS,
    ),
    "text done": (
        RESPONSES,
        [
            CREATED,
            item("added", 0, **MESSAGE, content=[]),
            on_item("output_text.delta", 0, delta="Hel"),
            on_item("output_text.done", 0, text="Hello"),
            item("done", 0, **MESSAGE, content=[{"type": "output_text", "text": "Hello there"}]),
            completed(),
        ],
        "Hello there",
    ),
    "another item in the last event": (
        RESPONSES,
        [
            CREATED,
            item("added", 0, **MESSAGE, content=[]),
            on_item("output_text.delta", 0, delta="Hello"),
            item("done", 0, **MESSAGE, content=[{"type": "output_text", "text": "Hello"}]),
            completed(
                {**MESSAGE, "content": [{"type": "output_text", "text": "Hello"}]}, {**CALL, "arguments": ARGUMENTS}
            ),
        ],
        "Hello" + ARGUMENTS,
    ),
    "the same items under other ids": (
        RESPONSES,
        [
            CREATED,
            item("added", 0, **MESSAGE, content=[]),
            on_item("output_text.delta", 0, delta="Hello"),
            item("done", 0, **MESSAGE, content=[]),
            completed({**MESSAGE, "id": "msg_9", "content": [{"type": "output_text", "text": "Hello"}]}),
        ],
        "Hello",
    ),
    "an item done twice": (
        RESPONSES,
        [
            CREATED,
            item("added", 0, **MESSAGE, content=[]),
            on_item("output_text.delta", 0, delta="Hello"),
            item("done", 0, **MESSAGE, content=[{"type": "output_text", "text": "Hello"}]),
            item("done", 0, **MESSAGE, content=[{"type": "output_text", "text": "Hello"}]),
            completed(),
        ],
        "Hello",
    ),
    "a text written anew": (
        RESPONSES,
        [
            CREATED,
            item("added", 0, **MESSAGE, content=[]),
            on_item("output_text.delta", 0, delta=" Hello"),
            on_item("output_text.done", 0, text="Hello, there"),
            completed(),
        ],
        " Hello",
    ),
    "a whole message in the last chunk": (
        CHAT,
        [
            chunk({"content": "Hel"}),
            chunk(
                {},
                "tool_calls",
                choice_message={
                    "content": "Hello",
                    "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": ARGUMENTS}}],
                },
            ),
            DONE,
        ],
        "Hello" + ARGUMENTS,
    ),
    "arguments in a whole message": (
        CHAT,
        [
            chunk(chat_call('{"path":', id="call_1", name="f")),
            chunk(
                None,
                "tool_calls",
                choice_message={"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": ARGUMENTS}}]},
            ),
            DONE,
        ],
        ARGUMENTS,
    ),
    "messages in the place of deltas": (
        CHAT,
        [
            chunk(choice_message={"content": "Hel"}),
            chunk(choice_message={"content": "Hello"}),
            chunk(None, "stop", choice_message={"content": "Hello"}),
            DONE,
        ],
        "Hello",
    ),
    "blocks in the start of a message": (
        MESSAGES,
        [
            {"type": "message_start", "message": {"id": "msg_1", "content": [{"type": "text", "text": "Hello"}]}},
            ends("end_turn"),
            STOPPED,
        ],
        "Hello",
    ),
    "arguments in the last piece of a call": (
        GEMINI,
        [
            gemini({"functionCall": {"name": "f", "willContinue": True, "partialArgs": []}}),
            gemini({"functionCall": {"args": {"path": "a"}}}, finish="STOP"),
        ],
        '{"path": "a"}',
    ),
}


@pytest.mark.parametrize(("protocol", "frames", "text"), RESTATED.values(), ids=RESTATED)
def test_what_was_not_streamed_of_a_restated_whole_is_sent(protocol: str, frames: Sequence[Frame], text: str) -> None:
    """A restated text that continues the streamed one completes it once; a rewritten one changes nothing."""
    assert streamed(protocol, *frames) == text
    parts = told(protocol, *frames).candidates[0].parts
    whole = [part.text if isinstance(part, Text) else getattr(part, "arguments", "") for part in parts]
    assert "".join(whole) == text


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "summary"])
def test_reasoning_is_completed_as_texts_are(plain: bool) -> None:
    """By the text's done event, and by the item."""
    kind = "reasoning_text" if plain else "reasoning_summary_text"
    whole = {"content": [{"type": "reasoning_text", "text": "abcd"}]}
    if not plain:
        whole = {"summary": [{"type": "summary_text", "text": "abcd"}]}
    frames = [
        CREATED,
        item("added", 0, type="reasoning", id="rs_1"),
        on_item(f"{kind}.delta", 0, delta="ab", summary_index=0),
        on_item(f"{kind}.done", 0, text="abc", summary_index=0),
        item("done", 0, type="reasoning", id="rs_1", **whole),
        completed({**MESSAGE, "content": [{"type": "output_text", "text": "t"}]}),
    ]
    (thought, _) = told(RESPONSES, *frames).candidates[0].parts
    assert isinstance(thought, Reasoning)
    assert (thought.text, thought.raw, thought.style) == ("abcd", plain, "full" if plain else "summary")


# ── where usage stands ───────────────────────────────────────────────────────────────────────────────────────────────

COUNTS = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
TEXT = chunk({"content": "hi"})
USAGE: dict[str, tuple[str, Sequence[Frame], tuple[int, int, int]]] = {
    "in the choice": (CHAT, [TEXT, chunk({}, "stop", choice_usage=COUNTS), DONE], (10, 4, 0)),
    "top-level cached tokens": (
        CHAT,
        [TEXT, chunk({}, "stop", choice_usage={**COUNTS, "cached_tokens": 7}), DONE],
        (10, 4, 7),
    ),
    "hits of a cache": (CHAT, [TEXT, chunk({}, "stop", usage={**COUNTS, "prompt_cache_hit_tokens": 6})], (10, 4, 6)),
    "Groq's": (CHAT, [TEXT, chunk({}, "stop", x_groq={"id": "r", "usage": COUNTS}), DONE], (10, 4, 0)),
    "behind the finish": (
        CHAT,
        [TEXT, chunk({}, "stop"), {"id": "c", "choices": [], "x_groq": {"usage": COUNTS}}, DONE],
        (10, 4, 0),
    ),
    "timings": (
        CHAT,
        [TEXT, chunk({}, "stop", timings={"cache_n": 3, "prompt_n": 7, "predicted_n": 4}), DONE],
        (10, 4, 3),
    ),
    "the last of several": (
        CHAT,
        [
            chunk({"content": "h"}, usage={"prompt_tokens": 10, "completion_tokens": 1}),
            chunk({"content": "i"}, usage={"prompt_tokens": 10, "completion_tokens": 2}),
            chunk({}, "stop", usage=COUNTS),
            DONE,
        ],
        (10, 4, 0),
    ),
    "Bedrock's metrics": (
        MESSAGES,
        [
            {"type": "message_start", "message": {"id": "msg_1"}},
            block(0, type="text", text="hi"),
            stop(0),
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
            {
                "type": "message_stop",
                "amazon-bedrock-invocationMetrics": {"inputTokenCount": 10, "outputTokenCount": 4},
            },
        ],
        (10, 4, 0),
    ),
    "before the last chunk": (
        GEMINI,
        [
            gemini({"text": "hi"}, usageMetadata={"promptTokenCount": 10, "candidatesTokenCount": 4}),
            gemini(finish="STOP"),
        ],
        (10, 4, 0),
    ),
    "in a chunk of its own": (
        GEMINI,
        [
            gemini({"text": "hi"}, finish="STOP"),
            {"modelVersion": "m", "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 4}},
        ],
        (10, 4, 0),
    ),
}


@pytest.mark.parametrize(("protocol", "frames", "counts"), USAGE.values(), ids=USAGE)
def test_usage_is_found_wherever_it_stands(
    protocol: str, frames: Sequence[Frame], counts: tuple[int, int, int]
) -> None:
    """By the decoder, and by a passthrough that passes the same bytes on, in however many reads they come."""
    usage = told(protocol, *frames).usage
    assert (usage.input, usage.output, usage.cache_read) == counts
    content = wire(protocol, *frames)
    for cut in range(len(content)):
        seen = passed_through(protocol, content, cut)
        found = [event.usage for event in seen if isinstance(event, UsageReported)]
        assert found, cut
        assert (found[-1].input, found[-1].output, found[-1].cache_read) == counts


def asked(protocol: str) -> InboundRequest:
    """A streamed request of a caller's."""
    said = {"messages": [{"role": "user", "content": "x"}], "input": "x", "max_tokens": 9, "contents": [{"parts": []}]}
    path = {"model": "asked", "action": "streamGenerateContent", "alt": "sse"} if protocol == GEMINI else {}
    body = json.dumps({"model": "asked", "stream": True, **said}).encode()
    return translator(protocol).inbound.open(body, headers={}, path=path)


def passed_through(protocol: str, content: bytes, cut: int) -> list[StreamEvent]:
    """What a passthrough tells of a stream."""
    passthrough = translator(protocol).outbound.passthrough_stream(asked(protocol), UPSTREAM)
    return [
        *passthrough.feed(content[:cut]).events,
        *passthrough.feed(content[cut:]).events,
        *passthrough.close().events,
    ]


def test_a_failed_answer_tells_what_it_cost() -> None:
    """Vendors bill what was said before a failure."""
    usage = {"input_tokens": 10, "output_tokens": 4}
    content = wire(RESPONSES, CREATED, completed(kind="failed", usage=usage, error={"code": "server_error"}))
    for events in (read(RESPONSES, content), passed_through(RESPONSES, content, 0)):
        reported, failed = events[-2:]
        assert isinstance(failed, Failed)
        assert isinstance(reported, UsageReported)
        assert (reported.usage.input, reported.usage.output) == (10, 4)


# ── errors in odd places ─────────────────────────────────────────────────────────────────────────────────────────────

LIMITED = {"message": "Slow down.", "code": 429}
ERRORS: dict[str, tuple[str, Sequence[Frame], int, str | None]] = {
    "in a choice": (CHAT, [TEXT, chunk({}, "error", choice_error=LIMITED)], 429, "Slow down."),
    "in a choice without a finish": (CHAT, [TEXT, chunk({}, choice_error=LIMITED)], 429, "Slow down."),
    "a string": (CHAT, [TEXT, {"error": "Slow down.", "code": 429}], 429, "Slow down."),
    "flat": (CHAT, [TEXT, {"object": "error", **LIMITED}], 429, "Slow down."),
    "flat and first": (CHAT, [LIMITED], 429, "Slow down."),
    "with its status beside": (CHAT, [TEXT, {"error": {"message": "Slow down."}, "status": 429}], 429, "Slow down."),
    "with a status as text": (CHAT, [TEXT, {"error": {"message": "Slow down.", "code": "429"}}], 429, "Slow down."),
    "in Google's words": (
        CHAT,
        [TEXT, {"error": {"message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}}],
        429,
        "Slow down.",
    ),
    "in an array": (CHAT, [TEXT, 'data: [{"error": {"message": "Slow down.", "code": 429}}]\n\n'], 429, "Slow down."),
    "a named event": (CHAT, [TEXT, 'event: error\ndata: {"message":"Slow down.","code":"429"}\n\n'], 429, "Slow down."),
    "a named event of text": (CHAT, [TEXT, "event: error\ndata: Slow down.\n\n"], 502, None),
    "a finish word for want of resources": (CHAT, [TEXT, chunk({}, "insufficient_system_resource")], 503, None),
    "a string for Responses": (RESPONSES, [CREATED, 'event: error\ndata: {"error":"x","code":429}\n\n'], 429, "x"),
    "Chat's in Responses": (
        RESPONSES,
        [CREATED, 'data: {"error":{"message":"Slow down.","code":429}}\n\n'],
        429,
        "Slow down.",
    ),
    "flat in Responses": (RESPONSES, [CREATED, 'data: {"message":"Slow down.","code":429}\n\n'], 429, "Slow down."),
    "text in Responses": (RESPONSES, [CREATED, "event: error\ndata: oh\n\n"], 502, None),
    "a string for Messages": (MESSAGES, [STARTED, 'event: error\ndata: {"error":"x","code":429}\n\n'], 429, "x"),
    "flat in Messages": (MESSAGES, [STARTED, 'event: error\ndata: {"message":"x","code":429}\n\n'], 429, "x"),
    "unnamed in Messages": (MESSAGES, [STARTED, 'data: {"message":"x","code":429}\n\n'], 429, "x"),
    "text in Messages": (MESSAGES, [STARTED, "event: error\ndata: oh\n\n"], 502, None),
    "a string for Gemini": (GEMINI, [gemini({"text": "h"}), {"error": "x", "code": 429}], 429, "x"),
    "flat in Gemini": (GEMINI, [gemini({"text": "h"}), {"message": "x", "code": 429, "status": "X"}], 429, "x"),
    "an array in Gemini": (GEMINI, [gemini({"text": "h"}), 'data: [{"error":{"code":429}}]\n\n'], 429, None),
}


@pytest.mark.parametrize(("protocol", "frames", "status", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_keeps_its_status_and_its_reason(
    protocol: str, frames: Sequence[Frame], status: int, message: str | None
) -> None:
    """Wherever it stands, whatever its shape, decoded and passed through."""
    error = failure(protocol, *frames)
    assert error.status == status
    assert message is None or error.message == message
    content = wire(protocol, *frames)
    last = passed_through(protocol, content, 0)[-1]
    assert isinstance(last, Failed)
    assert last.error.status == status
    assert message is None or last.error.message == message


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        (CHAT, b'[{"error": {"message": "x", "code": 429}}]'),
        (CHAT, b'{"message": "x", "code": "429"}'),
        (CHAT, b'{"choices": [{"message": {"content": ""}, "error": {"message": "x", "code": 429}}]}'),
        (RESPONSES, b'{"error": "x", "status_code": 429}'),
        (MESSAGES, b'{"error": "x", "code": 429}'),
        (GEMINI, b'[{"error": {"message": "x", "code": 429}}]'),
    ],
)
def test_an_error_in_a_whole_answer_keeps_them_too(protocol: str, body: bytes) -> None:
    """A body with status 200 is judged by what it says."""
    with pytest.raises(GatewayError) as caught:
        translator(protocol).outbound.decode(body, OUTGOING, UPSTREAM, received_at=UNDATED)
    assert (caught.value.status, caught.value.message) == (429, "x")


# ── how an answer ends ───────────────────────────────────────────────────────────────────────────────────────────────

CALLED = chunk(chat_call(ARGUMENTS, id="call_1", name="f"))
TOOL_USE = [block(0, type="tool_use", id="t", name="f", input={}), piece(0, type="input_json_delta", partial_json="{}")]
ENDS: dict[str, tuple[str, Sequence[Frame], FinishReason, str | None]] = {
    "last known word": (CHAT, [TEXT, chunk({}, "stop"), chunk({}, "length"), DONE], FinishReason.LENGTH, "length"),
    "unknown behind known": (CHAT, [TEXT, chunk({}, "length"), chunk({}, "novel")], FinishReason.LENGTH, "length"),
    "known behind unknown": (CHAT, [TEXT, chunk({}, "novel"), chunk({}, "length")], FinishReason.LENGTH, "length"),
    "blank behind known": (CHAT, [TEXT, chunk({}, "length"), chunk({}, " "), DONE], FinishReason.LENGTH, "length"),
    "spelled in capitals": (CHAT, [TEXT, chunk({}, "MAX_TOKENS"), DONE], FinishReason.LENGTH, "MAX_TOKENS"),
    "with a reason behind a colon": (
        CHAT,
        [TEXT, chunk({}, "content_filter: SAFETY"), DONE],
        FinishReason.CONTENT_FILTER,
        "content_filter: SAFETY",
    ),
    "unknown behind a whole call": (CHAT, [CALLED, chunk({}, "novel"), DONE], FinishReason.TOOL_CALLS, "novel"),
    "unknown behind half a call": (
        CHAT,
        [chunk(chat_call('{"a":', id="call_1", name="f")), chunk({}, "novel"), DONE],
        FinishReason.UNKNOWN,
        "novel",
    ),
    "unknown behind a block": (
        MESSAGES,
        [STARTED, *TOOL_USE, ends("novel"), STOPPED],
        FinishReason.TOOL_CALLS,
        "novel",
    ),
    "unknown behind half a block": (
        MESSAGES,
        [STARTED, TOOL_USE[0], piece(0, type="input_json_delta", partial_json='{"a":'), ends("novel"), STOPPED],
        FinishReason.UNKNOWN,
        "novel",
    ),
    "unknown behind known in Messages": (
        MESSAGES,
        [STARTED, ends("max_tokens"), ends("novel"), ends(""), STOPPED],
        FinishReason.LENGTH,
        "max_tokens",
    ),
    "unknown behind a call of Gemini's": (
        GEMINI,
        [gemini({"functionCall": {"name": "f", "args": {}}}, finish="NOVEL")],
        FinishReason.TOOL_CALLS,
        "NOVEL",
    ),
    "unknown behind known in Gemini": (
        GEMINI,
        [gemini({"text": "h"}, finish="MAX_TOKENS"), gemini(finish="NOVEL"), gemini(finish=" ")],
        FinishReason.LENGTH,
        "MAX_TOKENS",
    ),
    "incomplete without a reason": (
        RESPONSES,
        [CREATED, completed({**MESSAGE, "content": []}, kind="incomplete")],
        FinishReason.LENGTH,
        "incomplete",
    ),
    "incomplete by its event alone": (
        RESPONSES,
        [CREATED, {"type": "response.incomplete", "response": {"status": "in_progress", "output": []}}],
        FinishReason.LENGTH,
        "incomplete",
    ),
}


@pytest.mark.parametrize(("protocol", "frames", "reason", "native"), ENDS.values(), ids=ENDS)
def test_the_last_word_that_is_known_tells_the_end(
    protocol: str, frames: Sequence[Frame], reason: FinishReason, native: str | None
) -> None:
    """An unknown or blank word beats none that is known; behind whole calls it asks for them; its word is kept."""
    finish = told(protocol, *frames).candidates[0].finish
    assert (finish.reason, finish.native) == (reason, native)


# ── characters cut in two ────────────────────────────────────────────────────────────────────────────────────────────

HALVES = (r"a\ud83d", r"\ude00b", r"\ude00c", r"d\ud83d", "e", r"f\ud83d")
JOINED = "a\U0001f600b\ufffdcd\ufffdef\ufffd"


def halves(protocol: str) -> list[Frame]:
    """A stream whose texts are cut between the halves of surrogate pairs; some halves stay alone."""
    match protocol:
        case "openai-chat":
            pieces = [f'data: {{"id":"c","choices":[{{"delta":{{"content":"{text}"}}}}]}}\n\n' for text in HALVES]
            return [*pieces, chunk({}, "stop"), DONE]
        case "openai-responses":
            name = "response.output_text.delta"
            head = f'event: {name}\ndata: {{"type":"{name}","output_index":0,"content_index":0,"delta":'
            return [CREATED, item("added", 0, **MESSAGE), *(f'{head}"{text}"}}\n\n' for text in HALVES), completed()]
        case "anthropic-messages":
            head = 'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
            pieces = [f'{head}{{"type":"text_delta","text":"{text}"}}}}\n\n' for text in HALVES]
            return [STARTED, block(0, type="text", text=""), *pieces, stop(0), ends("end_turn"), STOPPED]
        case _:
            head = 'data: {"candidates":[{"content":{"parts":[{"text":"'
            return [*(f'{head}{text}"}}]}}}}]}}\n\n' for text in HALVES), gemini(finish="STOP")]


@pytest.mark.parametrize("protocol", [CHAT, RESPONSES, MESSAGES, GEMINI])
def test_a_character_cut_in_two_is_joined_and_a_lone_half_is_replaced(protocol: str) -> None:
    """Across deltas, wherever the bytes are cut; no half ends a stream or reaches an encoder."""
    assert streamed(protocol, *halves(protocol)) == JOINED
    (text,) = told(protocol, *halves(protocol)).candidates[0].parts
    assert isinstance(text, Text)
    assert text.text == JOINED
    for caller in (CHAT, RESPONSES, MESSAGES, GEMINI):
        encoder = translator(caller).inbound.encoder(asked(caller))
        written = b"".join(encoder.feed([event]) for event in read(protocol, wire(protocol, *halves(protocol))))
        assert "\U0001f600" in written.decode()


@pytest.mark.parametrize("protocol", [CHAT, RESPONSES, MESSAGES, GEMINI])
def test_a_passthrough_passes_halves_on(protocol: str) -> None:
    """They are its caller's to join; frames that are looked at can be read all the same."""
    events = passed_through(protocol, wire(protocol, *halves(protocol)), 0)
    assert not any(isinstance(event, Failed) for event in events)


def test_arguments_are_joined_too() -> None:
    """And an escape within them that is half a pair becomes U+FFFD where they are made an object."""
    head = 'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":'
    frames: list[Frame] = [
        chunk(chat_call("", id="call_1", name="f")),
        head + r'"{\"a\":\"\ud83d"' + "}}]}}]}\n\n",
        head + r'"\ude00\\ud83d\"}"' + "}}]}}]}\n\n",
        chunk({}, "tool_calls"),
        DONE,
    ]
    response = told(CHAT, *frames)
    (call,) = response.candidates[0].parts
    assert isinstance(call, ToolCall)
    assert call.arguments == '{"a":"\U0001f600\\ud83d"}'
    inbound = translator(MESSAGES).inbound
    inbound_request = inbound.open(b'{"model":"m","max_tokens":5,"messages":[]}', headers={})
    assert json.loads(inbound.encode(response, inbound_request))["content"][0]["input"] == {"a": "\U0001f600\ufffd"}


WHOLE = {
    CHAT: r'{"model":"m","choices":[{"message":{"content":"a\ud83d"},"finish_reason":"stop"}]}',
    RESPONSES: r'{"model":"m","status":"completed","output":[{"type":"message","content":[{"text":"a\ud83d"}]}]}',
    MESSAGES: r'{"model":"m","type":"message","content":[{"type":"text","text":"a\ud83d"}],"stop_reason":"end_turn"}',
    GEMINI: r'{"modelVersion":"m","candidates":[{"content":{"parts":[{"text":"a\ud83d"}]},"finishReason":"STOP"}]}',
}


@pytest.mark.parametrize("protocol", WHOLE)
def test_a_whole_answer_with_half_a_character_is_passed_on(protocol: str) -> None:
    """Its caller reads U+FFFD, because no strict reader takes the half."""
    restored = translator(protocol).outbound.passthrough_response(WHOLE[protocol].encode(), asked(protocol), UPSTREAM)
    assert restored.raw is not None
    assert "a\ufffd" in restored.raw.decode()
    assert b'"asked"' in restored.raw


# ── order and blocks ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_parts_stand_in_the_order_of_their_items() -> None:
    """Reasoning that says nothing before its call has begun is never behind that call."""
    parts = told(
        RESPONSES,
        CREATED,
        item("added", 0, type="reasoning", id="rs_1"),
        item("added", 1, **CALL, arguments=""),
        on_item("function_call_arguments.delta", 1, delta="{}"),
        on_item("reasoning_summary_text.delta", 0, delta="Hm.", summary_index=0),
        item("done", 1, **CALL, arguments="{}"),
        item("done", 0, type="reasoning", id="rs_1", encrypted_content="state", summary=[]),
        completed(),
    ).candidates[0].parts  # fmt: skip
    thought, call = parts
    assert isinstance(thought, Reasoning)
    assert (thought.text, [seal.data for seal in thought.seals]) == ("Hm.", ["state"])
    assert isinstance(call, ToolCall)


def test_a_block_that_begins_again_on_an_open_index_is_another_block() -> None:
    """As the vendor's own client reads it."""
    parts = told(
        MESSAGES,
        STARTED,
        block(0, type="text", text=""),
        piece(0, type="text_delta", text="a"),
        block(0, type="text", text=""),
        piece(0, type="text_delta", text="b"),
        stop(0),
        ends("end_turn"),
        STOPPED,
    ).candidates[0].parts  # fmt: skip
    assert [part.text for part in parts if isinstance(part, Text)] == ["a", "b"]
