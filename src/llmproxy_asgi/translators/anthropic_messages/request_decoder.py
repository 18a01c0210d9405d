"""Decode Messages requests into a `Request`."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages import client_tools, server_tools
from llmproxy_asgi.translators.anthropic_messages.message_decoder import cache_mark, decode_messages, decode_system
from llmproxy_asgi.translators.anthropic_messages.options import OPTIONS
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.tool_schemas import distinct


def decode_request(inbound_request: InboundRequest) -> ir.Request:
    """Decode a request.

    Raises:
        BadRequest: A field is invalid; `param` names it.
        Unsupported: The request only warms Anthropic's cache (`max_tokens: 0`).
    """
    raw = inbound_request.raw
    options = OPTIONS.decode(raw)
    _check_limit(options.get("max_output_tokens"), inbound_request)
    return ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=_messages(raw),
        tools=distinct(_tools(Node.of(raw, "tools"))),
        stream=inbound_request.stream,
        version=inbound_request.version,
        betas=inbound_request.betas,
        **options,
    )


def _messages(raw: Mapping[str, Raw]) -> tuple[ir.Message, ...]:
    messages = Node.of(raw, "messages")
    if messages is None:
        raise missing("messages")
    system = Node.of(raw, "system")
    system_message = decode_system(system) if system else None
    rest = decode_messages(messages)
    return (*([system_message] if system_message else []), *rest)


def _check_limit(limit: int | None, inbound_request: InboundRequest) -> None:
    if limit is None and inbound_request.path.get("operation") != "count_tokens":
        raise missing("max_tokens")
    if limit == 0:
        raise refusals.empty_response(inbound_request.model)


def _tools(node: Node | None) -> tuple[ir.Tool, ...]:
    return tuple(_tool(tool) for tool in node.array()) if node else ()


_TOOL_FIELDS = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control", "defer_loading"})


def _tool(node: Node) -> ir.Tool:
    kind, mark = node.optional_text("type"), cache_mark(node)
    if kind in {None, "custom"} and (node.get("name") or node.get("input_schema")):
        return ir.Tool(
            name=node.required_text("name"),
            description=node.optional_text("description"),
            parameters=node.required_object("input_schema"),
            strict=node.optional_boolean("strict"),
            deferred=node.optional_boolean("defer_loading") or False,
            cache_mark=mark,
            extras=node.extras(PROTOCOL, _TOOL_FIELDS),
        )
    native = node.rest({"cache_control"})
    tool = client_tools.decode_tool(native) or server_tools.decode_tool(native)
    return msgspec.structs.replace(tool, cache_mark=mark)
