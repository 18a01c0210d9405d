"""The words of Responses and what they mean: ids, tiers, how an answer ends, and the shape of usage.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21).
"""

import re
from collections.abc import Mapping
from typing import Any

from llmproxy_asgi.conversation import EMPTY, MOST_TOKENS, Finish, FinishReason, ServiceTier, Usage
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai import words as shared

PROTOCOL = "openai-responses"

TIER_IN: Mapping[str, ServiceTier] = {**shared.TIER_IN, "ultrafast": ServiceTier.ULTRAFAST}
TIER_OUT: Mapping[ServiceTier, str] = {tier: word for word, tier in TIER_IN.items()}

WEB_SEARCH = "web_search"
"""How the types of the tool that searches the web begin, and our own name of it."""
STATE = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
SOURCES = "web_search_call.action.sources"
"""What a request may ask to be included in its answer."""
BETWEEN_SUMMARIES = "\n\n"
"""What stands between the parts of one reasoning summary where they are one text."""

_ANSWER_ID = re.compile(r"resp_[A-Za-z0-9_-]{1,128}")
_ITEM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def answer_id(found: str, nonce: str = "") -> str:
    """The id of an answer where it has this protocol's form, else one made from it and from what it has alone."""
    return found if _ANSWER_ID.fullmatch(found) else derived("resp_", found, nonce, size=48)


def is_answer_id(found: str) -> bool:
    """Whether an answer's id has this protocol's form."""
    return _ANSWER_ID.fullmatch(found) is not None


def legal_item_id(found: str | None, prefix: str) -> str | None:
    """An item's id where the vendor would take it back as one of this kind."""
    if found is not None and found.startswith(prefix) and _ITEM_ID.fullmatch(found):
        return found
    return None


def item_id(prefix: str, answer: str, position: int) -> str:
    """An id for an item that has none: the same each time."""
    return derived(prefix, answer, str(position), size=40)


# ── how an answer ends ───────────────────────────────────────────────────────────────────────────────────────────────

_INCOMPLETE_IN: Mapping[str | None, FinishReason] = {
    "max_output_tokens": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,  # as some compatible servers say it
    "max_messages": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_INCOMPLETE_OUT: Mapping[FinishReason, str] = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTEXT_LENGTH: "max_output_tokens",
    FinishReason.PAUSE: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}


def decode_finish(status: str | None, reason: str | None, *, called: bool, refused: bool) -> Finish:
    """Why an answer ended, by its status and what it holds. What is incomplete was cut off, whatever cut it."""
    if status == "incomplete":
        return Finish(reason=_INCOMPLETE_IN.get(reason, FinishReason.LENGTH), native=reason or status)
    if status == "cancelled":
        return Finish(reason=FinishReason.CANCELLED, native=status)
    if called:
        return Finish(reason=FinishReason.TOOL_CALLS, native=status)
    return Finish(reason=FinishReason.REFUSAL if refused else FinishReason.STOP, native=status)


def encode_finish(finish: Finish, *, refused: bool) -> tuple[str, str | None]:
    """An answer's status, and why it is incomplete; `refused`: whether it says so in words."""
    reason = finish.reason
    if reason is FinishReason.REFUSAL and not refused:
        return "incomplete", "content_filter"  # without words of refusal it would look like an ordinary end
    if reason is FinishReason.MALFORMED_CALL:
        return "failed", None
    if reason is FinishReason.CANCELLED:
        return "cancelled", None
    word = _INCOMPLETE_OUT.get(reason)
    return ("incomplete", word) if word else ("completed", None)


# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def decode_usage(found: Any, tools: Any = None) -> Usage | None:
    """The token counts, or None where there are none. Whatever cannot be a count is taken as 0.

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
    return Usage(
        input=max(_count(found, "input_tokens"), cached + written),
        output=max(_count(found, "output_tokens"), reasoning),
        cache_read=cached,
        cache_write=written,
        cache_write_long=min(written, _count(_details(ins, "cache_write_tokens_details"), "ttl_12h_tokens")),
        reasoning=reasoning,
        server_tool_calls={"web_search": searches} if searches else EMPTY,
        extras={PROTOCOL: found},
    )


def encode_usage(usage: Usage) -> dict[str, Any]:
    """The token counts as callers read them."""
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
    return value if type(value) is dict else EMPTY


def _count(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value <= MOST_TOKENS else 0
