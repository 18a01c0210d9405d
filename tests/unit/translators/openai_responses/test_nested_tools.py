"""Functions written nested, in a body that goes to a Responses upstream as it is."""

from typing import Any

import msgspec
import pytest

from llmproxy_asgi.translators.openai_responses.nested_tools import flatten_nested_tools

FLAT = {"type": "function", "name": "f", "parameters": {"type": "object"}}
NESTED = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER = {"type": "web_search"}
GRAMMAR = {"syntax": "lark", "definition": "start: A"}


def flat(**members: Any) -> dict[str, Any]:
    values = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in members.items()}
    flatten_nested_tools(values)
    return {key: msgspec.json.decode(value) for key, value in values.items()}


@pytest.mark.parametrize("tools", [[NESTED, FLAT, OTHER], [FLAT, OTHER, NESTED], [OTHER, NESTED]])
def test_nested_functions_are_flat(tools: list[Any]) -> None:
    """Wherever they stand, beside flat ones and the vendor's own tools."""
    assert flat(tools=tools)["tools"] == [FLAT if tool is NESTED else tool for tool in tools]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "name": "f"}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NESTED]}},
            {"type": "allowed_tools", "mode": "auto", "tools": [FLAT]},
        ),
        ({"type": "function", "name": "f"}, {"type": "function", "name": "f"}),
        ("auto", "auto"),
    ],
)
def test_a_nested_choice_is_flat(choice: Any, expected: Any) -> None:
    """Whatever form the tools have."""
    for tools in ([FLAT], [NESTED]):
        assert flat(tools=tools, tool_choice=choice) == {"tools": [FLAT], "tool_choice": expected}


def test_the_grammar_of_free_text_is_flat() -> None:
    """Its rules stand beside its type here."""
    nested = {"type": "custom", "custom": {"name": "c", "format": {"type": "grammar", "grammar": GRAMMAR}}}
    assert flat(tools=[nested])["tools"] == [{"type": "custom", "name": "c", "format": {"type": "grammar", **GRAMMAR}}]


def test_flat_functions_keep_their_bytes() -> None:
    """A property of the name changes nothing."""
    body = b'[ {"type":"function","name":"f","parameters":{"properties":{"function": {"type":"string"}}}} ]'
    values = {"tools": msgspec.Raw(body)}
    flatten_nested_tools(values)
    assert bytes(values["tools"]) == body


@pytest.mark.parametrize("odd", [None, 1, "function", [], {}, {"function": {}}, {"type": [], "function": {}}])
def test_what_is_no_tool_stays_as_it_is(odd: Any) -> None:
    """It is the upstream's to refuse, alone and beside a nested function."""
    assert flat(tools=[odd]) == {"tools": [odd]}
    assert flat(tools=odd, tool_choice=odd) == {"tools": odd, "tool_choice": odd}
    assert flat(tools=[NESTED, odd]) == {"tools": [FLAT, odd]}
