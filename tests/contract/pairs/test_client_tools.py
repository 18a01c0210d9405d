"""Tools that Anthropic defines and its callers run, and results that only Anthropic has parts for, at other vendors."""

import json
from typing import Any

import anthropic
import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, Call, PairHarness, ProtocolPair, Reply
from support.pairs.asks import PNG, QUESTION, messages_tool, tool_result, tool_use
from support.pairs.parameters import pairs

FINE = Reply(texts=("Fine.",))
OTHERS = [pair for other in (CHAT, RESPONSES, GEMINI) for pair in pairs(client=MESSAGES, upstream=other)]
TOOLS: dict[str, dict[str, Any]] = {
    "bash": {"type": "bash_20250124", "name": "bash"},
    "str_replace_based_edit_tool": {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    "memory": {"type": "memory_20250818", "name": "memory"},
    "computer": {
        "type": "computer_20250124",
        "name": "computer",
        "display_width_px": 1024,
        "display_height_px": 768,
    },
}
INPUTS: dict[str, dict[str, Any]] = {
    "bash": {"command": "ls"},
    "str_replace_based_edit_tool": {"command": "insert", "path": "/a", "insert_line": 0, "insert_text": "x"},
    "memory": {"command": "view", "path": "/memories"},
    "computer": {"action": "left_click", "coordinate": [3, 4]},
}
USER = {"role": "user", "content": "Go."}


def declared(harness: PairHarness, pair: ProtocolPair) -> tuple[str, dict[str, Any]]:
    [sent] = harness.asked["tools"]
    if pair.upstream == GEMINI:
        [function] = sent["functionDeclarations"]
        return function["name"], function["parametersJsonSchema"]
    function = sent.get("function", sent)
    return function["name"], function["parameters"]


@pytest.mark.fidelity(109)
@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("pair", OTHERS)
def test_a_tool_of_anthropics_is_a_function_elsewhere(harness: PairHarness, pair: ProtocolPair, name: str) -> None:
    """It has its known schema, its call comes back as `tool_use` of its name, and its result is taken."""
    made = Call(id="call_1", name=name, arguments=json.dumps(INPUTS[name]))
    harness.play(Reply(calls=(made,)).scenario(pair.upstream, stream=pair.stream))
    [call] = harness.ask(pair, messages=[USER], tools=[TOOLS[name]]).calls
    assert (call.name, json.loads(call.arguments)) == (name, INPUTS[name])
    told, parameters = declared(harness, pair)
    assert told == name
    assert parameters["properties"].keys() >= INPUTS[name].keys()
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    use = {"type": "tool_use", "id": call.id, "name": name, "input": INPUTS[name]}
    turns = [USER, {"role": "assistant", "content": [use]}, {"role": "user", "content": [tool_result(call.id, "done")]}]
    assert harness.ask(pair, messages=turns, tools=[TOOLS[name]]).text == "Fine."


@pytest.mark.fidelity(109)
@pytest.mark.parametrize("pair", OTHERS)
def test_a_screenshot_reaches_the_model(harness: PairHarness, pair: ProtocolPair) -> None:
    """What computer use answers with is an image that the model sees."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    shown = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    turns = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1", "computer", action="screenshot")]},
        {"role": "user", "content": [tool_result("toolu_1", [shown])]},
    ]
    harness.ask(pair, messages=turns, tools=[TOOLS["computer"]])
    assert PNG in json.dumps(harness.asked)


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=RESPONSES))
def test_computer_use_without_vision_is_refused_by_name(harness: PairHarness, pair: ProtocolPair) -> None:
    """A model that takes no images could not use a screen; the 400 names the tool."""
    with pytest.raises(anthropic.BadRequestError, match="'computer' returns images"):
        harness.ask(pair, model="o3-mini", **QUESTION[MESSAGES], tools=[TOOLS["computer"]])
    assert harness.upstream.requests == []


@pytest.mark.parametrize("pair", OTHERS)
def test_a_result_of_parts_without_counterpart_is_told_in_words(harness: PairHarness, pair: ProtocolPair) -> None:
    """A tool search found a tool: the others read its name, and never an empty result."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    found = [{"type": "tool_reference", "tool_name": "mcp__x__find"}]
    turns = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1")]},
        {"role": "user", "content": [tool_result("toolu_1", found)]},
    ]
    answer = harness.ask(pair, messages=turns, tools=[messages_tool()])
    assert "[tool_reference: mcp__x__find]" in json.dumps(harness.asked)
    assert "downgraded:tool_reference" in answer.warnings
