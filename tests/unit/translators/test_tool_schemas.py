"""Parameters of tools: an object at the root, each tool once."""

from typing import Any

import pytest

from llmproxy_asgi.conversation import Tool
from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.tool_schemas import distinct, object_root

TEXT = {"type": "string"}
NOTHING = {"type": "object", "properties": {}}


def rooted(schema: dict[str, Any] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    losses = Losses()
    return object_root(Tool(name="f", parameters=schema), losses), losses.words


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"type": "object"},
        {"properties": {}},
        {"type": "object", "properties": None},
        {"type": ["object", "null"]},
        {"type": "object", "properties": {}, "required": None},
    ],
)
def test_a_tool_without_arguments_has_an_object_without_properties(schema: dict[str, Any] | None) -> None:
    """Every spelling of no arguments becomes the one that OpenAI takes."""
    assert rooted(schema) == (NOTHING, ())


def test_a_root_that_is_right_is_not_copied() -> None:
    """Most schemas cost nothing."""
    schema = {"type": "object", "properties": {"a": TEXT}, "additionalProperties": False}
    assert rooted(schema)[0] is schema


@pytest.mark.parametrize("schema", [TEXT, {"type": "array"}, {"anyOf": [{"type": "object"}, TEXT]}, {"$ref": "#"}])
def test_a_root_that_is_no_object_is_refused_by_name(schema: dict[str, Any]) -> None:
    """The refusal names the tool."""
    with pytest.raises(Unsupported, match="'f'") as refused:
        rooted(schema)
    assert refused.value.param == "tools"


def test_a_reference_at_the_root_is_written_out() -> None:
    """As generators write recursive models; references to the definition are kept."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/definitions/Node"}}}
    made, words = rooted({"$ref": "#/definitions/Node", "definitions": {"Node": node}})
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    assert (made, words) == ({**node, "$defs": {"Node": node}}, ())


def test_a_conjunction_at_the_root_is_one_object() -> None:
    """All its properties and demands are the object's."""
    schema = {"allOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": TEXT}, "required": ["b"]}]}
    made, words = rooted(schema)
    assert made == {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["a", "b"]}
    assert words == ()


def test_a_choice_at_the_root_is_one_object_and_named() -> None:
    """It takes what any form takes, requires what all require, and tells which go together."""
    schema = {
        "type": "object",
        "properties": {"id": TEXT},
        "required": ["id"],
        "oneOf": [
            {"properties": {"url": TEXT}, "required": ["url"]},
            {"properties": {"path": TEXT, "url": {"type": "null"}}, "required": ["path"]},
        ],
    }
    made, words = rooted(schema)
    assert made == {
        "type": "object",
        "properties": {"id": TEXT, "url": {"anyOf": [TEXT, {"type": "null"}]}, "path": TEXT},
        "required": ["id"],
        "description": "Give one of these sets of properties: url; path.",
    }
    assert words == ("downgraded:schema.oneOf",)


def test_the_same_tool_twice_is_one() -> None:
    """Equal duplicates go once, in any kind; the same name in another namespace is another tool."""
    a, b, served = Tool(name="a"), Tool(name="b"), Tool(name="s", kind="server")
    tools = [a, b, Tool(name="a"), Tool(name="a", namespace="n"), served]
    assert distinct([*tools, served]) == (a, b, tools[3], served)


def test_different_tools_of_one_name_are_refused_by_name() -> None:
    """No vendor takes them, and none could know which is meant."""
    with pytest.raises(BadRequest, match="'a'") as refused:
        distinct([Tool(name="a"), Tool(name="a", description="d")])
    assert refused.value.param == "tools"
