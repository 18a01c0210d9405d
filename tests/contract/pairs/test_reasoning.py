"""Reasoning: asked for in the upstream's terms, shown in the caller's, and its state carried between turns."""

from collections.abc import Iterator
from typing import Any

import pytest

from llmproxy_asgi.testing import Scenario, json_answer
from support.pairs import (
    CHAT,
    MESSAGES,
    Answer,
    Call,
    PairHarness,
    ProtocolPair,
    Reply,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    pair_harness,
    sse,
)
from support.pairs.asks import QUESTION, messages_tool, step, tool_result, tools
from support.pairs.parameters import all_pairs, pairs
from support.pairs.wires import call_deltas, chat_call

USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}
REDACTED = {"type": "redacted_thinking", "data": "claude-redacted/+=="}


def thinking(number: int) -> dict[str, Any]:
    return {"type": "thinking", "thinking": f"Step {number}.", "signature": f"claude-signature-{number}/+=="}


def call(number: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": "get_weather", "input": {"city": f"City {number}"}}


def played(pair: ProtocolPair, *blocks: dict[str, Any]) -> Scenario:
    stop = "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn"
    if pair.stream:
        return sse(messages_events(*blocks, stop=stop))
    return json_answer(200, messages_whole(*blocks, stop=stop))


def echoed(answer: Answer, *, strip: bool = False) -> dict[str, Any]:
    """The assistant's turn as a careful client sends it back, or as one that keeps only what it knows."""
    message: dict[str, Any] = answer.whole.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})
    for made in message.get("tool_calls", ()):
        made.pop("index", None)
        made["function"].pop("parsed_arguments", None)
    known = {"role", "content", "tool_calls"}
    kept = {key: value for key, value in message.items() if not strip or key in known}
    return {"content": None, **{key: value for key, value in kept.items() if key not in {"annotations", "refusal"}}}


@pytest.mark.fidelity(61)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=MESSAGES))
def test_state_survives_a_loop_of_three_steps(harness: PairHarness, pair: ProtocolPair) -> None:
    """What Claude thought comes back to it before each call, native and unchanged, because the caller echoes it."""
    turns: list[dict[str, Any]] = [USER]
    asked: dict[str, Any] = {"tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    for number in (1, 2, 3):
        extra = [REDACTED] if number == 2 else []
        harness.play(played(pair, thinking(number), *extra, call(number)))
        answer = harness.ask(pair, messages=turns, **asked)
        assert answer.whole.choices[0].message.reasoning_content == f"Step {number}."
        result = {"role": "tool", "tool_call_id": f"toolu_{number}", "content": "snow"}
        turns = [*turns, echoed(answer), result]
    harness.play(played(pair, {"type": "text", "text": "Snow."}))
    answer = harness.ask(pair, messages=turns, **asked)
    said = [message["content"] for message in harness.asked["messages"] if message["role"] == "assistant"]
    assert said == [
        [thinking(1), call(1)],
        [thinking(2), REDACTED, call(2)],
        [thinking(3), call(3)],
    ]
    assert answer.warnings == []


@pytest.mark.fidelity(61)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_state_survives_a_caller_who_strips_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """A caller who sends back calls alone still gets its state to Claude: it is found by the call's id."""
    harness.play(played(pair, thinking(1), call(1)))
    asked: dict[str, Any] = {"tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    answer = harness.ask(pair, messages=[USER], **asked)
    result = {"role": "tool", "tool_call_id": "toolu_1", "content": "snow"}
    harness.play(played(pair, {"type": "text", "text": "Snow."}))
    harness.ask(pair, messages=[USER, echoed(answer, strip=True), result], **asked)
    assert harness.asked["messages"][1]["content"] == [thinking(1), call(1)]


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_loop_whose_state_was_lost_goes_on(harness: PairHarness, pair: ProtocolPair) -> None:
    """A model with a budget would refuse to go on without its thinking; so it is not asked to think in that turn."""
    harness.play(played(pair, {"type": "text", "text": "Snow."}))
    turns = [USER, *step(CHAT, [Call(id="toolu_1", name="get_weather", arguments="{}")], {"toolu_1": "snow"})]
    asked: dict[str, Any] = {"messages": turns, "tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    answer = harness.ask(pair, model="claude-sonnet-4-5", **asked)
    assert "thinking" not in harness.asked
    assert "dropped:reasoning_effort" in answer.warnings


@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=CHAT))
def test_readable_reasoning_is_shown_to_anthropics_client(harness: PairHarness, pair: ProtocolPair) -> None:
    """What a Chat upstream says it thought is a thinking block; sent back, it never becomes words of the answer."""
    said: dict[str, Any] = {"reasoning_content": "Hm, snow?", "content": "Snow."}
    streamed = chat_chunks({"reasoning_content": "Hm, "}, {"reasoning_content": "snow?"}, {"content": "Snow."})
    harness.play(sse(streamed) if pair.stream else json_answer(200, chat_whole(**said)))
    first = harness.ask(pair, **QUESTION[MESSAGES])
    assert [block.type for block in first.whole.content] == ["thinking", "text"]
    assert first.whole.content[0].thinking == "Hm, snow?"
    assert first.text == "Snow."
    harness.ask(pair, messages=[USER, {"role": "assistant", "content": first.whole.content}, USER])
    assert harness.asked["messages"][1] == {"role": "assistant", "content": "Snow."}


ROUTED = {
    "index": 0,
    "type": "reasoning.text",
    "text": "Hm, snow?",
    "signature": "routers-state/+==",
    "format": "anthropic-claude-v1",
}


@pytest.fixture(scope="module")
def routed() -> Iterator[PairHarness]:
    """A gateway whose Chat upstream is a server that signs its reasoning, as some that resemble OpenAI's do."""
    with pair_harness(chat="openai-compatible") as made:
        yield made


@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=CHAT))
def test_state_of_a_chat_upstream_survives_at_anthropics_client(routed: PairHarness, pair: ProtocolPair) -> None:
    """What such a server signed is a signature for Anthropic's caller, and its own again in the next turn."""
    made = Call(id="call_1", name="get_weather", arguments='{"city":"Oslo"}')
    told: dict[str, Any] = {"reasoning_content": "Hm, snow?", "reasoning_details": [ROUTED]}
    if pair.stream:
        routed.play(sse(chat_chunks(told, *call_deltas(0, made), finish="tool_calls")))
    else:
        whole: dict[str, Any] = {**told, "tool_calls": [chat_call(made)]}
        routed.play(json_answer(200, chat_whole(finish="tool_calls", **whole)))
    first = routed.ask(pair, **QUESTION[MESSAGES], tools=[messages_tool()])
    block = first.whole.content[0]
    assert (block.type, block.thinking) == ("thinking", "Hm, snow?")
    assert block.signature != ROUTED["signature"]
    routed.play(Reply(texts=("Snow.",)).scenario(CHAT, stream=pair.stream), allow=("unknown-keyword",))
    result = {"role": "user", "content": [tool_result("call_1", "snow")]}
    turns = [USER, {"role": "assistant", "content": first.whole.content}, result]
    answer = routed.ask(pair, messages=turns, tools=[messages_tool()])
    [entry] = routed.asked["messages"][1]["reasoning_details"]
    assert entry == ROUTED
    assert answer.warnings == []


@pytest.mark.parametrize("pair", pairs(client=MESSAGES))
def test_state_of_a_chat_upstream_is_shown_to_nobody_else(routed: PairHarness, pair: ProtocolPair) -> None:
    """A conversation that continues with another vendor or with OpenAI is accepted without the foreign seals."""
    there = ProtocolPair(client=MESSAGES, upstream=CHAT, stream=pair.stream)
    told: dict[str, Any] = {"reasoning_content": "Hm, snow?", "reasoning_details": [ROUTED], "content": "Snow."}
    routed.play(sse(chat_chunks(told)) if pair.stream else json_answer(200, chat_whole(**told)))
    first = routed.ask(there, **QUESTION[MESSAGES])
    turns = [USER, {"role": "assistant", "content": first.whole.content}, USER]
    if pair.upstream != CHAT:
        routed.play(Reply(texts=("Still.",)).scenario(pair.upstream, stream=pair.stream))
        answer = routed.ask(pair, messages=turns)
        assert "routers-state" not in routed.received.body.decode()
        assert "Hm, snow?" not in routed.received.body.decode()
        assert "Snow." in routed.received.body.decode()
    else:
        with pair_harness() as openais:
            openais.play(Reply(texts=("Still.",)).scenario(CHAT, stream=pair.stream))
            answer = openais.ask(pair, messages=turns)
            assert openais.asked["messages"][1] == {"role": "assistant", "content": "Snow."}
    assert "dropped:reasoning" in answer.warnings


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_signature_goes_back_to_its_own_model_only(harness: PairHarness, pair: ProtocolPair) -> None:
    """A caller that continues with another Claude model loses the first one's reasoning, with a warning."""
    harness.play(played(pair, thinking(1), {"type": "text", "text": "Snow."}))
    first = echoed(harness.ask(pair, messages=[USER], reasoning_effort="low"))
    answer = harness.ask(pair, model="claude-opus-4-8", messages=[USER, first, USER], reasoning_effort="low")
    assert harness.asked["messages"][1]["content"] == [{"type": "text", "text": "Snow."}]
    assert "dropped:reasoning" in answer.warnings


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_claudes_state_is_dropped_on_the_way_to_a_chat_upstream(harness: PairHarness, stream: bool) -> None:
    """Anthropic's caller continues with a Chat upstream: thinking is dropped with a warning."""
    pair = ProtocolPair(client=MESSAGES, upstream=CHAT, stream=stream)
    harness.play(Reply(texts=("Still.",)).scenario(CHAT, stream=stream))
    said = {"role": "assistant", "content": [thinking(1), {"type": "text", "text": "Snow."}]}
    answer = harness.ask(pair, messages=[USER, said, USER])
    assert harness.asked["messages"][1] == {"role": "assistant", "content": "Snow."}
    assert "dropped:reasoning" in answer.warnings


EFFORTS: list[Any] = [
    # model, effort, thinking, effort upstream, warned
    ("claude-sonnet-5", "none", "disabled", None, False),
    ("claude-sonnet-5", "minimal", "adaptive", "low", True),
    ("claude-sonnet-5", "low", "adaptive", "low", False),
    ("claude-sonnet-5", "medium", "adaptive", "medium", False),
    ("claude-sonnet-5", "high", "adaptive", "high", False),
    ("claude-sonnet-5", "xhigh", "adaptive", "xhigh", False),
    ("claude-sonnet-5", "max", "adaptive", "max", False),
    ("claude-sonnet-4-5", "none", "disabled", None, False),
    ("claude-sonnet-4-5", "minimal", 1024, None, False),
    ("claude-sonnet-4-5", "low", 1024, None, False),
    ("claude-sonnet-4-5", "medium", 8192, None, False),
    ("claude-sonnet-4-5", "high", 24_576, None, False),
    ("claude-sonnet-4-5", "xhigh", 32_000, None, False),
    ("claude-sonnet-4-5", "max", 48_000, None, False),
    ("claude-opus-5-5", "none", None, "low", True),
    ("claude-opus-5-5", "minimal", "adaptive", "low", True),
    ("claude-opus-5-5", "low", "adaptive", "low", False),
    ("claude-opus-5-5", "high", "adaptive", "high", False),
    ("claude-opus-5-5", "max", "adaptive", "max", False),
]


@pytest.mark.fidelity(68)
@pytest.mark.parametrize("row", EFFORTS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_effort_in_claudes_terms(
    harness: PairHarness, row: tuple[str, str, str | int | None, str | None, bool]
) -> None:
    """Each effort is an effort or a budget, never both; one that the model lacks gives a warning."""
    model, effort, thinks, said, warned = row
    pair = ProtocolPair(client=CHAT, upstream=MESSAGES)
    harness.play(Reply(texts=("Fine.",)).scenario(MESSAGES, stream=False))
    asked: dict[str, Any] = {**QUESTION[CHAT], "reasoning_effort": effort}
    answer = harness.ask(pair, model=model, **asked)
    found = harness.asked.get("thinking")
    if isinstance(thinks, int):
        assert found == {"type": "enabled", "budget_tokens": thinks}
    else:
        assert (found or {}).get("type") == thinks
    assert harness.asked.get("output_config", {}).get("effort") == said
    assert ("clamped:reasoning_effort" in answer.warnings) == warned


BUDGETS: list[Any] = [
    ({"type": "disabled"}, "none"),
    ({"type": "enabled", "budget_tokens": 1024}, "low"),
    ({"type": "enabled", "budget_tokens": 8192}, "medium"),
    ({"type": "enabled", "budget_tokens": 24_576}, "high"),
    ({"type": "enabled", "budget_tokens": 40_000}, "xhigh"),
    ({"type": "adaptive"}, None),
]


@pytest.mark.parametrize(("given", "effort"), BUDGETS)
def test_thinking_in_chats_terms(harness: PairHarness, given: dict[str, Any], effort: str | None) -> None:
    """A budget becomes the effort that it corresponds to; a dynamic budget becomes no effort."""
    pair = ProtocolPair(client=MESSAGES, upstream=CHAT, stream=True)
    harness.play(Reply(texts=("Fine.",)).scenario(CHAT, stream=True))
    harness.ask(pair, **QUESTION[MESSAGES], thinking=given, max_tokens=64_000)
    assert harness.asked.get("reasoning_effort") == effort


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_anthropics_effort_in_chats_terms(harness: PairHarness, effort: str) -> None:
    """Anthropic's own word for effort is OpenAI's, too."""
    pair = ProtocolPair(client=MESSAGES, upstream=CHAT)
    harness.play(Reply(texts=("Fine.",)).scenario(CHAT, stream=False))
    asked: dict[str, Any] = {**QUESTION[MESSAGES], "output_config": {"effort": effort}}
    harness.ask(pair, thinking={"type": "adaptive"}, **asked)
    assert harness.asked["reasoning_effort"] == effort
