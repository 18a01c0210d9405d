"""Mappings that Chat Completions and Responses share: roles, tiers, efforts, formats and cache marks.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.media import data_url, image_type, standard_base64

DETAILS: tuple[ir.Detail, ...] = ("auto", "low", "high", "original")
NATIVE_ISSUER = "openai"
"""The assumed issuer of unwrapped reasoning state in a caller's history."""

TIER_IN: Mapping[str, ir.ServiceTier] = {
    "auto": ir.ServiceTier.AUTO,
    "default": ir.ServiceTier.STANDARD,
    "flex": ir.ServiceTier.FLEX,
    "priority": ir.ServiceTier.PRIORITY,
    "fast": ir.ServiceTier.FAST,
    "scale": ir.ServiceTier.SCALE,
}
"""The tiers of both protocols; Responses has one more."""
TIER_OUT: Mapping[ir.ServiceTier, str] = {tier: word for word, tier in TIER_IN.items()}

MARK_LIFETIMES: Mapping[ir.CacheLifetime | None, str | None] = {
    None: None,
    "5m": "30m",
    "30m": "30m",
    "1h": "12h",
    "12h": "12h",
    "24h": "12h",
}
"""The nearest lifetime of a cache mark that the vendor supports."""
MOST_MARKS = 4
"""Cache marks in one request at most; of more, the last ones cover the longest prefixes."""

ERROR_PREFIX = "[tool error] "
"""The prefix of a tool's error, as the protocol has no flag for it."""

AUDIO_TYPES: Mapping[str, str] = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "pcm16": "audio/pcm",
}

_KINDS: Mapping[type, str] = {
    ir.ServerToolCall: "server_tool_call",
    ir.ServerToolResult: "server_tool_result",
    ir.Media: "media",
    ir.Reasoning: "reasoning",
    ir.ToolCall: "tool_call",
    ir.ToolResult: "tool_result",
}
_LATEST = 253_402_300_799
"""The last Unix time that a `datetime` can hold."""
_LIFETIMES: tuple[ir.CacheLifetime, ...] = ("5m", "30m", "1h", "12h", "24h")


def cache_mark(node: Node) -> ir.CacheMark | None:
    """Decode the mark at the end of a cacheable prefix, in the vendor's spelling or in the one of other gateways."""
    found = node.get("prompt_cache_breakpoint") or node.get("cache_control")
    return ir.CacheMark(lifetime=found.optional_choice("ttl", _LIFETIMES)) if found else None


def encode_mark(mark: ir.CacheMark) -> dict[str, Any]:
    """Encode a mark as a part's `prompt_cache_breakpoint`."""
    lifetime = MARK_LIFETIMES[mark.lifetime]
    return {"mode": "explicit", **({"ttl": lifetime} if lifetime else {})}


def qualifies_as_strict(schema: Any) -> bool:
    """Whether the vendor would accept the schema as strict: every object closed, every property required."""
    if isinstance(schema, list):
        return all(qualifies_as_strict(each) for each in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        named = properties if isinstance(properties, dict) else {}
        required = schema.get("required", [])
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if set(named) != {each for each in required if isinstance(each, str)}:
            return False
        if not all(qualifies_as_strict(each) for each in named.values()):
            return False
    return all(
        qualifies_as_strict(value) for key, value in schema.items() if key not in {"properties", "enum", "const"}
    )


def decode_audio(node: Node) -> ir.Media:
    """Decode audio of the caller, an `input_audio` part."""
    audio = node.need("input_audio")
    word = audio.required_text("format")
    return ir.Media(
        kind="audio",
        source=ir.InlineData(data=standard_base64(audio.required_text("data"))),
        media_type=AUDIO_TYPES.get(word, f"audio/{word}"),
        cache_mark=cache_mark(node),
    )


def image_source(address: Node) -> tuple[ir.Source, str | None]:
    """Decode the URL of an image into its source and media type."""
    media_type, data = data_url(address)
    if data is None:
        return ir.Link(url=address.text()), None
    return ir.InlineData(data=data), image_type(data, media_type)


def decode_grammar(tool: Node) -> ir.Grammar | None:
    """Decode the grammar of a custom tool; None for free text."""
    form = tool.get("format")
    if form is None or form.required_choice("type", ("text", "grammar")) == "text":
        return None
    rules = form.get("grammar") or form
    return ir.Grammar(syntax=rules.required_text("syntax"), definition=rules.required_text("definition"))


def kind_of(part: ir.Part) -> str:
    """Return a part's name for warnings."""
    return part.kind if isinstance(part, ir.Opaque) else _KINDS.get(type(part), "part")


def mentions_json(request: ir.Request) -> bool:
    """Whether a message mentions JSON; the vendor refuses JSON mode otherwise."""
    texts = (part.text for message in request.messages for part in message.parts if isinstance(part, ir.Text))
    return any("json" in text.lower() for text in texts)


def dated(seconds: float | None) -> datetime:
    """Decode an upstream's creation time; return `UNDATED` if there is none."""
    if seconds is None or not 0 <= seconds <= _LATEST:
        return ir.UNDATED
    return datetime.fromtimestamp(seconds, UTC)
