"""A Messages request, read whole into a `Request`."""

from collections.abc import Mapping
from typing import cast

import msgspec
from msgspec import Raw

from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.conversation import (
    EMPTY,
    CacheOptions,
    Extras,
    JSONObject,
    Message,
    OutputFormat,
    ReasoningOptions,
    Request,
    Sampling,
    ServiceTier,
    Tool,
    ToolChoice,
    Visibility,
)
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages import client_tools, server_tools
from llmproxy_asgi.translators.anthropic_messages.message_decoder import decode_mark, decode_messages, decode_system
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.base import Intake
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.tool_schemas import distinct

_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_VISIBLE: dict[str, Visibility] = {"summarized": "summary", "omitted": "hidden", "updates": "updates"}
_KNOWN = frozenset(
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


def decode_request(intake: Intake) -> Request:
    """Read a request whole.

    Raises:
        BadRequest: A field is wrong; `param` names it.
        Unsupported: It only warms Anthropic's cache (`max_tokens: 0`).
    """
    raw = intake.raw
    reader = _Reader(raw)
    return Request(
        protocol=PROTOCOL,
        model=intake.model,
        messages=_messages(raw),
        tools=distinct(_tools(Node.of(raw, "tools"))),
        tool_choice=_tool_choice(Node.of(raw, "tool_choice")),
        max_output_tokens=_max_tokens(Node.of(raw, "max_tokens"), intake),
        stop=_stop(Node.of(raw, "stop_sequences")),
        stream=intake.stream,
        version=intake.version,
        betas=intake.betas,
        sampling=reader.sampling(),
        reasoning=reader.reasoning(),
        output=reader.output(),
        cache=reader.cache(),
        service_tier=reader.service_tier(),
        end_user=reader.end_user(),
        extras=reader.extras(),
    )


class _Reader:
    """The options, and what of them has no word of ours."""

    def __init__(self, raw: Mapping[str, Raw]) -> None:
        self._raw = raw
        self._rest: JSONObject = {}

    def sampling(self) -> Sampling:
        raw = self._raw
        temperature, top_p, top_k = Node.of(raw, "temperature"), Node.of(raw, "top_p"), Node.of(raw, "top_k")
        return Sampling(
            temperature=temperature.number(0, 1) if temperature else None,
            top_p=top_p.number(0, 1) if top_p else None,
            top_k=top_k.integer(0) if top_k else None,
        )

    def reasoning(self) -> ReasoningOptions:
        config = Node.of(self._raw, "output_config")
        named = config.get("effort") if config else None
        effort = cast("Effort | None", named.choice(_EFFORTS) if named else None)
        thinking = Node.of(self._raw, "thinking")
        if thinking is None:
            return ReasoningOptions(effort=effort)
        kind = thinking.need("type").choice(("adaptive", "enabled", "disabled", "between_tools"))
        if kind == "disabled":
            return ReasoningOptions(effort="none")
        shown = thinking.get("display")
        budget = thinking.need("budget_tokens").integer(1024) if kind == "enabled" else -1
        known = {"type", "budget_tokens", "display"}
        if kind == "between_tools" or not thinking.object().keys() <= known:
            self._rest["thinking"] = thinking.object()
        return ReasoningOptions(
            effort=effort,
            budget_tokens=budget,
            visible=_VISIBLE[shown.choice(tuple(_VISIBLE))] if shown else None,
        )

    def output(self) -> OutputFormat:
        config = Node.of(self._raw, "output_config")
        if config is None:
            return OutputFormat()
        rest = {key: value for key, value in config.object().items() if key not in {"effort", "format"}}
        if rest:
            self._rest["output_config"] = rest
        wanted = config.get("format")
        if wanted is None:
            return OutputFormat()
        wanted.need("type").choice(("json_schema",))
        return OutputFormat(kind="json_schema", schema=wanted.need("schema").object())

    def cache(self) -> CacheOptions:
        control = Node.of(self._raw, "cache_control")
        return CacheOptions(automatic=True, lifetime=decode_mark(control).lifetime) if control else CacheOptions()

    def service_tier(self) -> ServiceTier | None:
        speed = Node.of(self._raw, "speed")
        if speed and speed.choice(("standard", "fast")) == "fast":
            return ServiceTier.FAST
        tier = Node.of(self._raw, "service_tier")
        if tier is None:
            return None
        return ServiceTier.STANDARD if tier.choice(("auto", "standard_only")) == "standard_only" else ServiceTier.AUTO

    def end_user(self) -> str | None:
        metadata = Node.of(self._raw, "metadata")
        if metadata is None:
            return None
        rest = {key: value for key, value in metadata.object().items() if key != "user_id"}
        if rest:
            self._rest["metadata"] = rest
        user = metadata.get("user_id")
        return user.text() if user else None

    def extras(self) -> Extras:
        for key in self._raw:
            if key not in _KNOWN and (node := Node.of(self._raw, key)) is not None:
                self._rest[key] = node.value
        return {PROTOCOL: self._rest} if self._rest else EMPTY


def _messages(raw: Mapping[str, Raw]) -> tuple[Message, ...]:
    turns = Node.of(raw, "messages")
    if turns is None:
        raise missing("messages")
    system = Node.of(raw, "system")
    leading = decode_system(system) if system else None
    rest = decode_messages(turns)
    return (*([leading] if leading else []), *rest)


def _max_tokens(node: Node | None, intake: Intake) -> int | None:
    if node is None:
        if intake.path.get("operation") == "count_tokens":
            return None
        raise missing("max_tokens")
    limit = node.integer(0)
    if limit == 0:
        raise refusals.empty_response(intake.model)
    return limit


def _stop(node: Node | None) -> tuple[str, ...]:
    return tuple(entry.text() for entry in node.array()) if node else ()


def _tools(node: Node | None) -> tuple[Tool, ...]:
    return tuple(_tool(tool) for tool in node.array()) if node else ()


_TOOL_KEYS = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control", "defer_loading"})


def _tool(node: Node) -> Tool:
    native = node.object()
    kind, control = node.get("type"), node.get("cache_control")
    mark = decode_mark(control) if control else None
    ours = kind is None or kind.text() == "custom"
    client_run = client_tools.declared({key: value for key, value in native.items() if key != "cache_control"})
    if client_run is not None:
        return msgspec.structs.replace(client_run, cache_mark=mark)
    if not ours or (node.get("name") is None and node.get("input_schema") is None):
        tool = server_tools.declared({key: value for key, value in native.items() if key != "cache_control"})
        return Tool(name=tool.name, kind="server", settings=tool.settings, extras=tool.extras, cache_mark=mark)
    description, schema = node.get("description"), node.need("input_schema")
    strict, deferred = node.get("strict"), node.get("defer_loading")
    rest = {key: value for key, value in native.items() if key not in _TOOL_KEYS}
    return Tool(
        name=node.need("name").text(),
        description=description.text() if description else None,
        parameters=schema.object(),
        strict=strict.boolean() if strict else None,
        deferred=deferred.boolean() if deferred else False,
        cache_mark=mark,
        extras={PROTOCOL: rest} if rest else EMPTY,
    )


def _tool_choice(node: Node | None) -> ToolChoice:
    if node is None:
        return ToolChoice()
    kind = node.need("type").choice(("auto", "any", "none", "tool"))
    single = node.get("disable_parallel_tool_use")
    parallel = None if single is None else not single.boolean()
    match kind:
        case "tool":
            name = node.need("name").text()
            return ToolChoice(mode="required", only=(name,), parallel=parallel, given=True)
        case "any":
            return ToolChoice(mode="required", parallel=parallel, given=True)
        case "none":
            return ToolChoice(mode="none", parallel=parallel, given=True)
        case _:
            return ToolChoice(mode="auto", parallel=parallel, given=True)
