"""Answers and events of very many JSON values: a 502 in the caller's protocol, or its error event in a stream."""

from typing import Any

import pytest

from llmproxy_asgi.testing import Scenario, json_answer, sse_answer
from llmproxy_asgi.translators.answer_bounds import MOST_VALUES
from support.large_answers import HOSTILE
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, PairHarness, ProtocolPair, delta
from support.pairs.asks import QUESTION
from support.pairs.failing import ENDS, begun, check_error_event
from support.pairs.parameters import PROTOCOLS, pairs

NAMES = {CHAT: "openai-chat", RESPONSES: "openai-responses", MESSAGES: "anthropic-messages", GEMINI: "gemini"}
SIZE = 5 * 2**18
"""Bytes of an answer that is counted."""
EACH = [
    pair
    for pair in pairs()
    if (PROTOCOLS.index(pair.values[0].client) - PROTOCOLS.index(pair.values[0].upstream)) % len(PROTOCOLS) < 2
]
"""Each protocol's caller, whole and streamed, passed through and translated once."""


def body(harness: PairHarness, pair: ProtocolPair) -> dict[str, Any]:
    named = {} if pair.client == GEMINI else {"model": harness.model(pair), "stream": pair.stream}
    limit = {"max_tokens": 100} if pair.client == MESSAGES else {}
    return {**QUESTION[pair.client], **named, **limit}


def crowded(pair: ProtocolPair) -> bytes:
    """An answer, or the data of an event, of a million values."""
    return HOSTILE[NAMES[pair.upstream]]["small objects" if pair.stream else "empty objects"](2 * SIZE)


def check_refused(harness: PairHarness, pair: ProtocolPair, scenario: Scenario, text: str) -> None:
    harness.upstream.default = scenario
    answer = harness.post(pair, body(harness, pair))
    assert answer.status_code == 502, answer.text[:200]
    error = answer.json()["error"]
    assert text in error["message"]
    if pair.client == MESSAGES:
        assert (answer.json()["type"], error["type"]) == ("error", "api_error")
    elif pair.client == GEMINI:
        assert error["code"] == 502
    else:
        assert error["type"] == "server_error"


@pytest.mark.parametrize("pair", EACH)
def test_an_answer_of_very_many_values_is_a_502(harness: PairHarness, pair: ProtocolPair) -> None:
    """Also where a stream was requested and one answer comes."""
    text = f"too many JSON values: at most {MOST_VALUES}"
    check_refused(harness, pair, json_answer(200, crowded(pair)), text)


@pytest.mark.parametrize("pair", EACH)
def test_a_stream_whose_first_event_has_very_many_values_is_a_502(harness: PairHarness, pair: ProtocolPair) -> None:
    """Nothing has been sent yet; and the same if the stream was not requested and is read as a whole."""
    check_refused(harness, pair, sse_answer([b"data: " + crowded(pair) + b"\n\n"]), "too many JSON values")


@pytest.mark.parametrize("pair", [pair for pair in EACH if pair.values[0].stream])
def test_a_later_event_of_very_many_values_ends_the_stream(harness: PairHarness, pair: ProtocolPair) -> None:
    """With the error event of the caller's protocol, and no end that looks complete."""
    harness.upstream.default = sse_answer([*begun(pair.upstream), b"data: " + crowded(pair) + b"\n\n"])
    answer = harness.post(pair, body(harness, pair))
    assert answer.status_code == 200
    assert "Half" in answer.text
    assert not any(end in answer.text for end in ENDS)
    check_error_event(pair.client, answer.text.replace("\r\n", "\n").rstrip("\n").rpartition("\n\n")[2])


@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=GEMINI, stream=True))
def test_an_element_of_an_array_is_counted_too(harness: PairHarness, pair: ProtocolPair) -> None:
    """Gemini's stream without events is an array."""
    harness.upstream.default = json_answer(200, b"[" + crowded(pair) + b"]")
    answer = harness.post(pair, body(harness, pair))
    assert answer.status_code == 502
    assert "too many JSON values" in answer.text


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=CHAT, stream=False))
def test_a_stream_that_is_read_whole_has_a_bound_on_its_events(
    harness: PairHarness, pair: ProtocolPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are in memory at once."""
    monkeypatch.setattr("llmproxy_asgi.execution.attempt.MOST_VALUES", 1_000)
    check_refused(harness, pair, sse_answer([delta({"content": "x"}) * 5_000]), "stream has more than 1000 events")
