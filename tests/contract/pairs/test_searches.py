"""Searches of the web by other vendors, shown to callers of Messages as Anthropic shows its own."""

import json
from typing import Any

import anthropic
import pytest

from llmproxy_asgi.testing import Scenario, json_answer, sse_answer
from support.pairs import (
    GEMINI,
    MESSAGES,
    RESPONSES,
    PairHarness,
    ProtocolPair,
    Reply,
    responses_events,
    responses_whole,
)
from support.pairs.gemini_wires import gemini_chunks, gemini_whole
from support.pairs.parameters import pairs
from support.pairs.responses_wires import message_item

FINE = Reply(texts=("Fine.",))
TOOL: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
USER: Any = {"role": "user", "content": "Snow?"}
GROUNDING = {
    "webSearchQueries": ["snow oslo"],
    "groundingChunks": [{"web": {"uri": "https://weather.example/oslo", "title": "Oslo"}}],
    "groundingSupports": [
        {"segment": {"startIndex": 0, "endIndex": 4, "text": "Snow"}, "groundingChunkIndices": [0]},
    ],
}
SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {
        "type": "search",
        "query": "snow oslo",
        "sources": [{"type": "url", "url": "https://weather.example/oslo"}],
    },
}


def found(pair: ProtocolPair) -> Scenario:
    """An answer that searched."""
    if pair.upstream == GEMINI:
        if pair.stream:
            return sse_answer(gemini_chunks({"text": "Snow."}, groundingMetadata=GROUNDING))
        return json_answer(200, gemini_whole({"text": "Snow."}, groundingMetadata=GROUNDING))
    items = [SEARCH, message_item("Snow.")]
    return sse_answer(responses_events(*items)) if pair.stream else json_answer(200, responses_whole(*items))


@pytest.mark.fidelity(108)
@pytest.mark.parametrize("pair", [pair for one in (RESPONSES, GEMINI) for pair in pairs(client=MESSAGES, upstream=one)])
def test_a_search_is_shown_with_what_it_found(harness: PairHarness, pair: ProtocolPair) -> None:
    """As `server_tool_use` and `web_search_tool_result`, one after the other, and counted in usage."""
    harness.play(found(pair))
    message = harness.ask(pair, messages=[USER], tools=[TOOL]).whole
    blocks = {block.type: block for block in message.content}
    call, result = blocks["server_tool_use"], blocks["web_search_tool_result"]
    assert (call.name, call.input) == ("web_search", {"query": "snow oslo"})
    assert result.tool_use_id == call.id
    assert call.id.startswith("srvtoolu_")
    assert [(hit.type, hit.url) for hit in result.content] == [("web_search_result", "https://weather.example/oslo")]
    assert blocks["text"].text == "Snow."
    assert message.usage.server_tool_use.web_search_requests == 1
    assert message.stop_reason == "end_turn"


def test_what_another_vendor_found_never_goes_to_anthropic(harness: PairHarness) -> None:
    """The conversation moves to Claude: blocks and citations that Anthropic would refuse stay here, the words go on."""
    for one in (RESPONSES, GEMINI):
        [pair] = [each.values[0] for each in pairs(client=MESSAGES, upstream=one, stream=False)]
        harness.play(found(pair))
        message = harness.ask(pair, messages=[USER], tools=[TOOL]).whole
        said = json.loads(message.model_dump_json(exclude_none=True))["content"]
        [home] = [each.values[0] for each in pairs(client=MESSAGES, upstream=MESSAGES, stream=False)]
        harness.play(FINE.scenario(MESSAGES, stream=False))
        answer = harness.ask(home, messages=[USER, {"role": "assistant", "content": said}, USER], tools=[TOOL])
        kept = harness.asked["messages"][1]["content"]
        assert [block["type"] for block in kept] == ["text"]
        assert not kept[0].get("citations")
        assert "dropped:web_search" in answer.warnings
        assert isinstance(answer.whole, anthropic.types.Message)


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=RESPONSES, stream=False))
def test_a_choice_of_searching_beside_functions_is_kept(harness: PairHarness, pair: ProtocolPair) -> None:
    """The named server tool is the choice in the upstream's own form, and the functions stay declared."""
    harness.play(found(pair))
    look: Any = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
    choice: Any = {"type": "tool", "name": "web_search"}
    answer = harness.ask(pair, messages=[USER], tools=[look, TOOL], tool_choice=choice)
    assert harness.asked["tool_choice"] == {"type": "web_search"}
    assert {tool.get("name", tool["type"]) for tool in harness.asked["tools"]} == {"look", "web_search"}
    assert not [each for each in answer.warnings if "tool_choice" in each]
