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


@pytest.mark.parametrize("odd", [None, 1, "x", [], {}, {"type": {}}, {"type": []}, {"type": 1, "name": "f"}])
def test_what_is_no_tool_stays_as_it_is(odd: Any) -> None:
    """It is the upstream's to refuse, alone and beside a flat function."""
    assert nested(tools=[odd]) == {"tools": [odd]}
    assert nested(tools=odd) == {"tools": odd}
    assert nested(tools=[FLAT, odd], tool_choice=odd) == {"tools": [NESTED, odd], "tool_choice": odd}
