"""Token counts: Anthropic counts cache reads and writes beside the input, we count them inside."""

from collections.abc import Mapping
from typing import Any

from llmproxy_asgi.conversation import EMPTY, MOST_TOKENS, JSONObject, ServiceTier, Usage
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL

_SERVER_TOOLS = {"web_search_requests": "web_search", "web_fetch_requests": "url_fetch"}
_METRICS = {
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
}
_SERVER_FIELDS = {tool: field for field, tool in _SERVER_TOOLS.items()}


def decode_usage(native: Mapping[str, Any]) -> Usage:
    """The counts of one usage object; what is missing or no number counts as 0."""
    cache_read = _count(native, "cache_read_input_tokens")
    written = native.get("cache_creation")
    by_lifetime: Mapping[str, Any] = written if isinstance(written, dict) else EMPTY
    short = _count(by_lifetime, "ephemeral_5m_input_tokens")
    long = _count(by_lifetime, "ephemeral_1h_input_tokens")
    cache_write = _count(native, "cache_creation_input_tokens") or short + long
    details = native.get("output_tokens_details")
    tools = native.get("server_tool_use")
    return Usage(
        input=_count(native, "input_tokens") + cache_read + cache_write,
        output=_count(native, "output_tokens"),
        cache_read=cache_read,
        cache_write=cache_write,
        cache_write_long=min(long, cache_write),
        reasoning=_count(details, "thinking_tokens") if isinstance(details, dict) else 0,
        server_tool_calls=_server_tools(tools) if isinstance(tools, dict) else EMPTY,
        extras={PROTOCOL: dict(native)} if native else EMPTY,
    )


def newer(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> dict[str, Any]:
    """A later snapshot laid over an earlier one: what it says replaces, what it leaves out stays."""
    return {**before, **{key: value for key, value in (after or EMPTY).items() if value is not None}}


def bedrock_usage(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The counts of Bedrock's last event in Anthropic's words; None where there are none."""
    if metrics is None:
        return None
    return {theirs: metrics[ours] for ours, theirs in _METRICS.items() if ours in metrics}


def encode_usage(usage: Usage, tier: ServiceTier | None = None) -> JSONObject:
    """The counts as Anthropic's clients read them; the input is never negative."""
    native = usage.extras.get(PROTOCOL, EMPTY)
    fields: JSONObject = {
        **native,
        "input_tokens": max(0, usage.input - usage.cache_read - usage.cache_write),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }
    if usage.cache_write:
        long = min(usage.cache_write_long, usage.cache_write)
        fields["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write - long,
            "ephemeral_1h_input_tokens": long,
        }
    if usage.reasoning:
        fields["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    counted = {_SERVER_FIELDS[tool]: n for tool, n in usage.server_tool_calls.items() if tool in _SERVER_FIELDS}
    if counted:
        fields["server_tool_use"] = {**dict.fromkeys(_SERVER_TOOLS, 0), **counted}
    return {**fields, **tier_fields(tier)}


def estimated_input(size: int) -> Usage:
    """What a request of `size` bytes costs about, for the start of a stream that tells no usage yet; never 0."""
    return Usage(input=max(1, -(-size // 4)), output=1, estimated=True)


def tier_fields(tier: ServiceTier | None) -> JSONObject:
    """The tier that served, in a usage object's words."""
    match tier:
        case ServiceTier.FAST:
            return {"service_tier": "standard", "speed": "fast"}
        case ServiceTier.PRIORITY | ServiceTier.STANDARD:
            return {"service_tier": str(tier)}
        case _:
            return {}


def decode_tier(native: Mapping[str, Any]) -> ServiceTier | None:
    """The tier that served, as a usage object tells it."""
    if native.get("speed") == "fast":
        return ServiceTier.FAST
    return {"standard": ServiceTier.STANDARD, "priority": ServiceTier.PRIORITY}.get(str(native.get("service_tier")))


def _server_tools(native: Mapping[str, Any]) -> Mapping[str, int]:
    counted = {tool: _count(native, field) for field, tool in _SERVER_TOOLS.items()}
    return {tool: count for tool, count in counted.items() if count} or EMPTY


def _count(native: Mapping[str, Any], key: str) -> int:
    value = native.get(key)
    return value if type(value) is int and 0 < value <= MOST_TOKENS else 0
