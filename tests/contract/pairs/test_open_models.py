"""Conversations over servers of open models, whose chat templates and endpoints are stricter than OpenAI's own."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from llmproxy_asgi.testing import Received, Scenario
from support.pairs import PairHarness, ProtocolPair, pair_harness
from support.pairs.asks import PNG, tool_use, tools
from support.pairs.parameters import pairs
from support.pairs.replies import Reply
from support.pairs.wires import CHAT, MESSAGES, RESPONSES
from support.strict import check_template

FINE = Reply(texts=("Fine",))


@pytest.fixture(scope="module")
def harness() -> Iterator[PairHarness]:
    with pair_harness(chat="openai-compatible") as made:
        yield made


def asked(harness: PairHarness, pair: ProtocolPair, *, allow: tuple[str, ...] = (), **request: Any) -> Any:
    """What the server got, which its template takes, and the warnings of the answer."""
    harness.reset()
    harness.play(partial(answer, pair, allow), allow=("unknown-keyword",))
    found = harness.ask(pair, **request)
    assert found.text == "Fine"
    return harness.asked["messages"], found.warnings


def answer(pair: ProtocolPair, allow: tuple[str, ...], received: Received) -> Scenario:
    check_template(received, allow=allow)
    return FINE.scenario(pair.upstream, stream=pair.stream)


@pytest.mark.fidelity(111)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_a_turn_of_claude_code_is_taken(harness: PairHarness, pair: ProtocolPair) -> None:
    """Blocks of system become one string; a later system message is read in the user turn next to it, and named."""
    messages, warnings = asked(
        harness,
        pair,
        system=[{"type": "text", "text": "You code."}, {"type": "text", "text": "Be brief."}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]},
            {"role": "system", "content": "Hook said so."},
            {"role": "assistant", "content": "Fine."},
            {"role": "system", "content": "Remember."},
            {"role": "user", "content": "And now?"},
        ],
    )
    assert messages == [
        {"role": "system", "content": "You code.\n\nBe brief."},
        {"role": "user", "content": "One\n\nTwo\n\nHook said so."},
        {"role": "assistant", "content": "Fine."},
        {"role": "user", "content": "Remember.\n\nAnd now?"},
    ]
    assert warnings == ["downgraded:system_message"]


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_an_instruction_behind_results_is_a_user_turn(harness: PairHarness, pair: ProtocolPair) -> None:
    """Results of several texts are one string, and an instruction behind them does not break into the step."""
    messages, _ = asked(
        harness,
        pair,
        tools=tools(MESSAGES, "get_weather"),
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": [tool_use("toolu_1")]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": [{"type": "text", "text": "snow"}, {"type": "text", "text": "cold"}],
                    }
                ],
            },
            {"role": "system", "content": "Be brief."},
        ],
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    assert [message["content"] for message in messages[2:]] == ["snow\n\ncold", "Be brief."]


@pytest.mark.fidelity(111)
@pytest.mark.parametrize("pair", pairs(client=RESPONSES, upstream=CHAT))
def test_leading_instructions_of_two_kinds_are_one(harness: PairHarness, pair: ProtocolPair) -> None:
    """Instructions and a developer item are one system message, in order, and the caller reads that they were moved."""
    items = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    messages, warnings = asked(harness, pair, instructions="You code.", input=items)
    assert messages == [{"role": "system", "content": "You code.\n\nBe brief."}, {"role": "user", "content": "Hi"}]
    assert warnings == ["moved:system_message"]


@pytest.mark.parametrize("pair", pairs(client=RESPONSES, upstream=CHAT))
def test_instructions_alone_get_a_user_turn(harness: PairHarness, pair: ProtocolPair) -> None:
    """A template that finds no user query refuses; a message that the gateway adds is named in the warnings."""
    messages, warnings = asked(harness, pair, input=[{"role": "developer", "content": "Say hi."}])
    assert messages == [{"role": "system", "content": "Say hi."}, {"role": "user", "content": "."}]
    assert warnings == ["emulated:first_user_turn"]


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_text_beside_a_picture_stays_a_part(harness: PairHarness, pair: ProtocolPair) -> None:
    """Parts are kept where a string cannot hold what is meant."""
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    turn = {"role": "user", "content": [{"type": "text", "text": "What"}, picture, {"type": "text", "text": "is it?"}]}
    messages, _ = asked(harness, pair, messages=[turn])
    assert [part["type"] for part in messages[0]["content"]] == ["text", "image_url", "text"]


def test_a_configuration_keeps_system_messages_where_they_are() -> None:
    """With `several_system` and `system_midway` the server gets what the caller wrote."""
    able = {"several_system": True, "system_midway": True}
    pair = ProtocolPair(client=MESSAGES, upstream=CHAT)
    models = [{"name": "house-1", "capabilities": able}]
    with pair_harness(chat="openai-compatible", models=models) as made:
        messages, warnings = asked(
            made,
            pair,
            allow=("one-system",),
            system="You code.",
            messages=[{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}],
        )
    assert [message["role"] for message in messages] == ["system", "user", "system"]
    assert warnings == []
