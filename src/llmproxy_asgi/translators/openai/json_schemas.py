"""Schemas as OpenAI's two protocols take them: the parameters of functions, and what an answer must look like.

Where a request came in one of these protocols its strict schemas were written for this vendor, who judges them itself.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.openai.mappings import qualifies_as_strict
from llmproxy_asgi.translators.schema_references import definition_name, with_definitions
from llmproxy_asgi.translators.strict_schemas import OPENAI, NotStrict, strict_form
from llmproxy_asgi.translators.tool_schemas import object_root, refuse_unseen

_OWN = frozenset({"openai-chat", "openai-responses", "openai-completions"})
_MOST_STEPS = 64


def function_parameters(
    tool: ir.Tool, request: ir.Request, can: Capabilities, losses: Losses
) -> tuple[JSONObject, bool | None]:
    """Encode a function's parameters, and whether they are strict (None if the caller did not specify it).

    Raises:
        Unsupported: The parameters are not an object, or the model can't use the tool's results.
    """
    refuse_unseen(tool, request.model, can)
    parameters = object_root(tool, losses, plain=can.developer_role)
    if not tool.strict:
        return parameters, tool.strict
    if not can.strict_tools:
        losses.add("dropped:strict")
        return parameters, None
    if request.protocol in _OWN:
        return parameters, True
    try:
        form = strict_form(parameters, OPENAI)
    except NotStrict:
        losses.add("dropped:strict")
        return parameters, False
    losses.add(*(f"dropped:schema.{key}" for key in form.described))
    return form.schema, True


class AnswerSchema(msgspec.Struct, frozen=True):
    """The schema of a response, and whether it is strict (None if the caller did not specify it)."""

    schema: JSONObject
    strict: bool | None


def answer_schema(
    output: ir.OutputFormat, request: ir.Request, can: Capabilities, losses: Losses
) -> AnswerSchema | None:
    """Encode the output schema; return None if the prompt must contain it instead."""
    schema = output.schema or {}
    if not can.structured_output or (request.tools and not can.format_with_tools):
        return None
    if request.protocol in _OWN:
        return AnswerSchema(schema, output.strict)
    own = can.developer_role
    if output.strict or (output.strict is None and qualifies_as_strict(schema)):
        try:
            form = strict_form(schema, OPENAI)
        except NotStrict:
            pass
        else:
            if output.strict or not form.described:
                losses.add(*(f"dropped:response_format.{key}" for key in form.described))
                return AnswerSchema(form.schema, strict=True)
    if output.strict:
        losses.add("dropped:strict")
    if not own:  # compatible servers accept any root
        return AnswerSchema(schema, strict=False)
    return _unenforced(schema, output, losses)


def _unenforced(schema: JSONObject, output: ir.OutputFormat, losses: Losses) -> AnswerSchema | None:
    """Encode a schema that the vendor does not enforce, as the caller's vendor would have."""
    rooted = _rooted(schema)
    if rooted is None:
        return None
    if output.strict is None:
        losses.add("dropped:strict")
    return AnswerSchema(rooted, strict=False)


def _rooted(schema: JSONObject) -> JSONObject | None:
    """Return the schema with an object at its root, which the vendor requires; None if it has none."""
    if isinstance(schema.get("$ref"), str):
        try:
            schema = with_definitions(schema)
        except RecursionError:
            return None
    found: Any = schema
    for _ in range(_MOST_STEPS):
        name = definition_name(found.get("$ref"))
        definitions = schema.get("$defs")
        if name is None or not isinstance(definitions, Mapping) or not isinstance(definitions.get(name), dict):
            break
        beside = {key: value for key, value in found.items() if key != "$ref"}
        found = {**definitions[name], **beside}
    if any(key in found for key in ("$ref", "anyOf", "oneOf", "allOf")):
        return None
    if found.get("type") == "object":
        return dict(found) if found is not schema else schema
    return {"type": "object", **found} if "type" not in found and isinstance(found.get("properties"), dict) else None
