"""Decode a caller's tools and tool choice.

Tools in a namespace get its name. The vendor's server tools keep their declarations; only web search has equivalents
at other vendors.
"""

from typing import Any, cast

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai.fields import Raw, boolean
from llmproxy_asgi.translators.openai.mappings import cache_mark, decode_grammar
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, WEB_SEARCH
from llmproxy_asgi.translators.tool_schemas import distinct

_TOOL_FIELDS = frozenset(
    {
        "type",
        "name",
        "description",
        "parameters",
        "strict",
        "format",
        "defer_loading",
        "prompt_cache_breakpoint",
        "cache_control",
    }
)
_SEARCH_SETTINGS = ("allowed_domains", "blocked_domains", "search_context_size", "user_location")
_DECLARING = frozenset({"additional_tools", "tool_search_output"})
"""Types of input items that declare tools."""
_OWN_CHOICES = frozenset({"function", "custom", "allowed_tools"})


def decode_tools(raw: Raw) -> tuple[ir.Tool, ...]:
    """Decode all tools in order."""
    node = Node.of(raw, "tools")
    if node is None:
        return ()
    return distinct([tool for entry in node.array() for tool in _tools(entry)])


def offered(tools: tuple[ir.Tool, ...], given: Node | None) -> tuple[ir.Tool, ...]:
    """Add the tools that input items declare or found; equal ones once.

    Raises:
        BadRequest: Two different tools share a name.
    """
    if given is None or type(given.value) is not list:
        return tools
    known = list(tools)
    for place, item in enumerate(given.value):
        kind = item.get("type") if type(item) is dict else None
        if kind not in _DECLARING:
            continue
        for entry in Node(item, f"{given.path}[{place}]").need("tools").array():
            known += [tool for tool in _tools(entry) if not _is_known(tool, known, found=kind != "additional_tools")]
    return distinct(known)


def _is_known(tool: ir.Tool, known: list[ir.Tool], *, found: bool) -> bool:
    """Return whether a tool is declared already; tools that a search found may repeat declared ones."""
    return tool in known or (
        found and any((each.name, each.namespace) == (tool.name, tool.namespace) for each in known)
    )


def _tools(node: Node) -> tuple[ir.Tool, ...]:
    if node.required_text("type") != "namespace":
        return (_tool(node),)
    namespace, description = node.required_text("name"), node.optional_text("description")
    about = {} if description is None else {"namespace_description": description}
    return tuple(_tool(entry, namespace=namespace, about=about) for entry in node.required_array("tools"))


def _tool(node: Node, *, namespace: str | None = None, about: JSONObject | None = None) -> ir.Tool:
    kind = node.required_text("type")
    if kind not in {"function", "custom"}:
        return _server(node, kind)
    inner = node.get(kind) or node  # nested, as in Chat
    rest = {key: value for key, value in inner.rest(_TOOL_FIELDS).items() if value is not None} | (about or {})
    known: dict[str, Any] = {
        "name": inner.filled_text("name"),
        "description": inner.optional_text("description"),
        "namespace": namespace,
        "deferred": inner.optional_boolean("defer_loading") or False,
        "cache_mark": cache_mark(inner),
        "extras": {PROTOCOL: rest} if rest else ir.EMPTY,
    }
    if kind == "custom":
        return ir.Tool(kind="custom", grammar=decode_grammar(inner), **known)
    parameters, strict = inner.optional_object("parameters"), inner.optional_boolean("strict")
    return ir.Tool(parameters=parameters, strict=strict, **known)


def _server(node: Node, kind: str) -> ir.Tool:
    native = dict(node.object())
    if not kind.startswith(WEB_SEARCH):
        name = node.optional_text("name")
        return ir.Tool(name=kind if name is None else name, kind="server", extras={PROTOCOL: native})
    asked = {**(node.optional_object("filters") or {}), **native}
    settings = {key: asked[key] for key in _SEARCH_SETTINGS if asked.get(key)}
    return ir.Tool(name=WEB_SEARCH, kind="server", settings=settings or None, extras={PROTOCOL: native})


# ── the choice ───────────────────────────────────────────────────────────────────────────────────────────────────────


def decode_choice(raw: Raw) -> ir.ToolChoice:
    """Decode the tool choice."""
    parallel = boolean(raw, "parallel_tool_calls")
    node = Node.of(raw, "tool_choice")
    if node is None:
        return ir.ToolChoice(parallel=parallel)
    if type(node.value) is str:
        mode = cast("Any", node.choice(("none", "auto", "required")))
        return ir.ToolChoice(mode=mode, parallel=parallel, given=True)
    if node.need("type").text() == "allowed_tools":
        allowed = node.get("allowed_tools") or node
        mode = cast("Any", allowed.need("mode").choice(("auto", "required")))
        names = tuple(_chosen(entry) for entry in allowed.need("tools").array())
        return ir.ToolChoice(mode=mode, only=names, parallel=parallel, given=True)
    return ir.ToolChoice(mode="required", only=(_chosen(node),), parallel=parallel, given=True)


def native_choice(raw: Raw) -> Any:
    """Return the unchanged choice of a server tool of the vendor; None for other choices."""
    node = Node.of(raw, "tool_choice")
    if node is None or type(node.value) is str:
        return None
    return None if node.need("type").text() in _OWN_CHOICES else node.value


def _chosen(node: Node) -> str:
    nested = node.get("function") or node.get("custom")
    if nested is not None:
        return nested.need("name").text()
    kind = node.need("type").text()
    if kind in {"function", "custom"}:
        return node.need("name").text()
    name = node.get("name")
    return WEB_SEARCH if kind.startswith(WEB_SEARCH) else name.text() if name else kind
