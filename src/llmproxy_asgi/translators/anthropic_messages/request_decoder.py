"""Decode Messages requests into a `Request`."""

from collections.abc import Mapping
from typing import cast

import msgspec
from msgspec import Raw

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages import client_tools, server_tools
from llmproxy_asgi.translators.anthropic_messages.message_decoder import decode_mark, decode_messages, decode_system
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.tool_schemas import distinct

_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_VISIBILITIES: dict[str, ir.Visibility] = {"summarized": "summary", "omitted": "hidden", "updates": "updates"}
_KNOWN_FIELDS = frozenset(
    [
        "model",
        "messages",
        "max_tokens",
        "system",
        "stop_sequences",
        "stream",
        "thinking",
        "output_config",
        "tools",
        "tool_choice",
        "cache_control",
        "metadata",
        "service_tier",
        "speed",
        "temperature",
        "top_p",
        "top_k",
    ]
)


def decode_request(inbound_request: InboundRequest) -> ir.Request:
    """Decode a request.

    Raises:
        BadRequest: A field is invalid; `param` names it.
        Unsupported: The request only warms Anthropic's cache (`max_tokens: 0`).
    """
    raw = inbound_request.raw
    options = _OptionsDecoder(raw)
    return ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=_messages(raw),
        tools=distinct(_tools(Node.of(raw, "tools"))),
        tool_choice=_tool_choice(Node.of(raw, "tool_choice")),
        max_output_tokens=_max_tokens(Node.of(raw, "max_tokens"), inbound_request),
        stop=_stop(Node.of(raw, "stop_sequences")),
        stream=inbound_request.stream,
        version=inbound_request.version,
        betas=inbound_request.betas,
        sampling=options.sampling(),
        reasoning=options.reasoning(),
        output=options.output(),
        cache=options.cache(),
        service_tier=options.service_tier(),
        end_user=options.end_user(),
        extras=options.extras(),
    )


class _OptionsDecoder:
    """The decoder of a request's options; collects those without a field in `Request` as extras."""

    def __init__(self, raw: Mapping[str, Raw]) -> None:
        self._raw = raw
        self._extras: JSONObject = {}

    def sampling(self) -> ir.Sampling:
        raw = self._raw
        temperature, top_p, top_k = Node.of(raw, "temperature"), Node.of(raw, "top_p"), Node.of(raw, "top_k")
        return ir.Sampling(
            temperature=temperature.number(0, 1) if temperature else None,
            top_p=top_p.number(0, 1) if top_p else None,
            top_k=top_k.integer(0) if top_k else None,
        )

    def reasoning(self) -> ir.ReasoningOptions:
        config = Node.of(self._raw, "output_config")
        effort_node = config.get("effort") if config else None
        effort = cast("Effort | None", effort_node.choice(_EFFORTS) if effort_node else None)
        thinking = Node.of(self._raw, "thinking")
        if thinking is None:
            return ir.ReasoningOptions(effort=effort)
        kind = thinking.need("type").choice(("adaptive", "enabled", "disabled", "between_tools"))
        if kind == "disabled":
            return ir.ReasoningOptions(effort="none")
        display = thinking.get("display")
        budget = thinking.need("budget_tokens").integer(1024) if kind == "enabled" else -1
        known = {"type", "budget_tokens", "display"}
        if kind == "between_tools" or not thinking.object().keys() <= known:
            self._extras["thinking"] = thinking.object()
        return ir.ReasoningOptions(
            effort=effort,
            budget_tokens=budget,
            visible=_VISIBILITIES[display.choice(tuple(_VISIBILITIES))] if display else None,
        )

    def output(self) -> ir.OutputFormat:
        config = Node.of(self._raw, "output_config")
        if config is None:
            return ir.OutputFormat()
        rest = {key: value for key, value in config.object().items() if key not in {"effort", "format"}}
        if rest:
            self._extras["output_config"] = rest
        output_format = config.get("format")
        if output_format is None:
            return ir.OutputFormat()
        output_format.need("type").choice(("json_schema",))
        return ir.OutputFormat(kind="json_schema", schema=output_format.need("schema").object())

    def cache(self) -> ir.CacheOptions:
        control = Node.of(self._raw, "cache_control")
        return ir.CacheOptions(automatic=True, lifetime=decode_mark(control).lifetime) if control else ir.CacheOptions()

    def service_tier(self) -> ir.ServiceTier | None:
        speed = Node.of(self._raw, "speed")
        if speed and speed.choice(("standard", "fast")) == "fast":
            return ir.ServiceTier.FAST
        tier = Node.of(self._raw, "service_tier")
        if tier is None:
            return None
        return (
            ir.ServiceTier.STANDARD
            if tier.choice(("auto", "standard_only")) == "standard_only"
            else ir.ServiceTier.AUTO
        )

    def end_user(self) -> str | None:
        metadata = Node.of(self._raw, "metadata")
        if metadata is None:
            return None
        rest = {key: value for key, value in metadata.object().items() if key != "user_id"}
        if rest:
            self._extras["metadata"] = rest
        user = metadata.get("user_id")
        return user.text() if user else None

    def extras(self) -> ir.Extras:
        for key in self._raw:
            if key not in _KNOWN_FIELDS and (node := Node.of(self._raw, key)) is not None:
                self._extras[key] = node.value
        return {PROTOCOL: self._extras} if self._extras else ir.EMPTY


def _messages(raw: Mapping[str, Raw]) -> tuple[ir.Message, ...]:
    messages = Node.of(raw, "messages")
    if messages is None:
        raise missing("messages")
    system = Node.of(raw, "system")
    system_message = decode_system(system) if system else None
    rest = decode_messages(messages)
    return (*([system_message] if system_message else []), *rest)


def _max_tokens(node: Node | None, inbound_request: InboundRequest) -> int | None:
    if node is None:
        if inbound_request.path.get("operation") == "count_tokens":
            return None
        raise missing("max_tokens")
    limit = node.integer(0)
    if limit == 0:
        raise refusals.empty_response(inbound_request.model)
    return limit


def _stop(node: Node | None) -> tuple[str, ...]:
    return tuple(entry.text() for entry in node.array()) if node else ()


def _tools(node: Node | None) -> tuple[ir.Tool, ...]:
    return tuple(_tool(tool) for tool in node.array()) if node else ()


_TOOL_KEYS = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control", "defer_loading"})


def _tool(node: Node) -> ir.Tool:
    native = node.object()
    kind, control = node.get("type"), node.get("cache_control")
    mark = decode_mark(control) if control else None
    is_function = kind is None or kind.text() == "custom"
    client_tool = client_tools.decode_tool({key: value for key, value in native.items() if key != "cache_control"})
    if client_tool is not None:
        return msgspec.structs.replace(client_tool, cache_mark=mark)
    if not is_function or (node.get("name") is None and node.get("input_schema") is None):
        tool = server_tools.decode_tool({key: value for key, value in native.items() if key != "cache_control"})
        return ir.Tool(name=tool.name, kind="server", settings=tool.settings, extras=tool.extras, cache_mark=mark)
    description, schema = node.get("description"), node.need("input_schema")
    strict, deferred = node.get("strict"), node.get("defer_loading")
    rest = {key: value for key, value in native.items() if key not in _TOOL_KEYS}
    return ir.Tool(
        name=node.need("name").text(),
        description=description.text() if description else None,
        parameters=schema.object(),
        strict=strict.boolean() if strict else None,
        deferred=deferred.boolean() if deferred else False,
        cache_mark=mark,
        extras={PROTOCOL: rest} if rest else ir.EMPTY,
    )


def _tool_choice(node: Node | None) -> ir.ToolChoice:
    if node is None:
        return ir.ToolChoice()
    kind = node.need("type").choice(("auto", "any", "none", "tool"))
    disable_parallel = node.get("disable_parallel_tool_use")
    parallel = None if disable_parallel is None else not disable_parallel.boolean()
    match kind:
        case "tool":
            name = node.need("name").text()
            return ir.ToolChoice(mode="required", only=(name,), parallel=parallel, given=True)
        case "any":
            return ir.ToolChoice(mode="required", parallel=parallel, given=True)
        case "none":
            return ir.ToolChoice(mode="none", parallel=parallel, given=True)
        case _:
            return ir.ToolChoice(mode="auto", parallel=parallel, given=True)
