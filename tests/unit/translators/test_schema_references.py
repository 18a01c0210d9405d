"""References within a schema: any place of it, one form of naming it."""

import pytest

from llmproxy_asgi.translators.schema_references import with_definitions

TEXT = {"type": "string"}


def test_a_schema_that_needs_nothing_is_returned_as_it_is() -> None:
    """Definitions at the top that are named in the common form cost no copy."""
    schema = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": TEXT}}
    assert with_definitions(schema) is schema
    assert with_definitions(TEXT) is TEXT


def test_a_property_that_another_refers_to_becomes_a_definition() -> None:
    """Both places refer to it then, and it is written once."""
    schema = {"type": "object", "properties": {"a": {"type": "object"}, "b": {"$ref": "#/properties/a"}}}
    assert with_definitions(schema) == {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"type": "object"}},
    }


@pytest.mark.parametrize(
    ("schema", "reference"),
    [
        ({"definitions": {"A": TEXT}}, "#/definitions/A"),
        ({"$defs": {"a/b": TEXT}}, "#/$defs/a~1b"),
        ({"$defs": {"a~b": TEXT}}, "#/$defs/a~0b"),
        ({"$defs": {"a~1b": TEXT}}, "#/$defs/a~01b"),
        ({"$defs": {"a%b": TEXT}}, "#/$defs/a%25b"),
        ({"$defs": {"a b": TEXT}}, "#/$defs/a%20b"),
        ({"components": {"schemas": {"A": TEXT}}}, "#/components/schemas/A"),
        ({"$defs": {"A": {"properties": {"x": TEXT}}}}, "#/$defs/A/properties/x"),
        ({"anyOf": [{}, TEXT]}, "#/anyOf/1"),
        ({"$id": "https://a.example/s", "$defs": {"A": TEXT}}, "https://a.example/s#/$defs/A"),
    ],
)
def test_every_spelling_of_a_pointer_is_read(schema: dict[str, object], reference: str) -> None:
    """Escapes of pointers and of addresses, lists, places that hold no schemas, the schema's own address."""
    made = with_definitions({**schema, "properties": {"p": {"$ref": reference}}})
    kept = made["properties"]["p"]["$ref"]
    assert kept.startswith("#/$defs/")
    assert made["$defs"][kept.removeprefix("#/$defs/")] == TEXT


def test_a_schema_may_refer_to_itself() -> None:
    """A circle through the root is one through a definition, and no name is taken twice."""
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}, "$defs": {"root": TEXT}}
    assert with_definitions(schema) == {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/root.2"}},
        "$defs": {"root": TEXT, "root.2": {"type": "object", "properties": {"next": {"$ref": "#/$defs/root.2"}}}},
    }


def test_what_is_elsewhere_stays_as_it_is() -> None:
    """References that lead out of the schema or nowhere are left, and so are data and properties of that name."""
    schema = {
        "properties": {
            "$ref": TEXT,
            "a": {"$ref": "https://a.example/other"},
            "b": {"$ref": "#/properties/missing"},
            "c": {"const": {"$ref": "#/properties/a"}},
            "d": {"$ref": "#/properties/e/enum/0"},
            "e": {"enum": ["x"]},
        }
    }
    assert with_definitions(schema) is schema


def test_places_within_places_are_written_once() -> None:
    """A chain of pointers, each within the last, does not multiply the schema."""
    inner: dict[str, object] = dict(TEXT)
    pointer, references = "#", []
    for _ in range(30):
        inner = {"type": "object", "properties": {"n": inner}}
    for _ in range(30):
        pointer += "/properties/n"
        references.append({"$ref": pointer})
    made = with_definitions({**inner, "anyOf": references})
    assert len(made["$defs"]) == 30
    assert all(set(definition) <= {"type", "properties"} for definition in made["$defs"].values())
    assert len(str(made)) < 10_000
