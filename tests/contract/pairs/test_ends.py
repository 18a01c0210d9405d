"""How answers end: each upstream's words for it, in each caller's."""

from itertools import product
from typing import Any

import pytest

from llmproxy_asgi.testing import Scenario, json_answer
from support.pairs import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Answer,
    Call,
    PairHarness,
    ProtocolPair,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    responses_events,
    responses_whole,
    sse,
)
from support.pairs.asks import QUESTION, tools
from support.pairs.gemini_wires import function_call, gemini_chunks, gemini_whole
from support.pairs.parameters import PROTOCOLS, pairs
from support.pairs.responses_wires import call_item, message_item
from support.pairs.wires import call_deltas, chat_call

SNOW = Call(id="call_1", name="get_weather", arguments='{"city":"Oslo"}')

MEANT: dict[str, dict[str, str]] = {
    CHAT: {
        "stop": "stop",
        "length": "length",
        "content_filter": "filtered",
        "snowed_in": "unknown",
    },
    RESPONSES: {
        "completed": "stop",
        "incomplete:max_output_tokens": "length",
        "incomplete:content_filter": "filtered",
    },
    MESSAGES: {
        "end_turn": "stop",
        "stop_sequence": "sequence",
        "max_tokens": "length",
        "model_context_window_exceeded": "context",
        "refusal": "filtered",
        "snowed_in": "unknown",
    },
    GEMINI: {
        "STOP": "stop",
        "MAX_TOKENS": "length",
        "SAFETY": "filtered",
        "RECITATION": "filtered",
        "BLOCKLIST": "filtered",
        "PROHIBITED_CONTENT": "filtered",
        "SPII": "filtered",
        "LANGUAGE": "filtered",
        "IMAGE_SAFETY": "filtered",
        "MODEL_ARMOR": "filtered",
        "OTHER": "unknown",
        "SNOWED_IN": "unknown",
        "MALFORMED_FUNCTION_CALL": "malformed",
    },
}
"""Upstreams' finish reasons and their meaning; one value in each protocol is unknown."""
WITH_CALLS: dict[str, dict[str, str]] = {
    CHAT: {"tool_calls": "calls", "stop": "calls", "length": "length"},
    RESPONSES: {"completed": "calls", "incomplete:max_output_tokens": "length"},
    MESSAGES: {"tool_use": "calls", "max_tokens": "length"},
    GEMINI: {"STOP": "calls", "MAX_TOKENS": "length"},
}
"""The same behind a call: an ordinary end means that the call waits for its result, any other stays what it is."""
TOLD: dict[str, dict[str, str]] = {
    CHAT: {
        "stop": "stop",
        "sequence": "stop",
        "calls": "tool_calls",
        "length": "length",
        "context": "length",
        "filtered": "content_filter",
        "unknown": "stop",
        "malformed": "stop",
    },
    RESPONSES: {
        "stop": "completed",
        "sequence": "completed",
        "calls": "completed",
        "length": "incomplete:max_output_tokens",
        "context": "incomplete:max_output_tokens",
        "filtered": "incomplete:content_filter",
        "unknown": "completed",
        "malformed": "failed",
    },
    MESSAGES: {
        "stop": "end_turn",
        "sequence": "stop_sequence",
        "calls": "tool_use",
        "length": "max_tokens",
        "context": "model_context_window_exceeded",
        "filtered": "refusal",
        "unknown": "end_turn",
        "malformed": "end_turn",
    },
    GEMINI: {
        "stop": "STOP",
        "sequence": "STOP",
        "calls": "STOP",
        "length": "MAX_TOKENS",
        "context": "MAX_TOKENS",
        "filtered": "SAFETY",
        "unknown": "OTHER",
        "malformed": "MALFORMED_FUNCTION_CALL",
    },
}
"""What callers are told of each meaning."""


def said(pair: ProtocolPair, native: str, *, calls: bool = False, **more: Any) -> Scenario:
    """A word or a call, and this native reason for the end."""
    if pair.upstream == CHAT:
        if pair.stream:
            return sse(chat_chunks(*(call_deltas(0, SNOW) if calls else [{"content": "Snow"}]), finish=native))
        message: dict[str, Any] = {"tool_calls": [chat_call(SNOW)]} if calls else {"content": "Snow"}
        return json_answer(200, chat_whole(finish=native, **message))
    if pair.upstream == RESPONSES:
        status, _, reason = native.partition(":")
        item = call_item(SNOW.id, SNOW.name, SNOW.arguments) if calls else message_item("Snow")
        ended: dict[str, Any] = {"status": status, "incomplete_details": {"reason": reason} if reason else None}
        return sse(responses_events(item, **ended)) if pair.stream else json_answer(200, responses_whole(item, **ended))
    if pair.upstream == GEMINI:
        part = function_call(SNOW) if calls else {"text": "Snow"}
        if pair.stream:
            return sse(gemini_chunks(part, finish=native))
        return json_answer(200, gemini_whole(part, finish=native))
    use = {"type": "tool_use", "id": SNOW.id, "name": SNOW.name, "input": SNOW.arguments}
    block = use if calls else {"type": "text", "text": "Snow"}
    if pair.stream:
        return sse(messages_events(block, stop=native, **more))
    return json_answer(200, messages_whole(block, **{"stop": native, **more}))


def told(pair: ProtocolPair, answer: Answer) -> str | None:
    """How it ended, as the SDK has it; for Responses with the reason."""
    details = answer.whole.incomplete_details if pair.client == RESPONSES else None
    return f"{answer.finish}:{details.reason}" if details else answer.finish


def ends(meant: dict[str, dict[str, str]]) -> list[Any]:
    """The rows of a table for every pair: the pair itself, the upstream's word and the caller's."""
    found = [
        (ProtocolPair(client=client, upstream=upstream, stream=stream), native, meaning)
        for client, upstream, stream in product(PROTOCOLS, PROTOCOLS, (False, True))
        for native, meaning in meant[upstream].items()
    ]
    return [
        pytest.param(pair, native, native if pair.passthrough else TOLD[pair.client][meaning], id=f"{pair}-{native}")
        for pair, native, meaning in found
    ]


@pytest.mark.filterwarnings("ignore:SNOWED_IN is not a valid FinishReason")
@pytest.mark.fidelity(79)
@pytest.mark.parametrize(("pair", "native", "word"), ends(MEANT))
def test_every_end_in_the_callers_words(harness: PairHarness, pair: ProtocolPair, native: str, word: str) -> None:
    """Each finish reason of an upstream has its value in the caller's protocol; an unknown one is no failure."""
    harness.play(said(pair, native))
    answer = harness.ask(pair, **QUESTION[pair.client])
    assert (answer.text, told(pair, answer)) == ("Snow", word)


@pytest.mark.fidelity(79)
@pytest.mark.parametrize(("pair", "native", "word"), ends(WITH_CALLS))
def test_every_end_behind_a_call(harness: PairHarness, pair: ProtocolPair, native: str, word: str) -> None:
    """An ordinary end behind a call is the caller's word for calls; that it was cut off stays what it is."""
    harness.play(said(pair, native, calls=True))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
    assert [call.name for call in answer.calls] == ["get_weather"]
    assert told(pair, answer) == word


@pytest.mark.fidelity(79)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=MESSAGES))
def test_which_stop_sequence_matched(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic's callers learn which of their sequences ended the answer."""
    harness.play(said(pair, "stop_sequence", stop_sequence="END"))
    assert harness.ask(pair, **QUESTION[MESSAGES], stop_sequences=["END"]).whole.stop_sequence == "END"


@pytest.mark.fidelity(79)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=MESSAGES))
def test_a_pause_is_anthropics_own_word(harness: PairHarness, pair: ProtocolPair) -> None:
    """Its callers go on by themselves."""
    harness.play(said(pair, "pause_turn"))
    assert harness.ask(pair, **QUESTION[MESSAGES]).finish == "pause_turn"
