"""Mappings of Responses in both directions: ids, tiers, status and usage.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21).
"""

import re
from collections.abc import Mapping
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai import mappings as shared

PROTOCOL = "openai-responses"
MANY = ("output", "*", "content", "*", "logprobs", "*")
"""The path to the entries of a response that may be very many."""
MANY_IN_EVENTS = (("logprobs", "*"), ("part", "logprobs", "*"), ("item", *MANY[2:]), ("response", *MANY))
"""The same in the events of a stream: deltas, parts, items and the complete response."""

TIER_IN: Mapping[str, ir.ServiceTier] = {**shared.TIER_IN, "ultrafast": ir.ServiceTier.ULTRAFAST}
TIER_OUT: Mapping[ir.ServiceTier, str] = {tier: word for word, tier in TIER_IN.items()}

WEB_SEARCH = "web_search"
"""The prefix of the web search tool's types, and its name in the conversation."""
STATE = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
SOURCES = "web_search_call.action.sources"
"""The values of `include`."""
BETWEEN_SUMMARIES = "\n\n"
"""The separator of a reasoning summary's parts when they are joined to one text."""

_ANSWER_ID = re.compile(r"resp_[A-Za-z0-9_-]{1,128}")
_ITEM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def answer_id(found: str, nonce: str = "") -> str:
    """Return a response's id if it has this protocol's format, else one derived from it."""
    return found if _ANSWER_ID.fullmatch(found) else derived("resp_", found, nonce, size=48)


def is_answer_id(found: str) -> bool:
    """Whether a response's id has this protocol's format."""
    return _ANSWER_ID.fullmatch(found) is not None


def legal_item_id(found: str | None, prefix: str) -> str | None:
    """Return an item's id if the vendor would accept it back for this kind of item."""
    if found is not None and found.startswith(prefix) and _ITEM_ID.fullmatch(found):
        return found
    return None


def item_id(prefix: str, answer: str, position: int) -> str:
    """Derive a stable id for an item without one."""
    return derived(prefix, answer, str(position), size=40)


# ── finish reasons ───────────────────────────────────────────────────────────────────────────────────────────────────

_INCOMPLETE_IN: Mapping[str | None, ir.FinishReason] = {
    "max_output_tokens": ir.FinishReason.LENGTH,
    "max_tokens": ir.FinishReason.LENGTH,  # some compatible servers
    "max_messages": ir.FinishReason.LENGTH,
    "content_filter": ir.FinishReason.CONTENT_FILTER,
}
_INCOMPLETE_OUT: Mapping[ir.FinishReason, str] = {
    ir.FinishReason.LENGTH: "max_output_tokens",
    ir.FinishReason.CONTEXT_LENGTH: "max_output_tokens",
    ir.FinishReason.PAUSE: "max_output_tokens",
    ir.FinishReason.CONTENT_FILTER: "content_filter",
}


def decode_finish(status: str | None, reason: str | None, *, called: bool = False) -> ir.Finish:
    """Decode a finish reason from the status and the content. An incomplete response counts as cut off."""
    if status == "incomplete":
        return ir.Finish(reason=_INCOMPLETE_IN.get(reason, ir.FinishReason.LENGTH), native=reason or status)
    if status == "cancelled":
        return ir.Finish(reason=ir.FinishReason.CANCELLED, native=status)
    if called:
        return ir.Finish(reason=ir.FinishReason.TOOL_CALLS, native=status)
    return ir.Finish(reason=ir.FinishReason.STOP, native=status)


def encode_finish(finish: ir.Finish, *, refused: bool) -> tuple[str, str | None]:
    """Encode a status and the reason of an incomplete response; `refused`: whether it has a refusal text."""
    reason = finish.reason
    if reason is ir.FinishReason.REFUSAL and not refused:
        return "incomplete", "content_filter"  # without a refusal text it would look like a normal end
    if reason is ir.FinishReason.MALFORMED_CALL:
        return "failed", None
    if reason is ir.FinishReason.CANCELLED:
        return "cancelled", None
    word = _INCOMPLETE_OUT.get(reason)
    return ("incomplete", word) if word else ("completed", None)


# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def decode_usage(found: Any, tools: Any = None) -> ir.Usage | None:
    """Decode the token counts; None if there are none. Values that cannot be counts are read as 0.

    Args:
        found: The answer's `usage`.
        tools: The answer's `tool_usage`.
    """
    if type(found) is not dict:
        return None
    ins, outs = _details(found, "input_tokens_details"), _details(found, "output_tokens_details")
    cached, written = _count(ins, "cached_tokens"), _count(ins, "cache_write_tokens")
    reasoning = _count(outs, "reasoning_tokens")
    searches = _count(_details(tools, "web_search"), "num_requests")
    return ir.Usage(
        input=max(_count(found, "input_tokens"), cached + written),
        output=max(_count(found, "output_tokens"), reasoning),
        cache_read=cached,
        cache_write=written,
        cache_write_long=min(written, _count(_details(ins, "cache_write_tokens_details"), "ttl_12h_tokens")),
        reasoning=reasoning,
        server_tool_calls={"web_search": searches} if searches else ir.EMPTY,
        extras={PROTOCOL: found},
    )


def encode_usage(usage: ir.Usage) -> dict[str, Any]:
    """Encode the token counts."""
    ins: dict[str, Any] = {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write}
    if usage.cache_write_long:
        long = min(usage.cache_write_long, usage.cache_write)
        ins["cache_write_tokens_details"] = {"ttl_30m_tokens": usage.cache_write - long, "ttl_12h_tokens": long}
    return {
        "input_tokens": usage.input,
        "input_tokens_details": ins,
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def _details(found: Any, key: str) -> Mapping[str, Any]:
    value = found.get(key) if type(found) is dict else None
    return value if type(value) is dict else ir.EMPTY


def _count(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value <= ir.MOST_TOKENS else 0
