"""Whatever callers write for a schema ends in one that is sent, or in a refusal: never in a crash."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import Tool
from llmproxy_asgi.errors import Unsupported
from llmproxy_asgi.translators.gemini.json_schemas import UnsupportedSchema, to_gemini_schema
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.schema_references import with_definitions
from llmproxy_asgi.translators.strict_schemas import ANTHROPIC, OPENAI, NotStrict, strict_form
from llmproxy_asgi.translators.tool_schemas import object_root

KEYWORDS = st.sampled_from(
    [
        "$defs",
        "$id",
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "const",
        "default",
        "definitions",
        "description",
        "enum",
        "format",
        "items",
        "minItems",
        "minimum",
        "not",
        "nullable",
        "oneOf",
        "prefixItems",
        "properties",
        "required",
        "title",
        "type",
    ]
)
WORDS = st.sampled_from(
    ["object", "array", "string", "null", "#", "#/", "#/$defs/a", "#/definitions/a", "#/properties/a", "#/anyOf/0", "a"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | st.just("a"), inner, max_size=4),
    max_leaves=25,
)
SCHEMAS = st.dictionaries(KEYWORDS | st.just("a"), VALUES, max_size=6)


@given(SCHEMAS)
def test_any_schema_has_a_form_or_is_refused(schema: dict[str, Any]) -> None:
    """References, roots, strict forms and Google's: each ends well, and leaves what it was given as it was."""
    before = msgspec.json.encode(schema)
    made = with_definitions(schema)
    msgspec.json.encode(made)
    with contextlib.suppress(Unsupported):
        root = object_root(Tool(name="f", parameters=schema), Losses())
        assert root["type"] == "object"
        assert isinstance(root["properties"], dict)
    for demands in (OPENAI, ANTHROPIC):
        with contextlib.suppress(NotStrict):
            msgspec.json.encode(strict_form(schema, demands).schema)
    with contextlib.suppress(UnsupportedSchema):
        msgspec.json.encode(to_gemini_schema(schema, Losses(), root=True))
    assert msgspec.json.encode(schema) == before


def test_many_names_that_read_alike_cost_little() -> None:
    """Names that no vendor takes are replaced, each by another, without a search through those before."""
    names = [chr(0x4E00 + number) for number in range(20_000)]
    schema = {"$defs": {name: {"type": "string"} for name in names}, "$ref": f"#/$defs/{names[-1]}"}
    made = with_definitions(schema)
    assert len(made["$defs"]) == len(names)
    assert made["$ref"].removeprefix("#/$defs/") in made["$defs"]


@pytest.mark.parametrize("schema", [{"format": {}}, {"type": "object", "properties": {"a": {"format": []}}}])
def test_a_format_that_is_no_word(schema: dict[str, Any]) -> None:
    """It is reported, not looked up."""
    losses = Losses()
    assert "format" not in to_gemini_schema(schema, losses)
