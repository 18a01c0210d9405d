"""Decode a caller's request: the top level here, its messages in `message_decoder`.

The decoder is as strict as the vendor about types, required fields and values, and lenient about known deviations of
clients (unknown types of tools, another vendor's cache marks). Unknown top-level fields are kept in `extras`.
"""

from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.codec.options import Raw
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai.mappings import cache_mark, decode_grammar
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.message_decoder import decode_messages
from llmproxy_asgi.translators.openai_chat.options import OPTIONS
from llmproxy_asgi.translators.tool_schemas import distinct


def decode_request(inbound_request: InboundRequest) -> ir.Request:
    """Decode into the protocol-neutral request."""
    raw = inbound_request.raw
    messages = Node.of(raw, "messages")
    if messages is None:
        raise BadRequest("messages is required.", param="messages", code="missing_required_parameter")
    search = Node.of(raw, "web_search_options")
    tools = distinct(_tools(raw)) + ((_web_search(search),) if search else ())
    return ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=decode_messages(messages),
        tools=tools,
        stream=inbound_request.stream,
        include_usage=inbound_request.include_usage,
        **OPTIONS.decode(raw),
    )


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tools(raw: Raw) -> tuple[ir.Tool, ...]:
    tools = Node.of(raw, "tools")
    if tools is not None:
        return tuple(_tool(node) for node in tools.array())
    functions = Node.of(raw, "functions")
    if functions is not None:
        return tuple(_function(node) for node in functions.array())
    return ()


def _tool(node: Node) -> ir.Tool:
    kind, mark = node.required_text("type"), cache_mark(node)
    if kind == "function":
        return _function(node.get("function") or node, mark=mark)  # some clients send it flat, as in Responses
    if kind == "custom":
        custom = node.get("custom") or node
        return ir.Tool(
            name=custom.filled_text("name"),
            kind="custom",
            description=custom.optional_text("description"),
            grammar=decode_grammar(custom),
            cache_mark=mark,
        )
    name = node.optional_text("name")
    return ir.Tool(name=kind if name is None else name, kind="server", extras={PROTOCOL: dict(node.object())})


def _function(node: Node, *, mark: ir.CacheMark | None = None) -> ir.Tool:
    return ir.Tool(
        name=node.filled_text("name"),
        description=node.optional_text("description"),
        parameters=node.optional_object("parameters"),
        strict=node.optional_boolean("strict"),
        cache_mark=mark,
    )


def _web_search(node: Node) -> ir.Tool:
    """Decode the search options of models that always search as a web search tool."""
    settings: dict[str, Any] = {}
    if size := node.optional_choice("search_context_size", ("low", "medium", "high")):
        settings["search_context_size"] = size
    if place := node.get("user_location"):
        settings["user_location"] = {"type": "approximate", **(place.get("approximate") or place).object()}
    return ir.Tool(name="web_search", kind="server", settings=settings or None)
