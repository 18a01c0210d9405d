"""The options of generateContent: what callers send and what upstreams get, by the model's capabilities."""

from collections.abc import Mapping, Sequence

import llmproxy_asgi.conversation as ir
import llmproxy_asgi.translators.codec.options as codec
from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.codec.options import ELSEWHERE, Decoding, Encoding, Rule, Table
from llmproxy_asgi.translators.gemini.json_schemas import UnsupportedSchema, from_gemini_schema, to_gemini_schema
from llmproxy_asgi.translators.gemini.mappings import TIERS_IN, TIERS_OUT
from llmproxy_asgi.translators.gemini.proto import ProtoNode, camel, snake
from llmproxy_asgi.translators.gemini.schema import PROTOCOL

_MAX_STOP_SEQUENCES = 5
_MAX_LOGPROBS = 20
_SEEDS = 2**31
_LEVELS: tuple[Effort, ...] = ("minimal", "low", "medium", "high", "xhigh")
_BUDGETS: Mapping[Effort, int] = {
    "none": 0,
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 32_768,
}
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
_SHOWS_REASONING = frozenset({"openai-chat", "openai-responses", "anthropic-messages"})
"""Other protocols whose clients get readable reasoning if they request thinking."""
_CONFIG = "generationConfig"
_LOGPROBS = ("responseLogprobs", "logprobs")
_FORMAT = ("responseJsonSchema", "responseSchema", "responseMimeType")
_TOP_K = codec.Form(lambda node, _: int(node.number(0)))


def _takes_sampling(encoding: Encoding) -> bool:
    return encoding.capabilities.sampling == "any"


def _encode_seed(seed: int, encoding: Encoding) -> int:
    if -_SEEDS <= seed < _SEEDS:
        return seed
    encoding.losses.add("clamped:seed")
    return seed % _SEEDS


def _decode_logprobs(_: ProtoNode, decoding: Decoding) -> int | None:
    wanted, count = (decoding.get(f"{_CONFIG}.{name}") for name in _LOGPROBS)
    if not (wanted and wanted.boolean()):
        return None
    return count.integer(0, _MAX_LOGPROBS) if count else 0


def _encode_logprobs(count: int, encoding: Encoding) -> bool:
    if count > _MAX_LOGPROBS:
        encoding.losses.add("clamped:top_logprobs")
    if count:
        encoding.put(f"{_CONFIG}.logprobs", min(count, _MAX_LOGPROBS))
    return True


# ── output ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _decode_format(_: ProtoNode, decoding: Decoding) -> str:
    schema, gemini_schema, mime = (decoding.get(f"{_CONFIG}.{name}") for name in _FORMAT)
    media_type = mime.text() if mime else "text/plain"
    if media_type == "text/x.enum":
        decoding.keep(_CONFIG, {"responseMimeType": media_type})
    if schema or gemini_schema:
        decoding.values["output.schema"] = schema.object() if schema else from_gemini_schema(gemini_schema.object())
        return "json_schema"
    return "json" if media_type.lower() == "application/json" else "text"


def _encode_format(kind: str, encoding: Encoding) -> JSONObject | None:
    native = encoding.supports_format
    if native:
        encoding.put(f"{_CONFIG}.responseMimeType", "application/json")
    if native and kind == "json":
        return None
    if not native or not encoding.capabilities.structured_output:
        codec.describe_format(encoding)
        return None
    try:
        return to_gemini_schema(encoding.request.output.schema or {}, encoding.losses)
    except UnsupportedSchema as why:
        raise refusals.response_schema(encoding.request.model, str(why)) from None


def _decode_modalities(node: ProtoNode, _: Decoding) -> tuple[str, ...]:
    return tuple(entry.enum_value().lower() for entry in node.array())


def _encode_modalities(wanted: Sequence[str], encoding: Encoding) -> list[str] | None:
    if set(wanted) == {"text"}:
        return None
    # Google returns either audio or text; other protocols request audio with its transcript.
    if "audio" in wanted and encoding.request.protocol != PROTOCOL:
        return ["AUDIO"]
    return [modality.upper() for modality in wanted]


# ── thinking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _decode_thinking(node: ProtoNode, _: Decoding) -> ir.ReasoningOptions:
    level, budget, thoughts = (node.get(key) for key in ("thinkingLevel", "thinkingBudget", "includeThoughts"))
    if level and budget:
        node.fail("takes thinkingLevel or thinkingBudget, not both.")
    value = level.enum_value("THINKING_LEVEL_UNSPECIFIED", *map(str.upper, _LEVELS)).lower() if level else ""
    visible: ir.Visibility | None = None
    if thoughts:
        visible = "summary" if thoughts.boolean() else "hidden"
    return ir.ReasoningOptions(
        effort=value if value in _LEVELS else None,
        budget_tokens=budget.integer(-1) if budget else None,
        visible=visible,
    )


def _encode_thinking(options: ir.ReasoningOptions, encoding: Encoding) -> JSONObject | None:
    """Encode a level or a budget, never both, and whether to include thoughts."""
    capabilities = encoding.capabilities
    wanted = codec.requested_effort(options)
    if not capabilities.efforts:
        if wanted not in {None, "none"} or (options.budget_tokens or 0) < 0:
            encoding.losses.add("dropped:reasoning_effort")
        return None
    config: JSONObject = {}
    if capabilities.thinking == "budget" or (capabilities.thinking == "both" and options.effort is None):
        budget = _budget(options, encoding)
        config = {} if budget is None else {"thinkingBudget": budget}
    elif wanted is not None:
        config = {"thinkingLevel": codec.effort(wanted, encoding, _LEVELS).upper()}
    visible = options.visible
    if visible is None and encoding.request.protocol in _SHOWS_REASONING:
        visible = "summary"
    if visible not in {None, "hidden"} and options.effort != "none" and config.get("thinkingBudget") != 0:
        config["includeThoughts"] = True
    elif options.visible == "hidden" and encoding.request.protocol == PROTOCOL:
        config["includeThoughts"] = False
    return config or None


def _budget(options: ir.ReasoningOptions, encoding: Encoding) -> int | None:
    capabilities = encoding.capabilities
    requested = _BUDGETS[options.effort] if options.effort else options.budget_tokens
    if requested is None or requested < 0 or (requested == 0 and capabilities.thinking_off):
        return requested
    most = requested if capabilities.max_thinking_budget is None else capabilities.max_thinking_budget
    budget = max(min(requested, most), capabilities.min_thinking_budget or 1)
    if budget != requested and not (options.effort in {"xhigh", "max"} and budget < requested):
        encoding.losses.add("clamped:reasoning_effort")
    return budget


# ── tier and tool choice ─────────────────────────────────────────────────────────────────────────────────────────────


def _decode_tier(node: ProtoNode, _: Decoding) -> ir.ServiceTier | None:
    value = node.text().lower().removeprefix("service_tier_")
    return None if value == "unspecified" else TIERS_IN[ProtoNode(value, node.path).choice(tuple(TIERS_IN))]


def _encode_tier(tier: ir.ServiceTier, encoding: Encoding) -> str | None:
    if tier not in TIERS_OUT:
        encoding.losses.add("dropped:service_tier")
    return TIERS_OUT.get(tier)


def _decode_choice(node: ProtoNode, decoding: Decoding) -> ir.ToolChoice | None:
    given, names = node.get("mode"), node.get("allowedFunctionNames")
    mode = given.enum_value(*_MODES) if given else "MODE_UNSPECIFIED"
    only = tuple(name.text() for name in names.array()) if names else ()
    if mode == "VALIDATED" and not only:
        decoding.keep("toolConfig", {"functionCallingConfig": {"mode": mode}})  # only validates calls; no choice
    if mode == "NONE":
        return ir.ToolChoice(mode="none", given=True)
    if mode == "ANY":
        return ir.ToolChoice(mode="required", only=only, given=True)
    return ir.ToolChoice(mode="auto", only=only, given=True) if mode != "MODE_UNSPECIFIED" or only else None


OPTIONS = Table(
    PROTOCOL,
    [
        Rule("continues", refuse=codec.stored_response),
        Rule("tool_choice", "toolConfig.functionCallingConfig", decode=_decode_choice, encode=ELSEWHERE),
        *codec.within(
            _CONFIG,
            Rule("sampling.temperature", "temperature", codec.number(0, 2), needs=_takes_sampling),
            Rule("sampling.top_p", "topP", codec.number(0, 1), needs=_takes_sampling),
            Rule("sampling.presence_penalty", "presencePenalty", codec.number(-2, 2)),
            Rule("sampling.frequency_penalty", "frequencyPenalty", codec.number(-2, 2)),
            Rule("sampling.top_k", "topK", _TOP_K, needs=_takes_sampling),
            Rule("sampling.logit_bias"),
            Rule("sampling.seed", "seed", codec.integer(-_SEEDS, _SEEDS - 1), encode=_encode_seed),
            Rule("sampling.logprobs", _LOGPROBS, decode=_decode_logprobs, encode=_encode_logprobs),
            Rule("max_output_tokens", "maxOutputTokens", codec.integer(1), encode=codec.limit, refuse=codec.no_tokens),
            Rule("stop", "stopSequences", codec.TEXTS, encode=codec.stops(_MAX_STOP_SEQUENCES)),
            Rule("candidates", "candidateCount", codec.integer(1, 8)),
            Rule("output.kind", _FORMAT, decode=_decode_format, encode=_encode_format),
            Rule(
                "output.modalities",
                "responseModalities",
                decode=_decode_modalities,
                encode=_encode_modalities,
                refuse=codec.outputs("text", "image", "audio", "video"),
            ),
            Rule("reasoning", "thinkingConfig", decode=_decode_thinking, encode=_encode_thinking),
        ),
        Rule("service_tier", "serviceTier", decode=_decode_tier, encode=_encode_tier),
    ],
    beside=("contents", "systemInstruction", "tools", "model"),
    unwarned=("cache", "end_user", "metadata", "store"),
    node=ProtoNode,
    other=snake,
    spell=camel,
)
