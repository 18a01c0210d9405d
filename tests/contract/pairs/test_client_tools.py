"""Tools that Anthropic defines and its callers run, and results that only Anthropic has parts for, at other vendors."""

import json
from typing import Any

import anthropic
import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, Call, Lane, Reply, Stage
from support.pairs.asks import PNG, QUESTION, messages_tool, tool_result, tool_use
from support.pairs.lanes import pairs

FINE = Reply(texts=("Fine.",))
OTHERS = [lane for other in (CHAT, RESPONSES, GEMINI) for lane in pairs(client=MESSAGES, upstream=other)]
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


def declared(stage: Stage, lane: Lane) -> tuple[str, dict[str, Any]]:
    [sent] = stage.asked["tools"]
    if lane.upstream == GEMINI:
        [function] = sent["functionDeclarations"]
        return function["name"], function["parametersJsonSchema"]
    function = sent.get("function", sent)
    return function["name"], function["parameters"]


@pytest.mark.fidelity(109)
@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("lane", OTHERS)
def test_a_tool_of_anthropics_is_a_function_elsewhere(stage: Stage, lane: Lane, name: str) -> None:
    """It has its known schema, its call comes back as `tool_use` of its name, and its result is taken."""
    made = Call(id="call_1", name=name, arguments=json.dumps(INPUTS[name]))
    stage.play(Reply(calls=(made,)).scenario(lane.upstream, stream=lane.stream))
    [call] = stage.ask(lane, messages=[USER], tools=[TOOLS[name]]).calls
    assert (call.name, json.loads(call.arguments)) == (name, INPUTS[name])
    told, parameters = declared(stage, lane)
    assert told == name
    assert parameters["properties"].keys() >= INPUTS[name].keys()
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    use = {"type": "tool_use", "id": call.id, "name": name, "input": INPUTS[name]}
    turns = [USER, {"role": "assistant", "content": [use]}, {"role": "user", "content": [tool_result(call.id, "done")]}]
    assert stage.ask(lane, messages=turns, tools=[TOOLS[name]]).text == "Fine."


@pytest.mark.fidelity(109)
@pytest.mark.parametrize("lane", OTHERS)
def test_a_screenshot_reaches_the_model(stage: Stage, lane: Lane) -> None:
    """What computer use answers with is an image that the model sees."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    shown = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    turns = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1", "computer", action="screenshot")]},
        {"role": "user", "content": [tool_result("toolu_1", [shown])]},
    ]
    stage.ask(lane, messages=turns, tools=[TOOLS["computer"]])
    assert PNG in json.dumps(stage.asked)


@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=RESPONSES))
def test_computer_use_without_vision_is_refused_by_name(stage: Stage, lane: Lane) -> None:
    """A model that takes no images could not use a screen; the 400 names the tool."""
    with pytest.raises(anthropic.BadRequestError, match="'computer' answers with images"):
        stage.ask(lane, model="o3-mini", **QUESTION[MESSAGES], tools=[TOOLS["computer"]])
    assert stage.upstream.requests == []


@pytest.mark.parametrize("lane", OTHERS)
def test_a_result_of_parts_without_counterpart_is_told_in_words(stage: Stage, lane: Lane) -> None:
    """A tool search found a tool: the others read its name, and never an empty result."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    found = [{"type": "tool_reference", "tool_name": "mcp__x__find"}]
    turns = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1")]},
        {"role": "user", "content": [tool_result("toolu_1", found)]},
    ]
    answer = stage.ask(lane, messages=turns, tools=[messages_tool()])
    assert "[tool_reference: mcp__x__find]" in json.dumps(stage.asked)
    assert "downgraded:tool_reference" in answer.warnings
