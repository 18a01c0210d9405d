"""Answers where one side is Gemini: what is blocked, whom they cite, and what Google's client reads of a stream."""

import json
from typing import Any

import httpx2
import pytest

from llmproxy_asgi.testing import Scenario, json_answer, sse_answer
from support.pairs import (
    CHAT,
    GEMINI,
    KEY,
    MESSAGES,
    RESPONSES,
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
from support.pairs.gemini_asks import model, user
from support.pairs.gemini_wires import (
    GEMINI_USAGE,
    candidate,
    gemini_body,
    gemini_chunk,
    gemini_chunks,
    gemini_frame,
    gemini_whole,
)
from support.pairs.parameters import all_pairs, pairs

# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def blocked(pair: ProtocolPair, reason: str = "PROHIBITED_CONTENT") -> Scenario:
    """Google's answer to a prompt that it will not read: a 200 without a candidate."""
    usage = {"promptTokenCount": 30, "totalTokenCount": 30}
    body = gemini_body(usage=usage, promptFeedback={"blockReason": reason})
    return sse_answer([gemini_frame(body)]) if pair.stream else json_answer(200, body)


FILTERED = {CHAT: "content_filter", RESPONSES: "incomplete", MESSAGES: "refusal"}


@pytest.mark.fidelity(86)
@pytest.mark.parametrize("pair", [pair for client in FILTERED for pair in all_pairs(client=client, upstream=GEMINI)])
def test_a_blocked_prompt_is_an_answer_without_content(harness: PairHarness, pair: ProtocolPair) -> None:
    """No error: an answer that says nothing, and ends as the caller's vendor would say it."""
    harness.play(blocked(pair))
    answer = harness.ask(pair, **QUESTION[pair.client], **counting(pair.client, stream=pair.stream))
    assert (answer.text, answer.calls, answer.finish) == ("", (), FILTERED[pair.client])
    if pair.client == RESPONSES:
        assert answer.whole.incomplete_details.reason == "content_filter"
    if pair.client == CHAT:
        assert answer.whole.usage.prompt_tokens == 30


@pytest.mark.fidelity(86)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=GEMINI))
def test_a_blocked_prompt_reaches_googles_client_as_it_is(harness: PairHarness, pair: ProtocolPair) -> None:
    """Its own reason, no candidate."""
    harness.play(blocked(pair, "JAILBREAK"))
    answer = harness.ask(pair, **QUESTION[GEMINI])
    assert answer.whole.prompt_feedback.block_reason.value == "JAILBREAK"
    assert answer.finish is None


@pytest.mark.fidelity(86)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=CHAT))
def test_a_filtered_answer_without_content_is_a_blocked_prompt(harness: PairHarness, pair: ProtocolPair) -> None:
    """And back: where nothing was said, it was the prompt."""
    harness.play(
        sse(chat_chunks(finish="content_filter"))
        if pair.stream
        else json_answer(200, chat_whole(finish="content_filter", content=None))
    )
    answer = harness.ask(pair, **QUESTION[GEMINI])
    assert answer.text == ""
    feedback = answer.whole.prompt_feedback
    assert answer.finish == "SAFETY" or (feedback is not None and feedback.block_reason.value == "SAFETY")


@pytest.mark.fidelity(86)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=CHAT))
def test_an_answer_that_is_cut_by_a_filter(harness: PairHarness, pair: ProtocolPair) -> None:
    """Where something was said, it was the answer."""
    harness.play(
        sse(chat_chunks({"content": "Sn"}, finish="content_filter"))
        if pair.stream
        else json_answer(200, chat_whole(finish="content_filter", content="Sn"))
    )
    answer = harness.ask(pair, **QUESTION[GEMINI])
    assert (answer.text, answer.finish) == ("Sn", "SAFETY")


@pytest.mark.fidelity(85)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=MESSAGES))
def test_claudes_refusal_at_googles_client(harness: PairHarness, pair: ProtocolPair) -> None:
    """Words stay words, and the end is one for safety."""
    text = {"type": "text", "text": "I would rather not."}
    details = {"type": "refusal", "category": "bio", "explanation": "This is about a pathogen."}
    harness.play(
        sse(messages_events(text, stop="refusal", stop_details=details))
        if pair.stream
        else json_answer(200, messages_whole(text, stop="refusal", stop_details=details))
    )
    answer = harness.ask(pair, **QUESTION[GEMINI])
    assert (answer.text, answer.finish) == ("I would rather not.", "SAFETY")


# ── citations ────────────────────────────────────────────────────────────────────────────────────────────────────────

SAID = "天気 👩‍🚀: 雪 in Oslo. Rain in Rome."


def at(words: str, part: str = SAID) -> dict[str, Any]:
    """Where words stand, as Google counts: bytes within a part."""
    start = part.encode().index(words.encode())
    return {"startIndex": start, "endIndex": start + len(words.encode()), "text": words}


GROUNDING = {
    "webSearchQueries": ["weather oslo"],
    "searchEntryPoint": {"renderedContent": "<div>searches</div>"},
    "groundingChunks": [
        {"web": {"uri": "https://weather.example/oslo", "title": "天気"}},
        {"web": {"uri": "https://weather.example/rome", "title": "Roma"}},
    ],
    "groundingSupports": [
        {"segment": at("雪 in Oslo"), "groundingChunkIndices": [0]},
        {"segment": at("Rain in Rome"), "groundingChunkIndices": [1]},
    ],
}
CITED = [
    ("https://weather.example/oslo", "天気", "雪 in Oslo"),
    ("https://weather.example/rome", "Roma", "Rain in Rome"),
]


def grounded(pair: ProtocolPair) -> Scenario:
    """An answer with its sources, which come in the last chunk of a stream."""
    if not pair.stream:
        return json_answer(200, gemini_whole({"text": SAID}, groundingMetadata=GROUNDING))
    pieces = [{"text": SAID[:9]}, {"text": SAID[9:]}]
    return sse_answer(gemini_chunks(*pieces, groundingMetadata=GROUNDING))


@pytest.mark.fidelity(84)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI))
def test_sources_are_citations_for_chat(harness: PairHarness, pair: ProtocolPair) -> None:
    """Bytes become characters, behind CJK and emoji, too."""
    harness.play(grounded(pair))
    answer = harness.ask(pair, **QUESTION[CHAT])
    assert answer.text == SAID
    cited = [
        found["url_citation"] if isinstance(found, dict) else found.url_citation.model_dump()
        for found in answer.whole.choices[0].message.annotations
    ]
    seen = [(each["url"], each["title"], SAID[each["start_index"] : each["end_index"]]) for each in cited]
    assert seen == CITED


@pytest.mark.fidelity(84)
@pytest.mark.parametrize("pair", all_pairs(client=RESPONSES, upstream=GEMINI))
def test_sources_are_annotations_for_responses(harness: PairHarness, pair: ProtocolPair) -> None:
    """The same for Responses."""
    harness.play(grounded(pair))
    answer = harness.ask(pair, **QUESTION[RESPONSES])
    [message] = [item for item in answer.whole.output if item.type == "message"]
    [part] = message.content
    seen = [(each.url, each.title, part.text[each.start_index : each.end_index]) for each in part.annotations]
    assert seen == CITED


@pytest.mark.fidelity(84)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=MESSAGES))
def test_claudes_citations_are_grounding(harness: PairHarness, pair: ProtocolPair) -> None:
    """And back: a cited stretch is a support, counted in bytes of its part."""
    citation = {
        "type": "web_search_result_location",
        "url": "https://weather.example/oslo",
        "title": "天気",
        "encrypted_index": "claude-index",
        "cited_text": "雪",
    }
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "天気 👩‍🚀: "},
        {"type": "text", "text": "雪 in Oslo", "citations": [citation]},
    ]
    harness.play(sse(messages_events(*blocks)) if pair.stream else json_answer(200, messages_whole(*blocks)))
    answer = harness.ask(pair, **QUESTION[GEMINI])
    metadata = answer.whole.candidates[0].grounding_metadata
    assert [chunk.web.uri for chunk in metadata.grounding_chunks] == ["https://weather.example/oslo"]
    [support] = metadata.grounding_supports
    texts = [part.text or "" for part in answer.whole.candidates[0].content.parts]
    # A client that joins a streamed answer's chunks has one part; a whole answer has as many as Claude sent.
    part = "".join(texts) if pair.stream else texts[support.segment.part_index or 0]
    assert part.encode()[support.segment.start_index or 0 : support.segment.end_index].decode() == "雪 in Oslo"


# ── streams, as Google's client reads them ───────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(7)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, stream=True))
def test_googles_client_is_sent_data_and_blank_lines_only(harness: PairHarness, pair: ProtocolPair) -> None:
    """Its SDK breaks at comments, names of events, end signs and a missing space: none of these is ever sent."""
    harness.play(Reply(texts=("Snow ", "雪", "\u2028.")).scenario(pair.upstream, stream=True))
    seen = harness.post(pair, QUESTION[GEMINI])
    assert seen.headers["content-type"].startswith("text/event-stream")
    lines = seen.content.replace(b"\r\n", b"\n").split(b"\n")
    assert {line[:7] for line in lines} == {b"data: {", b""}
    chunks = [json.loads(line[6:]) for line in lines if line]
    said = [part.get("text", "") for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]
    assert "".join(said) == "Snow 雪\u2028."
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.fidelity(10)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, stream=True))
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_without_events_the_stream_is_an_array(harness: PairHarness, pair: ProtocolPair, version: str) -> None:
    """The path without `alt=sse` answers with a JSON array that parses whole, and element by element as it comes."""
    harness.play(Reply(texts=("One ", "two ", "three.")).scenario(pair.upstream, stream=True))
    address = f"{harness.base}/{version}/models/{harness.model(pair)}:streamGenerateContent"
    seen = httpx2.post(address, headers={"x-goog-api-key": KEY}, json=QUESTION[GEMINI], trust_env=False)
    assert seen.headers["content-type"] == "application/json"
    chunks = seen.json()
    said = [part.get("text", "") for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]
    assert "".join(said) == "One two three."
    assert said[:3] == ["One ", "two ", "three."]
    decoder, text, found = json.JSONDecoder(), seen.text, []
    place = text.index("[") + 1
    while "{" in text[place:]:
        place = text.index("{", place)
        element, place = decoder.raw_decode(text, place)
        found.append(element)
    assert found == chunks


# ── answers that are not over ────────────────────────────────────────────────────────────────────────────────────────


def paused(pair: ProtocolPair, text: str, token: str | None = "Z28tb24=") -> Scenario:
    """An answer that Google continues if a request has its token."""
    more: dict[str, Any] = {"continuationToken": token} if token else {}
    if pair.stream:
        return sse_answer(
            [gemini_chunk({"text": text}), gemini_chunk(finish="CONTINUATION", usage=GEMINI_USAGE, **more)]
        )
    return json_answer(200, gemini_whole({"text": text}, finish="CONTINUATION", **more))


@pytest.mark.parametrize("client", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_in_several_hops_is_one(harness: PairHarness, client: str, mode: str, stream: bool) -> None:
    """The same question goes out again with the token, and the caller sees one answer and all its costs."""
    pair = ProtocolPair(client=client, upstream=GEMINI, mode=mode, stream=stream)
    last = Reply(texts=("three.",)).scenario(GEMINI, stream=stream)
    harness.play(paused(pair, "One "), paused(pair, "two ", "c3RpbGw="), last)
    answer = harness.ask(pair, **QUESTION[client], **counting(client, stream=stream))
    assert answer.text == "One two three."
    assert answer.finish == {CHAT: "stop", RESPONSES: "completed", MESSAGES: "end_turn"}[client]
    usage = answer.whole.usage
    assert (usage.completion_tokens if client == CHAT else usage.output_tokens) == 36
    first, second, third = (request.json() for request in harness.upstream.requests)
    assert second == {**first, "continuationToken": "Z28tb24="}
    assert third == {**first, "continuationToken": "c3RpbGw="}


@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI))
def test_a_pause_without_a_token_is_gone_on_with(harness: PairHarness, pair: ProtocolPair) -> None:
    """Where Google called its own tools too often there is no token: the turn goes back as far as it came."""
    begun: dict[str, Any] = {"text": "One "}
    if pair.stream:
        first = sse_answer([gemini_chunk(begun), gemini_chunk(finish="TOO_MANY_TOOL_CALLS", usage=GEMINI_USAGE)])
    else:
        first = json_answer(200, gemini_whole(begun, finish="TOO_MANY_TOOL_CALLS"))
    harness.play(first, Reply(texts=("two.",)).scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[CHAT])
    assert (answer.text, answer.finish) == ("One two.", "stop")
    assert harness.asked["contents"] == [user("How is the weather?"), model("One ")]
    if not pair.stream:
        assert answer.warnings == ["emulated:continuation"]


@pytest.mark.parametrize("client", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_too_many_tool_calls_are_gone_on_with_once(harness: PairHarness, client: str, stream: bool) -> None:
    """A model that calls tools until Google stops it does so again: two requests, both billed, and a warning."""
    pair = ProtocolPair(client=client, upstream=GEMINI, mode="sync", stream=stream)
    words = {"text": "Again. "}
    if stream:
        stopped = sse_answer([gemini_chunk(words), gemini_chunk(finish="TOO_MANY_TOOL_CALLS", usage=GEMINI_USAGE)])
    else:
        stopped = json_answer(200, gemini_whole(words, finish="TOO_MANY_TOOL_CALLS"))
    harness.play(stopped)
    answer = harness.ask(pair, **QUESTION[client], **counting(client, stream=stream))
    assert answer.text == "Again. " * 2
    assert len(harness.upstream.requests) == 2
    usage = answer.whole.usage
    assert (usage.completion_tokens if client == CHAT else usage.output_tokens) == 24
    if not stream:
        assert {"emulated:continuation", "downgraded:pause"} <= set(answer.warnings)


@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI))
def test_an_answer_that_never_ends_is_ended(harness: PairHarness, pair: ProtocolPair) -> None:
    """After five rounds more it ends with what there is; a whole answer says so in its warnings."""
    harness.play(paused(pair, "Again. "))
    answer = harness.ask(pair, **QUESTION[CHAT])
    assert (answer.text, answer.finish) == ("Again. " * 6, "stop")
    assert len(harness.upstream.requests) == 6
    if not pair.stream:
        assert "downgraded:pause" in answer.warnings


@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=GEMINI))
def test_googles_own_client_goes_on_by_itself(harness: PairHarness, pair: ProtocolPair) -> None:
    """Its SDK asks again with the token that it was given; the gateway passes both on, and does not do it twice."""
    harness.play(paused(pair, "One "), Reply(texts=("two.",)).scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[GEMINI], automatic_continuation=True)
    assert answer.text == "One two."
    first, second = (request.json() for request in harness.upstream.requests)
    token = second.get("continuationToken") or second.get("continuation_token")
    assert token == "Z28tb24="
    assert second["contents"] == first["contents"]


@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=MESSAGES))
def test_claudes_pause_is_gone_on_with_for_googles_client(harness: PairHarness, pair: ProtocolPair) -> None:
    """What Google's client could not ask for without a token, the gateway does for it."""
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "snow"}}
    blocks: list[dict[str, Any]] = [{"type": "text", "text": "One "}, search]
    first = (
        sse(messages_events(*blocks, stop="pause_turn"))
        if pair.stream
        else json_answer(200, messages_whole(*blocks, stop="pause_turn"))
    )
    harness.play(first, Reply(texts=("two.",)).scenario(MESSAGES, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[GEMINI])
    assert (answer.text, answer.finish) == ("One two.", "STOP")
    assert [turn["role"] for turn in harness.asked["messages"]] == ["user", "assistant"]


# ── usage and names ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(80)
@pytest.mark.parametrize("client", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_thoughts_and_tools_count(harness: PairHarness, client: str, stream: bool) -> None:
    """Google counts thoughts and its tools' prompts separately; other protocols get the sums."""
    usage = {
        "promptTokenCount": 900,
        "toolUsePromptTokenCount": 100,
        "cachedContentTokenCount": 600,
        "candidatesTokenCount": 180,
        "thoughtsTokenCount": 120,
        "totalTokenCount": 1300,
    }
    text = {"text": "Snow"}
    harness.play(
        sse_answer(gemini_chunks(text, usage=usage)) if stream else json_answer(200, gemini_whole(text, usage=usage))
    )
    pair = ProtocolPair(client=client, upstream=GEMINI, stream=stream)
    counted = harness.ask(pair, **QUESTION[client], **counting(client, stream=stream)).whole.usage
    if client == CHAT:
        assert (counted.prompt_tokens, counted.completion_tokens, counted.total_tokens) == (1000, 300, 1300)
        assert counted.prompt_tokens_details.cached_tokens == 600
        assert counted.completion_tokens_details.reasoning_tokens == 120
    elif client == RESPONSES:
        assert (counted.input_tokens, counted.output_tokens, counted.total_tokens) == (1000, 300, 1300)
        assert counted.input_tokens_details.cached_tokens == 600
        assert counted.output_tokens_details.reasoning_tokens == 120
    else:
        assert (counted.input_tokens, counted.cache_read_input_tokens, counted.output_tokens) == (400, 600, 300)


def test_candidates_are_told_apart(harness: PairHarness) -> None:
    """Google's own caller reads its candidates as they came."""
    body = gemini_body(
        candidate({"text": "A"}, finish="STOP", index=0), candidate({"text": "B"}, finish="STOP", index=1)
    )
    harness.play(json_answer(200, body))
    answer = harness.ask(ProtocolPair(client=GEMINI, upstream=GEMINI), **QUESTION[GEMINI], candidate_count=2)
    assert [found.content.parts[0].text for found in answer.whole.candidates] == ["A", "B"]


@pytest.mark.parametrize("pair", pairs(client=GEMINI))
def test_the_model_is_named_as_it_was_asked_for(harness: PairHarness, pair: ProtocolPair) -> None:
    """Every upstream's answer has it, in every chunk."""
    harness.play(Reply(texts=("Snow ", "now.")).scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[GEMINI])
    assert {found.model_version for found in answer.events or [answer.whole]} == {harness.model(pair)}
