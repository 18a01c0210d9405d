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
    Lane,
    Reply,
    Stage,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    sse,
    staged,
)
from support.pairs.asks import QUESTION, messages_tool, step, tool_result, tools
from support.pairs.lanes import lanes, pairs
from support.pairs.wires import call_deltas, chat_call

USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}
REDACTED = {"type": "redacted_thinking", "data": "claude-redacted/+=="}


def thinking(number: int) -> dict[str, Any]:
    return {"type": "thinking", "thinking": f"Step {number}.", "signature": f"claude-signature-{number}/+=="}


def call(number: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": "get_weather", "input": {"city": f"City {number}"}}


def played(lane: Lane, *blocks: dict[str, Any]) -> Scenario:
    stop = "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn"
    if lane.stream:
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
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=MESSAGES))
def test_state_survives_a_loop_of_three_steps(stage: Stage, lane: Lane) -> None:
    """What Claude thought comes back to it before each call, native and unchanged, because the caller echoes it."""
    turns: list[dict[str, Any]] = [USER]
    asked: dict[str, Any] = {"tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    for number in (1, 2, 3):
        extra = [REDACTED] if number == 2 else []
        stage.play(played(lane, thinking(number), *extra, call(number)))
        answer = stage.ask(lane, messages=turns, **asked)
        assert answer.whole.choices[0].message.reasoning_content == f"Step {number}."
        result = {"role": "tool", "tool_call_id": f"toolu_{number}", "content": "snow"}
        turns = [*turns, echoed(answer), result]
    stage.play(played(lane, {"type": "text", "text": "Snow."}))
    answer = stage.ask(lane, messages=turns, **asked)
    said = [message["content"] for message in stage.asked["messages"] if message["role"] == "assistant"]
    assert said == [
        [thinking(1), call(1)],
        [thinking(2), REDACTED, call(2)],
        [thinking(3), call(3)],
    ]
    assert answer.warnings == []


@pytest.mark.fidelity(61)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_state_survives_a_caller_who_strips_it(stage: Stage, lane: Lane) -> None:
    """A caller who sends back calls alone still gets its state to Claude: it is found by the call's id."""
    stage.play(played(lane, thinking(1), call(1)))
    asked: dict[str, Any] = {"tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    answer = stage.ask(lane, messages=[USER], **asked)
    result = {"role": "tool", "tool_call_id": "toolu_1", "content": "snow"}
    stage.play(played(lane, {"type": "text", "text": "Snow."}))
    stage.ask(lane, messages=[USER, echoed(answer, strip=True), result], **asked)
    assert stage.asked["messages"][1]["content"] == [thinking(1), call(1)]


@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_a_loop_whose_state_was_lost_goes_on(stage: Stage, lane: Lane) -> None:
    """A model with a budget would refuse to go on without its thinking; so it is not asked to think in that turn."""
    stage.play(played(lane, {"type": "text", "text": "Snow."}))
    turns = [USER, *step(CHAT, [Call(id="toolu_1", name="get_weather", arguments="{}")], {"toolu_1": "snow"})]
    asked: dict[str, Any] = {"messages": turns, "tools": tools(CHAT, "get_weather"), "reasoning_effort": "high"}
    answer = stage.ask(lane, model="claude-sonnet-4-5", **asked)
    assert "thinking" not in stage.asked
    assert "dropped:reasoning_effort" in answer.warnings


@pytest.mark.parametrize("lane", lanes(client=MESSAGES, upstream=CHAT))
def test_readable_reasoning_is_shown_to_anthropics_client(stage: Stage, lane: Lane) -> None:
    """What a Chat upstream says it thought is a thinking block; sent back, it never becomes words of the answer."""
    said: dict[str, Any] = {"reasoning_content": "Hm, snow?", "content": "Snow."}
    streamed = chat_chunks({"reasoning_content": "Hm, "}, {"reasoning_content": "snow?"}, {"content": "Snow."})
    stage.play(sse(streamed) if lane.stream else json_answer(200, chat_whole(**said)))
    first = stage.ask(lane, **QUESTION[MESSAGES])
    assert [block.type for block in first.whole.content] == ["thinking", "text"]
    assert first.whole.content[0].thinking == "Hm, snow?"
    assert first.text == "Snow."
    stage.ask(lane, messages=[USER, {"role": "assistant", "content": first.whole.content}, USER])
    assert stage.asked["messages"][1] == {"role": "assistant", "content": "Snow."}


ROUTED = {
    "index": 0,
    "type": "reasoning.text",
    "text": "Hm, snow?",
    "signature": "routers-state/+==",
    "format": "anthropic-claude-v1",
}


@pytest.fixture(scope="module")
def routed() -> Iterator[Stage]:
    """A gateway whose Chat upstream is a server that signs its reasoning, as some that resemble OpenAI's do."""
    with staged(chat="openai-compatible") as made:
        yield made


@pytest.mark.parametrize("lane", lanes(client=MESSAGES, upstream=CHAT))
def test_state_of_a_chat_upstream_survives_at_anthropics_client(routed: Stage, lane: Lane) -> None:
    """What such a server signed is a signature for Anthropic's caller, and its own again in the next turn."""
    made = Call(id="call_1", name="get_weather", arguments='{"city":"Oslo"}')
    told: dict[str, Any] = {"reasoning_content": "Hm, snow?", "reasoning_details": [ROUTED]}
    if lane.stream:
        routed.play(sse(chat_chunks(told, *call_deltas(0, made), finish="tool_calls")))
    else:
        whole: dict[str, Any] = {**told, "tool_calls": [chat_call(made)]}
        routed.play(json_answer(200, chat_whole(finish="tool_calls", **whole)))
    first = routed.ask(lane, **QUESTION[MESSAGES], tools=[messages_tool()])
    block = first.whole.content[0]
    assert (block.type, block.thinking) == ("thinking", "Hm, snow?")
    assert block.signature != ROUTED["signature"]
    routed.play(Reply(texts=("Snow.",)).scenario(CHAT, stream=lane.stream), allow=("unknown-keyword",))
    result = {"role": "user", "content": [tool_result("call_1", "snow")]}
    turns = [USER, {"role": "assistant", "content": first.whole.content}, result]
    answer = routed.ask(lane, messages=turns, tools=[messages_tool()])
    [entry] = routed.asked["messages"][1]["reasoning_details"]
    assert entry == ROUTED
    assert answer.warnings == []


@pytest.mark.parametrize("lane", pairs(client=MESSAGES))
def test_state_of_a_chat_upstream_is_shown_to_nobody_else(routed: Stage, lane: Lane) -> None:
    """The conversation goes on with another vendor, or with OpenAI itself: the state is left out, nobody refuses it."""
    there = Lane(client=MESSAGES, upstream=CHAT, stream=lane.stream)
    told: dict[str, Any] = {"reasoning_content": "Hm, snow?", "reasoning_details": [ROUTED], "content": "Snow."}
    routed.play(sse(chat_chunks(told)) if lane.stream else json_answer(200, chat_whole(**told)))
    first = routed.ask(there, **QUESTION[MESSAGES])
    turns = [USER, {"role": "assistant", "content": first.whole.content}, USER]
    if lane.upstream != CHAT:
        routed.play(Reply(texts=("Still.",)).scenario(lane.upstream, stream=lane.stream))
        answer = routed.ask(lane, messages=turns)
        assert "routers-state" not in routed.received.body.decode()
        assert "Hm, snow?" not in routed.received.body.decode()
        assert "Snow." in routed.received.body.decode()
    else:
        with staged() as openais:
            openais.play(Reply(texts=("Still.",)).scenario(CHAT, stream=lane.stream))
            answer = openais.ask(lane, messages=turns)
            assert openais.asked["messages"][1] == {"role": "assistant", "content": "Snow."}
    assert "dropped:reasoning" in answer.warnings


@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_a_signature_goes_back_to_its_own_model_only(stage: Stage, lane: Lane) -> None:
    """A caller who goes on with another Claude loses what the first one thought, is told, and is not refused."""
    stage.play(played(lane, thinking(1), {"type": "text", "text": "Snow."}))
    first = echoed(stage.ask(lane, messages=[USER], reasoning_effort="low"))
    answer = stage.ask(lane, model="claude-opus-4-8", messages=[USER, first, USER], reasoning_effort="low")
    assert stage.asked["messages"][1]["content"] == [{"type": "text", "text": "Snow."}]
    assert "dropped:reasoning" in answer.warnings


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_claudes_state_is_dropped_on_the_way_to_a_chat_upstream(stage: Stage, stream: bool) -> None:
    """Anthropic's caller goes on with a Chat upstream: thinking is left out, and the caller is told."""
    lane = Lane(client=MESSAGES, upstream=CHAT, stream=stream)
    stage.play(Reply(texts=("Still.",)).scenario(CHAT, stream=stream))
    said = {"role": "assistant", "content": [thinking(1), {"type": "text", "text": "Snow."}]}
    answer = stage.ask(lane, messages=[USER, said, USER])
    assert stage.asked["messages"][1] == {"role": "assistant", "content": "Snow."}
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
def test_effort_in_claudes_terms(stage: Stage, row: tuple[str, str, str | int | None, str | None, bool]) -> None:
    """Each rung of the ladder is an effort or a budget, never both, and a rung that is not there is told."""
    model, effort, thinks, said, warned = row
    lane = Lane(client=CHAT, upstream=MESSAGES)
    stage.play(Reply(texts=("Fine.",)).scenario(MESSAGES, stream=False))
    asked: dict[str, Any] = {**QUESTION[CHAT], "reasoning_effort": effort}
    answer = stage.ask(lane, model=model, **asked)
    found = stage.asked.get("thinking")
    if isinstance(thinks, int):
        assert found == {"type": "enabled", "budget_tokens": thinks}
    else:
        assert (found or {}).get("type") == thinks
    assert stage.asked.get("output_config", {}).get("effort") == said
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
def test_thinking_in_chats_terms(stage: Stage, given: dict[str, Any], effort: str | None) -> None:
    """A budget is the effort that it stands for; a model that shall decide by itself is told nothing."""
    lane = Lane(client=MESSAGES, upstream=CHAT, stream=True)
    stage.play(Reply(texts=("Fine.",)).scenario(CHAT, stream=True))
    stage.ask(lane, **QUESTION[MESSAGES], thinking=given, max_tokens=64_000)
    assert stage.asked.get("reasoning_effort") == effort


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_anthropics_effort_in_chats_terms(stage: Stage, effort: str) -> None:
    """Anthropic's own word for effort is OpenAI's, too."""
    lane = Lane(client=MESSAGES, upstream=CHAT)
    stage.play(Reply(texts=("Fine.",)).scenario(CHAT, stream=False))
    asked: dict[str, Any] = {**QUESTION[MESSAGES], "output_config": {"effort": effort}}
    stage.ask(lane, thinking={"type": "adaptive"}, **asked)
    assert stage.asked["reasoning_effort"] == effort
