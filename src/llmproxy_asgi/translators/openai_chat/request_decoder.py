"""Decode a caller's request: the top level here, its messages in `message_decoder`.

The decoder is as strict as the vendor about types, required fields and values, and lenient about known deviations of
clients (unknown types of tools, another vendor's cache marks). Unknown top-level fields are kept in `extras`.
"""

from collections.abc import Mapping
from typing import Any, cast

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import EFFORTS, Effort
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai.mappings import TIER_IN, cache_mark
from llmproxy_asgi.translators.openai.options import (
    Raw,
    boolean,
    cache_options,
    integer,
    metadata,
    number,
    others,
    stops,
    string,
)
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.message_decoder import decode_messages
from llmproxy_asgi.translators.tool_schemas import distinct

KNOWN = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "n",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "response_format",
        "reasoning_effort",
        "reasoning",
        "thinking",
        "top_k",
        "verbosity",
        "modalities",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
        "metadata",
        "service_tier",
        "store",
        "web_search_options",
    }
)


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
        tool_choice=_tool_choice(raw),
        output=_output(raw),
        reasoning=_reasoning(raw),
        sampling=_sampling(raw),
        max_output_tokens=_max_tokens(raw),
        stop=stops(raw),
        candidates=integer(raw, "n", low=1) or 1,
        stream=inbound_request.stream,
        include_usage=inbound_request.include_usage,
        cache=cache_options(raw),
        end_user=string(raw, "safety_identifier") or string(raw, "user"),
        metadata=metadata(raw),
        service_tier=_service_tier(raw),
        store=boolean(raw, "store"),
        extras=_extras(raw),
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


def _tool_choice(raw: Raw) -> ir.ToolChoice:
    parallel = boolean(raw, "parallel_tool_calls")
    if "functions" in raw and "tools" not in raw:
        parallel = False
    node = Node.of(raw, "tool_choice") or Node.of(raw, "function_call")
    if node is None:
        return ir.ToolChoice(parallel=parallel)
    if type(node.value) is str:
        return ir.ToolChoice(mode=_mode(node, ("none", "auto", "required")), parallel=parallel, given=True)
    node.object()
    kind = node.get("type")
    if kind is not None and kind.text() == "allowed_tools":
        allowed = node.get("allowed_tools") or node
        names = tuple(_chosen(entry) for entry in allowed.need("tools").array())
        return ir.ToolChoice(
            mode=_mode(allowed.need("mode"), ("auto", "required")), only=names, parallel=parallel, given=True
        )
    return ir.ToolChoice(mode="required", only=(_chosen(node),), parallel=parallel, given=True)


def _mode(node: Node, options: tuple[str, ...]) -> Any:
    return node.choice(options)


def _chosen(node: Node) -> str:
    """Return the name in a tool choice: nested, flat, or the type of a server tool."""
    nested = node.get("function") or node.get("custom")
    if nested is not None:
        return nested.need("name").text()
    kind = node.get("type")
    if kind is not None and kind.text() not in {"function", "custom"} and node.get("name") is None:
        return kind.text()
    return node.need("name").text()


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _output(raw: Raw) -> ir.OutputFormat:
    verbosity = Node.of(raw, "verbosity")
    modalities = Node.of(raw, "modalities")
    shown = {
        "verbosity": verbosity.choice(("low", "medium", "high")) if verbosity else None,
        "modalities": tuple(node.text() for node in modalities.array()) if modalities else (),
    }
    node = Node.of(raw, "response_format")
    if node is None:
        return ir.OutputFormat(**cast("dict[str, Any]", shown))
    kind = node.need("type").choice(("text", "json_object", "json_schema"))
    if kind == "json_object":
        return ir.OutputFormat(kind="json", **cast("dict[str, Any]", shown))
    if kind == "text":
        return ir.OutputFormat(**cast("dict[str, Any]", shown))
    form = node.need("json_schema")
    description, schema, strict = form.get("description"), form.get("schema"), form.get("strict")
    return ir.OutputFormat(
        kind="json_schema",
        name=form.need("name").text(),
        description=description.text() if description else None,
        schema=schema.object() if schema else {},
        strict=strict.boolean() if strict else None,
        **cast("dict[str, Any]", shown),
    )


def _reasoning(raw: Raw) -> ir.ReasoningOptions:
    """Decode the effort, OpenRouter's `reasoning` or Anthropic's `thinking`."""
    node = Node.of(raw, "reasoning_effort")
    if node is not None:
        return ir.ReasoningOptions(effort=cast("Effort", node.choice(EFFORTS)))
    thinking = Node.of(raw, "thinking")
    if thinking is not None:
        budget = thinking.get("budget_tokens")
        off = thinking.need("type").choice(("enabled", "disabled", "adaptive")) == "disabled"
        return ir.ReasoningOptions(
            effort="none" if off else None, budget_tokens=budget.integer(1) if budget and not off else None
        )
    options = Node.of(raw, "reasoning")
    if options is None:
        return ir.ReasoningOptions()
    effort, tokens, exclude = options.get("effort"), options.get("max_tokens"), options.get("exclude")
    return ir.ReasoningOptions(
        effort=cast("Effort", effort.choice(EFFORTS)) if effort else None,
        budget_tokens=tokens.integer(0) if tokens and not effort else None,
        visible="hidden" if exclude and exclude.boolean() else None,
    )


def _sampling(raw: Raw) -> ir.Sampling:
    bias = Node.of(raw, "logit_bias")
    logprobs = None
    top = integer(raw, "top_logprobs", low=0, high=20)
    if boolean(raw, "logprobs"):
        logprobs = top or 0
    elif top is not None:
        raise BadRequest("top_logprobs: needs logprobs to be true.", param="top_logprobs", code="invalid_value")
    return ir.Sampling(
        temperature=number(raw, "temperature", 0, 2),
        top_p=number(raw, "top_p", 0, 1),
        top_k=_top_k(raw),
        seed=integer(raw, "seed"),
        frequency_penalty=number(raw, "frequency_penalty", -2, 2),
        presence_penalty=number(raw, "presence_penalty", -2, 2),
        logit_bias={key: node.number(-100, 100) for key, node in bias.items()} if bias else None,
        logprobs=logprobs,
    )


def _top_k(raw: Raw) -> int | None:
    """Decode `top_k`, which many compatible servers have; -1 and 0 mean none at some."""
    value = integer(raw, "top_k")
    return value if value is not None and value > 0 else None


def _max_tokens(raw: Raw) -> int | None:
    new = integer(raw, "max_completion_tokens", low=1)
    old = integer(raw, "max_tokens", low=1)
    return new if new is not None else old


def _service_tier(raw: Raw) -> ir.ServiceTier | None:
    node = Node.of(raw, "service_tier")
    return TIER_IN[node.choice(tuple(TIER_IN))] if node else None


def _extras(raw: Raw) -> Mapping[str, dict[str, Any]]:
    kept = others(raw, KNOWN)
    return {PROTOCOL: kept} if kept else {}
