"""Reasoning where one side is Gemini: levels and budgets, thoughts shown, and signatures carried between turns."""

from base64 import urlsafe_b64encode
from typing import Any

import openai
import pytest

from llmproxy_asgi.testing import Scenario, error_answer, json_answer, sse_answer
from support.pairs import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Answer,
    Call,
    PairHarness,
    ProtocolPair,
    Reply,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    sse,
)
from support.pairs.asks import QUESTION, begun, conversation, step, tool_result, tools
from support.pairs.gemini_asks import STAND_IN, function_response, user
from support.pairs.gemini_wires import gemini_chunk, gemini_chunks, gemini_whole, signature
from support.pairs.parameters import all_pairs, pairs
from support.pairs.responses_wires import call_item, responses_events, responses_whole, thought_item

USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}
FINE = Reply(texts=("Snow.",))


def called(number: int, *, signed: bool = True) -> dict[str, Any]:
    """A call by Gemini, with its state."""
    part: dict[str, Any] = {
        "functionCall": {"id": f"call_{number}", "name": "get_weather", "args": {"city": f"City {number}"}}
    }
    return {**part, **({"thoughtSignature": signature(f"state-{number}")} if signed else {})}


def thought(text: str) -> dict[str, Any]:
    return {"text": text, "thought": True}


def gemini_said(pair: ProtocolPair, *parts: dict[str, Any]) -> Scenario:
    return sse_answer(gemini_chunks(*parts)) if pair.stream else json_answer(200, gemini_whole(*parts))


def claude_said(pair: ProtocolPair, *blocks: dict[str, Any]) -> Scenario:
    stop = "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn"
    if pair.stream:
        return sse(messages_events(*blocks, stop=stop))
    return json_answer(200, messages_whole(*blocks, stop=stop))


def echoed(answer: Answer, *without: str) -> dict[str, Any]:
    """OpenAI's message as a client sends it back; `without`: fields that it forgets."""
    message: dict[str, Any] = answer.whole.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})
    for made in message.get("tool_calls", ()):
        for key in ("index", *without):
            made.pop(key, None)
        made["function"].pop("parsed_arguments", None)
    lost = {"annotations", "refusal", *without}
    return {"content": None, **{key: value for key, value in message.items() if key not in lost}}


# ── Gemini's state, for callers of the others ────────────────────────────────────────────────────────────────────────

ECHOES: list[Any] = [
    pytest.param((), id="whole"),
    pytest.param(("reasoning_details",), id="extra-content"),
    pytest.param(("extra_content",), id="details"),
    pytest.param(("reasoning_details", "extra_content", "reasoning_content"), id="stripped"),
]


@pytest.mark.fidelity(62)
@pytest.mark.parametrize("without", ECHOES)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI))
def test_a_signature_comes_back_on_its_own_call(
    harness: PairHarness, pair: ProtocolPair, without: tuple[str, ...]
) -> None:
    """Three steps: each call returns with its own state, echoed in either field, or found by the call's id."""
    turns: list[dict[str, Any]] = [USER]
    asked: dict[str, Any] = {"tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    for number in (1, 2, 3):
        harness.play(gemini_said(pair, thought(f"Step {number}."), called(number)))
        answer = harness.ask(pair, messages=turns, **asked)
        message = answer.whole.choices[0].message
        assert message.reasoning_content == f"Step {number}."
        extra = message.tool_calls[0].extra_content
        assert extra == {"google": {"thought_signature": signature(f"state-{number}")}}
        result = {"role": "tool", "tool_call_id": f"call_{number}", "content": "snow"}
        turns = [*turns, echoed(answer, *without), result]
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, messages=turns, **asked)
    said = [content["parts"] for content in harness.asked["contents"] if content["role"] == "model"]
    assert said == [[called(1)], [called(2)], [called(3)]]
    assert answer.warnings == []


@pytest.mark.fidelity(62)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI, streams=(True,)))
def test_a_signature_is_streamed_once(harness: PairHarness, pair: ProtocolPair) -> None:
    """OpenAI's accumulator joins texts that come twice; so the state of a call stands in its first event alone."""
    harness.play(gemini_said(pair, called(1), called(2, signed=False)))
    answer = harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "get_weather"))
    entries = [entry for found in answer.events for choice in found.choices for entry in choice.delta.tool_calls or ()]
    signed = [(entry.index, entry.id) for entry in entries if getattr(entry, "extra_content", None)]
    assert signed == [(0, "call_1")]


@pytest.mark.fidelity(62)
@pytest.mark.parametrize("client", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_calls_that_no_gemini_made_get_the_stand_in(harness: PairHarness, client: str, stream: bool) -> None:
    """Google documents what to send for the calls of others: on the first call of each step, and on no other."""
    pair = ProtocolPair(client=client, upstream=GEMINI, stream=stream)
    harness.play(FINE.scenario(GEMINI, stream=stream))
    steps = [
        step(client, [Call(id=f"{name}{number}", name="get_weather", arguments="{}") for number in (1, 2)],
             {f"{name}1": "snow", f"{name}2": "rain"})
        for name in "ab"
    ]  # fmt: skip
    turns = [*begun(client), *steps[0], *steps[1]]
    answer = harness.ask(pair, **conversation(client, turns), tools=tools(client, "get_weather"))
    said = [content["parts"] for content in harness.asked["contents"] if content["role"] == "model"]
    assert [[part.get("thoughtSignature") for part in parts] for parts in said] == [[STAND_IN, None]] * 2
    assert answer.warnings == []


def test_an_older_gemini_needs_no_stand_in(harness: PairHarness) -> None:
    """Models with budgets sign nothing, and get nothing."""
    pair = ProtocolPair(client=CHAT, upstream=GEMINI)
    harness.play(FINE.scenario(GEMINI, stream=False))
    made = [Call(id="a", name="get_weather", arguments="{}")]
    turns = [USER, *step(CHAT, made, {"a": "snow"})]
    harness.ask(pair, model="gemini-2.5-flash", messages=turns, tools=tools(CHAT, "get_weather"))
    assert "thoughtSignature" not in harness.received.body.decode()


@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=GEMINI))
def test_geminis_state_survives_at_anthropics_client(harness: PairHarness, pair: ProtocolPair) -> None:
    """Thoughts are a thinking block; the call's state is one of its own before it, which brings it back to the call."""
    harness.play(gemini_said(pair, thought("Hm."), called(1), called(2, signed=False)))
    asked: dict[str, Any] = {"tools": tools(MESSAGES, "get_weather"), "thinking": {"type": "adaptive"}}
    first = harness.ask(pair, messages=[USER], **asked)
    assert [block.type for block in first.whole.content] == ["thinking", "redacted_thinking", "tool_use", "tool_use"]
    assert first.whole.content[0].thinking == "Hm."
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    results = [tool_result("call_1", "snow"), tool_result("call_2", "rain")]
    turns = [USER, {"role": "assistant", "content": first.whole.content}, {"role": "user", "content": results}]
    answer = harness.ask(pair, messages=turns, **asked)
    assert harness.asked["contents"][1]["parts"] == [called(1), called(2, signed=False)]
    assert answer.warnings == []


# ── the others' state, for Google's callers ──────────────────────────────────────────────────────────────────────────

THINKING = {"type": "thinking", "thinking": "Hm, snow?", "signature": "claude-signature/+=="}
REDACTED = {"type": "redacted_thinking", "data": "claude-redacted/+=="}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}


@pytest.mark.fidelity(65)
@pytest.mark.parametrize("blocks", [[THINKING, USE], [THINKING, REDACTED, USE], [REDACTED, USE]])
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=MESSAGES))
def test_claudes_state_survives_at_googles_client(
    harness: PairHarness, pair: ProtocolPair, blocks: list[dict[str, Any]]
) -> None:
    """The SDK reads the signature as bytes and writes it in its own alphabet; Claude gets its thinking back."""
    harness.play(claude_said(pair, *blocks))
    asked: dict[str, Any] = {
        "tools": tools(GEMINI, "get_weather"),
        "thinking_config": {"thinking_level": "LOW", "include_thoughts": True},
    }
    first = harness.ask(pair, **QUESTION[GEMINI], **asked)
    parts = first.whole.candidates[0].content.parts
    thoughts = "".join(part.text for part in parts if part.thought)
    assert thoughts == "".join(block["thinking"] for block in blocks if "thinking" in block)
    assert all(isinstance(part.thought_signature, bytes) for part in parts if part.thought_signature)
    assert any(part.thought_signature for part in parts)
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    result = user(function_response("toolu_1", "get_weather", {"output": "snow"}))
    answer = harness.ask(pair, contents=[*begun(GEMINI), first.whole.candidates[0].content, result], **asked)
    assert harness.asked["messages"][1]["content"] == blocks
    assert answer.warnings == []


@pytest.mark.fidelity(65)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=RESPONSES))
def test_openais_state_survives_at_googles_client(harness: PairHarness, pair: ProtocolPair) -> None:
    """An encrypted reasoning item comes back to Responses as that item, right before the call that it led to."""
    items = [
        thought_item("Hm, snow?", state="openai-state/+==", item_id="rs_1"),
        call_item("call_1", "get_weather", '{"city":"Oslo"}'),
    ]
    harness.play(sse(responses_events(*items)) if pair.stream else json_answer(200, responses_whole(*items)))
    asked: dict[str, Any] = {
        "tools": tools(GEMINI, "get_weather"),
        "thinking_config": {"thinking_level": "LOW", "include_thoughts": True},
    }
    first = harness.ask(pair, **QUESTION[GEMINI], **asked)
    parts = first.whole.candidates[0].content.parts
    assert "".join(part.text for part in parts if part.thought) == "Hm, snow?"
    harness.play(FINE.scenario(RESPONSES, stream=pair.stream))
    result = user(function_response("call_1", "get_weather", {"output": "snow"}))
    answer = harness.ask(pair, contents=[*begun(GEMINI), first.whole.candidates[0].content, result], **asked)
    _, reasoning, made, output = harness.asked["input"]
    assert (reasoning["type"], reasoning["id"]) == ("reasoning", "rs_1")
    assert reasoning["encrypted_content"] == "openai-state/+=="
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hm, snow?"}]
    assert (made["type"], made["call_id"], output["call_id"]) == ("function_call", "call_1", "call_1")
    assert answer.warnings == []


@pytest.mark.fidelity(65)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=GEMINI))
def test_state_of_others_is_not_shown_to_google(harness: PairHarness, pair: ProtocolPair) -> None:
    """A conversation that began with Claude continues with Gemini: seals are removed, the call gets the placeholder."""
    there = ProtocolPair(client=GEMINI, upstream=MESSAGES, stream=pair.stream)
    harness.play(claude_said(there, THINKING, USE))
    asked: dict[str, Any] = {"tools": tools(GEMINI, "get_weather")}
    first = harness.ask(there, **QUESTION[GEMINI], **asked)
    harness.play(FINE.scenario(GEMINI, stream=pair.stream), allow=("empty-text",))
    result = user(function_response("toolu_1", "get_weather", {"output": "snow"}))
    answer = harness.ask(pair, contents=[*begun(GEMINI), first.whole.candidates[0].content, result], **asked)
    said = [part for part in harness.asked["contents"][1]["parts"] if "functionCall" in part]
    assert [part["thoughtSignature"] for part in said] == [STAND_IN]
    assert "Hm, snow?" not in harness.received.body.decode()
    assert "dropped:reasoning" in answer.warnings


@pytest.mark.fidelity(66)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_a_conversation_moves_from_claude_to_gemini(harness: PairHarness, pair: ProtocolPair) -> None:
    """Claude's reasoning is dropped with a warning; its call gets the placeholder, and the request is accepted."""
    there = ProtocolPair(client=CHAT, upstream=MESSAGES, stream=pair.stream)
    asked: dict[str, Any] = {"tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    harness.play(claude_said(there, THINKING, USE))
    first = harness.ask(there, messages=[USER], **asked)
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    result = {"role": "tool", "tool_call_id": "toolu_1", "content": "snow"}
    answer = harness.ask(pair, messages=[USER, echoed(first), result], **asked)
    made = {"functionCall": {"id": "toolu_1", "name": "get_weather", "args": {"city": "Oslo"}}}
    assert harness.asked["contents"][1]["parts"] == [{**made, "thoughtSignature": STAND_IN}]
    assert "dropped:reasoning" in answer.warnings


@pytest.mark.fidelity(66)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_conversation_moves_from_gemini_to_claude(harness: PairHarness, pair: ProtocolPair) -> None:
    """The other way round."""
    there = ProtocolPair(client=CHAT, upstream=GEMINI, stream=pair.stream)
    asked: dict[str, Any] = {"tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    harness.play(gemini_said(there, thought("Hm."), called(1)))
    first = harness.ask(there, messages=[USER], **asked)
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    result = {"role": "tool", "tool_call_id": "call_1", "content": "snow"}
    answer = harness.ask(pair, messages=[USER, echoed(first), result], **asked)
    assert [block["type"] for block in harness.asked["messages"][1]["content"]] == ["tool_use"]
    assert "dropped:reasoning" in answer.warnings


INVALID = {"error": {"code": 400, "message": "Corrupted thought signature.", "status": "INVALID_ARGUMENT"}}


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_a_refused_signature_is_tried_once_without_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """A 400 to a request with replayed state brings one more try with the stand-in in its place."""
    asked: dict[str, Any] = {"tools": tools(CHAT, "get_weather")}
    harness.play(gemini_said(pair, called(1)))
    first = harness.ask(pair, messages=[USER], **asked)
    harness.upstream.requests.clear()
    harness.play(error_answer(400, INVALID), FINE.scenario(GEMINI, stream=pair.stream))
    result = {"role": "tool", "tool_call_id": "call_1", "content": "snow"}
    answer = harness.ask(pair, messages=[USER, echoed(first), result], **asked)
    assert answer.text == "Snow."
    signed = [request.json()["contents"][1]["parts"][0]["thoughtSignature"] for request in harness.upstream.requests]
    assert signed == [signature("state-1"), STAND_IN]


@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=GEMINI))
def test_the_sdks_spelling_of_state_passes(harness: PairHarness, pair: ProtocolPair) -> None:
    """Google's SDK writes state in the URL-safe alphabet; that is how Google's API gets it."""
    harness.play(gemini_said(pair, called(1)))
    asked: dict[str, Any] = {"tools": tools(GEMINI, "get_weather")}
    first = harness.ask(pair, **QUESTION[GEMINI], **asked)
    harness.play(FINE.scenario(GEMINI, stream=pair.stream), allow=("empty-text",))
    result = user(function_response("call_1", "get_weather", {"output": "snow"}))
    harness.ask(pair, contents=[*begun(GEMINI), first.whole.candidates[0].content, result], **asked)
    sent = harness.asked["contents"][1]["parts"][0]
    written = sent.get("thoughtSignature", sent.get("thought_signature"))
    assert written == urlsafe_b64encode(b"gemini-state-1\xfb\xff").decode()


# ── how much ─────────────────────────────────────────────────────────────────────────────────────────────────────────

BUDGETS: list[Any] = [
    # model, budget, what is sent, warned
    ("gemini-3.5-flash", 2048, {"thinkingLevel": "LOW"}, False),
    ("gemini-3.5-flash", 10_000, {"thinkingLevel": "MEDIUM"}, False),
    ("gemini-3.5-flash", 40_000, {"thinkingLevel": "XHIGH"}, False),
    ("gemini-3-pro", 10_000, {"thinkingLevel": "LOW"}, True),
    ("gemini-3-pro", 40_000, {"thinkingLevel": "HIGH"}, True),
    ("gemini-2.5-flash", 2048, {"thinkingBudget": 2048}, False),
    ("gemini-2.5-flash", 10_000, {"thinkingBudget": 10_000}, False),
    ("gemini-2.5-flash", 40_000, {"thinkingBudget": 24_576}, True),
    ("gemini-2.5-pro", 40_000, {"thinkingBudget": 32_768}, True),
]


@pytest.mark.fidelity(69)
@pytest.mark.parametrize("row", BUDGETS, ids=lambda row: f"{row[0]}-{row[1]}")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_budget_in_geminis_terms(
    harness: PairHarness, row: tuple[str, int, dict[str, Any], bool], stream: bool
) -> None:
    """A level where the model has levels, else a budget within its range; never both."""
    name, budget, sent, warned = row
    pair = ProtocolPair(client=MESSAGES, upstream=GEMINI, stream=stream)
    harness.play(FINE.scenario(GEMINI, stream=stream))
    thinking: Any = {"type": "enabled", "budget_tokens": budget}
    answer = harness.ask(pair, model=name, **QUESTION[MESSAGES], thinking=thinking, max_tokens=60_000)
    assert harness.asked["generationConfig"]["thinkingConfig"] == {**sent, "includeThoughts": True}
    assert ("clamped:reasoning_effort" in answer.warnings) == warned


EFFORTS: list[Any] = [
    ("gemini-3.5-flash", "none", "MINIMAL", True),
    ("gemini-3.5-flash", "minimal", "MINIMAL", False),
    ("gemini-3.5-flash", "low", "LOW", False),
    ("gemini-3.5-flash", "medium", "MEDIUM", False),
    ("gemini-3.5-flash", "high", "HIGH", False),
    ("gemini-3.5-flash", "xhigh", "XHIGH", False),
    ("gemini-3.5-flash", "max", "XHIGH", True),
    ("gemini-3-pro", "none", "LOW", True),
    ("gemini-3-pro", "medium", "LOW", True),
    ("gemini-3-pro", "max", "HIGH", True),
    ("gemini-2.5-flash", "none", 0, False),
    ("gemini-2.5-flash", "minimal", 512, False),
    ("gemini-2.5-flash", "low", 1024, False),
    ("gemini-2.5-flash", "medium", 8192, False),
    ("gemini-2.5-flash", "high", 24_576, False),
    ("gemini-2.5-flash", "max", 24_576, False),
    ("gemini-2.5-pro", "none", 128, True),
    ("gemini-2.5-pro", "xhigh", 32_768, False),
    ("gemini-2.5-flash-lite", "minimal", 512, False),
]


@pytest.mark.parametrize("row", EFFORTS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_effort_in_geminis_terms(harness: PairHarness, row: tuple[str, str, str | int, bool]) -> None:
    """Each effort is a level or a budget; an effort that the model lacks is reported as a warning."""
    name, effort, sent, warned = row
    pair = ProtocolPair(client=CHAT, upstream=GEMINI)
    harness.play(FINE.scenario(GEMINI, stream=False))
    asked: dict[str, Any] = {**QUESTION[CHAT], "reasoning_effort": effort}
    answer = harness.ask(pair, model=name, **asked)
    config = dict(harness.asked["generationConfig"]["thinkingConfig"])
    config.pop("includeThoughts", None)
    assert config == ({"thinkingLevel": sent} if isinstance(sent, str) else {"thinkingBudget": sent})
    assert ("clamped:reasoning_effort" in answer.warnings) == warned


def test_nothing_said_is_nothing_sent(harness: PairHarness) -> None:
    """No effort is invented for a caller who named none."""
    harness.play(FINE.scenario(GEMINI, stream=False))
    harness.ask(ProtocolPair(client=CHAT, upstream=GEMINI), **QUESTION[CHAT])
    assert "thinkingConfig" not in harness.asked.get("generationConfig", {})


LEVELS: list[Any] = [
    ({"thinking_level": "MINIMAL"}, "minimal"),
    ({"thinking_level": "HIGH"}, "high"),
    ({"thinking_budget": 0}, "none"),
    ({"thinking_budget": 2048}, "low"),
    ({"thinking_budget": 30_000}, "high"),
    ({"thinking_budget": -1}, None),
]


@pytest.mark.parametrize(("given", "effort"), LEVELS)
@pytest.mark.parametrize("upstream", [CHAT, RESPONSES])
def test_geminis_thinking_in_openais_terms(
    harness: PairHarness, upstream: str, given: dict[str, Any], effort: str | None
) -> None:
    """Levels and budgets are the effort that they stand for; automatic is none at all."""
    pair = ProtocolPair(client=GEMINI, upstream=upstream, stream=True)
    harness.play(FINE.scenario(upstream, stream=True))
    harness.ask(pair, **QUESTION[GEMINI], thinking_config=given)
    sent = harness.asked.get("reasoning_effort") or (harness.asked.get("reasoning") or {}).get("effort")
    assert sent == effort


@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=MESSAGES))
def test_geminis_level_in_claudes_terms(harness: PairHarness, pair: ProtocolPair) -> None:
    """A level is an effort, and thoughts are asked for in words."""
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    config: Any = {"thinking_level": "HIGH", "include_thoughts": True}
    harness.ask(pair, **QUESTION[GEMINI], thinking_config=config)
    assert harness.asked["output_config"]["effort"] == "high"
    assert harness.asked["thinking"] == {"type": "adaptive", "display": "summarized"}


# ── thoughts, shown ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=CHAT))
def test_readable_reasoning_is_a_thought(harness: PairHarness, pair: ProtocolPair) -> None:
    """What a Chat upstream says it thought is a thought for Google's client, and no word of the answer."""
    said: dict[str, Any] = {"reasoning_content": "Hm, 雪?", "content": "Snow."}
    streamed = chat_chunks({"reasoning_content": "Hm, "}, {"reasoning_content": "雪?"}, {"content": "Snow."})
    harness.play(sse(streamed) if pair.stream else json_answer(200, chat_whole(**said)))
    answer = harness.ask(pair, **QUESTION[GEMINI])
    parts = answer.whole.candidates[0].content.parts
    assert "".join(part.text for part in parts if part.thought) == "Hm, 雪?"
    assert answer.text == "Snow."
    harness.ask(pair, contents=[*begun(GEMINI), answer.whole.candidates[0].content, *begun(GEMINI)])
    assert harness.asked["messages"][1] == {"role": "assistant", "content": "Snow."}


@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI))
def test_thoughts_are_readable_reasoning(harness: PairHarness, pair: ProtocolPair) -> None:
    """And back: thoughts are `reasoning_content`, and a signature on a text comes back on that text."""
    parts = [thought("Hm, "), thought("雪?"), {"text": "Snow."}]
    sealed = [*parts[:2], {**parts[2], "thoughtSignature": signature("text")}]
    harness.play(gemini_said(pair, *sealed))
    first = harness.ask(pair, **QUESTION[CHAT], reasoning_effort="low")
    assert first.whole.choices[0].message.reasoning_content == "Hm, 雪?"
    assert first.text == "Snow."
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, messages=[USER, echoed(first), USER])
    assert harness.asked["contents"][1]["parts"] == [{"text": "Snow.", "thoughtSignature": signature("text")}]
    assert answer.warnings == []


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_a_lost_signature_is_a_refusal(harness: PairHarness, pair: ProtocolPair) -> None:
    """Google may say it as the reason for an end: that is no answer, but a 400."""
    lost = gemini_whole(finish="MISSING_THOUGHT_SIGNATURE")
    harness.play(
        sse_answer([gemini_chunk(finish="MISSING_THOUGHT_SIGNATURE")]) if pair.stream else json_answer(200, lost)
    )
    with pytest.raises(openai.BadRequestError):
        harness.ask(pair, **QUESTION[CHAT])
