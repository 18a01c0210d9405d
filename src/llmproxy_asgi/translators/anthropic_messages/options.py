"""The options of Messages: what callers send and what upstreams get, by the model's capabilities."""

from collections.abc import Mapping
from typing import Any, Literal

import llmproxy_asgi.conversation as ir
import llmproxy_asgi.translators.codec.options as codec
from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages.message_decoder import decode_mark
from llmproxy_asgi.translators.anthropic_messages.message_encoder import cache_control
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.codec.options import ELSEWHERE, Decoding, Encoding, Rule, Table
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.strict_schemas import ANTHROPIC, NotStrict, strict_form

_DEFAULT_MAX_TOKENS = 32_000
_MIN_BUDGET = 1024

_EFFORTS: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")
"""The efforts that Anthropic's API has."""
_EFFORT = codec.words({effort: effort for effort in _EFFORTS})
_BUDGETS: Mapping[Effort, int] = {
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_000,
    "max": 48_000,
}
_VISIBILITIES: Mapping[str, ir.Visibility] = {"summarized": "summary", "omitted": "hidden", "updates": "updates"}
_DISPLAYS = {"summary": "summarized", "full": "summarized", "updates": "summarized", "hidden": "omitted"}
_SHOWS_REASONING = frozenset({"openai-chat"})
"""Other protocols whose clients get readable reasoning without requesting it."""
_TIERS: Mapping[ir.ServiceTier, JSONObject] = {
    ir.ServiceTier.AUTO: {},
    ir.ServiceTier.STANDARD: {"service_tier": "standard_only"},
    ir.ServiceTier.PRIORITY: {"speed": "fast"},
    ir.ServiceTier.FAST: {"speed": "fast"},
}
_MODES: Mapping[str, Literal["auto", "required", "none"]] = {
    "auto": "auto",
    "any": "required",
    "none": "none",
    "tool": "required",
}
_THINKING_BLOCKS = frozenset({"thinking", "redacted_thinking"})


def thinks(encoding: Encoding) -> bool:
    """Return whether thinking is requested of the upstream."""
    thinking = encoding.fields.get("thinking")
    return thinking is not None and thinking["type"] != "disabled"


def _takes_sampling(encoding: Encoding) -> bool:
    return encoding.capabilities.sampling == "any" and ("thinking" not in encoding.fields or not thinks(encoding))


def _takes_top_p(encoding: Encoding) -> bool:
    # Several models accept only one of the two.
    return _takes_sampling(encoding) and encoding.request.sampling.temperature is None


def _encode_limit(wanted: int | None, encoding: Encoding) -> int:
    """Encode the limit, which Anthropic requires: the caller's, else the model's."""
    if wanted is not None:
        return codec.limit(wanted, encoding)
    ceiling = encoding.capabilities.max_output_tokens
    default = encoding.capabilities.default_max_output_tokens or ceiling or _DEFAULT_MAX_TOKENS
    return min(default, ceiling) if ceiling else default


# ── thinking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _decode_thinking(node: Node, decoding: Decoding) -> ir.ReasoningOptions | None:
    kind = node.need("type").choice(("adaptive", "enabled", "disabled", "between_tools"))
    if kind == "disabled":
        return ir.ReasoningOptions(effort="none")
    display = node.get("display")
    decoding.values["reasoning.budget_tokens"] = (
        node.need("budget_tokens").integer(_MIN_BUDGET) if kind == "enabled" else -1
    )
    if display:
        decoding.values["reasoning.visible"] = _VISIBILITIES[display.choice(tuple(_VISIBILITIES))]
    if kind == "between_tools" or not node.object().keys() <= {"type", "budget_tokens", "display"}:
        decoding.extras["thinking"] = node.object()
    return None


def _encode_reasoning(options: ir.ReasoningOptions, encoding: Encoding) -> JSONObject | None:
    """Encode an effort or a budget, never both."""
    capabilities, losses = encoding.capabilities, encoding.losses
    wanted = codec.requested_effort(options)
    if wanted is None and options.budget_tokens is None and options.visible == "hidden":
        return None
    if not capabilities.efforts:
        if wanted != "none":
            losses.add("dropped:reasoning_effort")
        return None
    if wanted == "none":
        if capabilities.thinking_off:
            return {"type": "disabled"}
        encoding.put("output_config.effort", codec.effort("none", encoding, _EFFORTS))
        return None
    has_budget = (options.budget_tokens or 0) > 0 and options.effort is None
    if capabilities.thinking == "budget" or (capabilities.thinking == "both" and has_budget):
        return _budget(options, wanted, encoding)
    if wanted is not None:
        encoding.put("output_config.effort", codec.effort(wanted, encoding, _EFFORTS))
    display = _DISPLAYS.get(options.visible or ("summary" if encoding.request.protocol in _SHOWS_REASONING else ""))
    return {"type": "adaptive", **({"display": display} if display else {})}


def _budget(options: ir.ReasoningOptions, wanted: Effort | None, encoding: Encoding) -> JSONObject | None:
    given = options.budget_tokens or 0
    requested = given if given > 0 else _BUDGETS[wanted or "medium"]
    budget = max(requested, _MIN_BUDGET)
    budget = min(budget, encoding.capabilities.max_thinking_budget or budget, encoding.fields["max_tokens"] - 1)
    if budget < _MIN_BUDGET or _lacks_thinking(encoding):
        encoding.losses.add("dropped:reasoning_effort")
        return None
    if wanted is None:
        encoding.losses.add("emulated:reasoning_effort")  # these models can't choose a budget
    if budget != requested:
        encoding.losses.add("clamped:reasoning_effort")
    return {"type": "enabled", "budget_tokens": budget}


def _lacks_thinking(encoding: Encoding) -> bool:
    """Return whether the conversation ends with tool results whose calls have no thinking block before them.

    Models with a thinking budget refuse to continue such a conversation while thinking is on.
    """
    messages = encoding.messages
    if len(messages) < 2 or messages[-1]["role"] != "user":
        return False
    if not any(block["type"] == "tool_result" for block in messages[-1]["content"]):
        return False
    step = messages[-2]["content"]
    return messages[-2]["role"] == "assistant" and not any(block["type"] in _THINKING_BLOCKS for block in step)


# ── format, tier and cache ───────────────────────────────────────────────────────────────────────────────────────────


def _decode_format(node: Node, decoding: Decoding) -> str:
    kind = node.need("type").choice(("json_schema",))
    decoding.values["output.schema"] = node.need("schema").object()
    return kind


def _encode_format(kind: str, encoding: Encoding) -> JSONObject | None:
    """Encode a schema; other formats become an instruction, which leaves tools and thinking as they are."""
    if kind == "json_schema" and encoding.capabilities.structured_output and encoding.supports_format:
        try:
            form = strict_form(dict(encoding.request.output.schema or ir.EMPTY), ANTHROPIC)
        except NotStrict:
            pass
        else:
            encoding.losses.add(*(f"dropped:response_format.{key}" for key in form.described))
            return {"type": "json_schema", "schema": form.schema}
    codec.describe_format(encoding)
    return None


def _decode_tier(node: Node, _: Decoding) -> ir.ServiceTier | None:
    if node.path == "speed":
        return ir.ServiceTier.FAST if node.choice(("standard", "fast")) == "fast" else None
    plain = node.choice(("auto", "standard_only")) == "standard_only"
    return ir.ServiceTier.STANDARD if plain else ir.ServiceTier.AUTO


def _encode_tier(tier: ir.ServiceTier, encoding: Encoding) -> None:
    if tier not in _TIERS:
        encoding.losses.add("dropped:service_tier")
    encoding.fields.update(_TIERS.get(tier, {}))


def _decode_cache(node: Node, _: Decoding) -> ir.CacheOptions:
    return ir.CacheOptions(automatic=True, lifetime=decode_mark(node).lifetime)


def _encode_cache(cache: ir.CacheOptions, encoding: Encoding) -> Any:
    if not cache.automatic or not encoding.capabilities.cache_marks:
        return None
    return cache_control(ir.CacheMark(lifetime=cache.lifetime))


def _decode_choice(node: Node, _: Decoding) -> ir.ToolChoice:
    kind = node.need("type").choice(tuple(_MODES))
    only = (node.need("name").text(),) if kind == "tool" else ()
    single = node.get("disable_parallel_tool_use")
    parallel = None if single is None else not single.boolean()
    return ir.ToolChoice(mode=_MODES[kind], only=only, parallel=parallel, given=True)


OPTIONS = Table(
    PROTOCOL,
    [
        Rule("candidates", refuse=codec.several_candidates),
        Rule("output.modalities", refuse=codec.outputs("text")),
        Rule("continues", refuse=codec.stored_response),
        Rule("tool_choice", "tool_choice", decode=_decode_choice, encode=ELSEWHERE),
        Rule("max_output_tokens", "max_tokens", codec.integer(0), encode=_encode_limit, always=True),
        Rule("reasoning", "thinking", decode=_decode_thinking, encode=_encode_reasoning),
        Rule(
            "reasoning.effort", "output_config.effort", codec.words({each: each for each in _EFFORTS}), encode=ELSEWHERE
        ),
        Rule("output.kind", "output_config.format", decode=_decode_format, encode=_encode_format),
        Rule("sampling.temperature", "temperature", codec.number(0, 1), needs=_takes_sampling),
        Rule("sampling.top_k", "top_k", codec.integer(0), needs=_takes_sampling),
        Rule("sampling.top_p", "top_p", codec.number(0, 1), needs=_takes_top_p),
        Rule(
            "stop", "stop_sequences", codec.TEXTS, encode=codec.stops(accepts=str.strip)
        ),  # Anthropic refuses blank ones
        Rule("service_tier", ("speed", "service_tier"), decode=_decode_tier, encode=_encode_tier),
        Rule("end_user", "metadata.user_id", codec.TEXT),
        Rule("cache", "cache_control", decode=_decode_cache, encode=_encode_cache),
    ],
    beside=("model", "messages", "system", "stream", "tools"),
    unwarned=("metadata", "store"),
)
