"""Convert Google's schemas to JSON Schema and back."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.translators.gemini.json_schemas import (
    UnsupportedSchema,
    from_gemini_schema,
    to_gemini_parameters,
    to_gemini_schema,
)
from llmproxy_asgi.translators.losses import Losses

TAKEN = frozenset(
    [
        *("$defs", "$ref", "type", "format", "title", "description", "enum", "items", "prefixItems", "minItems"),
        *("maxItems", "minimum", "maximum", "anyOf", "properties", "additionalProperties", "required"),
        "propertyOrdering",
    ]
)


def down(schema: dict[str, Any]) -> dict[str, Any]:
    return to_gemini_schema(schema, Losses())


def strict(schema: Any) -> None:
    """Return what a strict upstream refuses: unknown keywords, lists of types, enums of non-strings, bare arrays."""
    assert isinstance(schema, dict)
    assert schema.keys() <= TAKEN
    assert isinstance(schema.get("type", ""), str)
    assert all(isinstance(value, str) and value for value in schema.get("enum", ["x"]))
    assert schema.get("type") != "array" or "items" in schema or "prefixItems" in schema
    assert schema.keys() == {"$ref"} or "$ref" not in schema
    for key in ("properties", "$defs"):
        for inner in schema.get(key, {}).values():
            strict(inner)
    for key in ("anyOf", "prefixItems"):
        for inner in schema.get(key, []):
            strict(inner)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            strict(schema[key])


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (
            {"type": ["string", "null"], "enum": ["a", None, ""], "description": "d"},
            {"description": "d", "anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
        ),
        (
            {"type": ["string", "integer"], "minimum": 1},
            {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]},
        ),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"type": "integer", "const": 5}, {"description": "(always 5)", "type": "integer"}),
        ({"type": "integer", "enum": [1, 2]}, {"description": "(one of 1, 2)", "type": "integer"}),
        ({"type": "integer", "exclusiveMinimum": 5}, {"minimum": 6, "type": "integer"}),
        (
            {"type": "number", "exclusiveMaximum": 5, "description": "d"},
            {"description": "d (less than 5)", "maximum": 5, "type": "number"},
        ),
        ({"type": "number", "exclusiveMinimum": True, "minimum": 2}, {"minimum": 2, "type": "number"}),
        ({"type": "array"}, {"items": {}, "type": "array"}),
        ({"type": "array", "items": [{"type": "string"}]}, {"prefixItems": [{"type": "string"}], "type": "array"}),
        (
            {"type": "string", "minLength": 2, "pattern": "^a", "format": "uuid", "default": "ab"},
            {
                "description": "(at least 2 characters; matches ^a; format uuid; default ab)",
                "type": "string",
            },
        ),
        ({"type": "string", "format": "date-time"}, {"format": "date-time", "type": "string"}),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "string", "nullable": True}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (
            {"type": "object", "properties": {"a": True}, "required": ["a", "gone"]},
            {"properties": {"a": {}}, "required": ["a"], "type": "object"},
        ),
        ({"$schema": "x", "$comment": "y", "examples": [1], "type": "string"}, {"type": "string"}),
    ],
)
def test_keywords_are_rewritten(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    """Rewrite keywords that Google refuses; describe bounds that can't be rewritten."""
    made = down(schema)
    assert made == expected
    strict(made)


def test_references_are_kept_without_siblings() -> None:
    """Keep definitions of either name; wrap a reference that has a description."""
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/definitions/A", "description": "d"}, "b": {"$ref": "#/$defs/B"}},
        "definitions": {"A": {"type": "string", "minLength": 1}},
        "$defs": {"B": {"type": "object", "properties": {"next": {"$ref": "#/$defs/B"}}}},
    }
    made = down(schema)
    strict(made)
    assert made["properties"] == {
        "a": {"description": "d", "anyOf": [{"$ref": "#/$defs/A"}]},
        "b": {"$ref": "#/$defs/B"},
    }
    assert made["$defs"]["A"] == {"description": "(at least 1 characters)", "type": "string"}


def test_a_reference_at_the_root_is_followed() -> None:
    """Resolve parameters that are only a reference."""
    schema = {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"x": {"$ref": "#/$defs/A"}}}}}
    made = to_gemini_parameters(schema, Losses())
    assert made is not None
    assert (made["type"], made["properties"]) == ("object", {"x": {"$ref": "#/$defs/A"}})


def test_references_elsewhere_are_a_loss() -> None:
    """Report references outside of the schema as a loss."""
    losses = Losses()
    elsewhere = {"$ref": "https://example.org/other.json"}
    made = to_gemini_schema({"type": "object", "properties": {"a": elsewhere, "b": {"not": {}}}}, losses)
    strict(made)
    assert losses.words == ("dropped:schema.$ref", "dropped:schema.not")


def test_all_of_is_one_schema() -> None:
    """Merge `allOf` into one schema with all properties and required names."""
    schema = {
        "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"type": "string"}}, "required": ["b"]}],
        "required": ["a"],
        "$defs": {"A": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }
    made = down(schema)
    strict(made)
    assert made["required"] == ["a", "b"]
    assert set(made["properties"]) == {"a", "b"}


def test_all_of_one_reference_is_that_reference() -> None:
    """Keep a reference that generators wrap in `allOf` to add a description, also within definitions."""
    node = {"type": "object", "properties": {"next": {"title": "Next", "allOf": [{"$ref": "#/definitions/Node"}]}}}
    losses = Losses()
    made = to_gemini_schema(
        {"allOf": [{"$ref": "#/definitions/Node"}], "definitions": {"Node": node}}, losses, root=True
    )
    strict(made)
    assert made["properties"] == {"next": {"$ref": "#/$defs/Node"}}
    assert losses.words == ()


@pytest.mark.parametrize(
    "node",
    [
        {"allOf": [{"$ref": "#/$defs/Node"}]},
        {"allOf": [{"$ref": "#/$defs/Node"}, {"$ref": "#/$defs/Node"}]},
        {"properties": {"next": {"allOf": [{"$ref": "#/$defs/Node"}, {"minProperties": 1}]}}},
        {"allOf": [{"properties": {"next": {"allOf": [{"$ref": "#/$defs/Node"}, {"minProperties": 1}]}}}]},
    ],
)
def test_recursive_all_of_ends(node: dict[str, Any]) -> None:
    """Inline a recursive definition once, and reference it within."""
    schema = {"type": "object", "allOf": [{"$ref": "#/$defs/Node"}, {"title": "x"}], "$defs": {"Node": node}}
    made = to_gemini_parameters(schema, Losses())
    assert made is not None
    strict(made)
    assert made["title"] == "x"


@pytest.mark.parametrize("within", [False, True])
def test_definitions_do_not_multiply(within: bool) -> None:
    """Keep definitions that reference the next one twice from growing exponentially, without losing any."""

    def both(name: str) -> dict[str, Any]:
        twice = [{"$ref": f"#/$defs/{name}"}, {"$ref": f"#/$defs/{name}"}]
        if not within:
            return {"allOf": twice}
        return {"properties": {side: {"allOf": [*twice, {"type": "object"}]} for side in ("left", "right")}}

    definitions = {f"A{number}": both(f"A{number + 1}") for number in range(20)}
    definitions["A20"] = {"type": "object", "properties": {"last": {"type": "string"}}}
    losses = Losses()
    made = to_gemini_schema({"allOf": [{"$ref": "#/$defs/A0"}], "$defs": definitions}, losses, root=True)
    strict(made)
    assert len(msgspec.json.encode(made)) < 1024 * 1024
    if within:
        assert losses.words == ("dropped:schema.allOf",)
    else:
        assert made["properties"] == {"last": {"type": "string"}}
        assert losses.words == ()


def test_deep_nesting_after_inlining_is_refused() -> None:
    """Refuse a chain of definitions that is too deep after inlining, without a crash."""
    definitions: dict[str, Any] = {
        f"A{number}": {"properties": {"x": {"allOf": [{"$ref": f"#/$defs/A{number + 1}"}, {}]}}}
        for number in range(3000)
    }
    with pytest.raises(UnsupportedSchema, match="too deep"):
        to_gemini_schema({"allOf": [{"$ref": "#/$defs/A0"}, {}], "$defs": definitions}, Losses())


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": "array", "items": {}}])
def test_parameters_must_be_an_object(schema: dict[str, Any]) -> None:
    """Refuse parameters that are not an object."""
    with pytest.raises(UnsupportedSchema):
        to_gemini_parameters(schema, Losses())


def test_parameters_without_a_type_are_an_object() -> None:
    """Treat parameters without a type as an object, and empty ones as none."""
    assert to_gemini_parameters({"anyOf": [{"required": ["a"]}]}, Losses()) == {"type": "object", "anyOf": [{}]}
    assert to_gemini_parameters({}, Losses()) is None


def test_googles_own_schemas_become_json_schema() -> None:
    """Convert upper-case types, nullable, orderings and counts as strings to valid JSON Schema, at any depth."""
    schema = {
        "type": "OBJECT",
        "property_ordering": ["a"],
        "properties": {
            "type": {"type": "STRING", "nullable": True, "enum": ["x"], "format": "enum"},
            "list": {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "2"},
            "any": {"any_of": [{"type": "STRING"}], "nullable": True},
            "ref": {"ref": "#/defs/D"},
        },
        "required": ["type"],
        "defs": {"D": {"type": "BOOLEAN", "example": True}},
        "additionalProperties": False,
    }
    assert from_gemini_schema(schema) == {
        "type": "object",
        "properties": {
            "type": {"type": ["string", "null"], "enum": ["x", None]},
            "list": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "ref": {"$ref": "#/$defs/D"},
        },
        "required": ["type"],
        "$defs": {"D": {"type": "boolean"}},
        "additionalProperties": False,
    }


VALUES = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "", "object", "array", "string", "null"])
)
KEYS = st.sampled_from(
    [
        *("type", "enum", "const", "properties", "items", "prefixItems", "anyOf", "oneOf", "allOf", "required", "not"),
        *("exclusiveMinimum", "minimum", "pattern", "description", "nullable", "additionalProperties", "x", "default"),
    ]
)
SCHEMAS = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=10
)


@given(st.dictionaries(KEYS, SCHEMAS, max_size=4))
def test_any_schema_is_converted(schema: dict[str, Any]) -> None:
    """Convert any schema in both directions without a crash, with the same result each time."""
    assert down(schema) == down(schema)
    assert from_gemini_schema(schema) == from_gemini_schema(schema)
