"""Decode and encode token counts: Anthropic excludes cache reads and writes from the input, `Usage` includes them."""

from collections.abc import Mapping
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL

_SERVER_TOOLS = {"web_search_requests": "web_search", "web_fetch_requests": "url_fetch"}
_METRICS = {
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
}
_SERVER_FIELDS = {tool: field for field, tool in _SERVER_TOOLS.items()}


def decode_usage(native: Mapping[str, Any]) -> ir.Usage:
    """Decode a usage object; missing and invalid counts are 0."""
    cache_read = _count(native, "cache_read_input_tokens")
    cache_creation = native.get("cache_creation")
    by_lifetime: Mapping[str, Any] = cache_creation if isinstance(cache_creation, dict) else ir.EMPTY
    five_minutes = _count(by_lifetime, "ephemeral_5m_input_tokens")
    one_hour = _count(by_lifetime, "ephemeral_1h_input_tokens")
    cache_write = _count(native, "cache_creation_input_tokens") or five_minutes + one_hour
    details = native.get("output_tokens_details")
    tools = native.get("server_tool_use")
    return ir.Usage(
        input=_count(native, "input_tokens") + cache_read + cache_write,
        output=_count(native, "output_tokens"),
        cache_read=cache_read,
        cache_write=cache_write,
        cache_write_long=min(one_hour, cache_write),
        reasoning=_count(details, "thinking_tokens") if isinstance(details, dict) else 0,
        server_tool_calls=_server_tools(tools) if isinstance(tools, dict) else ir.EMPTY,
        extras={PROTOCOL: dict(native)} if native else ir.EMPTY,
    )


def merge_usage(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge two usage objects: values of the later one replace values of the earlier one."""
    return {**before, **{key: value for key, value in (after or ir.EMPTY).items() if value is not None}}


def bedrock_usage(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the counts of Bedrock's last event with Anthropic's names; None without any."""
    if metrics is None:
        return None
    return {name: metrics[bedrock_name] for bedrock_name, name in _METRICS.items() if bedrock_name in metrics}


def encode_usage(usage: ir.Usage, tier: ir.ServiceTier | None = None) -> JSONObject:
    """Encode the counts for Anthropic's clients; the input is never negative."""
    native = usage.extras.get(PROTOCOL, ir.EMPTY)
    fields: JSONObject = {
        **native,
        "input_tokens": max(0, usage.input - usage.cache_read - usage.cache_write),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }
    if usage.cache_write:
        one_hour = min(usage.cache_write_long, usage.cache_write)
        fields["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write - one_hour,
            "ephemeral_1h_input_tokens": one_hour,
        }
    if usage.reasoning:
        fields["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    counts = {_SERVER_FIELDS[tool]: n for tool, n in usage.server_tool_calls.items() if tool in _SERVER_FIELDS}
    if counts:
        fields["server_tool_use"] = {**dict.fromkeys(_SERVER_TOOLS, 0), **counts}
    return {**fields, **tier_fields(tier)}


def estimated_input(size: int) -> ir.Usage:
    """Estimate the usage of a request of `size` bytes, for a stream's start without usage; never 0."""
    return ir.Usage(input=max(1, -(-size // 4)), output=1, estimated=True)


def tier_fields(tier: ir.ServiceTier | None) -> JSONObject:
    """Encode the tier that was used, as fields of a usage object."""
    match tier:
        case ir.ServiceTier.FAST:
            return {"service_tier": "standard", "speed": "fast"}
        case ir.ServiceTier.PRIORITY | ir.ServiceTier.STANDARD:
            return {"service_tier": str(tier)}
        case _:
            return {}


def decode_tier(native: Mapping[str, Any]) -> ir.ServiceTier | None:
    """Decode the tier that was used from a usage object."""
    if native.get("speed") == "fast":
        return ir.ServiceTier.FAST
    return {"standard": ir.ServiceTier.STANDARD, "priority": ir.ServiceTier.PRIORITY}.get(
        str(native.get("service_tier"))
    )


def _server_tools(native: Mapping[str, Any]) -> Mapping[str, int]:
    counts = {tool: _count(native, field) for field, tool in _SERVER_TOOLS.items()}
    return {tool: count for tool, count in counts.items() if count} or ir.EMPTY


def _count(native: Mapping[str, Any], key: str) -> int:
    value = native.get(key)
    return value if type(value) is int and 0 < value <= ir.MOST_TOKENS else 0
