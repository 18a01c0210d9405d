"""The configuration's JSON Schema, for completion, descriptions and validation in editors.

It is generated from the classes that validate, so it cannot drift from them. It covers less than they do: rules across
several settings (a target's provider, a missing key) are checked by `llmproxy check` only.
"""

from collections.abc import Iterable
from typing import Any

from llmproxy_asgi.config.schema import Config
from llmproxy_asgi.providers.base import ProviderConfig
from llmproxy_asgi.providers.registry import BUILT_IN, provider_class

DIALECT = "https://json-schema.org/draft/2020-12/schema"

JSONObject = dict[str, Any]

_REFERENCE = "#/$defs/{model}"
_TEXT_FROM_ENVIRONMENT = {"type": "string", "pattern": r"\$\{"}
_NOT_TEXT = frozenset({"integer", "number", "boolean"})
_KEY_FROM_ENVIRONMENT = {
    "type": "string",
    "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
    "description": "The environment variable that holds api_key.",
}


def schema(types: Iterable[str] = ()) -> JSONObject:
    """Return the schema of a configuration.

    Args:
        types: Provider types to describe in addition to the built-in ones.
    """
    document = Config.model_json_schema(ref_template=_REFERENCE)
    definitions: JSONObject = document.pop("$defs")
    names = sorted({*BUILT_IN, *types})
    for name in names:
        definitions[f"provider-{name}"] = _block(name, definitions)
    definitions["provider"] = _any_block(names)
    document["properties"]["providers"] = _providers(names, document["properties"]["providers"])
    definitions.pop(ProviderConfig.__name__, None)
    return {
        "$schema": DIALECT,
        "title": "llmproxy-asgi configuration",
        "description": "What `llmproxy serve --config` and `LLMProxy(...)` read.",
        **{key: _lenient(value) for key, value in document.items() if key not in ("title", "description")},
        "$defs": {name: _lenient(definition) for name, definition in sorted(definitions.items())},
    }


def _block(name: str, definitions: JSONObject) -> JSONObject:
    """Return the schema of one provider type's block; add the classes that it refers to to the definitions."""
    cls = provider_class(name)
    block = cls.Config.model_json_schema(ref_template=_REFERENCE)
    definitions.update(block.pop("$defs", {}))
    properties = {**block["properties"], "type": {"const": name}, "api_key_env": _KEY_FROM_ENVIRONMENT}
    required = [field for field in block.get("required", ()) if field != "type"]
    return {
        "title": f"provider of type {name}",
        "description": (cls.__doc__ or name).strip().splitlines()[0],
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _any_block(names: Iterable[str]) -> JSONObject:
    """Return the schema of a block that names its type."""
    return {
        "type": "object",
        "required": ["type"],
        "oneOf": [_reference(name) for name in names],
    }


def _providers(names: Iterable[str], field: JSONObject) -> JSONObject:
    """Return the schema of the blocks by name; under the name of a type the type may be left out."""
    return {
        "type": "object",
        "description": field["description"],
        "properties": {
            name: {
                "if": {"type": "object", "required": ["type"]},
                "then": {"$ref": "#/$defs/provider"},
                "else": {"anyOf": [_reference(name), {"type": "null"}]},
            }
            for name in names
        },
        "additionalProperties": {"$ref": "#/$defs/provider"},
    }


def _reference(name: str) -> JSONObject:
    return {"$ref": f"#/$defs/provider-{name}"}


def _lenient(node: Any) -> Any:
    """Return a schema in which numbers and booleans may also be texts that contain `${NAME}`."""
    if isinstance(node, list):
        return [_lenient(item) for item in node]
    if not isinstance(node, dict):
        return node
    if {"type": "string"} in node.get("anyOf", ()):
        return node  # any text is allowed already
    copy = {key: value if key in ("default", "const", "enum") else _lenient(value) for key, value in node.items()}
    kind = copy.get("type")  # in `properties`, this may be a property named "type"
    if not isinstance(kind, str) or kind not in _NOT_TEXT:
        return copy
    about = {key: copy.pop(key) for key in ("title", "description", "default") if key in copy}
    return {**about, "anyOf": [copy, _TEXT_FROM_ENVIRONMENT]}
