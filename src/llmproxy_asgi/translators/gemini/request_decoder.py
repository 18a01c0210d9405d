"""Decode generateContent requests into a `Request`."""

from collections.abc import Mapping

from msgspec import Raw

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.fields import missing
from llmproxy_asgi.translators.gemini.json_schemas import from_gemini_schema
from llmproxy_asgi.translators.gemini.mappings import SERVER_TOOLS
from llmproxy_asgi.translators.gemini.message_decoder import decode_contents, decode_system
from llmproxy_asgi.translators.gemini.options import OPTIONS
from llmproxy_asgi.translators.gemini.proto import ProtoNode
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.tool_schemas import distinct


def decode_request(inbound_request: InboundRequest) -> ir.Request:
    """Decode a request.

    Raises:
        BadRequest: A field is invalid; `param` names it.
    """
    raw = inbound_request.raw
    return ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=_messages(raw),
        tools=distinct(_tools(ProtoNode.of_body(raw, "tools"))),
        stream=inbound_request.stream,
        **OPTIONS.decode(raw),
    )


def _messages(raw: Mapping[str, Raw]) -> tuple[ir.Message, ...]:
    contents = ProtoNode.of_body(raw, "contents")
    if contents is None:
        raise missing("contents")
    given = ProtoNode.of_body(raw, "systemInstruction")
    system = decode_system(given) if given else None
    return (*([system] if system else []), *decode_contents(contents))


def _tools(node: ProtoNode | None) -> tuple[ir.Tool, ...]:
    return tuple(tool for entry in node.array() for tool in _tool_entry(entry)) if node else ()


def _tool_entry(entry: ProtoNode) -> list[ir.Tool]:
    tools = [_function(function) for function in entry.optional_array("functionDeclarations")]
    for key, value in entry.rest({"functionDeclarations"}).items():
        name = SERVER_TOOLS.get(key, key)
        settings: JSONObject | None = {} if key in SERVER_TOOLS else None
        tools.append(ir.Tool(name=name, kind="server", settings=settings, extras={PROTOCOL: {key: value}}))
    return tools


_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "parametersJsonSchema"})


def _function(node: ProtoNode) -> ir.Tool:
    parameters = node.optional_object("parametersJsonSchema")
    if parameters is None and (schema := node.optional_object("parameters")) is not None:
        parameters = from_gemini_schema(schema)
    return ir.Tool(
        name=node.required_text("name"),
        description=node.optional_text("description"),
        parameters=parameters,
        extras=node.extras(PROTOCOL, _FUNCTION_FIELDS),
    )
