"""Every pair, sync and async, streamed and whole: the exchanges that all work rests on."""

import json
from typing import Any

import pytest

from llmproxy_asgi.testing import json_answer
from support_pairs import (
    CHAT,
    MESSAGES,
    Call,
    Lane,
    Reply,
    Stage,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    sse,
)
from support_pairs.asks import PNG, QUESTION, counting, step, tools
from support_pairs.lanes import lanes

OSLO = Call(id="call_oslo", name="get_weather", arguments='{"city":"Oslo"}')
KYOTO = Call(id="call_kyoto", name="get_weather", arguments='{"city":"京都 ☃"}')


def same_calls(seen: tuple[Call, ...], wanted: tuple[Call, ...], *, exact: bool) -> bool:
    """Whether calls are the same: their text, or where a protocol holds values, their values."""
    if exact:
        return seen == wanted
    return [(call.id, call.name, json.loads(call.arguments)) for call in seen] == [
        (call.id, call.name, json.loads(call.arguments)) for call in wanted
    ]


@pytest.mark.fidelity(18)
@pytest.mark.parametrize("lane", lanes())
def test_plain_answer(stage: Stage, lane: Lane) -> None:
    """Text, an ordinary end, usage, an id of the caller's vendor's form and the model's name as it was asked for."""
    reply = Reply(texts=("It ", "snows", ", 雪 ☃."))
    stage.play(reply.scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[lane.client], **counting(lane.client, stream=lane.stream))
    assert answer.text == "It snows, 雪 ☃."
    assert answer.finish == ("stop" if lane.client == CHAT else "end_turn")
    assert answer.whole.model == stage.model(lane)
    counted = answer.whole.usage
    if lane.client == CHAT:
        assert answer.whole.id.startswith("chatcmpl-")
        assert (counted.prompt_tokens, counted.completion_tokens, counted.total_tokens) == (30, 12, 42)
        assert answer.whole.choices[0].message.role == "assistant"
    else:
        assert answer.whole.id.startswith("msg_")
        assert (counted.input_tokens, counted.output_tokens) == (30, 12)
        assert answer.whole.role == "assistant"
    assert answer.headers["x-llmproxy-model"]
    assert answer.warnings == []


@pytest.mark.fidelity(36)
@pytest.mark.parametrize("lane", lanes())
def test_one_call(stage: Stage, lane: Lane) -> None:
    """One call arrives with its id, its name and its arguments."""
    stage.play(Reply(texts=("Let me look.",), calls=(OSLO,)).scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tools(lane.client, "get_weather"))
    exact = lane.client == CHAT and (lane.upstream == CHAT or lane.stream)
    assert same_calls(answer.calls, (OSLO,), exact=exact)
    assert answer.text == "Let me look."
    assert answer.finish == ("tool_calls" if lane.client == CHAT else "tool_use")
    declared = stage.asked["tools"][0]
    assert declared == tools(lane.upstream, "get_weather")[0]


@pytest.mark.fidelity(36, 39)
@pytest.mark.parametrize("lane", lanes())
def test_parallel_calls(stage: Stage, lane: Lane) -> None:
    """Two calls of one step stay two calls, in order."""
    stage.play(Reply(calls=(OSLO, KYOTO)).scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tools(lane.client, "get_weather"))
    assert same_calls(answer.calls, (OSLO, KYOTO), exact=False)
    assert answer.finish == ("tool_calls" if lane.client == CHAT else "tool_use")


@pytest.mark.parametrize("lane", lanes())
def test_results_go_back(stage: Stage, lane: Lane) -> None:
    """Both results reach the upstream behind both calls, and the conversation goes on."""
    stage.play(Reply(texts=("Snow in both.",)).scenario(lane.upstream, stream=lane.stream))
    turns = [*QUESTION[lane.client]["messages"], *step(lane.client, [OSLO, KYOTO], {OSLO.id: "snow", KYOTO.id: "雪"})]
    answer = stage.ask(lane, messages=turns, tools=tools(lane.client, "get_weather"))
    assert answer.text == "Snow in both."
    if lane.upstream == CHAT:
        _, said, first, second = stage.asked["messages"]
        made = [(call["id"], json.loads(call["function"]["arguments"])) for call in said["tool_calls"]]
        results = [(first["tool_call_id"], first["content"]), (second["tool_call_id"], second["content"])]
    else:
        _, said, answered = stage.asked["messages"]
        made = [(block["id"], block["input"]) for block in said["content"]]
        results = [(block["tool_use_id"], text_of(block["content"])) for block in answered["content"]]
    assert made == [(OSLO.id, {"city": "Oslo"}), (KYOTO.id, {"city": "京都 ☃"})]
    assert results == [(OSLO.id, "snow"), (KYOTO.id, "雪")]


def text_of(content: Any) -> str:
    """A result's text, whichever way it is written."""
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


IMAGES = {
    "data": (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
    ),
    "link": (
        {"type": "image_url", "image_url": {"url": "https://pictures.example/snow.png"}},
        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/snow.png"}},
    ),
}


@pytest.mark.fidelity(27, 29)
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("lane", lanes())
def test_images(stage: Stage, lane: Lane, image: str) -> None:
    """A picture, inline or by its address, reaches the upstream in its own form, and stands where it stood."""
    stage.play(Reply(texts=("Snow.",)).scenario(lane.upstream, stream=lane.stream))
    by_protocol = dict(zip((CHAT, MESSAGES), IMAGES[image], strict=True))
    text = {"type": "text", "text": "What is this?"}
    turn = {"role": "user", "content": [by_protocol[lane.client], text]}
    assert stage.ask(lane, messages=[turn]).text == "Snow."
    assert stage.asked["messages"] == [{"role": "user", "content": [by_protocol[lane.upstream], text]}]


FORECAST = {
    "type": "object",
    "properties": {"sky": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["sky", "degrees"],
    "additionalProperties": False,
}
FORMATS: dict[str, Any] = {
    CHAT: {"response_format": {"type": "json_schema", "json_schema": {"name": "forecast", "schema": FORECAST}}},
    MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": FORECAST}}},
}


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("lane", lanes())
def test_structured_output(stage: Stage, lane: Lane) -> None:
    """A schema for the answer reaches the upstream in its own field, and the answer comes back as it is."""
    stage.play(Reply(texts=('{"sky":"grey",', '"degrees":-3}')).scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[lane.client], **FORMATS[lane.client])
    assert json.loads(answer.text) == {"sky": "grey", "degrees": -3}
    if lane.upstream == CHAT:
        form = stage.asked["response_format"]
        assert form["type"] == "json_schema"
        assert form["json_schema"]["schema"] == FORECAST
        assert form["json_schema"]["name"] in {"forecast", "response"}
    else:
        assert stage.asked["output_config"]["format"] == {"type": "json_schema", "schema": FORECAST}


CHAT_COUNTS = {
    "prompt_tokens": 1000,
    "completion_tokens": 300,
    "total_tokens": 1300,
    "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 150},
    "completion_tokens_details": {"reasoning_tokens": 120},
}
MESSAGES_COUNTS = {
    "input_tokens": 250,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 150,
    "output_tokens": 300,
    "output_tokens_details": {"thinking_tokens": 120},
}


@pytest.mark.fidelity(80)
@pytest.mark.parametrize("lane", lanes())
def test_usage(stage: Stage, lane: Lane) -> None:
    """Totals, cache reads, cache writes and reasoning arrive as the caller's vendor counts them."""
    if lane.upstream == CHAT:
        text = {"content": "Snow."}
        streamed = sse(chat_chunks(text, usage=CHAT_COUNTS))
        whole = json_answer(200, chat_whole(usage=CHAT_COUNTS, **text))
    else:
        block = {"type": "text", "text": "Snow."}
        streamed = sse(messages_events(block, usage=MESSAGES_COUNTS, end_usage=MESSAGES_COUNTS))
        whole = json_answer(200, messages_whole(block, usage=MESSAGES_COUNTS))
    stage.play(streamed if lane.stream else whole)
    counted = stage.ask(lane, **QUESTION[lane.client], **counting(lane.client, stream=lane.stream)).whole.usage
    if lane.client == CHAT:
        assert (counted.prompt_tokens, counted.completion_tokens, counted.total_tokens) == (1000, 300, 1300)
        assert counted.prompt_tokens_details.cached_tokens == 600
        assert counted.prompt_tokens_details.cache_write_tokens == 150
        assert counted.completion_tokens_details.reasoning_tokens == 120
    else:
        assert (counted.input_tokens, counted.output_tokens) == (250, 300)
        assert (counted.cache_read_input_tokens, counted.cache_creation_input_tokens) == (600, 150)
        assert counted.output_tokens_details.thinking_tokens == 120
