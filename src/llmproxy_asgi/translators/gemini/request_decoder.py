"""A generateContent request, read whole into a `Request`."""

from collections.abc import Mapping
from typing import cast

from msgspec import Raw

from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.conversation import (
    EMPTY,
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
from llmproxy_asgi.translators.base import Intake
from llmproxy_asgi.translators.fields import missing
from llmproxy_asgi.translators.gemini.json_schemas import raised
from llmproxy_asgi.translators.gemini.mappings import SERVER_TOOLS, TIERS_IN
from llmproxy_asgi.translators.gemini.message_decoder import decode_contents, decode_system
from llmproxy_asgi.translators.gemini.proto import Proto, camel
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.tool_schemas import distinct

_KNOWN = frozenset({"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier", "model"})
_OPTIONS = (
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


def decode_request(intake: Intake) -> Request:
    """Read a request whole.

    Raises:
        BadRequest: A field is wrong; `param` names it.
    """
    raw = intake.raw
    reader = _Reader(raw)
    options = Proto.of_body(raw, "generationConfig") or Proto({}, "generationConfig")
    return Request(
        protocol=PROTOCOL,
        model=intake.model,
        messages=_messages(raw),
        tools=distinct(_tools(Proto.of_body(raw, "tools"))),
        tool_choice=reader.tool_choice(),
        output=_output(options),
        reasoning=_reasoning(options),
        sampling=_sampling(options),
        max_output_tokens=limit.integer(1) if (limit := options.get("maxOutputTokens")) else None,
        stop=tuple(text.text() for text in stops.entries()) if (stops := options.get("stopSequences")) else (),
        candidates=count.integer(1, 8) if (count := options.get("candidateCount")) else 1,
        stream=intake.stream,
        service_tier=_service_tier(Proto.of_body(raw, "serviceTier")),
        extras=reader.extras(options),
    )


class _Reader:
    """What is said at the top, and what of it has no word of ours."""

    def __init__(self, raw: Mapping[str, Raw]) -> None:
        self._raw = raw
        self._rest: JSONObject = {}

    def tool_choice(self) -> ToolChoice:
        config = Proto.of_body(self._raw, "toolConfig")
        if config is None:
            return ToolChoice()
        calling = config.get("functionCallingConfig")
        rest = config.rest("functionCallingConfig")
        choice = ToolChoice()
        if calling is not None:
            given = calling.get("mode")
            mode = given.word("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED") if given else "MODE_UNSPECIFIED"
            names = calling.get("allowedFunctionNames")
            only = tuple(name.text() for name in names.entries()) if names else ()
            if mode == "VALIDATED" and not only:
                rest["functionCallingConfig"] = {"mode": mode}  # no more than calls that are checked
            if mode == "NONE":
                choice = ToolChoice(mode="none", given=True)
            elif mode == "ANY":
                choice = ToolChoice(mode="required", only=only, given=True)
            elif mode != "MODE_UNSPECIFIED" or only:
                choice = ToolChoice(mode="auto", only=only, given=True)
        if rest:
            self._rest["toolConfig"] = rest
        return choice

    def extras(self, options: Proto) -> Extras:
        rest = options.rest(*_OPTIONS)
        mime = options.get("responseMimeType")
        if mime and mime.text() == "text/x.enum":
            rest["responseMimeType"] = mime.text()
        if rest:
            self._rest["generationConfig"] = rest
        for key in self._raw:
            if camel(key) not in _KNOWN and (node := Proto.of_body(self._raw, key)) is not None:
                self._rest[camel(key)] = node.value
        return {PROTOCOL: self._rest} if self._rest else EMPTY


def _messages(raw: Mapping[str, Raw]) -> tuple[Message, ...]:
    contents = Proto.of_body(raw, "contents")
    if contents is None:
        raise missing("contents")
    given = Proto.of_body(raw, "systemInstruction")
    system = decode_system(given) if given else None
    return (*([system] if system else []), *decode_contents(contents))


def _sampling(options: Proto) -> Sampling:
    temperature, top_p, top_k, seed, presence, frequency = map(options.get, _OPTIONS[:6])
    wanted, count = options.get("responseLogprobs"), options.get("logprobs")
    logprobs = None
    if wanted and wanted.boolean():
        logprobs = count.integer(0, 20) if count else 0
    return Sampling(
        temperature=temperature.number(0, 2) if temperature else None,
        top_p=top_p.number(0, 1) if top_p else None,
        top_k=int(top_k.number(0)) if top_k else None,
        seed=seed.integer(-(2**31), 2**31 - 1) if seed else None,
        presence_penalty=presence.number(-2, 2) if presence else None,
        frequency_penalty=frequency.number(-2, 2) if frequency else None,
        logprobs=logprobs,
    )


def _reasoning(options: Proto) -> ReasoningOptions:
    config = options.get("thinkingConfig")
    if config is None:
        return ReasoningOptions()
    level, budget, shown = (config.get(key) for key in ("thinkingLevel", "thinkingBudget", "includeThoughts"))
    if level and budget:
        config.fail("takes thinkingLevel or thinkingBudget, not both.")
    word = level.word("THINKING_LEVEL_UNSPECIFIED", *_LEVELS).lower() if level else ""
    visible: Visibility | None = None
    if shown:
        visible = "summary" if shown.boolean() else "hidden"
    return ReasoningOptions(
        effort=cast("Effort", word) if word.upper() in _LEVELS else None,
        budget_tokens=budget.integer(-1) if budget else None,
        visible=visible,
    )


def _output(options: Proto) -> OutputFormat:
    mime = options.get("responseMimeType")
    word = mime.text().lower() if mime else "text/plain"
    given = options.get("responseModalities")
    modalities = tuple(entry.word().lower() for entry in given.entries()) if given else ()
    json_schema, own_schema = options.get("responseJsonSchema"), options.get("responseSchema")
    if json_schema:
        schema: JSONObject | None = json_schema.object()
    else:
        schema = raised(own_schema.object()) if own_schema else None
    if schema is not None:
        return OutputFormat(kind="json_schema", schema=schema, modalities=modalities)
    return OutputFormat(kind="json" if word == "application/json" else "text", modalities=modalities)


def _service_tier(node: Proto | None) -> ServiceTier | None:
    if node is None:
        return None
    word = node.text().lower().removeprefix("service_tier_")
    return TIERS_IN[Proto(word, node.path).choice(tuple(TIERS_IN))] if word != "unspecified" else None


def _tools(node: Proto | None) -> tuple[Tool, ...]:
    return tuple(tool for entry in node.entries() for tool in _entry(entry)) if node else ()


def _entry(entry: Proto) -> list[Tool]:
    made: list[Tool] = []
    declared = entry.get("functionDeclarations")
    if declared:
        made += [_function(function) for function in declared.entries()]
    for key, value in entry.rest("functionDeclarations").items():
        name = SERVER_TOOLS.get(key, key)
        settings: JSONObject | None = {} if key in SERVER_TOOLS else None
        made.append(Tool(name=name, kind="server", settings=settings, extras={PROTOCOL: {key: value}}))
    return made


def _function(node: Proto) -> Tool:
    description, own, schema = (node.get(key) for key in ("description", "parameters", "parametersJsonSchema"))
    parameters = None
    if schema:
        parameters = schema.object()
    elif own:
        parameters = raised(own.object())
    return Tool(
        name=node.need("name").text(),
        description=description.text() if description else None,
        parameters=parameters,
        extras=node.extras("name", "description", "parameters", "parametersJsonSchema"),
    )
