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
from llmproxy_asgi.translators.openai.mappings import cache_mark
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
    kind = node.need("type").text()
    if kind == "function":
        # Some clients send flat functions, as in Responses.
        return _function(node.get("function") or node, mark=cache_mark(node))
    if kind == "custom":
        return _custom(node.get("custom") or node, mark=cache_mark(node))
    name = node.get("name")
    return ir.Tool(
        name=name.text() if name else kind, kind="server", settings=None, extras={PROTOCOL: dict(node.object())}
    )


def _function(node: Node, *, mark: ir.CacheMark | None = None) -> ir.Tool:
    description, parameters, strict = node.get("description"), node.get("parameters"), node.get("strict")
    return ir.Tool(
        name=_tool_name(node),
        description=description.text() if description else None,
        parameters=parameters.object() if parameters else None,
        strict=strict.boolean() if strict else None,
        cache_mark=mark,
    )


def _custom(node: Node, *, mark: ir.CacheMark | None) -> ir.Tool:
    description, form = node.get("description"), node.get("format")
    grammar = None
    if form is not None and form.need("type").choice(("text", "grammar")) == "grammar":
        rules = form.get("grammar") or form
        grammar = ir.Grammar(syntax=rules.need("syntax").text(), definition=rules.need("definition").text())
    return ir.Tool(
        name=_tool_name(node),
        kind="custom",
        description=description.text() if description else None,
        grammar=grammar,
        cache_mark=mark,
    )


def _tool_name(node: Node) -> str:
    name = node.need("name")
    if not name.text():
        name.fail("must not be empty.")
    return name.text()


def _web_search(node: Node) -> ir.Tool:
    """Decode the search options of models that always search as a web search tool."""
    settings: dict[str, Any] = {}
    size = node.get("search_context_size")
    if size is not None:
        settings["search_context_size"] = size.choice(("low", "medium", "high"))
    place = node.get("user_location")
    if place is not None:
        settings["user_location"] = {"type": "approximate", **(place.get("approximate") or place).object()}
    return ir.Tool(name="web_search", kind="server", settings=settings or None)
