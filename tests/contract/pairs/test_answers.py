"""How answers end, what they cost, whom they cite and how they decline: each side's words for it."""

from typing import Any

import pytest

from llmproxy_asgi.testing import Scenario, json_answer
from support_pairs import (
    CHAT,
    MESSAGES,
    Answer,
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
from support_pairs.asks import QUESTION, counting, tools
from support_pairs.lanes import lanes, pairs
from support_pairs.wires import call_deltas, chat_call

SNOW = Call(id="call_1", name="get_weather", arguments='{"city":"Oslo"}')


def said(lane: Lane, finish: str, *, calls: bool = False, **more: Any) -> Scenario:
    """A word or a call, and this native reason for the end."""
    if lane.upstream == CHAT:
        if lane.stream:
            return sse(chat_chunks(*(call_deltas(0, SNOW) if calls else [{"content": "Snow"}]), finish=finish))
        message: dict[str, Any] = {"tool_calls": [chat_call(SNOW)]} if calls else {"content": "Snow"}
        return json_answer(200, chat_whole(finish=finish, **message))
    text = {"type": "text", "text": "Snow"}
    use = {"type": "tool_use", "id": SNOW.id, "name": SNOW.name, "input": SNOW.arguments}
    block = use if calls else text
    if lane.stream:
        return sse(messages_events(block, stop=finish, **more))
    return json_answer(200, messages_whole(block, **{"stop": finish, **more}))


ENDS: list[Any] = [
    # client, upstream, the upstream's word, the caller's, whether a call was made
    (CHAT, MESSAGES, "end_turn", "stop", False),
    (CHAT, MESSAGES, "stop_sequence", "stop", False),
    (CHAT, MESSAGES, "max_tokens", "length", False),
    (CHAT, MESSAGES, "model_context_window_exceeded", "length", False),
    (CHAT, MESSAGES, "tool_use", "tool_calls", True),
    (CHAT, MESSAGES, "max_tokens", "length", True),
    (CHAT, MESSAGES, "refusal", "content_filter", False),
    (CHAT, MESSAGES, "snowed_in", "stop", False),
    (MESSAGES, CHAT, "stop", "end_turn", False),
    (MESSAGES, CHAT, "length", "max_tokens", False),
    (MESSAGES, CHAT, "tool_calls", "tool_use", True),
    (MESSAGES, CHAT, "stop", "tool_use", True),
    (MESSAGES, CHAT, "length", "max_tokens", True),
    (MESSAGES, CHAT, "content_filter", "refusal", False),
    (MESSAGES, CHAT, "snowed_in", "end_turn", False),
    *((CHAT, CHAT, word, word, word == "tool_calls") for word in ("stop", "length", "tool_calls", "content_filter")),
    *(
        (MESSAGES, MESSAGES, word, word, word == "tool_use")
        for word in ("end_turn", "max_tokens", "tool_use", "stop_sequence", "pause_turn", "refusal")
    ),
    (MESSAGES, MESSAGES, "model_context_window_exceeded", "model_context_window_exceeded", False),
]


@pytest.mark.fidelity(79)
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("row", ENDS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}{'-with-call' if row[4] else ''}")
def test_every_end_in_the_callers_words(
    stage: Stage, row: tuple[str, str, str, str, bool], stream: bool, mode: str
) -> None:
    """Each reason why an upstream ends is the caller's word for it, and one that nobody knows is an ordinary end."""
    client, upstream, native, word, calls = row
    lane = Lane(client=client, upstream=upstream, mode=mode, stream=stream)
    stage.play(said(lane, native, calls=calls))
    answer = stage.ask(lane, **QUESTION[client], tools=tools(client, "get_weather"))
    assert answer.finish == word
    assert len(answer.calls) == (1 if calls else 0)


@pytest.mark.fidelity(79)
@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=MESSAGES))
def test_which_stop_sequence_matched(stage: Stage, lane: Lane) -> None:
    """Anthropic's callers learn which of their sequences ended the answer."""
    stage.play(said(lane, "stop_sequence", stop_sequence="END"))
    assert stage.ask(lane, **QUESTION[MESSAGES], stop_sequences=["END"]).whole.stop_sequence == "END"


# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────

CACHED = {"input_tokens": 250, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 150}


@pytest.mark.fidelity(80)
@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=CHAT))
def test_input_is_never_negative(stage: Stage, lane: Lane) -> None:
    """A server that counts cached tokens beside the prompt, not inside it, brings nobody below nought."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 90},
    }
    text = {"content": "Snow."}
    stage.play(
        sse(chat_chunks(text, usage=usage)) if lane.stream else json_answer(200, chat_whole(usage=usage, **text))
    )
    counted = stage.ask(lane, **QUESTION[MESSAGES]).whole.usage
    assert (counted.input_tokens, counted.cache_read_input_tokens, counted.output_tokens) == (0, 90, 5)


@pytest.mark.fidelity(81)
@pytest.mark.parametrize("asks", [False, True], ids=["not-asked", "asked"])
@pytest.mark.parametrize("lane", lanes(client=CHAT, streams=(True,)))
def test_usage_comes_last_and_only_where_asked(stage: Stage, lane: Lane, asks: bool) -> None:
    """The usage chunk is the last, without choices, and only for those who asked; the upstream is asked anyway."""
    stage.play(Reply(texts=("Snow.",)).scenario(lane.upstream, stream=True))
    answer = stage.ask(lane, **QUESTION[CHAT], **(counting(CHAT, stream=True) if asks else {}))
    told = [chunk for chunk in answer.events if chunk.usage is not None]
    if asks:
        assert told == [answer.events[-1]]
        assert told[0].choices == []
    else:
        assert told == []
        assert all(chunk.choices for chunk in answer.events)
    if lane.upstream == CHAT:
        assert stage.asked["stream_options"] == {"include_usage": True}


@pytest.mark.fidelity(82)
@pytest.mark.parametrize("lane", lanes(client=MESSAGES, upstream=CHAT, streams=(True,)))
def test_a_stream_of_messages_knows_its_input_from_the_start(stage: Stage, lane: Lane) -> None:
    """The first event tells some input tokens, the last the true ones, for which the upstream was asked."""
    stage.play(Reply(texts=("Snow.",)).scenario(CHAT, stream=True))
    answer = stage.ask(lane, **QUESTION[MESSAGES])
    assert stage.asked["stream_options"] == {"include_usage": True}
    start = next(found for found in answer.events if found.type == "message_start")
    end = next(found for found in answer.events if found.type == "message_delta")
    assert start.message.usage.input_tokens > 0
    assert (end.usage.input_tokens, end.usage.output_tokens) == (30, 12)


@pytest.mark.fidelity(83)
@pytest.mark.parametrize("client", [CHAT, MESSAGES])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_counts_that_are_told_twice_count_once(stage: Stage, client: str, mode: str) -> None:
    """An upstream that repeats input and cache at the end of its stream is not added up."""
    lane = Lane(client=client, upstream=MESSAGES, mode=mode, stream=True)
    end = {**CACHED, "output_tokens": 40}
    stage.play(sse(messages_events({"type": "text", "text": "Snow."}, usage=CACHED, end_usage=end)))
    counted = stage.ask(lane, **QUESTION[client], **counting(client, stream=True)).whole.usage
    if client == CHAT:
        assert (counted.prompt_tokens, counted.completion_tokens, counted.total_tokens) == (1000, 40, 1040)
    else:
        assert (counted.input_tokens, counted.cache_read_input_tokens, counted.output_tokens) == (250, 600, 40)


# ── citations, refusals, pauses ──────────────────────────────────────────────────────────────────────────────────────

CITATION = {
    "type": "web_search_result_location",
    "url": "https://weather.example/oslo",
    "title": "天気",
    "encrypted_index": "claude-index",
    "cited_text": "雪",
}


@pytest.mark.fidelity(84)
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=MESSAGES))
def test_citations_of_claudes_search(stage: Stage, lane: Lane) -> None:
    """A cited stretch becomes `url_citation`, its offsets counted in characters, behind CJK and emoji, too."""
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "天気 👩‍🚀: "},
        {"type": "text", "text": "雪 in Oslo", "citations": [CITATION]},
        {"type": "text", "text": "."},
    ]
    stage.play(sse(messages_events(*blocks)) if lane.stream else json_answer(200, messages_whole(*blocks)))
    answer = stage.ask(lane, **QUESTION[CHAT])
    [found] = answer.whole.choices[0].message.annotations
    cited = found["url_citation"] if isinstance(found, dict) else found.url_citation.model_dump()
    assert (cited["url"], cited["title"]) == (CITATION["url"], CITATION["title"])
    assert answer.text[cited["start_index"] : cited["end_index"]] == "雪 in Oslo"


DETAILS = {"type": "refusal", "category": "bio", "explanation": "This is about a pathogen."}


def refused(lane: Lane, *texts: str) -> Scenario:
    blocks = [{"type": "text", "text": text} for text in texts]
    if lane.stream:
        return sse(messages_events(*blocks, stop="refusal", stop_details=DETAILS))
    return json_answer(200, messages_whole(*blocks, stop="refusal", stop_details=DETAILS))


@pytest.mark.fidelity(85)
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=MESSAGES))
def test_claudes_refusal_without_words(stage: Stage, lane: Lane) -> None:
    """Where Claude says nothing, its explanation is the refusal."""
    stage.play(refused(lane))
    answer = stage.ask(lane, **QUESTION[CHAT])
    assert answer.whole.choices[0].message.refusal == DETAILS["explanation"]
    assert answer.text == ""
    assert answer.finish == "stop"


@pytest.mark.fidelity(85)
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=MESSAGES))
def test_claudes_refusal_behind_words(stage: Stage, lane: Lane) -> None:
    """Words that were said stay words; that it ended in a refusal is a filtered end, not an ordinary one."""
    stage.play(refused(lane, "I would "))
    answer = stage.ask(lane, **QUESTION[CHAT])
    assert answer.text == "I would "
    assert answer.whole.choices[0].message.refusal is None
    assert answer.finish == "content_filter"


@pytest.mark.fidelity(85)
@pytest.mark.parametrize("lane", lanes(client=MESSAGES, upstream=CHAT))
def test_a_refusal_of_chat(stage: Stage, lane: Lane) -> None:
    """Chat's refusal is text for Anthropic's callers, with the stop reason and the details that they know."""
    words = "I can't help with that."
    if lane.stream:
        stage.play(sse(chat_chunks({"refusal": "I can't "}, {"refusal": "help with that."})))
    else:
        stage.play(json_answer(200, chat_whole(refusal=words)))
    answer = stage.ask(lane, **QUESTION[MESSAGES])
    assert answer.finish == "refusal"
    assert answer.text == words
    assert (answer.whole.stop_details.type, answer.whole.stop_details.explanation) == ("refusal", words)


def search(text: str) -> dict[str, Any]:
    return {"type": "server_tool_use", "id": f"srvtoolu_{len(text)}", "name": "web_search", "input": {"query": text}}


def paused(lane: Lane, text: str) -> Scenario:
    """A turn that stops while the upstream's own search is under way."""
    blocks = [{"type": "text", "text": text}, search(text)]
    if lane.stream:
        return sse(messages_events(*blocks, stop="pause_turn"))
    return json_answer(200, messages_whole(*blocks, stop="pause_turn"))


def asked(stage: Stage, lane: Lane) -> Answer:
    return stage.ask(lane, **QUESTION[CHAT], **counting(CHAT, stream=lane.stream))


@pytest.mark.fidelity(90)
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=MESSAGES))
def test_a_pause_is_gone_on_with(stage: Stage, lane: Lane) -> None:
    """Chat has no word for a pause: the turn goes back as it is, and the caller sees one answer and all its costs."""
    stage.play(paused(lane, "One "), paused(lane, "two "), said(lane, "end_turn"))
    answer = asked(stage, lane)
    assert answer.text == "One two Snow"
    assert answer.finish == "stop"
    assert answer.whole.usage.completion_tokens == 36
    first, second, third = (request.json()["messages"] for request in stage.upstream.requests)
    assert [turn["role"] for turn in second] == ["user", "assistant"]
    assert second[0] == first[0]
    sent_back = [block for turn in third[1:] for block in turn["content"]]
    assert sent_back == [
        {"type": "text", "text": "One "},
        search("One "),
        {"type": "text", "text": "two "},
        search("two "),
    ]


@pytest.mark.fidelity(90)
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=MESSAGES))
def test_an_answer_that_pauses_for_ever_ends(stage: Stage, lane: Lane) -> None:
    """After five rounds more it ends with what there is; a whole answer says so in its warnings."""
    stage.play(paused(lane, "Again. "))
    answer = asked(stage, lane)
    assert answer.finish == "stop"
    assert len(stage.upstream.requests) == 6
    assert answer.text == "Again. " * 6
    if not lane.stream:
        assert "downgraded:pause" in answer.warnings
