"""Decode generateContent requests into a `Request`."""

from collections.abc import Mapping
from typing import cast

from msgspec import Raw

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.fields import missing
from llmproxy_asgi.translators.gemini.json_schemas import from_gemini_schema
from llmproxy_asgi.translators.gemini.mappings import SERVER_TOOLS, TIERS_IN
from llmproxy_asgi.translators.gemini.message_decoder import decode_contents, decode_system
from llmproxy_asgi.translators.gemini.proto import ProtoNode, camel
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.tool_schemas import distinct

_KNOWN_FIELDS = frozenset(
    {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier", "model"}
)
_CONFIG_FIELDS = (
    "temperature",
    "topP",
    "topK",
    "seed",
    "presencePenalty",
    "frequencyPenalty",
    "responseLogprobs",
    "logprobs",
    "candidateCount",
    "maxOutputTokens",
    "stopSequences",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseModalities",
    "thinkingConfig",
)
_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH")


def decode_request(inbound_request: InboundRequest) -> ir.Request:
    """Decode a request.

    Raises:
        BadRequest: A field is invalid; `param` names it.
    """
    raw = inbound_request.raw
    decoder = _OptionsDecoder(raw)
    options = ProtoNode.of_body(raw, "generationConfig") or ProtoNode({}, "generationConfig")
    return ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=_messages(raw),
        tools=distinct(_tools(ProtoNode.of_body(raw, "tools"))),
        tool_choice=decoder.tool_choice(),
        output=_output(options),
        reasoning=_reasoning(options),
        sampling=_sampling(options),
        max_output_tokens=limit.integer(1) if (limit := options.get("maxOutputTokens")) else None,
        stop=tuple(text.text() for text in stops.entries()) if (stops := options.get("stopSequences")) else (),
        candidates=count.integer(1, 8) if (count := options.get("candidateCount")) else 1,
        stream=inbound_request.stream,
        service_tier=_service_tier(ProtoNode.of_body(raw, "serviceTier")),
        extras=decoder.extras(options),
    )


class _OptionsDecoder:
    """The decoder of a request's top-level options; collects those without a field in `Request` as extras."""

    def __init__(self, raw: Mapping[str, Raw]) -> None:
        self._raw = raw
        self._rest: JSONObject = {}

    def tool_choice(self) -> ir.ToolChoice:
        config = ProtoNode.of_body(self._raw, "toolConfig")
        if config is None:
            return ir.ToolChoice()
        calling = config.get("functionCallingConfig")
        rest = config.rest("functionCallingConfig")
        choice = ir.ToolChoice()
        if calling is not None:
            mode_node = calling.get("mode")
            mode = (
                mode_node.enum_value("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
                if mode_node
                else "MODE_UNSPECIFIED"
            )
            names = calling.get("allowedFunctionNames")
            only = tuple(name.text() for name in names.entries()) if names else ()
            if mode == "VALIDATED" and not only:
                rest["functionCallingConfig"] = {"mode": mode}  # only validates calls; no choice
            if mode == "NONE":
                choice = ir.ToolChoice(mode="none", given=True)
            elif mode == "ANY":
                choice = ir.ToolChoice(mode="required", only=only, given=True)
            elif mode != "MODE_UNSPECIFIED" or only:
                choice = ir.ToolChoice(mode="auto", only=only, given=True)
        if rest:
            self._rest["toolConfig"] = rest
        return choice

    def extras(self, options: ProtoNode) -> ir.Extras:
        rest = options.rest(*_CONFIG_FIELDS)
        mime = options.get("responseMimeType")
        if mime and mime.text() == "text/x.enum":
            rest["responseMimeType"] = mime.text()
        if rest:
            self._rest["generationConfig"] = rest
        for key in self._raw:
            if camel(key) not in _KNOWN_FIELDS and (node := ProtoNode.of_body(self._raw, key)) is not None:
                self._rest[camel(key)] = node.value
        return {PROTOCOL: self._rest} if self._rest else ir.EMPTY


def _messages(raw: Mapping[str, Raw]) -> tuple[ir.Message, ...]:
    contents = ProtoNode.of_body(raw, "contents")
    if contents is None:
        raise missing("contents")
    given = ProtoNode.of_body(raw, "systemInstruction")
    system = decode_system(given) if given else None
    return (*([system] if system else []), *decode_contents(contents))


def _sampling(options: ProtoNode) -> ir.Sampling:
    temperature, top_p, top_k, seed, presence, frequency = map(options.get, _CONFIG_FIELDS[:6])
    with_logprobs, count = options.get("responseLogprobs"), options.get("logprobs")
    logprobs = None
    if with_logprobs and with_logprobs.boolean():
        logprobs = count.integer(0, 20) if count else 0
    return ir.Sampling(
        temperature=temperature.number(0, 2) if temperature else None,
        top_p=top_p.number(0, 1) if top_p else None,
        top_k=int(top_k.number(0)) if top_k else None,
        seed=seed.integer(-(2**31), 2**31 - 1) if seed else None,
        presence_penalty=presence.number(-2, 2) if presence else None,
        frequency_penalty=frequency.number(-2, 2) if frequency else None,
        logprobs=logprobs,
    )


def _reasoning(options: ProtoNode) -> ir.ReasoningOptions:
    config = options.get("thinkingConfig")
    if config is None:
        return ir.ReasoningOptions()
    level, budget, include_thoughts = (
        config.get(key) for key in ("thinkingLevel", "thinkingBudget", "includeThoughts")
    )
    if level and budget:
        config.fail("takes thinkingLevel or thinkingBudget, not both.")
    value = level.enum_value("THINKING_LEVEL_UNSPECIFIED", *_LEVELS).lower() if level else ""
    visible: ir.Visibility | None = None
    if include_thoughts:
        visible = "summary" if include_thoughts.boolean() else "hidden"
    return ir.ReasoningOptions(
        effort=cast("Effort", value) if value.upper() in _LEVELS else None,
        budget_tokens=budget.integer(-1) if budget else None,
        visible=visible,
    )


def _output(options: ProtoNode) -> ir.OutputFormat:
    mime = options.get("responseMimeType")
    value = mime.text().lower() if mime else "text/plain"
    given = options.get("responseModalities")
    modalities = tuple(entry.enum_value().lower() for entry in given.entries()) if given else ()
    json_schema, gemini_schema = options.get("responseJsonSchema"), options.get("responseSchema")
    if json_schema:
        schema: JSONObject | None = json_schema.object()
    else:
        schema = from_gemini_schema(gemini_schema.object()) if gemini_schema else None
    if schema is not None:
        return ir.OutputFormat(kind="json_schema", schema=schema, modalities=modalities)
    return ir.OutputFormat(kind="json" if value == "application/json" else "text", modalities=modalities)


def _service_tier(node: ProtoNode | None) -> ir.ServiceTier | None:
    if node is None:
        return None
    value = node.text().lower().removeprefix("service_tier_")
    return TIERS_IN[ProtoNode(value, node.path).choice(tuple(TIERS_IN))] if value != "unspecified" else None


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
