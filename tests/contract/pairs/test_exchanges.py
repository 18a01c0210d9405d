"""Every pair, sync and async, streamed and whole: the basic exchanges."""

import json
from typing import Any

import pytest

from llmproxy_asgi.testing import Scenario, json_answer
from support.pairs import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Call,
    PairHarness,
    ProtocolPair,
    Reply,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    responses_events,
    responses_whole,
    sse,
)
from support.pairs.asks import PNG, QUESTION, WEATHER_SCHEMA, begun, conversation, counting, step, tools
from support.pairs.gemini_wires import gemini_chunks, gemini_whole
from support.pairs.parameters import all_pairs
from support.pairs.responses_wires import message_item

OSLO = Call(id="call_oslo", name="get_weather", arguments='{"city":"Oslo"}')
KYOTO = Call(id="call_kyoto", name="get_weather", arguments='{"city":"京都 ☃"}')
STOPPED = {CHAT: "stop", RESPONSES: "completed", MESSAGES: "end_turn", GEMINI: "STOP"}
"""How each protocol says that an answer is complete."""
CALLED = {CHAT: "tool_calls", RESPONSES: "completed", MESSAGES: "tool_use", GEMINI: "STOP"}
"""The same where it calls."""
FOR_URLS = str.maketrans("+/", "-_")
KEPT_AS_TEXT = {CHAT, RESPONSES}
"""Protocols in which the arguments of a call are text."""


def same_calls(seen: tuple[Call, ...], wanted: tuple[Call, ...], *, exact: bool) -> bool:
    """Whether calls are the same: their text, or where a protocol holds values, their values."""
    if exact:
        return seen == wanted
    return [(call.id, call.name, json.loads(call.arguments)) for call in seen] == [
        (call.id, call.name, json.loads(call.arguments)) for call in wanted
    ]


IDS = {CHAT: "chatcmpl-", RESPONSES: "resp_", MESSAGES: "msg_", GEMINI: ""}


@pytest.mark.fidelity(18)
@pytest.mark.parametrize("pair", all_pairs())
def test_plain_answer(harness: PairHarness, pair: ProtocolPair) -> None:
    """Text, an ordinary end, usage, an id of the caller's vendor's form and the model's name as it was asked for."""
    reply = Reply(texts=("It ", "snows", ", 雪 ☃."))
    harness.play(reply.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], **counting(pair.client, stream=pair.stream))
    assert answer.text == "It snows, 雪 ☃."
    assert answer.finish == STOPPED[pair.client]
    whole = answer.whole
    assert harness.model(pair) == (whole.model_version if pair.client == GEMINI else whole.model)
    found = whole.response_id if pair.client == GEMINI else whole.id
    assert found.startswith(IDS[pair.client])
    assert len(found) > len(IDS[pair.client])
    assert counted(pair.client, whole) == (30, 12, 42)
    assert said_by(pair.client, whole) == ("model" if pair.client == GEMINI else "assistant")
    assert answer.headers["x-llmproxy-model"]
    assert answer.warnings == []


def counted(client: str, whole: Any) -> tuple[int, int, int]:
    """Tokens in, out, and in all."""
    if client == GEMINI:
        told = whole.usage_metadata
        return told.prompt_token_count, told.candidates_token_count, told.total_token_count
    told = whole.usage
    if client == CHAT:
        return told.prompt_tokens, told.completion_tokens, told.total_tokens
    return told.input_tokens, told.output_tokens, getattr(told, "total_tokens", told.input_tokens + told.output_tokens)


def said_by(client: str, whole: Any) -> str:
    """The role of the answer."""
    holder = {
        CHAT: lambda: whole.choices[0].message,
        RESPONSES: lambda: whole.output[0],
        MESSAGES: lambda: whole,
        GEMINI: lambda: whole.candidates[0].content,
    }[client]()
    return str(holder.role)


@pytest.mark.fidelity(36)
@pytest.mark.parametrize("pair", all_pairs())
def test_one_call(harness: PairHarness, pair: ProtocolPair) -> None:
    """One call arrives with its id, its name and its arguments; the upstream saw the tool in its own form."""
    harness.play(Reply(texts=("Let me look.",), calls=(OSLO,)).scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
    # Fragments of text stay what they are; an object has to be written anew.
    text_stays = pair.upstream in KEPT_AS_TEXT or (pair.upstream == MESSAGES and pair.stream)
    assert same_calls(answer.calls, (OSLO,), exact=pair.client in KEPT_AS_TEXT and text_stays)
    assert answer.text == "Let me look."
    assert answer.finish == CALLED[pair.client]
    seen = camel(harness.asked["tools"])
    if pair.client == RESPONSES and pair.upstream == CHAT:
        assert seen[0]["function"].pop("strict") is False  # as it was said
    assert seen == DECLARED[pair.upstream]


def camel(found: Any) -> Any:
    """As Google documents it: its SDK spells some keys and base64 otherwise, and a passthrough leaves that so."""
    text = json.dumps(found).replace('"mime_type"', '"mimeType"').replace(PNG.translate(FOR_URLS), PNG)
    return json.loads(text.replace('"parameters_json_schema"', '"parametersJsonSchema"'))


ABOUT: dict[str, Any] = {"name": "get_weather", "description": "Runs get_weather."}
DECLARED: dict[str, list[dict[str, Any]]] = {
    CHAT: [{"type": "function", "function": {**ABOUT, "parameters": WEATHER_SCHEMA}}],
    RESPONSES: [{"type": "function", **ABOUT, "parameters": WEATHER_SCHEMA, "strict": False}],
    MESSAGES: [{**ABOUT, "input_schema": WEATHER_SCHEMA}],
    GEMINI: [{"functionDeclarations": [{**ABOUT, "parametersJsonSchema": WEATHER_SCHEMA}]}],
}


@pytest.mark.fidelity(36, 39)
@pytest.mark.parametrize("pair", all_pairs())
def test_parallel_calls(harness: PairHarness, pair: ProtocolPair) -> None:
    """Two calls of one step stay two calls, in order."""
    harness.play(Reply(calls=(OSLO, KYOTO)).scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
    assert same_calls(answer.calls, (OSLO, KYOTO), exact=False)
    assert answer.finish == CALLED[pair.client]


@pytest.mark.parametrize("pair", all_pairs())
def test_results_go_back(harness: PairHarness, pair: ProtocolPair) -> None:
    """Both results reach the upstream after both calls, and the conversation continues."""
    harness.play(Reply(texts=("Snow in both.",)).scenario(pair.upstream, stream=pair.stream))
    turns = [*begun(pair.client), *step(pair.client, [OSLO, KYOTO], {OSLO.id: "snow", KYOTO.id: "雪"})]
    answer = harness.ask(pair, **conversation(pair.client, turns), tools=tools(pair.client, "get_weather"))
    assert answer.text == "Snow in both."
    made, results = calls_and_results(pair.upstream, harness.asked)
    assert made == [(OSLO.id, {"city": "Oslo"}), (KYOTO.id, {"city": "京都 ☃"})]
    assert results == [(OSLO.id, "snow"), (KYOTO.id, "雪")]


def calls_and_results(upstream: str, asked: Any) -> tuple[list[Any], list[Any]]:
    """The calls of the one step in a request, and what answers them."""
    if upstream == CHAT:
        _, said, *answered = asked["messages"]
        made = [(call["id"], json.loads(call["function"]["arguments"])) for call in said["tool_calls"]]
        return made, [(each["tool_call_id"], each["content"]) for each in answered]
    if upstream == RESPONSES:
        _, first, second, *answered = asked["input"]
        made = [(call["call_id"], json.loads(call["arguments"])) for call in (first, second)]
        return made, [(each["call_id"], each["output"]) for each in answered]
    if upstream == GEMINI:
        _, said, answered = asked["contents"]
        calls = [part["functionCall"] for part in said["parts"]]
        results = [part["functionResponse"] for part in answered["parts"]]
        told = [(each["id"], each["response"].get("output", each["response"])) for each in results]
        return [(call["id"], call["args"]) for call in calls], told
    _, said, answered = asked["messages"]
    made = [(block["id"], block["input"]) for block in said["content"]]
    return made, [(block["tool_use_id"], text_of(block["content"])) for block in answered["content"]]


def text_of(content: Any) -> str:
    """A result's text, whichever way it is written."""
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


LINK = "https://pictures.example/snow.png"
IMAGES: dict[str, dict[str, dict[str, Any]]] = {
    "data": {
        CHAT: {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        RESPONSES: {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
        MESSAGES: {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        GEMINI: {"inlineData": {"mimeType": "image/png", "data": PNG}},
    },
    "link": {
        CHAT: {"type": "image_url", "image_url": {"url": LINK}},
        RESPONSES: {"type": "input_image", "image_url": LINK, "detail": "auto"},
        MESSAGES: {"type": "image", "source": {"type": "url", "url": LINK}},
    },
}


def shown(protocol: str, image: str) -> dict[str, Any]:
    """A turn that asks about a picture."""
    text = {"type": "input_text" if protocol == RESPONSES else "text", "text": "What is this?"}
    if protocol == GEMINI:
        return {"role": "user", "parts": [IMAGES[image][GEMINI], {"text": "What is this?"}]}
    return {"role": "user", "content": [IMAGES[image][protocol], text]}


@pytest.mark.fidelity(27, 29)
@pytest.mark.parametrize(
    ("image", "pair"),
    [
        *(pytest.param("data", *pair.values, id=f"data-{pair.id}") for pair in all_pairs()),
        # By its address Gemini takes a picture from few places only; that is a test of its own.
        *(
            pytest.param("link", *pair.values, id=f"link-{pair.id}")
            for pair in all_pairs(among=(CHAT, RESPONSES, MESSAGES))
        ),
    ],
)
def test_images(harness: PairHarness, pair: ProtocolPair, image: str) -> None:
    """A picture, inline or by its address, reaches the upstream in its own form, and stands where it stood."""
    harness.play(Reply(texts=("Snow.",)).scenario(pair.upstream, stream=pair.stream))
    turn = shown(pair.client, image)
    assert harness.ask(pair, **conversation(pair.client, [turn])).text == "Snow."
    (seen,) = harness.asked[next(iter(conversation(pair.upstream, [])))]
    wanted = shown(pair.upstream, image)
    if (pair.client, pair.upstream) == (RESPONSES, CHAT):
        wanted["content"][0] = {
            "type": "image_url",
            "image_url": {**IMAGES[image][CHAT]["image_url"], "detail": "auto"},
        }
    seen.pop("type", None)  # of the item, which Responses' callers leave out
    assert camel(seen) == wanted


FORECAST = {
    "type": "object",
    "properties": {"sky": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["sky", "degrees"],
    "additionalProperties": False,
}
FORMATS: dict[str, Any] = {
    CHAT: {"response_format": {"type": "json_schema", "json_schema": {"name": "forecast", "schema": FORECAST}}},
    RESPONSES: {"text": {"format": {"type": "json_schema", "name": "forecast", "schema": FORECAST}}},
    MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": FORECAST}}},
    GEMINI: {"response_mime_type": "application/json", "response_json_schema": FORECAST},
}


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("pair", all_pairs())
def test_structured_output(harness: PairHarness, pair: ProtocolPair) -> None:
    """A schema for the answer reaches the upstream in its own field, and the answer comes back as it is."""
    harness.play(Reply(texts=('{"sky":"grey",', '"degrees":-3}')).scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], **FORMATS[pair.client])
    assert json.loads(answer.text) == {"sky": "grey", "degrees": -3}
    asked, name = harness.asked, "forecast" if pair.client in {CHAT, RESPONSES} else "response"
    if pair.upstream == CHAT:
        form = asked["response_format"]
        assert form["type"] == "json_schema"
        assert (form["json_schema"]["name"], form["json_schema"]["schema"]) == (name, FORECAST)
    elif pair.upstream == RESPONSES:
        form = asked["text"]["format"]
        assert (form["type"], form["name"], form["schema"]) == ("json_schema", name, FORECAST)
    elif pair.upstream == GEMINI:
        config = asked["generationConfig"]
        assert config["responseMimeType"] == "application/json"
        assert config["responseJsonSchema"] == FORECAST
    else:
        assert asked["output_config"]["format"] == {"type": "json_schema", "schema": FORECAST}


CHAT_COUNTS = {
    "prompt_tokens": 1000,
    "completion_tokens": 300,
    "total_tokens": 1300,
    "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 150},
    "completion_tokens_details": {"reasoning_tokens": 120},
}
RESPONSES_COUNTS = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 150},
    "output_tokens": 300,
    "output_tokens_details": {"reasoning_tokens": 120},
    "total_tokens": 1300,
}
MESSAGES_COUNTS = {
    "input_tokens": 250,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 150,
    "output_tokens": 300,
    "output_tokens_details": {"thinking_tokens": 120},
}
GEMINI_COUNTS = {
    "promptTokenCount": 900,
    "toolUsePromptTokenCount": 100,
    "cachedContentTokenCount": 600,
    "candidatesTokenCount": 180,
    "thoughtsTokenCount": 120,
    "totalTokenCount": 1300,
}


def counting_answer(pair: ProtocolPair) -> Scenario:
    """An answer of a thousand tokens in, 600 of them read and 150 written, and 300 out, 120 of them thought."""
    if pair.upstream == CHAT:
        chat = {"content": "Snow."}
        return _either(pair, chat_chunks(chat, usage=CHAT_COUNTS), chat_whole(usage=CHAT_COUNTS, **chat))
    if pair.upstream == RESPONSES:
        item = message_item("Snow.")
        return _either(
            pair, responses_events(item, usage=RESPONSES_COUNTS), responses_whole(item, usage=RESPONSES_COUNTS)
        )
    if pair.upstream == GEMINI:
        part = {"text": "Snow."}
        return _either(pair, gemini_chunks(part, usage=GEMINI_COUNTS), gemini_whole(part, usage=GEMINI_COUNTS))
    block = {"type": "text", "text": "Snow."}
    streamed = messages_events(block, usage=MESSAGES_COUNTS, end_usage=MESSAGES_COUNTS)
    return _either(pair, streamed, messages_whole(block, usage=MESSAGES_COUNTS))


def _either(pair: ProtocolPair, streamed: list[bytes], whole: dict[str, Any]) -> Scenario:
    return sse(streamed) if pair.stream else json_answer(200, whole)


@pytest.mark.fidelity(80)
@pytest.mark.parametrize("pair", all_pairs())
def test_usage(harness: PairHarness, pair: ProtocolPair) -> None:
    """Totals, cache reads, cache writes and reasoning arrive as the caller's vendor counts them."""
    harness.play(counting_answer(pair))
    whole = harness.ask(pair, **QUESTION[pair.client], **counting(pair.client, stream=pair.stream)).whole
    written = 0 if GEMINI in {pair.client, pair.upstream} else 150  # Google's prompts are cached without a word
    if pair.client == CHAT:
        assert counted(CHAT, whole) == (1000, 300, 1300)
        assert whole.usage.prompt_tokens_details.cached_tokens == 600
        assert (whole.usage.prompt_tokens_details.cache_write_tokens or 0) == written
        assert whole.usage.completion_tokens_details.reasoning_tokens == 120
    elif pair.client == RESPONSES:
        assert counted(RESPONSES, whole) == (1000, 300, 1300)
        assert whole.usage.input_tokens_details.cached_tokens == 600
        assert whole.usage.input_tokens_details.cache_write_tokens == written
        assert whole.usage.output_tokens_details.reasoning_tokens == 120
    elif pair.client == GEMINI:
        told = whole.usage_metadata
        assert told.prompt_token_count + (told.tool_use_prompt_token_count or 0) == 1000
        assert (told.candidates_token_count, told.thoughts_token_count) == (180, 120)
        assert (told.cached_content_token_count, told.total_token_count) == (600, 1300)
    else:
        assert (whole.usage.input_tokens, whole.usage.output_tokens) == (1000 - 600 - written, 300)
        assert (whole.usage.cache_read_input_tokens, whole.usage.cache_creation_input_tokens or 0) == (600, written)
        assert whole.usage.output_tokens_details.thinking_tokens == 120
