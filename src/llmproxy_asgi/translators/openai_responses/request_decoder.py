"""Decode a caller's request: the top level here, its input in `item_decoder`, its tools in `tool_decoder`.

The decoder is as strict as the vendor about types, required fields and values, and lenient about known deviations of
clients. Fields that only this protocol has are kept in `extras`, except defaults.
"""

from collections.abc import Mapping
from typing import Any, cast

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import EFFORTS, Effort
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai.options import (
    Raw,
    boolean,
    cache_options,
    integer,
    metadata,
    number,
    others,
    string,
)
from llmproxy_asgi.translators.openai_responses.item_decoder import decode_items
from llmproxy_asgi.translators.openai_responses.mappings import LOGPROBS, PROTOCOL, STATE, TIER_IN
from llmproxy_asgi.translators.openai_responses.tool_decoder import decode_choice, decode_tools, native_choice, offered

_KNOWN = frozenset(
    {
        "model",
        "input",
        "instructions",
        "previous_response_id",
        "store",
        "max_output_tokens",
        "temperature",
        "top_p",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "include",
        "truncation",
        "background",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "metadata",
        "safety_identifier",
        "user",
        "service_tier",
        "stream",
        "stream_options",
    }
)
_SUMMARIES = ("auto", "concise", "detailed")


def decode_request(inbound_request: InboundRequest) -> ir.Request:
    """Decode into the protocol-neutral request."""
    raw = inbound_request.raw
    instructions, given = string(raw, "instructions"), Node.of(raw, "input")
    leading = (ir.Message(role="system", parts=(ir.Text(text=instructions),)),) if instructions else ()
    return ir.Request(
        protocol=PROTOCOL,
        model=inbound_request.model,
        messages=leading + (decode_items(given) if given else ()),
        tools=offered(decode_tools(raw), given),
        tool_choice=decode_choice(raw),
        output=_output(raw),
        reasoning=_reasoning(raw),
        sampling=_sampling(raw),
        max_output_tokens=integer(raw, "max_output_tokens", low=1),
        stream=inbound_request.stream,
        cache=cache_options(raw),
        end_user=string(raw, "safety_identifier") or string(raw, "user"),
        metadata=metadata(raw),
        service_tier=_service_tier(raw),
        continues=string(raw, "previous_response_id"),
        store=boolean(raw, "store"),
        extras=_extras(raw),
    )


def _output(raw: Raw) -> ir.OutputFormat:
    text = Node.of(raw, "text")
    if text is None:
        return ir.OutputFormat()
    verbosity, form = text.get("verbosity"), text.get("format")
    word = verbosity.choice(("low", "medium", "high")) if verbosity else None
    kind = form.need("type").choice(("text", "json_object", "json_schema")) if form else "text"
    if form is None or kind == "text":
        return ir.OutputFormat(verbosity=word)
    if kind == "json_object":
        return ir.OutputFormat(kind="json", verbosity=word)
    form = form.get("json_schema") or form  # some clients nest it, as in Chat
    description, schema, strict = form.get("description"), form.get("schema"), form.get("strict")
    return ir.OutputFormat(
        kind="json_schema",
        name=form.need("name").text(),
        description=description.text() if description else None,
        schema=schema.object() if schema else {},
        strict=strict.boolean() if strict else None,
        verbosity=word,
    )


def _reasoning(raw: Raw) -> ir.ReasoningOptions:
    node = Node.of(raw, "reasoning")
    if node is None:
        return ir.ReasoningOptions()
    effort, summary = node.get("effort"), node.get("summary") or node.get("generate_summary")
    shown = summary is not None and summary.choice((*_SUMMARIES, "none")) != "none"
    return ir.ReasoningOptions(
        effort=cast("Effort", effort.choice(EFFORTS)) if effort else None,
        visible="summary" if shown else None,
    )


def _sampling(raw: Raw) -> ir.Sampling:
    top = integer(raw, "top_logprobs", low=0, high=20)
    return ir.Sampling(
        temperature=number(raw, "temperature", 0, 2),
        top_p=number(raw, "top_p", 0, 1),
        logprobs=top or 0 if LOGPROBS in _include(raw) or top else None,
    )


def _include(raw: Raw) -> list[str]:
    node = Node.of(raw, "include")
    return [entry.text() for entry in node.array()] if node else []


def _service_tier(raw: Raw) -> ir.ServiceTier | None:
    node = Node.of(raw, "service_tier")
    return TIER_IN[node.choice(tuple(TIER_IN))] if node else None


def _extras(raw: Raw) -> Mapping[str, dict[str, Any]]:
    kept = others(raw, _KNOWN)
    include = [each for each in _include(raw) if each not in {STATE, LOGPROBS}]
    if include:
        kept["include"] = include
    truncation = Node.of(raw, "truncation")
    if truncation is not None and truncation.choice(("auto", "disabled")) == "auto":
        kept["truncation"] = "auto"
    if boolean(raw, "background"):
        kept["background"] = True
    choice = native_choice(raw)
    if choice is not None:
        kept["tool_choice"] = choice
    reasoning = _reasoning_extras(raw)
    if reasoning:
        kept["reasoning"] = reasoning
    return {PROTOCOL: kept} if kept else {}


def _reasoning_extras(raw: Raw) -> dict[str, Any]:
    """Return the reasoning options that only this protocol has: its context and the summary's length."""
    node = Node.of(raw, "reasoning")
    if node is None:
        return {}
    kept = {key: value for key, value in node.object().items() if key not in {"effort", "summary", "generate_summary"}}
    summary = node.get("summary") or node.get("generate_summary")
    if summary is not None and summary.value != "auto":
        kept["summary"] = summary.value
    return {key: value for key, value in kept.items() if value is not None}
