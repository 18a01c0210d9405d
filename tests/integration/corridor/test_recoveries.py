"""What is made good on the way: reasoning that an upstream does not take back, and answers that it pauses."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import (
    Close,
    Hold,
    Scenario,
    ThreadedUpstream,
    Upstream,
    error_answer,
    json_answer,
    sse_answer,
)
from support.gateway import chat_body, messages_body, served

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"

THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "c2lnbmF0dXJl"}
HIDDEN = {"type": "redacted_thinking", "data": "aGlkZGVu"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1.50}}
LOOP = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": [THOUGHT, HIDDEN, CALL]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}]},
]
TOOLS = [{"name": "look", "input_schema": {"type": "object"}}]
REFUSAL = {"type": "error", "error": {"type": "invalid_request_error", "message": "messages.1: Invalid signature"}}
FOUND = {"type": "web_search_result", "url": "https://a.example/", "title": "A", "encrypted_content": "Zm91bmQ="}
SEARCH: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "search", "signature": "c2VhcmNo"},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "a"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [FOUND]},
    {"type": "oddity", "payload": [1, 2]},
    {
        "type": "text",
        "text": "One. ",
        "citations": [
            {
                "type": "web_search_result_location",
                "url": "https://a.example/",
                "title": "A",
                "cited_text": "a",
                "encrypted_index": "aW5kZXg=",
            }
        ],
    },
]


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def gateway(upstream: ThreadedUpstream, **more: Any) -> LLMProxy:
    block = {
        "type": "anthropic",
        "base_url": upstream.base_url,
        "api_key": ["sk-ant-one", "sk-ant-two"],
        "retry": {"attempts": 1},
        **more,
    }
    return LLMProxy({"providers": {"up": block}, "access": {"mode": "open"}})


def post(base: str, path: str, body: dict[str, Any]) -> httpx2.Response:
    with httpx2.Client(timeout=30, trust_env=False) as client:
        return client.post(base + path, json=body)


def answer(*blocks: dict[str, Any], stop: str = "end_turn", tokens: int = 10) -> dict[str, Any]:
    return {
        "id": f"msg_{tokens}",
        "type": "message",
        "role": "assistant",
        "model": "claude-upstream",
        "content": list(blocks),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens, "output_tokens": 3, "server_tool_use": {"web_search_requests": 1}},
    }


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def frame(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def frames(*blocks: dict[str, Any], stop: str = "end_turn", tokens: int = 10) -> list[bytes]:
    """The answer as a stream."""
    whole = answer(*blocks, stop=stop, tokens=tokens)
    head = {**whole, "content": [], "stop_reason": None, "usage": {"input_tokens": tokens, "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": head}]
    for index, block in enumerate(blocks):
        events += block_events(index, block)
    events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": whole["usage"]})
    return [frame(event) for event in [*events, {"type": "message_stop"}]]


def block_events(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    start, deltas = block, []
    if block["type"] == "text":
        start = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": block["text"]}]
        deltas += [{"type": "citations_delta", "citation": citation} for citation in block.get("citations", ())]
    elif block["type"] == "thinking":
        start = {**block, "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
        deltas += [{"type": "signature_delta", "signature": block["signature"]}]
    elif block["type"] in {"tool_use", "server_tool_use"}:
        start = {**block, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def chunks(stream: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def said(stream: str) -> str:
    deltas = [choice["delta"] for chunk in chunks(stream) for choice in chunk.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


def keys(upstream: ThreadedUpstream) -> set[str | None]:
    return {received.header("x-api-key") for received in upstream.requests}


# ── reasoning that is refused ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_refused_reasoning_is_left_out_once_and_the_callers_bytes_stay_native(
    upstream: ThreadedUpstream, stream: bool
) -> None:
    """A 400 for replayed thinking becomes the upstream's own answer to the same conversation without it."""
    wire = frames(text("fine"), {"type": "oddity", "payload": [1, 2]})
    whole = json.dumps(answer(text("fine")) | {"model": "m", "oddity": 1.50}).encode()
    upstream.enqueue(error_answer(400, REFUSAL), sse_answer(wire) if stream else json_answer(200, whole))
    with served(gateway(upstream)) as base:
        got = post(base, MESSAGES, messages_body(stream=stream, messages=LOOP, tools=TOOLS))
    assert got.status_code == 200, got.text
    assert got.content == (b"".join(wire).replace(b"claude-upstream", b"m") if stream else whole)
    assert got.headers["x-llmproxy-warnings"] == "dropped:reasoning"
    first, second = (received.json() for received in upstream.requests)
    assert first["messages"] == LOOP
    assert second["messages"][1]["content"] == [CALL]
    assert second["stream" if stream else "max_tokens"] == first["stream" if stream else "max_tokens"]
    assert b'"at":1.5' in upstream.requests[1].body.replace(b" ", b"")
    assert len(keys(upstream)) == 1, "the second try is made with the same credential"


def test_a_second_refusal_is_reported_as_it_is(upstream: ThreadedUpstream) -> None:
    """It never loops: two requests, and the caller reads the upstream's last word."""
    last = {"type": "error", "error": {"type": "invalid_request_error", "message": "still no"}}
    upstream.enqueue(error_answer(400, REFUSAL), error_answer(400, last))
    upstream.default = error_answer(500)
    with served(gateway(upstream, retry={"attempts": 3, "backoff": "1ms"})) as base:
        got = post(base, MESSAGES, messages_body(messages=LOOP, tools=TOOLS))
    assert got.status_code == 400
    assert got.json()["error"]["message"] == "still no"
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("status", [413, 422])
def test_another_refusal_is_not_tried_again(upstream: ThreadedUpstream, status: int) -> None:
    """Only a 400 may mean the reasoning."""
    upstream.default = error_answer(status, REFUSAL)
    with served(gateway(upstream)) as base:
        assert post(base, MESSAGES, messages_body(messages=LOOP, tools=TOOLS)).status_code == status
    assert len(upstream.requests) == 1


def test_without_reasoning_a_refusal_stands(upstream: ThreadedUpstream) -> None:
    """Words about thinking are none, and neither is thinking that is only asked for."""
    upstream.default = error_answer(400, REFUSAL)
    words = [{"role": "user", "content": 'What is {"type": "thinking", "signature": "x"}?'}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    with served(gateway(upstream)) as base:
        got = post(base, MESSAGES, messages_body(messages=words, thinking=thinking, max_tokens=4096))
    assert got.status_code == 400
    assert len(upstream.requests) == 1


def test_what_cannot_be_read_whole_keeps_its_refusal(upstream: ThreadedUpstream) -> None:
    """A request that could only be passed on as bytes has no second form; its caller reads the first refusal."""
    upstream.default = error_answer(400, REFUSAL)
    with served(gateway(upstream)) as base:
        got = post(base, MESSAGES, messages_body(messages=LOOP, tools=TOOLS, tool_choice={"type": "made_up"}))
    assert got.json()["error"] == REFUSAL["error"]
    assert len(upstream.requests) == 1


def test_a_refusal_inside_a_stream_that_has_not_begun_is_one_too(upstream: ThreadedUpstream) -> None:
    """An error event in the place of the first event counts like a 400."""
    upstream.enqueue(sse_answer([frame(REFUSAL)]), sse_answer(frames(text("fine"))))
    with served(gateway(upstream)) as base:
        got = post(base, MESSAGES, messages_body(stream=True, messages=LOOP, tools=TOOLS))
    assert got.status_code == 200
    assert "fine" in got.text
    assert len(upstream.requests) == 2


def test_a_chat_callers_echoed_reasoning_is_left_out_as_well(upstream: ThreadedUpstream) -> None:
    """Reasoning that a Chat caller sent back, and its upstream refuses now, costs the caller nothing but a warning."""
    with served(gateway(upstream)) as base:
        upstream.enqueue(json_answer(200, answer(THOUGHT, CALL, stop="tool_use")))
        message = post(base, CHAT, chat_body()).json()["choices"][0]["message"]
        upstream.enqueue(error_answer(400, REFUSAL), json_answer(200, answer(text("fine"))))
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "seen"}
        turns = [{"role": "user", "content": "hi"}, message, result]
        tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
        got = post(base, CHAT, chat_body(messages=turns, tools=tools))
    assert got.json()["choices"][0]["message"]["content"] == "fine"
    assert "dropped:reasoning" in got.headers["x-llmproxy-warnings"]
    _, refused, taken = (received.json() for received in upstream.requests)
    assert [block["type"] for block in refused["messages"][1]["content"]] == ["thinking", "tool_use"]
    assert [block["type"] for block in taken["messages"][1]["content"]] == ["tool_use"]


def test_a_tool_that_had_to_be_renamed_is_called_by_the_callers_name(upstream: ThreadedUpstream) -> None:
    """Where the second request speaks of tools by other names its answer is translated back."""
    name = "look.closely"
    call = {**CALL, "name": name}
    turns = [LOOP[0], {"role": "assistant", "content": [THOUGHT, call]}, LOOP[2]]

    def second(received: Any) -> Scenario:
        asked = received.json()["tools"][0]["name"]
        assert asked != name
        return json_answer(200, answer({**CALL, "id": "toolu_2", "name": asked}, stop="tool_use"))

    upstream.enqueue(error_answer(400, REFUSAL), second)
    with served(gateway(upstream)) as base:
        got = post(base, MESSAGES, messages_body(messages=turns, tools=[{**TOOLS[0], "name": name}]))
    assert got.json()["content"] == [{"type": "tool_use", "id": "toolu_2", "name": name, "input": {"at": 1.5}}]


# ── answers that pause ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_paused_answer_is_gone_on_with_for_a_chat_caller(upstream: ThreadedUpstream) -> None:
    """The turn goes back as it came, and the caller reads one answer with everything that it cost."""
    upstream.enqueue(
        json_answer(200, answer(*SEARCH, stop="pause_turn", tokens=10)),
        json_answer(200, answer(text("Two."), tokens=20)),
    )
    with served(gateway(upstream)) as base:
        got = post(base, CHAT, chat_body(web_search_options={}))
    assert got.status_code == 200, got.text
    choice = got.json()["choices"][0]
    assert choice["message"]["content"] == "One. Two."
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["annotations"][0]["url_citation"]["url"] == "https://a.example/"
    assert got.json()["usage"]["prompt_tokens"] == 30
    assert got.json()["usage"]["completion_tokens"] == 6
    assert "downgraded:pause" not in got.headers.get("x-llmproxy-warnings", "")
    first, second = (received.json() for received in upstream.requests)
    assert second["messages"] == [*first["messages"], {"role": "assistant", "content": SEARCH}]
    assert {**second, "messages": []} == {**first, "messages": []}
    assert len(keys(upstream)) == 1


def test_a_paused_stream_goes_on_seamlessly(upstream: ThreadedUpstream) -> None:
    """One role, one text, one finish, one usage, one end; and the turn went back as it had come."""
    upstream.enqueue(
        sse_answer(frames(*SEARCH, stop="pause_turn", tokens=10)),
        sse_answer(frames(text("Two. "), stop="pause_turn", tokens=20)),
        sse_answer(frames(text("Three."), CALL, stop="tool_use", tokens=30)),
    )
    with served(gateway(upstream)) as base:
        got = post(base, CHAT, chat_body(stream=True, web_search_options={}, stream_options={"include_usage": True}))
    told = chunks(got.text)
    choices = [choice for chunk in told for choice in chunk["choices"]]
    assert said(got.text) == "One. Two. Three."
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert len({chunk["id"] for chunk in told}) == 1
    assert [chunk["usage"]["prompt_tokens"] for chunk in told if chunk.get("usage")] == [60]
    assert told[-1]["usage"]["completion_tokens"] == 9
    assert got.text.count("[DONE]") == 1
    turns = [received.json()["messages"] for received in upstream.requests]
    assert turns[1] == [*turns[0], {"role": "assistant", "content": SEARCH}]
    assert turns[2] == [*turns[0], {"role": "assistant", "content": [*SEARCH, text("Two. ")]}]
    assert len(keys(upstream)) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_after_five_rounds_a_paused_answer_stops(
    upstream: ThreadedUpstream, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An upstream that pauses for ever is asked to go on five times; the caller has all words and a warning."""
    words = text("More. ")
    if stream:
        upstream.default = sse_answer(frames(words, stop="pause_turn"))
    else:
        upstream.default = json_answer(200, answer(words, stop="pause_turn"))
    with served(gateway(upstream)) as base:
        got = post(base, CHAT, chat_body(stream=stream))
    assert len(upstream.requests) == 6
    if stream:
        assert said(got.text) == "More. " * 6
        assert '"finish_reason":"stop"' in got.text
        assert got.text.endswith("data: [DONE]\n\n")
        assert [record.name for record in caplog.records] == ["llmproxy_asgi.execution"]
    else:
        choice = got.json()["choices"][0]
        assert choice["message"]["content"] == "More. " * 6
        assert choice["finish_reason"] == "stop"
        assert got.json()["usage"]["prompt_tokens"] == 60
        assert "downgraded:pause" in got.headers["x-llmproxy-warnings"]


@pytest.mark.parametrize("model", ["m", "claude-opus-5-5", "claude-sonnet-4-6"])
def test_models_that_continue_no_turn_of_a_callers_take_back_their_own(upstream: ThreadedUpstream, model: str) -> None:
    """A pause is gone on with whatever the model thinks of prefilled answers."""
    upstream.enqueue(json_answer(200, answer(text("One. "), stop="pause_turn")), json_answer(200, answer(text("Two."))))
    with served(gateway(upstream)) as base:
        got = post(base, CHAT, chat_body(model=model))
    assert got.json()["choices"][0]["message"]["content"] == "One. Two."


def test_a_paused_answer_that_calls_is_the_callers_to_answer(upstream: ThreadedUpstream) -> None:
    """Only the caller can run its tools: the pause is reported as tool calls, and nothing is sent back."""
    upstream.default = json_answer(200, answer(CALL, stop="pause_turn"))
    with served(gateway(upstream)) as base:
        got = post(base, CHAT, chat_body())
    assert got.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_messages_caller_reads_the_pause_itself(upstream: ThreadedUpstream, stream: bool) -> None:
    """A protocol with pauses gets them byte for byte, and nothing is sent for the caller."""
    wire = frames(*SEARCH, stop="pause_turn")
    whole = json.dumps(answer(*SEARCH, stop="pause_turn") | {"model": "m"}).encode()
    upstream.default = sse_answer(wire) if stream else json_answer(200, whole)
    with served(gateway(upstream)) as base:
        got = post(base, MESSAGES, messages_body(stream=stream))
    assert got.content == (b"".join(wire).replace(b"claude-upstream", b"m") if stream else whole)
    assert len(upstream.requests) == 1


def test_a_later_round_that_fails_is_an_error_event(upstream: ThreadedUpstream) -> None:
    """What was said stays said; then comes the error, and no end sign that would call it whole."""
    upstream.enqueue(sse_answer(frames(text("One. "), stop="pause_turn")))
    upstream.default = error_answer(529, {"error": {"type": "overloaded_error", "message": "busy"}})
    with served(gateway(upstream)) as base:
        got = post(base, CHAT, chat_body(stream=True))
    assert got.status_code == 200
    assert said(got.text) == "One. "
    assert "error" in chunks(got.text)[-1]
    assert "[DONE]" not in got.text
    assert len(upstream.requests) == 2


def test_a_later_round_that_breaks_midway_is_an_error_event(upstream: ThreadedUpstream) -> None:
    """A second round that is cut off ends the one stream that the caller reads."""
    second = sse_answer(frames(text("Two. "))[:3], end=False).then(Close())
    upstream.enqueue(sse_answer(frames(text("One. "), stop="pause_turn")), second)
    with served(gateway(upstream)) as base:
        got = post(base, CHAT, chat_body(stream=True))
    assert said(got.text) == "One. Two. "
    assert "error" in chunks(got.text)[-1]
    assert "[DONE]" not in got.text


def test_a_whole_answer_whose_later_round_fails_is_tried_again(upstream: ThreadedUpstream) -> None:
    """Nothing of it was shown, so it is a failed attempt like any other."""
    upstream.enqueue(
        json_answer(200, answer(text("One. "), stop="pause_turn")),
        error_answer(500),
        json_answer(200, answer(text("fine"))),
    )
    with served(gateway(upstream, retry={"attempts": 2, "backoff": "1ms"})) as base:
        got = post(base, CHAT, chat_body())
    assert got.json()["choices"][0]["message"]["content"] == "fine"
    assert "messages" in upstream.requests[2].json()
    assert upstream.requests[2].json() == upstream.requests[0].json()


def test_a_caller_who_leaves_takes_a_later_round_along(upstream: ThreadedUpstream) -> None:
    """Whatever round is open when the caller leaves is closed."""
    held = sse_answer([*frames(text("Two. "))[:3], Hold()])
    upstream.enqueue(sse_answer(frames(text("One. "), stop="pause_turn")), held)
    with served(gateway(upstream)) as base:
        with (
            httpx2.Client(timeout=30, trust_env=False) as client,
            client.stream("POST", base + CHAT, json=chat_body(stream=True)) as got,
        ):
            seen = b""
            pieces = got.iter_raw()
            while b"Two." not in seen:
                seen += next(pieces)
        upstream.wait_closed(1)


def test_recoveries_meet(upstream: ThreadedUpstream) -> None:
    """A conversation whose old reasoning was refused continues without it when its answer pauses."""
    with served(gateway(upstream)) as base:
        upstream.enqueue(json_answer(200, answer(THOUGHT, text("Zero."))))
        message = post(base, CHAT, chat_body()).json()["choices"][0]["message"]
        upstream.enqueue(
            error_answer(400, REFUSAL),
            json_answer(200, answer(*SEARCH, stop="pause_turn")),
            json_answer(200, answer(text("Two."))),
        )
        turns = [{"role": "user", "content": "hi"}, message, {"role": "user", "content": "and?"}]
        got = post(base, CHAT, chat_body(messages=turns))
    assert got.json()["choices"][0]["message"]["content"] == "One. Two."
    last = upstream.requests[-1].json()["messages"]
    assert last[1]["content"] == [text("Zero.")]
    assert last[3]["content"] == SEARCH
