"""A tool's parameters as every vendor takes them: an object at the root, with its properties named.

OpenAI refuses a root without `properties`, and OpenAI and Anthropic refuse one that is a choice (`anyOf`, `oneOf`), a
conjunction (`allOf`) or a reference. Servers of the Model Context Protocol send all of these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.schema_references import definition_name, with_definitions

_CHOICES = ("anyOf", "oneOf")
_REFUSED = frozenset({"$ref", "allOf", "enum", "not", *_CHOICES})
"""What may not stand at the root of a tool's parameters: OpenAI's and Anthropic's error messages."""
_MOST_STEPS = 64


def distinct(tools: Sequence[ir.Tool]) -> tuple[ir.Tool, ...]:
    """Return the tools, each once: the same declaration given twice is one.

    Raises:
        BadRequest: Two different tools share a name.
    """
    if len(tools) < 2:
        return tuple(tools)
    known: dict[tuple[str | None, str], ir.Tool] = {}
    kept: list[ir.Tool] = []
    for tool in tools:
        if tool.kind == "server":
            if tool not in kept:
                kept.append(tool)
            continue
        before = known.setdefault((tool.namespace, tool.name), tool)
        if before is tool:
            kept.append(tool)
        elif before != tool:
            shown = tool.name[:100]
            raise BadRequest(
                f"Two different tools are named {shown!r} (tools): each name may be declared once.",
                param="tools",
                code="invalid_value",
            )
    return tuple(kept)


def refuse_unseen(tool: ir.Tool, model: str, can: Capabilities) -> None:
    """Refuse a tool whose results are images for a model that takes none.

    Raises:
        Unsupported: Names the tool.
    """
    if tool.shows_images and not can.images:
        raise refusals.image_results(model, tool)


def object_root(tool: ir.Tool, losses: Losses, *, plain: bool = True) -> JSONObject:
    """Return the parameters with `type` and `properties` at the root; valid ones are returned unchanged.

    Args:
        tool: Whose.
        losses: Where to note what a root of one object cannot say.
        plain: Whether the root may hold no choice, conjunction or reference.

    Raises:
        Unsupported: They describe no object.
    """
    schema = tool.parameters
    if not schema:
        return {"type": "object", "properties": {}}
    is_object = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if is_object and schema.get("required", ()) is not None:
        if not plain or _REFUSED.isdisjoint(schema):
            return schema
    elif not plain:
        return _with_type(tool, schema)
    if not _REFUSED.isdisjoint(schema):
        try:
            schema = _Root(tool, losses).flattened(schema)
        except RecursionError:
            raise _no_object(tool, "nested too deep") from None
    return _with_type(tool, schema)


def _with_type(tool: ir.Tool, schema: JSONObject) -> JSONObject:
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise _no_object(tool, f"of type {str(kind)[:40]!r}")
    made: JSONObject = {key: value for key, value in schema.items() if value is not None or key == "default"}
    made["type"] = "object"
    if not isinstance(schema.get("properties"), dict):
        made["properties"] = {}
    return made


def _no_object(tool: ir.Tool, what: str) -> Unsupported:
    return refusals.refusal(f"The parameters of the tool {tool.name[:100]!r} are {what}", "tools", "send an object")


class _Root:
    """Makes one object of a root that is several."""

    def __init__(self, tool: ir.Tool, losses: Losses) -> None:
        self._tool = tool
        self._losses = losses
        self._definitions: Mapping[str, Any] = {}

    def flattened(self, schema: JSONObject) -> JSONObject:
        schema = with_definitions(schema)
        definitions = schema.get("$defs")
        self._definitions = definitions if isinstance(definitions, dict) else {}
        made = self._one(schema, _MOST_STEPS)
        for key in ("enum", "not"):
            if made.pop(key, None) is not None:
                self._losses.add(f"dropped:schema.{key}")
        return made

    def _one(self, schema: JSONObject, steps: int) -> JSONObject:
        """Return a schema with its root's reference, conjunction and choice merged into it."""
        if steps < 1:
            raise _no_object(self._tool, "a reference to themselves")
        made = {key: value for key, value in schema.items() if key not in {"$ref", "allOf", *_CHOICES}}
        name = definition_name(schema.get("$ref"))
        if name is not None:
            made = self._both(self._object(self._definitions.get(name), steps), made)
        elif "$ref" in schema:
            self._losses.add("dropped:schema.$ref")
        for entry in _list(schema.get("allOf")):
            made = self._both(made, self._object(entry, steps))
        for key in _CHOICES:
            forms = [self._object(entry, steps) for entry in _list(schema.get(key))]
            if forms:
                self._losses.add(f"downgraded:schema.{key}")
                made = _either(made, forms)
        return made

    def _object(self, entry: Any, steps: int) -> JSONObject:
        found = self._one(entry, steps - 1) if isinstance(entry, dict) else {}
        if found:
            _with_type(self._tool, found)  # refuses what is none
        return found

    def _both(self, first: JSONObject, second: JSONObject) -> JSONObject:
        """Return the schema of values valid against both; the second wins on other keywords than properties."""
        made = {**first, **second}
        if "properties" in first and "properties" in second:
            made["properties"] = {**_properties(first), **_properties(second)}
        required = [*_required(first), *_required(second)]
        if required:
            made["required"] = list(dict.fromkeys(required))
        return made


def _either(base: JSONObject, forms: Sequence[JSONObject]) -> JSONObject:
    """Return one object schema that accepts every variant; its description lists which members belong together."""
    made = dict(base)
    offered: dict[str, list[Any]] = {name: [inner] for name, inner in _properties(base).items()}
    for form in forms:
        for name, inner in _properties(form).items():
            known = offered.setdefault(name, [])
            if inner not in known:
                known.append(inner)
    made["properties"] = {name: each[0] if len(each) == 1 else {"anyOf": each} for name, each in offered.items()}
    shared = [name for name in _required(forms[0]) if all(name in _required(form) for form in forms)]
    required = list(dict.fromkeys([*_required(base), *shared]))
    if required:
        made["required"] = required
    if all(form.get("additionalProperties") is False for form in forms):
        made["additionalProperties"] = False
    sets = [", ".join(_required(form) or _properties(form)) for form in forms]
    words = f"Give one of these sets of properties: {'; '.join(each for each in sets if each)}."
    told = base.get("description")
    made["description"] = f"{told}\n{words}" if isinstance(told, str) and told else words
    return made


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _required(schema: Mapping[str, Any]) -> list[str]:
    return [name for name in _list(schema.get("required")) if isinstance(name, str)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
