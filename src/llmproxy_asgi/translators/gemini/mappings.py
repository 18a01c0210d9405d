"""Mappings of Gemini in both directions: finish reasons, tiers, resolutions and usage."""

from collections.abc import Mapping
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.gemini.schema import ABSENT, PROTOCOL
from llmproxy_asgi.translators.raw_json import raw, split_object
from llmproxy_asgi.translators.surrogates import each_entry

_FILTERED = (
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MODEL_ARMOR",
    "ESCALATION",
    "PUP_LIMITED_DISABLED",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "IMAGE_OTHER",
    "JAILBREAK",
)
_MALFORMED = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE")

FINISH_IN: Mapping[str, ir.FinishReason] = {
    "STOP": ir.FinishReason.STOP,
    "MAX_TOKENS": ir.FinishReason.LENGTH,
    **dict.fromkeys(_FILTERED, ir.FinishReason.CONTENT_FILTER),
    **dict.fromkeys(_MALFORMED, ir.FinishReason.MALFORMED_CALL),
    "TOO_MANY_TOOL_CALLS": ir.FinishReason.PAUSE,
    "CONTINUATION": ir.FinishReason.PAUSE,
}
FINISH_OUT: Mapping[ir.FinishReason, str] = {
    ir.FinishReason.STOP: "STOP",
    ir.FinishReason.STOP_SEQUENCE: "STOP",
    ir.FinishReason.TOOL_CALLS: "STOP",
    ir.FinishReason.LENGTH: "MAX_TOKENS",
    ir.FinishReason.CONTEXT_LENGTH: "MAX_TOKENS",
    ir.FinishReason.CONTENT_FILTER: "SAFETY",
    ir.FinishReason.REFUSAL: "SAFETY",
    ir.FinishReason.PAUSE: "CONTINUATION",
    ir.FinishReason.MALFORMED_CALL: "MALFORMED_FUNCTION_CALL",
    ir.FinishReason.COMPACTION: "OTHER",
    ir.FinishReason.CANCELLED: "OTHER",
    ir.FinishReason.UNKNOWN: "OTHER",
}
BLOCK_REASONS = frozenset(
    {"SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "MODEL_ARMOR", "JAILBREAK"}
)
UNSPECIFIED = "FINISH_REASON_UNSPECIFIED"
"""The value of an unset enum."""
MISSING_SIGNATURE = "MISSING_THOUGHT_SIGNATURE"
"""A refusal: a call was sent back without its signature."""

TIERS_IN: Mapping[str, ir.ServiceTier] = {
    "flex": ir.ServiceTier.FLEX,
    "standard": ir.ServiceTier.STANDARD,
    "priority": ir.ServiceTier.PRIORITY,
}
TIERS_OUT: Mapping[ir.ServiceTier, str | None] = {
    ir.ServiceTier.AUTO: None,
    ir.ServiceTier.STANDARD: "standard",
    ir.ServiceTier.FLEX: "flex",
    ir.ServiceTier.PRIORITY: "priority",
    ir.ServiceTier.FAST: "priority",
}
RESOLUTIONS_IN: Mapping[str, ir.Detail] = {
    "MEDIA_RESOLUTION_LOW": "low",
    "MEDIA_RESOLUTION_HIGH": "high",
    "MEDIA_RESOLUTION_ULTRA_HIGH": "original",
}
RESOLUTIONS_OUT: Mapping[ir.Detail, str] = {detail: level for level, detail in RESOLUTIONS_IN.items()}

SERVER_TOOLS: Mapping[str, str] = {"googleSearch": "web_search", "urlContext": "url_fetch"}
"""Tools that Google runs and other vendors also have."""
SERVER_TOOLS_OUT: Mapping[str, str] = {canonical: vendor for vendor, canonical in SERVER_TOOLS.items()}


_CONTINUE_ONCE = frozenset({"TOO_MANY_TOOL_CALLS"})
"""Pauses that would recur: the model called tools until the upstream stopped it."""


def decode_finish(native: str, message: str | None, *, token: str | None = None) -> ir.Finish:
    """Decode a finish reason.

    Args:
        native: Google's finish reason.
        message: Google's explanation.
        token: The token that continues a paused response with the same request.
    """
    reason = FINISH_IN.get(native, ir.FinishReason.UNKNOWN)
    resume = {"continuationToken": token} if token and reason is ir.FinishReason.PAUSE else None
    continue_once = native in _CONTINUE_ONCE
    return ir.Finish(reason=reason, native=native, message=message, resume=resume, continue_once=continue_once)


def encode_finish(finish: ir.Finish) -> str:
    """Encode a finish reason: Google's own if there is one, else the nearest."""
    native = finish.native
    if native is not None and FINISH_IN.get(native) is finish.reason:
        return native
    return FINISH_OUT[finish.reason]


def media_kind(media_type: str | None) -> ir.MediaKind:
    """Return the kind of a media type."""
    family = (media_type or "").partition("/")[0].lower()
    return family if family in {"image", "audio", "video"} else "document"  # type: ignore[return-value]  # narrowed by the set


def decode_usage(native: Mapping[str, Any], searches: int = 0) -> ir.Usage:
    """Decode the token counts; missing values and non-numbers are 0. Google excludes reasoning from the output."""
    thoughts = _count(native, "thoughtsTokenCount")
    return ir.Usage(
        input=_count(native, "promptTokenCount") + _count(native, "toolUsePromptTokenCount"),
        output=_count(native, "candidatesTokenCount") + thoughts,
        cache_read=_count(native, "cachedContentTokenCount"),
        reasoning=thoughts,
        audio_input=_modality(native, "promptTokensDetails", "AUDIO"),
        audio_output=_modality(native, "candidatesTokensDetails", "AUDIO"),
        image_input=_modality(native, "promptTokensDetails", "IMAGE"),
        image_output=_modality(native, "candidatesTokensDetails", "IMAGE"),
        server_tool_calls={"web_search": searches} if searches else ir.EMPTY,
        extras={PROTOCOL: dict(native)} if native else ir.EMPTY,
    )


def encode_usage(usage: ir.Usage) -> JSONObject:
    """Encode the token counts."""
    native = usage.extras.get(PROTOCOL, ir.EMPTY)
    tool_prompt = min(_count(native, "toolUsePromptTokenCount"), usage.input)
    prompt, output = usage.input - tool_prompt, max(0, usage.output - usage.reasoning)
    fields: JSONObject = {"promptTokenCount": prompt, "candidatesTokenCount": output, "totalTokenCount": usage.total}
    if usage.cache_read:
        fields["cachedContentTokenCount"] = usage.cache_read
    if usage.reasoning:
        fields["thoughtsTokenCount"] = usage.reasoning
    if tool_prompt:
        fields["toolUsePromptTokenCount"] = tool_prompt
    if usage.audio_input or usage.image_input:
        fields["promptTokensDetails"] = _details(prompt, usage.audio_input, usage.image_input)
    if usage.audio_output or usage.image_output:
        fields["candidatesTokensDetails"] = _details(output, usage.audio_output, usage.image_output)
    return {**native, **fields}


def decode_logprobs(native: msgspec.Raw) -> tuple[ir.TokenLogprob, ...]:
    """Decode the chosen tokens of `logprobsResult` with their alternatives; skip unreadable entries."""
    try:
        lists = split_object(native)
    except msgspec.MsgspecError:
        return ()
    rows = each_entry(lists.get("topCandidates", ABSENT))
    tokens: list[ir.TokenLogprob] = []
    for entry in each_entry(lists.get("chosenCandidates", ABSENT)):
        row = next(rows, None)
        others = row.get("candidates") if isinstance(row, dict) else None
        top = tuple(
            token for other in (others if isinstance(others, list) else ()) if (token := _logprob(other)) is not None
        )
        token = _logprob(entry, top)
        if token is not None:
            tokens.append(token)
    return tuple(tokens)


def encode_logprobs(tokens: tuple[ir.TokenLogprob, ...]) -> JSONObject:
    """Encode `logprobsResult`, its entries as bytes: an answer of many is encoded in short steps."""
    return {
        "chosenCandidates": [raw(_encode_logprob(token)) for token in tokens],
        "topCandidates": [raw({"candidates": [_encode_logprob(other) for other in token.top]}) for token in tokens],
    }


def _encode_logprob(token: ir.TokenLogprob) -> JSONObject:
    return {"token": token.token, "logProbability": token.logprob}


def _logprob(entry: Any, top: tuple[ir.TokenLogprob, ...] = ()) -> ir.TokenLogprob | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    value = entry.get("logProbability", 0)  # proto3 leaves a zero out
    if type(value) not in {int, float} or not abs(value) < 1e300:
        return None
    return ir.TokenLogprob(token=entry["token"], logprob=float(value), top=top)


def _details(total: int, audio: int, image: int) -> list[JSONObject]:
    counts = {"TEXT": max(0, total - audio - image), "AUDIO": audio, "IMAGE": image}
    return [{"modality": modality, "tokenCount": count} for modality, count in counts.items() if count]


def _modality(native: Mapping[str, Any], key: str, modality: str) -> int:
    rows = native.get(key)
    if not isinstance(rows, list):
        return 0
    return sum(_count(row, "tokenCount") for row in rows if isinstance(row, dict) and row.get("modality") == modality)


def _count(native: Mapping[str, Any], key: str) -> int:
    value = native.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and 0 < value <= ir.MOST_TOKENS else 0
