"""Schemas in the form that a vendor's constrained decoding demands."""

from typing import Any, Literal

import pytest
from anthropic import transform_schema
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field

from llmproxy_asgi.translators.strict_schemas import ANTHROPIC, OPENAI, Demands, NotStrict, strict_form

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
WHOLE = {"type": "integer"}


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


class Step(BaseModel):
    """A step."""

    say: str
    kind: Literal["a", "b"] = "a"
    next: "Step | None" = None


class Flat(BaseModel):
    name: str = Field(description="Its name.")
    count: int | None
    tags: list[str]


@pytest.mark.parametrize("model", [Step, Flat])
def test_openai_gets_what_its_own_sdk_would_send(model: type[BaseModel]) -> None:
    """Models in pydantic come out as `to_strict_json_schema` makes them, but for a default, which moves into words."""
    sdk = _without_defaults(to_strict_json_schema(model))
    ours = strict_form(model.model_json_schema(), OPENAI)
    assert _shape(ours.schema) == _shape(sdk)
    assert ours.described == ()


def test_anthropic_gets_what_its_own_sdk_would_send() -> None:
    """A model in pydantic means the same as what `transform_schema` makes of it."""
    sdk, ours = transform_schema(Flat), strict_form(Flat.model_json_schema(), ANTHROPIC)
    assert _shape(ours.schema) == _shape(sdk)


def _without_defaults(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_defaults(value) for key, value in schema.items() if key != "default"}
    return [_without_defaults(each) for each in schema] if isinstance(schema, list) else schema


def _shape(schema: Any) -> Any:
    """A schema without its words."""
    if isinstance(schema, dict):
        return {key: _shape(value) for key, value in schema.items() if key not in {"title", "description"}}
    return [_shape(each) for each in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize(
    ("schema", "demands", "made", "described"),
    [
        ({**WHOLE, "minimum": 1}, OPENAI, {**WHOLE, "minimum": 1}, ()),
        ({**WHOLE, "minimum": 1}, ANTHROPIC, {**WHOLE, "description": "{minimum: 1}"}, ("minimum",)),
        ({**TEXT, "format": "uri"}, ANTHROPIC, {**TEXT, "format": "uri"}, ()),
        ({**TEXT, "format": "uri"}, OPENAI, {**TEXT, "description": "{format: uri}"}, ("format",)),
        ({**TEXT, "format": "binary"}, ANTHROPIC, {**TEXT, "description": "{format: binary}"}, ("format",)),
        ({**TEXT, "minLength": 2}, OPENAI, {**TEXT, "description": "{minLength: 2}"}, ("minLength",)),
        ({**TEXT, "not": {"const": "a"}}, OPENAI, {**TEXT, "description": '{not: {"const":"a"}}'}, ("not",)),
        ({"oneOf": [TEXT, {"type": "null"}]}, OPENAI, {"anyOf": [TEXT, {"type": "null"}]}, ()),
        ({"type": ["string", "null"]}, OPENAI, {"type": ["string", "null"]}, ()),
        ({"type": ["string", "null"]}, ANTHROPIC, {"anyOf": [TEXT, {"type": "null"}]}, ()),
        ({"enum": ["a", None]}, ANTHROPIC, {"enum": ["a", None]}, ()),
        ({"enum": ["a", "b"]}, OPENAI, {"type": "string", "enum": ["a", "b"]}, ()),
        ({"const": 1}, OPENAI, {"type": "integer", "const": 1}, ()),
        ({**TEXT, "description": "d", "default": "x"}, OPENAI, {**TEXT, "description": "d\n\n{default: x}"}, ()),
        ({**TEXTS, "minItems": 1}, ANTHROPIC, {**TEXTS, "minItems": 1}, ()),
        ({**TEXTS, "minItems": 2}, ANTHROPIC, {**TEXTS, "description": "{minItems: 2}"}, ("minItems",)),
        ({"allOf": [{"type": "string"}, {"pattern": "a"}]}, OPENAI, {**TEXT, "pattern": "a"}, ()),
    ],
)
def test_each_keyword_has_its_form(
    schema: dict[str, Any], demands: Demands, made: dict[str, Any], described: tuple[str, ...]
) -> None:
    """Enforced keywords stay; others move into the description and are named."""
    ours = strict_form(closed(p=schema), demands)
    assert (ours.schema["properties"]["p"], ours.described) == (made, described)


@pytest.mark.parametrize("demands", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": TEXT},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": TEXT}, "patternProperties": {"^x": TEXT}},
        {},
        True,
        {"description": "anything"},
        {"type": "array"},
        {"type": "array", "items": {}},
        {"type": "array", "prefixItems": [TEXT], "items": TEXT},
        {"enum": [{"a": 1}]},
        {"$ref": "https://a.example"},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "object", "properties": {"a": TEXT}, "anyOf": [{"required": ["a"]}]},
        {"type": "OBJECT", "properties": {"a": TEXT}},
    ],
)
def test_what_would_mean_something_else_is_not_strict(schema: Any, demands: Demands) -> None:
    """Free keys, values of any kind, contradictions and what leads nowhere are found, not bent."""
    with pytest.raises(NotStrict):
        strict_form(closed(p=schema), demands)


def test_optional_properties() -> None:
    """They stay optional for Anthropic; OpenAI requires all, which only those that may be null or default can bear."""
    optional = {"type": "object", "properties": {"a": TEXT}}
    assert strict_form(optional, ANTHROPIC).schema == {**optional, "additionalProperties": False}
    with pytest.raises(NotStrict, match="'a' is optional"):
        strict_form(optional, OPENAI)
    nullable = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}
    assert strict_form(nullable, OPENAI).schema["required"] == ["a"]


def test_references_that_say_more() -> None:
    """Words beside a reference stand on a choice of one; a root that only refers is written out."""
    definitions = {"A": {"type": "string", "title": "A"}}
    made = strict_form({**closed(p={"$ref": "#/$defs/A", "description": "d"}), "$defs": definitions}, OPENAI).schema
    assert made["properties"]["p"] == {"anyOf": [{"$ref": "#/$defs/A"}], "description": "d"}
    assert made["$defs"] == {"A": {"type": "string", "title": "A"}}
    assert strict_form({"$ref": "#/$defs/R", "$defs": {"R": closed(a=TEXT)}}, OPENAI).schema == closed(a=TEXT)


def test_circles() -> None:
    """OpenAI takes definitions that refer to themselves; Anthropic takes none."""
    schema = closed(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]})
    made = strict_form(schema, OPENAI).schema
    assert made["properties"]["next"]["anyOf"][0] == {"$ref": "#/$defs/root"}
    assert made["$defs"]["root"]["additionalProperties"] is False
    with pytest.raises(NotStrict, match="refers to itself"):
        strict_form(schema, ANTHROPIC)


def test_a_root_that_is_no_object() -> None:
    """OpenAI demands an object at the root, Anthropic does not."""
    schema = {"type": "array", "items": TEXT}
    assert strict_form(schema, ANTHROPIC).schema == schema
    with pytest.raises(NotStrict, match="root"):
        strict_form(schema, OPENAI)


def test_an_object_that_says_it_is_open_is_closed_and_named() -> None:
    """Closing an object loses only its schema of further properties."""
    made = strict_form({**closed(a=TEXT), "additionalProperties": True}, OPENAI)
    assert (made.schema, made.described) == (closed(a=TEXT), ("additionalProperties",))


def test_very_deep_schemas_are_refused() -> None:
    """Depth ends in a finding, never in an overflow."""
    schema: dict[str, Any] = TEXT
    for _ in range(100_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(NotStrict, match="deep"):
        strict_form(closed(p=schema), OPENAI)


def test_conjunctions_that_double_at_each_step_end() -> None:
    """A few lines that would unfold to gigabytes do not."""
    definitions: dict[str, Any] = {"D0": {"type": "object", "properties": {"x" * 1000: TEXT}}}
    for n in range(1, 40):
        definitions[f"D{n}"] = {"allOf": [{"$ref": f"#/$defs/D{n - 1}"}, {"$ref": f"#/$defs/D{n - 1}"}]}
    doubling = {"allOf": [{"$ref": "#/$defs/D39"}, {"title": "t", "minProperties": 1}]}
    with pytest.raises(NotStrict, match="too large"):
        strict_form({**closed(p=doubling), "$defs": definitions}, OPENAI)
