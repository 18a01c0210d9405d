"""Mappings of Chat Completions in both directions: finish reasons, formats, usage.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21), and the responses of compatible servers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llmproxy_asgi.conversation import MOST_TOKENS, FinishReason, Usage

PROTOCOL = "openai-chat"

_INS = ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens")
_OUTS = ("reasoning_tokens", "audio_tokens", "image_tokens")
_PREDICTED = ("accepted_prediction_tokens", "rejected_prediction_tokens")
"""Counts in the details of the input and output usage."""
_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
"""Fields for tokens read from a cache: of Moonshot, DeepSeek, and gateways that keep Anthropic's names."""
_WRITTEN = ("cache_creation_input_tokens",)

FINISH_IN: Mapping[str, FinishReason] = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    # Compatible servers pass other vendors' reasons through.
    "eos": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "max_tokens": FinishReason.LENGTH,
    "max_output_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.CONTEXT_LENGTH,
    "model_context_window_exceeded": FinishReason.CONTEXT_LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.REFUSAL,
    "safety": FinishReason.CONTENT_FILTER,
    "recitation": FinishReason.CONTENT_FILTER,
    "prohibited_content": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,  # Zhipu's
    "malformed_function_call": FinishReason.MALFORMED_CALL,
    "function_call_filter": FinishReason.MALFORMED_CALL,  # Google's, with its own reason behind a colon
    "abort": FinishReason.CANCELLED,  # vLLM's and SGLang's
    "cancelled": FinishReason.CANCELLED,
}
_OVERLOADED: Mapping[str, Any] = {"message": "The upstream is overloaded.", "code": "overloaded"}
FAILED: Mapping[str, Mapping[str, Any]] = {
    "error": {},
    "network_error": _OVERLOADED,  # Zhipu's
    "insufficient_system_resource": _OVERLOADED,  # DeepSeek's
}
"""Finish reasons that mean a failure, and the error to raise where the response holds none."""
_BLANK = frozenset({"", "null", "none"})


def decode_finish(word: str) -> FinishReason | None:
    """Decode a finish reason in any spelling; return None for an empty one."""
    known = FINISH_IN.get(word)
    if known is None:
        word = word.partition(":")[0].strip().lower()
        known = None if word in _BLANK else FINISH_IN.get(word, FinishReason.UNKNOWN)
    return known


FINISH_OUT: Mapping[FinishReason, str] = {
    FinishReason.STOP: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.LENGTH: "length",
    FinishReason.CONTEXT_LENGTH: "length",
    FinishReason.CONTENT_FILTER: "content_filter",
    FinishReason.REFUSAL: "stop",
    FinishReason.PAUSE: "stop",
    FinishReason.MALFORMED_CALL: "stop",
    FinishReason.COMPACTION: "stop",
    FinishReason.CANCELLED: "stop",
    FinishReason.UNKNOWN: "stop",
}

AUDIO_FORMATS: Mapping[str, str] = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}


def usage_of(answer: Any) -> Any:
    """Find the usage in a chunk or a whole response, wherever its server puts it; None if there is none."""
    found = answer.usage
    if type(found) is dict:
        return found
    for choice in answer.choices or ():
        if type(choice.usage) is dict:  # Moonshot's
            return choice.usage
    if type(answer.x_groq) is dict and type(found := answer.x_groq.get("usage")) is dict:
        return found
    return _timed(answer.timings) if type(answer.timings) is dict else None


def _timed(timings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the token counts in llama.cpp's timings, which it sends with every response."""
    if "predicted_n" not in timings:
        return None
    cached = _count(timings, "cache_n")
    return {
        "prompt_tokens": _count(timings, "prompt_n") + cached,
        "completion_tokens": _count(timings, "predicted_n"),
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def decode_usage(found: Any) -> Usage | None:
    """Decode the token counts; None if there are none. Values that cannot be counts are read as 0."""
    if type(found) is not dict:
        return None
    input_tokens, output_tokens = _count(found, "prompt_tokens"), _count(found, "completion_tokens")
    total = _count(found, "total_tokens")
    cached, written, audio_input, image_input = _counts(found.get("prompt_tokens_details"), _INS)
    reasoning, audio_output, image_output = _counts(found.get("completion_tokens_details"), _OUTS)
    cached = cached or _first_count(found, _CACHED)
    written = written or _first_count(found, _WRITTEN)
    reasoning = reasoning or _count(found, "reasoning_tokens")  # Perplexity's
    if reasoning and total == input_tokens + output_tokens + reasoning:
        output_tokens += reasoning  # xAI counts reasoning beside the completion
    return Usage(
        input=max(input_tokens, cached + written),
        output=max(output_tokens, reasoning),
        cache_read=cached,
        cache_write=written,
        reasoning=reasoning,
        audio_input=audio_input,
        audio_output=audio_output,
        image_input=image_input,
        image_output=image_output,
        extras={PROTOCOL: found},
    )


def encode_usage(usage: Usage) -> dict[str, Any]:
    """Encode the token counts."""
    ins: dict[str, Any] = {
        "cached_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "audio_tokens": usage.audio_input,
    }
    if usage.image_input:
        ins["image_tokens"] = usage.image_input
    outs: dict[str, Any] = {
        "reasoning_tokens": usage.reasoning,
        "audio_tokens": usage.audio_output,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    native = usage.extras.get(PROTOCOL, {})
    outs.update(zip(_PREDICTED, _counts(native.get("completion_tokens_details"), _PREDICTED), strict=True))
    if usage.image_output:
        outs["image_tokens"] = usage.image_output
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": ins,
        "completion_tokens_details": outs,
    }


def _counts(details: Any, keys: Sequence[str]) -> list[int]:
    """Decode the details of a count, which few responses have."""
    return [_count(details, key) for key in keys] if type(details) is dict else [0] * len(keys)


def _first_count(found: Mapping[str, Any], keys: Sequence[str]) -> int:
    return next((count for key in keys if (count := _count(found, key))), 0)


def _count(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key)
    if not value:  # most are absent, or 0
        return 0
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value <= MOST_TOKENS else 0
