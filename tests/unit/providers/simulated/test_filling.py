"""Values made for JSON schemas fit them, as pydantic judges it, and no schema is too much."""

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, Field, TypeAdapter

from llmproxy_asgi.providers.simulated.filling import fill


class Color(Enum):
    RED = "red"
    GREEN = "green"


class Point(BaseModel):
    x: int
    y: Annotated[float, Field(gt=0, lt=1)]


class Node(BaseModel):
    value: str
    next: "Node | None" = None
    children: "list[Node]" = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: Annotated[list[str], Field(min_length=2, max_length=4)]


class Everything(BaseModel):
    city: str
    count: int
    ratio: float
    flag: bool
    color: Color
    when: datetime
    day: date
    id: UUID
    site: AnyUrl
    host: IPv4Address
    pet: Cat | Dog
    points: list[Point]
    pair: tuple[int, str]
    table: dict[str, int]
    maybe: int | None
    short: Annotated[str, Field(max_length=3)]
    long: Annotated[str, Field(min_length=50)]
    code: Annotated[str, Field(pattern=r"^[A-Z]{3}-\d{4}$")]
    step: Annotated[int, Field(multiple_of=7, gt=10)]
    low: Annotated[int, Field(lt=-3)]
    narrow: Annotated[float, Field(gt=2.5, lt=2.75)]
    unique: set[int]


TYPES: list[Any] = [
    str,
    int,
    float,
    bool,
    type(None),
    Everything,
    Node,
    Point,
    list[Node],
    dict[str, Any],
    Cat | Dog,
    tuple[int, float, str],
    Annotated[int, Field(gt=4, lt=6)],
    Annotated[float, Field(multiple_of=0.5, ge=1.2)],
    Annotated[int, Field(le=-5)],
    Annotated[list[Point], Field(min_length=3)],
    Annotated[set[str], Field(min_length=3)],
    Annotated[Decimal, Field(ge=1)],
    Literal["only"],
]


@pytest.mark.parametrize("wanted", TYPES, ids=str)
def test_what_pydantic_describes_is_filled_with_what_pydantic_takes(wanted: Any) -> None:
    """A value for a type's schema is a value of that type."""
    adapter = TypeAdapter(wanted)
    value = fill(adapter.json_schema())
    adapter.validate_json(TypeAdapter(Any).dump_json(value))
    assert value == fill(adapter.json_schema()), "the same schema gives the same value"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": 5}, 5),
        ({"enum": ["b", "a"]}, "b"),
        ({"type": "object", "properties": {}, "required": []}, {}),
        ({}, "some value"),
        ({"type": ["null", "integer"]}, 1),
        ({"type": "INTEGER"}, 1),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, 4),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "number", "exclusiveMaximum": 1}, 0),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"type": "array", "items": False}, []),
        ({"type": "array", "maxItems": 0, "items": {}}, []),
        ({"type": "array", "uniqueItems": True, "minItems": 3, "items": {"type": "integer"}}, [1, 2, 3]),
        (
            {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "null"}}}]},
            {"a": None},
        ),
        ({"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}}, {"a": 1}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": "found"}}}, "found"),
        ({"$ref": "#/$defs/missing"}, "some value"),
        ({"type": "string", "pattern": "(?=x)[", "minLength": 12}, "some value.."),
    ],
)
def test_single_schemas(schema: dict[str, Any], expected: Any) -> None:
    """Each keyword has its say, and what cannot be read is passed over."""
    assert fill(schema) == expected


RECURSIVE: list[dict[str, Any]] = [
    {"$ref": "#"},
    {"type": "object", "required": ["self"], "properties": {"self": {"$ref": "#"}}},
    {"type": "object", "required": list("abcdefgh"), "additionalProperties": {"$ref": "#"}},
    {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefghij"}},
    {"type": "array", "minItems": 10**9, "items": {"$ref": "#"}},
    {"type": "string", "minLength": 10**9},
    {"type": "string", "pattern": "(((a{999}){999}){999}){999}"},
    {"type": "string", "pattern": "(" * 10_000},
    {"type": "number", "minimum": 1e299, "multipleOf": 1e-300},
    {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
    {"anyOf": [{"$ref": "#"}]},
    {"oneOf": [{"allOf": [{"$ref": "#"}, {"$ref": "#"}]}]},
]


@pytest.mark.parametrize("schema", RECURSIVE, ids=lambda schema: str(schema)[:50])
def test_no_schema_is_too_much(schema: dict[str, Any]) -> None:
    """What is made stays small whatever a schema asks for."""
    assert len(str(fill(schema))) < 200_000


_KEYS = st.sampled_from(
    ["type", "enum", "const", "properties", "required", "items", "prefixItems", "anyOf", "oneOf", "allOf", "$ref",
     "format", "pattern", "minimum", "maximum", "exclusiveMinimum", "multipleOf", "minLength", "maxLength", "minItems",
     "maxItems", "uniqueItems", "additionalProperties"]
)  # fmt: skip
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["object", "array", "string", "integer", "number", "null", "#", "#/properties/a", "date-time"])
)


@given(st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4)))
def test_nonsense_is_survived(schema: Any) -> None:
    """A schema that is none gives some value, and never an exception."""
    fill(schema if isinstance(schema, dict) else {"properties": {"a": schema}})
