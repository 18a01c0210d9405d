"""Functions written flat, in a body that goes to a Chat upstream as it is."""

from typing import Any

import msgspec
import pytest

from llmproxy_asgi.translators.openai_chat.flat_tools import nest_flat_tools

FLAT = {"type": "function", "name": "f", "parameters": {"type": "object"}}
NESTED = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def nested(**members: Any) -> dict[str, Any]:
    values = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in members.items()}
    nest_flat_tools(values)
    return {key: msgspec.json.decode(value) for key, value in values.items()}


def test_flat_functions_are_nested() -> None:
    """Whatever stands beside them; the choice of one follows."""
    other = {"type": "web_search"}
    found = nested(tools=[FLAT, other, NESTED], tool_choice={"type": "function", "name": "f"})
    assert found == {
        "tools": [NESTED, other, NESTED],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }


MIXED: list[list[Any]] = [
    [NESTED, FLAT],
    [FLAT, NESTED],
    [NESTED, {"type": "web_search"}, FLAT],
    [{"function": NESTED["function"], "type": "function"}, FLAT],
    [NESTED, {"name": "f", "type": "function", "parameters": {"type": "object"}}],
    [{"type": "custom", "custom": {"name": "c"}}, {"type": "custom", "name": "d", "format": {"type": "text"}}],
]


@pytest.mark.parametrize("tools", MIXED)
def test_lists_that_mix_both_forms_are_nested(tools: list[Any]) -> None:
    """Wherever the flat ones stand, also behind a nested one."""
    found = nested(tools=tools)["tools"]
    assert all(tool["type"] in tool for tool in found if tool["type"] in {"function", "custom"})
    assert [tool[tool["type"]]["name"] if tool["type"] in tool else None for tool in found] == [
        tool["name"] if "name" in tool else tool[tool["type"]]["name"] if tool["type"] in tool else None
        for tool in tools
    ]


def test_a_flat_choice_beside_nested_functions_is_nested() -> None:
    """The two come from different hands in some agents."""
    assert nested(tools=[NESTED], tool_choice={"type": "function", "name": "f"}) == {
        "tools": [NESTED],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }


def test_nested_functions_keep_their_bytes() -> None:
    """Valid tools pass unchanged."""
    given = msgspec.Raw(
        b'[ {"type" : "function", "function": {"name":"f"} }, {"function":{"name":"g"}, "type":"function"} ]'
    )
    values = {"tools": given}
    nest_flat_tools(values)
    assert values["tools"] is given


@pytest.mark.parametrize("odd", [None, 1, "x", [], {}, {"type": {}}, {"type": []}, {"type": 1, "name": "f"}])
def test_what_is_no_tool_stays_as_it_is(odd: Any) -> None:
    """It is the upstream's to refuse, alone and beside a flat function."""
    assert nested(tools=[odd]) == {"tools": [odd]}
    assert nested(tools=odd) == {"tools": odd}
    assert nested(tools=[FLAT, odd], tool_choice=odd) == {"tools": [NESTED, odd], "tool_choice": odd}
