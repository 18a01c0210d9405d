"""Instructions and turns: where they stand, in whose words, and what an upstream would refuse."""

from typing import Any

import anthropic
import openai
import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, Lane, Reply, Stage
from support.pairs.asks import chat_call, tools
from support.pairs.lanes import pairs

FINE = Reply(texts=("Fine.",))
USER = {"role": "user", "content": "How is the weather?"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.fidelity(19)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_leading_instructions_become_system_parts(stage: Stage, lane: Lane) -> None:
    """Two system messages and a developer message become three parts of `system`, in order, never one text."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    first = [{"role": role, "content": words} for role, words in (("system", "A"), ("developer", "B"), ("system", "C"))]
    answer = stage.ask(lane, messages=[*first, USER])
    assert stage.asked["system"] == [text("A"), text("B"), text("C")]
    assert [message["role"] for message in stage.asked["messages"]] == ["user"]
    assert answer.warnings == []


@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=CHAT))
def test_a_list_of_instructions_leads_the_conversation(stage: Stage, lane: Lane) -> None:
    """The parts of `system` lead a Chat conversation, in order."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    stage.ask(lane, system=[text("A"), text("B")], messages=[USER])
    *leading, last = stage.asked["messages"]
    assert [message["role"] in {"system", "developer"} for message in leading] == [True] * len(leading)
    said = [part for message in leading for part in parts_of(message)]
    assert said == ["A", "B"]
    assert last == USER


def parts_of(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content]


@pytest.mark.fidelity(20)
@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=CHAT))
def test_an_instruction_in_the_middle_stays_there(stage: Stage, lane: Lane) -> None:
    """A system message in the middle of a Messages conversation stands at its place in the Chat one."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    turns: list[Any] = [
        USER,
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "Snow."},
        USER,
    ]
    stage.ask(lane, messages=turns)
    roles = [message["role"] for message in stage.asked["messages"]]
    assert roles[0] == "user"
    assert roles[1] in {"system", "developer"}
    assert roles[2:] == ["assistant", "user"]
    assert parts_of(stage.asked["messages"][1]) == ["Be brief."]


@pytest.mark.fidelity(20)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_an_instruction_behind_a_user_turn_is_native_where_the_model_can(stage: Stage, lane: Lane) -> None:
    """A model that takes system messages in the middle gets them there."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    stage.ask(lane, messages=[USER, {"role": "system", "content": "Be brief."}])
    assert [message["role"] for message in stage.asked["messages"]] == ["user", "system"]


@pytest.mark.fidelity(21)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_an_instruction_in_the_middle_becomes_words_for_an_old_model(stage: Stage, lane: Lane) -> None:
    """A model that takes none in the middle reads it in the next user turn, and the caller is told."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    said = {"role": "assistant", "content": "Snow."}
    turns = [USER, said, {"role": "system", "content": "Be brief."}, {"role": "user", "content": "And now?"}]
    answer = stage.ask(lane, model="claude-sonnet-4-5", messages=turns)
    *_, last = stage.asked["messages"]
    assert last == {"role": "user", "content": [text("Be brief."), text("And now?")]}
    assert "downgraded:system_message" in answer.warnings


@pytest.mark.fidelity(24)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
@pytest.mark.parametrize("content", ["", None, " \n"], ids=["empty", "null", "blank"])
def test_an_empty_text_beside_calls_is_left_out(stage: Stage, lane: Lane, content: str | None) -> None:
    """An assistant turn with calls and no words holds its calls alone; a strict upstream takes it."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    said = {"role": "assistant", "content": content, "tool_calls": [chat_call("call_1")]}
    turns = [USER, said, {"role": "tool", "tool_call_id": "call_1", "content": "snow"}]
    stage.ask(lane, messages=turns, tools=tools(CHAT, "get_weather"))
    assert [block["type"] for block in stage.asked["messages"][1]["content"]] == ["tool_use"]


@pytest.mark.fidelity(25)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_a_beginning_that_the_model_cannot_continue_is_refused(stage: Stage, lane: Lane) -> None:
    """A trailing assistant message is a 400 that names `messages` where the model continues none."""
    turns: Any = [USER, {"role": "assistant", "content": "It"}]
    with pytest.raises(openai.BadRequestError) as refused:
        stage.ask(lane, messages=turns)
    assert refused.value.param == "messages"
    assert stage.upstream.requests == []


@pytest.mark.fidelity(25)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_a_beginning_that_the_model_can_continue_passes(stage: Stage, lane: Lane) -> None:
    """An old model gets the beginning of its answer."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    stage.ask(lane, model="claude-sonnet-4-5", messages=[USER, {"role": "assistant", "content": "It"}])
    assert stage.asked["messages"][-1] == {"role": "assistant", "content": [text("It")]}


@pytest.mark.fidelity(25)
@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=CHAT))
def test_a_beginning_is_no_business_of_a_chat_upstream(stage: Stage, lane: Lane) -> None:
    """Chat would begin anew and say it twice; so the caller is told that it cannot be had."""
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        stage.ask(lane, messages=[USER, {"role": "assistant", "content": "It"}])


@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_the_user_begins(stage: Stage, lane: Lane) -> None:
    """A conversation that an assistant opens gets a user turn before it, and neighbours of one role are one turn."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    turns: Any = [{"role": "assistant", "content": "Hello."}, USER, USER]
    answer = stage.ask(lane, messages=turns)
    assert [message["role"] for message in stage.asked["messages"]] == ["user", "assistant", "user"]
    assert stage.asked["messages"][2]["content"] == [text(str(USER["content"]))] * 2
    assert "emulated:first_user_turn" in answer.warnings


@pytest.mark.parametrize("lane", [*pairs(client=CHAT), *pairs(client=RESPONSES)])
def test_an_instruction_alone_is_answered(stage: Stage, lane: Lane) -> None:
    """A conversation of one developer message, as in OpenAI's own examples, is answered by every upstream."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    turns: Any = [{"role": "developer", "content": "Say hi."}]
    answer = stage.ask(lane, messages=turns) if lane.client == CHAT else stage.ask(lane, input=turns)
    assert answer.text == "Fine."
    emulated = lane.upstream in {MESSAGES, GEMINI}
    assert answer.warnings == (["emulated:first_user_turn"] if emulated else [])
    assert stage.received.body.count(b"Say hi.") == 1


@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=RESPONSES))
def test_an_instruction_that_leaves_no_input_gets_a_user_turn(stage: Stage, lane: Lane) -> None:
    """A system turn alone goes as `instructions`; OpenAI refuses an empty input beside them."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, messages=[{"role": "system", "content": "Say hi."}])
    assert stage.asked["instructions"] == "Say hi."
    assert [item["role"] for item in stage.asked["input"]] == ["user"]
    assert answer.warnings == ["emulated:first_user_turn"]
