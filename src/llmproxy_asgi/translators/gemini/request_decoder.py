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
    return tuple(tool for entry in node.entries() for tool in _tool_entry(entry)) if node else ()


def _tool_entry(entry: ProtoNode) -> list[ir.Tool]:
    tools: list[ir.Tool] = []
    declared = entry.get("functionDeclarations")
    if declared:
        tools += [_function(function) for function in declared.entries()]
    for key, value in entry.rest("functionDeclarations").items():
        name = SERVER_TOOLS.get(key, key)
        settings: JSONObject | None = {} if key in SERVER_TOOLS else None
        tools.append(ir.Tool(name=name, kind="server", settings=settings, extras={PROTOCOL: {key: value}}))
    return tools


def _function(node: ProtoNode) -> ir.Tool:
    description, gemini_schema, schema = (
        node.get(key) for key in ("description", "parameters", "parametersJsonSchema")
    )
    parameters = None
    if schema:
        parameters = schema.object()
    elif gemini_schema:
        parameters = from_gemini_schema(gemini_schema.object())
    return ir.Tool(
        name=node.need("name").text(),
        description=description.text() if description else None,
        parameters=parameters,
        extras=node.extras("name", "description", "parameters", "parametersJsonSchema"),
    )
