"""What answers cost, whom they cite, how they decline and how they pause: each side's words for it."""

from typing import Any

import pytest

from llmproxy_asgi.testing import Scenario, json_answer
from support.pairs import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Answer,
    PairHarness,
    ProtocolPair,
    Reply,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    sse,
)
from support.pairs.asks import QUESTION, counting
from support.pairs.parameters import all_pairs, pairs

# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────

CACHED = {"input_tokens": 250, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 150}


@pytest.mark.fidelity(80)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_input_is_never_negative(harness: PairHarness, pair: ProtocolPair) -> None:
    """If a server counts cached tokens beside the prompt instead of inside it, no count becomes negative."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 90},
    }
    text = {"content": "Snow."}
    harness.play(
        sse(chat_chunks(text, usage=usage)) if pair.stream else json_answer(200, chat_whole(usage=usage, **text))
    )
    counted = harness.ask(pair, **QUESTION[MESSAGES]).whole.usage
    assert (counted.input_tokens, counted.cache_read_input_tokens, counted.output_tokens) == (0, 90, 5)


@pytest.mark.fidelity(81)
@pytest.mark.parametrize("asks", [False, True], ids=["not-asked", "asked"])
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, streams=(True,)))
def test_usage_comes_last_and_only_where_asked(harness: PairHarness, pair: ProtocolPair, asks: bool) -> None:
    """The usage chunk is the last, without choices, and only for those who asked; the upstream is asked anyway."""
    harness.play(Reply(texts=("Snow.",)).scenario(pair.upstream, stream=True))
    answer = harness.ask(pair, **QUESTION[CHAT], **(counting(CHAT, stream=True) if asks else {}))
    told = [chunk for chunk in answer.events if chunk.usage is not None]
    if asks:
        assert told == [answer.events[-1]]
        assert told[0].choices == []
    else:
        assert told == []
        assert all(chunk.choices for chunk in answer.events)
    if pair.upstream == CHAT:
        assert harness.asked["stream_options"] == {"include_usage": True}


@pytest.mark.fidelity(82)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=CHAT, streams=(True,)))
def test_a_stream_of_messages_knows_its_input_from_the_start(harness: PairHarness, pair: ProtocolPair) -> None:
    """The first event tells some input tokens, the last the true ones, for which the upstream was asked."""
    harness.play(Reply(texts=("Snow.",)).scenario(CHAT, stream=True))
    answer = harness.ask(pair, **QUESTION[MESSAGES])
    assert harness.asked["stream_options"] == {"include_usage": True}
    start = next(found for found in answer.events if found.type == "message_start")
    end = next(found for found in answer.events if found.type == "message_delta")
    assert start.message.usage.input_tokens > 0
    assert (end.usage.input_tokens, end.usage.output_tokens) == (30, 12)


@pytest.mark.fidelity(83)
@pytest.mark.parametrize("pair", all_pairs(upstream=MESSAGES, streams=(True,)))
def test_counts_that_are_told_twice_count_once(harness: PairHarness, pair: ProtocolPair) -> None:
    """An upstream that repeats input and cache at the end of its stream is not added up."""
    end = {**CACHED, "output_tokens": 40}
    harness.play(sse(messages_events({"type": "text", "text": "Snow."}, usage=CACHED, end_usage=end)))
    whole = harness.ask(pair, **QUESTION[pair.client], **counting(pair.client, stream=True)).whole
    counted = whole.usage_metadata if pair.client == GEMINI else whole.usage
    if pair.client == CHAT:
        assert (counted.prompt_tokens, counted.completion_tokens, counted.total_tokens) == (1000, 40, 1040)
    elif pair.client == RESPONSES:
        assert (counted.input_tokens, counted.output_tokens, counted.total_tokens) == (1000, 40, 1040)
        assert counted.input_tokens_details.cached_tokens == 600
    elif pair.client == GEMINI:
        found = (counted.prompt_token_count, counted.cached_content_token_count, counted.candidates_token_count)
        assert found == (1000, 600, 40)
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
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=MESSAGES))
def test_citations_of_claudes_search(harness: PairHarness, pair: ProtocolPair) -> None:
    """A cited stretch becomes `url_citation`, its offsets counted in characters, behind CJK and emoji, too."""
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "天気 👩‍🚀: "},
        {"type": "text", "text": "雪 in Oslo", "citations": [CITATION]},
        {"type": "text", "text": "."},
    ]
    harness.play(sse(messages_events(*blocks)) if pair.stream else json_answer(200, messages_whole(*blocks)))
    answer = harness.ask(pair, **QUESTION[CHAT])
    [found] = answer.whole.choices[0].message.annotations
    cited = found["url_citation"] if isinstance(found, dict) else found.url_citation.model_dump()
    assert (cited["url"], cited["title"]) == (CITATION["url"], CITATION["title"])
    assert answer.text[cited["start_index"] : cited["end_index"]] == "雪 in Oslo"


DETAILS = {"type": "refusal", "category": "bio", "explanation": "This is about a pathogen."}


def refused(pair: ProtocolPair, *texts: str) -> Scenario:
    blocks = [{"type": "text", "text": text} for text in texts]
    if pair.stream:
        return sse(messages_events(*blocks, stop="refusal", stop_details=DETAILS))
    return json_answer(200, messages_whole(*blocks, stop="refusal", stop_details=DETAILS))


@pytest.mark.fidelity(85)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=MESSAGES))
def test_claudes_refusal_without_words(harness: PairHarness, pair: ProtocolPair) -> None:
    """Where Claude says nothing, its explanation is the refusal."""
    harness.play(refused(pair))
    answer = harness.ask(pair, **QUESTION[CHAT])
    assert answer.whole.choices[0].message.refusal == DETAILS["explanation"]
    assert answer.text == ""
    assert answer.finish == "stop"


@pytest.mark.fidelity(85)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=MESSAGES))
def test_claudes_refusal_behind_words(harness: PairHarness, pair: ProtocolPair) -> None:
    """Words that were said stay words; that it ended in a refusal is a filtered end, not an ordinary one."""
    harness.play(refused(pair, "I would "))
    answer = harness.ask(pair, **QUESTION[CHAT])
    assert answer.text == "I would "
    assert answer.whole.choices[0].message.refusal is None
    assert answer.finish == "content_filter"


@pytest.mark.fidelity(85)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=CHAT))
def test_a_refusal_of_chat(harness: PairHarness, pair: ProtocolPair) -> None:
    """Chat's refusal is text for Anthropic's callers, with the stop reason and the details that they know."""
    words = "I can't help with that."
    if pair.stream:
        harness.play(sse(chat_chunks({"refusal": "I can't "}, {"refusal": "help with that."})))
    else:
        harness.play(json_answer(200, chat_whole(refusal=words)))
    answer = harness.ask(pair, **QUESTION[MESSAGES])
    assert answer.finish == "refusal"
    assert answer.text == words
    assert (answer.whole.stop_details.type, answer.whole.stop_details.explanation) == ("refusal", words)


def search(text: str) -> dict[str, Any]:
    return {"type": "server_tool_use", "id": f"srvtoolu_{len(text)}", "name": "web_search", "input": {"query": text}}


def paused(pair: ProtocolPair, text: str) -> Scenario:
    """A turn that stops while the upstream's own search is under way."""
    blocks = [{"type": "text", "text": text}, search(text)]
    if pair.stream:
        return sse(messages_events(*blocks, stop="pause_turn"))
    return json_answer(200, messages_whole(*blocks, stop="pause_turn"))


def asked(harness: PairHarness, pair: ProtocolPair) -> Answer:
    return harness.ask(pair, **QUESTION[CHAT], **counting(CHAT, stream=pair.stream))


@pytest.mark.fidelity(90)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=MESSAGES))
def test_a_pause_is_gone_on_with(harness: PairHarness, pair: ProtocolPair) -> None:
    """Chat has no word for a pause: the turn goes back as it is, and the caller sees one answer and all its costs."""
    harness.play(
        paused(pair, "One "), paused(pair, "two "), Reply(texts=("Snow",)).scenario(MESSAGES, stream=pair.stream)
    )
    answer = asked(harness, pair)
    assert answer.text == "One two Snow"
    assert answer.finish == "stop"
    assert answer.whole.usage.completion_tokens == 36
    first, second, third = (request.json()["messages"] for request in harness.upstream.requests)
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
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=MESSAGES))
def test_an_answer_that_pauses_for_ever_ends(harness: PairHarness, pair: ProtocolPair) -> None:
    """After five rounds more it ends with what there is; a whole answer says so in its warnings."""
    harness.play(paused(pair, "Again. "))
    answer = asked(harness, pair)
    assert answer.finish == "stop"
    assert len(harness.upstream.requests) == 6
    assert answer.text == "Again. " * 6
    if not pair.stream:
        assert "downgraded:pause" in answer.warnings
