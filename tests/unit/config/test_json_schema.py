"""The JSON Schema: whole, true to the classes, and open to what interpolation allows."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmproxy_asgi import Config
from llmproxy_asgi.config.json_schema import DIALECT, schema
from llmproxy_asgi.providers.registry import known_types, provider_class


@pytest.fixture(scope="module", name="made")
def _made() -> dict[str, Any]:
    return schema()


def nodes(node: object) -> Iterator[dict[str, Any]]:
    """Every object of a JSON text."""
    if isinstance(node, dict):
        yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(below)


def resolve(made: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: dict[str, Any] = made["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return found


def test_it_is_json_and_names_its_dialect(made: dict[str, Any]) -> None:
    """The schema can be written as JSON and says which version of JSON Schema it is."""
    assert json.loads(json.dumps(made)) == made
    assert made["$schema"] == DIALECT


def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    """No reference dangles, and no definition stands unused."""
    used = {node["$ref"] for node in nodes(made) if isinstance(node.get("$ref"), str)}
    assert used == {f"#/$defs/{name}" for name in made["$defs"]}


def test_every_field_is_there(made: dict[str, Any]) -> None:
    """Each field of the configuration and of each provider type is a property, and nothing else is allowed."""
    assert set(made["properties"]) == set(Config.model_fields)
    assert made["additionalProperties"] is False
    for name in known_types():
        block = made["$defs"][f"provider-{name}"]
        assert set(block["properties"]) == {*provider_class(name).Config.model_fields, "api_key_env"}
        assert block["properties"]["type"] == {"const": name}
        assert block["additionalProperties"] is False


def test_blocks_by_type(made: dict[str, Any]) -> None:
    """A provider's block is one of the known types; under a type's own name the type may be left out."""
    providers = made["properties"]["providers"]
    assert set(providers["properties"]) == set(known_types())
    anything = resolve(made, providers["additionalProperties"])
    assert [each["$ref"] for each in anything["oneOf"]] == [f"#/$defs/provider-{name}" for name in known_types()]
    assert anything["required"] == ["type"]
    assert providers["properties"]["openai"]["else"]["anyOf"][0] == {"$ref": "#/$defs/provider-openai"}


def test_keys_are_described(made: dict[str, Any]) -> None:
    """What is not plain from its name has a description for the editor to show."""
    for name in ("keepalive", "default_provider", "access", "limits"):
        field = made["properties"][name]
        assert field.get("description") or resolve(made, field)["description"]
    assert made["$defs"]["provider-openai"]["properties"]["base_url"]["description"]


def test_numbers_and_booleans_may_be_variables(made: dict[str, Any]) -> None:
    """Where a number or boolean is wanted, a text with `${NAME}` is allowed, and other text is not."""
    priority = made["$defs"]["provider-openai"]["properties"]["priority"]
    assert priority["anyOf"] == [{"type": "integer"}, {"type": "string", "pattern": r"\$\{"}]
    assert priority["default"] == 0


def test_it_holds_no_pydantic_name_of_a_secret(made: dict[str, Any]) -> None:
    """Keys are text that editors should not show."""
    assert made["$defs"]["KeyEntry"]["properties"]["key"]["format"] == "password"
