"""Instructions and turns: where they stand, in whose words, and what an upstream would refuse."""

from typing import Any

import anthropic
import openai
import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, PairHarness, ProtocolPair, Reply
from support.pairs.asks import chat_call, tools
from support.pairs.parameters import pairs

FINE = Reply(texts=("Fine.",))
USER = {"role": "user", "content": "How is the weather?"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.fidelity(19)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_leading_instructions_become_system_parts(harness: PairHarness, pair: ProtocolPair) -> None:
    """Two system messages and a developer message become three parts of `system`, in order, never one text."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    first = [{"role": role, "content": words} for role, words in (("system", "A"), ("developer", "B"), ("system", "C"))]
    answer = harness.ask(pair, messages=[*first, USER])
    assert harness.asked["system"] == [text("A"), text("B"), text("C")]
    assert [message["role"] for message in harness.asked["messages"]] == ["user"]
    assert answer.warnings == []


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_a_list_of_instructions_leads_the_conversation(harness: PairHarness, pair: ProtocolPair) -> None:
    """The parts of `system` lead a Chat conversation, in order."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    harness.ask(pair, system=[text("A"), text("B")], messages=[USER])
    *leading, last = harness.asked["messages"]
    assert [message["role"] in {"system", "developer"} for message in leading] == [True] * len(leading)
    said = [part for message in leading for part in parts_of(message)]
    assert said == ["A", "B"]
    assert last == USER


def parts_of(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content]


@pytest.mark.fidelity(20)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_an_instruction_in_the_middle_stays_there(harness: PairHarness, pair: ProtocolPair) -> None:
    """A system message in the middle of a Messages conversation stands at its place in the Chat one."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    turns: list[Any] = [
        USER,
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "Snow."},
        USER,
    ]
    harness.ask(pair, messages=turns)
    roles = [message["role"] for message in harness.asked["messages"]]
    assert roles[0] == "user"
    assert roles[1] in {"system", "developer"}
    assert roles[2:] == ["assistant", "user"]
    assert parts_of(harness.asked["messages"][1]) == ["Be brief."]


@pytest.mark.fidelity(20)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_an_instruction_behind_a_user_turn_is_native_where_the_model_can(
    harness: PairHarness, pair: ProtocolPair
) -> None:
    """A model that takes system messages in the middle gets them there."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    harness.ask(pair, messages=[USER, {"role": "system", "content": "Be brief."}])
    assert [message["role"] for message in harness.asked["messages"]] == ["user", "system"]


@pytest.mark.fidelity(21)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_an_instruction_in_the_middle_becomes_words_for_an_old_model(harness: PairHarness, pair: ProtocolPair) -> None:
    """A model without instructions in the middle reads them in the next user message, with a warning."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    said = {"role": "assistant", "content": "Snow."}
    turns = [USER, said, {"role": "system", "content": "Be brief."}, {"role": "user", "content": "And now?"}]
    answer = harness.ask(pair, model="claude-sonnet-4-5", messages=turns)
    *_, last = harness.asked["messages"]
    assert last == {"role": "user", "content": [text("Be brief."), text("And now?")]}
    assert "downgraded:system_message" in answer.warnings


@pytest.mark.fidelity(24)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
@pytest.mark.parametrize("content", ["", None, " \n"], ids=["empty", "null", "blank"])
def test_an_empty_text_beside_calls_is_left_out(harness: PairHarness, pair: ProtocolPair, content: str | None) -> None:
    """An assistant turn with calls and no words holds its calls alone; a strict upstream takes it."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    said = {"role": "assistant", "content": content, "tool_calls": [chat_call("call_1")]}
    turns = [USER, said, {"role": "tool", "tool_call_id": "call_1", "content": "snow"}]
    harness.ask(pair, messages=turns, tools=tools(CHAT, "get_weather"))
    assert [block["type"] for block in harness.asked["messages"][1]["content"]] == ["tool_use"]


@pytest.mark.fidelity(25)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_beginning_that_the_model_cannot_continue_is_refused(harness: PairHarness, pair: ProtocolPair) -> None:
    """A trailing assistant message is a 400 that names `messages` where the model continues none."""
    turns: Any = [USER, {"role": "assistant", "content": "It"}]
    with pytest.raises(openai.BadRequestError) as refused:
        harness.ask(pair, messages=turns)
    assert refused.value.param == "messages"
    assert harness.upstream.requests == []


@pytest.mark.fidelity(25)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_beginning_that_the_model_can_continue_passes(harness: PairHarness, pair: ProtocolPair) -> None:
    """An old model gets the beginning of its answer."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    harness.ask(pair, model="claude-sonnet-4-5", messages=[USER, {"role": "assistant", "content": "It"}])
    assert harness.asked["messages"][-1] == {"role": "assistant", "content": [text("It")]}


@pytest.mark.fidelity(25)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_a_beginning_is_no_business_of_a_chat_upstream(harness: PairHarness, pair: ProtocolPair) -> None:
    """Chat would begin anew and repeat the text, so the prefill is refused or dropped with a warning."""
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        harness.ask(pair, messages=[USER, {"role": "assistant", "content": "It"}])


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_the_user_begins(harness: PairHarness, pair: ProtocolPair) -> None:
    """A conversation that an assistant opens gets a user turn before it, and neighbours of one role are one turn."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    turns: Any = [{"role": "assistant", "content": "Hello."}, USER, USER]
    answer = harness.ask(pair, messages=turns)
    assert [message["role"] for message in harness.asked["messages"]] == ["user", "assistant", "user"]
    assert harness.asked["messages"][2]["content"] == [text(str(USER["content"]))] * 2
    assert "emulated:first_user_turn" in answer.warnings


@pytest.mark.parametrize("pair", [*pairs(client=CHAT), *pairs(client=RESPONSES)])
def test_an_instruction_alone_is_answered(harness: PairHarness, pair: ProtocolPair) -> None:
    """A conversation of one developer message, as in OpenAI's own examples, is answered by every upstream."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    turns: Any = [{"role": "developer", "content": "Say hi."}]
    answer = harness.ask(pair, messages=turns) if pair.client == CHAT else harness.ask(pair, input=turns)
    assert answer.text == "Fine."
    emulated = pair.upstream in {MESSAGES, GEMINI}
    assert answer.warnings == (["emulated:first_user_turn"] if emulated else [])
    assert harness.received.body.count(b"Say hi.") == 1


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=RESPONSES))
def test_an_instruction_that_leaves_no_input_gets_a_user_turn(harness: PairHarness, pair: ProtocolPair) -> None:
    """A system turn alone goes as `instructions`; OpenAI refuses an empty input beside them."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, messages=[{"role": "system", "content": "Say hi."}])
    assert harness.asked["instructions"] == "Say hi."
    assert [item["role"] for item in harness.asked["input"]] == ["user"]
    assert answer.warnings == ["emulated:first_user_turn"]
