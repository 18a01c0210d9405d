"""The options of Chat Completions: what callers send and what upstreams get, by the model's capabilities."""

from collections.abc import Sequence
from typing import Any

import llmproxy_asgi.conversation as ir
import llmproxy_asgi.translators.codec.options as codec
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.codec.options import ELSEWHERE, Decoding, Encoding, Rule, Table
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai import options as shared
from llmproxy_asgi.translators.openai.mappings import TIER_IN
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL

_MOST_STOPS = 4
_OUTPUTS = codec.outputs("text", "audio")
_LIFETIMES = dict.fromkeys(("5m", "30m", "1h", "12h", "24h"), "30m")


# ── sampling and limits ──────────────────────────────────────────────────────────────────────────────────────────────


def _decode_top_k(node: Node, _: Decoding) -> int | None:
    """Decode `top_k`, which many compatible servers have; -1 and 0 mean none at some."""
    value = node.integer()
    return value if value > 0 else None


def _same_protocol(encoding: Encoding) -> bool:
    # Callers of this protocol send it to servers that have it.
    return encoding.request.protocol == PROTOCOL


def _decode_logprobs(_: Node, decoding: Decoding) -> int | None:
    wanted, count = decoding.get("logprobs"), decoding.get("top_logprobs")
    top = count.integer(0, 20) if count else None
    if wanted and wanted.boolean():
        return top or 0
    if top is not None:
        raise BadRequest("top_logprobs: needs logprobs to be true.", param="top_logprobs", code="invalid_value")
    return None


def _encode_logprobs(count: int, encoding: Encoding) -> bool:
    shared.encode_top_logprobs(count, encoding)
    return True


def _encode_limit(wanted: int, encoding: Encoding) -> None:
    encoding.fields[encoding.capabilities.max_tokens_field] = codec.limit(wanted, encoding)


# ── output, reasoning and cache ──────────────────────────────────────────────────────────────────────────────────────


def _decode_format(node: Node, decoding: Decoding) -> str:
    return shared.decode_format(node, decoding, nested=True)


def _encode_format(kind: str, encoding: Encoding) -> JSONObject | None:
    form = shared.encode_format(kind, encoding, PROTOCOL)
    if form is None or len(form) == 1:
        return form
    return {"type": form.pop("type"), "json_schema": form}


def _encode_modalities(wanted: Sequence[str], encoding: Encoding) -> list[str] | None:
    if "audio" not in wanted:
        return None
    if not encoding.request.extras.get(PROTOCOL, ir.EMPTY).get("audio"):
        encoding.losses.add("emulated:audio")  # other vendors' voices have no equivalents
        encoding.fields["audio"] = {"voice": "alloy", "format": "pcm16" if encoding.request.stream else "wav"}
    return ["text", "audio"]


def _decode_reasoning(node: Node, decoding: Decoding) -> ir.ReasoningOptions:
    """Decode the effort, OpenRouter's `reasoning` or Anthropic's `thinking`."""
    if node.path == "reasoning_effort":
        return ir.ReasoningOptions(effort=codec.EFFORT.decode(node, decoding))
    if node.path == "thinking":
        budget = node.get("budget_tokens")
        if node.need("type").choice(("enabled", "disabled", "adaptive")) == "disabled":
            return ir.ReasoningOptions(effort="none")
        return ir.ReasoningOptions(budget_tokens=budget.integer(1) if budget else None)
    effort, tokens, exclude = node.get("effort"), node.get("max_tokens"), node.get("exclude")
    return ir.ReasoningOptions(
        effort=codec.EFFORT.decode(effort, decoding) if effort else None,
        budget_tokens=tokens.integer(0) if tokens and not effort else None,
        visible="hidden" if exclude and exclude.boolean() else None,
    )


def _encode_cache_key(key: str, encoding: Encoding) -> str | None:
    # Compatible servers may refuse the field.
    return key if encoding.capabilities.developer_role or encoding.capabilities.cache_marks else None


# ── tool choice ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _decode_choice(_: Node, decoding: Decoding) -> ir.ToolChoice:
    single, raw = decoding.get("parallel_tool_calls"), decoding.raw
    parallel = single.boolean() if single else None
    if "functions" in raw and "tools" not in raw:
        parallel = False
    node = decoding.get("tool_choice") or decoding.get("function_call")
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


OPTIONS = Table(
    PROTOCOL,
    [
        Rule("continues", refuse=codec.stored_response),
        Rule(
            "tool_choice",
            ("tool_choice", "function_call", "parallel_tool_calls", "functions"),
            decode=_decode_choice,
            encode=ELSEWHERE,
        ),
        Rule("output.verbosity", "verbosity", shared.VERBOSITY, needs="verbosity"),
        Rule("output.kind", "response_format", decode=_decode_format, encode=_encode_format),
        Rule(
            "output.modalities",
            "modalities",
            codec.TEXTS,
            encode=_encode_modalities,
            refuse=codec.outputs("text", "audio"),
        ),
        Rule(
            "reasoning",
            ("reasoning_effort", "thinking", "reasoning"),
            decode=_decode_reasoning,
            encode=shared.encode_effort,
        ),
        shared.TEMPERATURE,
        shared.TOP_P,
        shared.FREQUENCY_PENALTY,
        shared.PRESENCE_PENALTY,
        Rule("sampling.top_k", "top_k", codec.integer(), needs=_same_protocol, decode=_decode_top_k),
        shared.SEED,
        shared.LOGIT_BIAS,
        Rule(
            "sampling.logprobs",
            ("logprobs", "top_logprobs"),
            needs=shared.takes_more,
            decode=_decode_logprobs,
            encode=_encode_logprobs,
        ),
        Rule(
            "max_output_tokens",
            ("max_completion_tokens", "max_tokens"),
            codec.integer(1),
            encode=_encode_limit,
            refuse=codec.no_tokens,
        ),
        Rule("stop", "stop", shared.STOP, encode=codec.stops(_MOST_STOPS)),
        Rule("candidates", "n", codec.integer(1)),
        shared.END_USER,
        Rule("metadata", "metadata", codec.METADATA),
        Rule("service_tier", "service_tier", codec.words(TIER_IN)),
        *shared.cache_rules(_LIFETIMES, _encode_cache_key),
        Rule("store", "store", codec.BOOLEAN, encode=ELSEWHERE),
    ],
    beside=("model", "messages", "stream", "stream_options", "tools", "web_search_options"),
)
