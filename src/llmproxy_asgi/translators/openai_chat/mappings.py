"""Mappings of Chat Completions in both directions: finish reasons, formats, usage, annotations, log probabilities.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21), and the responses of compatible servers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import MsgspecError, Raw, Struct, convert

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.media import image_type
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.logprobs import decode_entries, encode_logprob
from llmproxy_asgi.translators.openai_chat.schema import Counts, InputCounts, OutputCounts
from llmproxy_asgi.translators.raw_json import split_object

PROTOCOL = "openai-chat"
MANY = ("choices", "*", "logprobs", "*", "*")
"""The path to the entries of a response or of a chunk that may be very many."""

_PREDICTED = ("accepted_prediction_tokens", "rejected_prediction_tokens")
"""Counts in the details of the output usage."""
_NO_INPUT, _NO_OUTPUT = InputCounts(), OutputCounts()

FINISH_IN: Mapping[str, ir.FinishReason] = {
    "stop": ir.FinishReason.STOP,
    "length": ir.FinishReason.LENGTH,
    "tool_calls": ir.FinishReason.TOOL_CALLS,
    "function_call": ir.FinishReason.TOOL_CALLS,
    "content_filter": ir.FinishReason.CONTENT_FILTER,
    # Compatible servers pass other vendors' reasons through.
    "eos": ir.FinishReason.STOP,
    "end_turn": ir.FinishReason.STOP,
    "stop_sequence": ir.FinishReason.STOP_SEQUENCE,
    "max_tokens": ir.FinishReason.LENGTH,
    "max_output_tokens": ir.FinishReason.LENGTH,
    "model_length": ir.FinishReason.CONTEXT_LENGTH,
    "model_context_window_exceeded": ir.FinishReason.CONTEXT_LENGTH,
    "tool_use": ir.FinishReason.TOOL_CALLS,
    "refusal": ir.FinishReason.REFUSAL,
    "safety": ir.FinishReason.CONTENT_FILTER,
    "recitation": ir.FinishReason.CONTENT_FILTER,
    "prohibited_content": ir.FinishReason.CONTENT_FILTER,
    "sensitive": ir.FinishReason.CONTENT_FILTER,  # Zhipu's
    "malformed_function_call": ir.FinishReason.MALFORMED_CALL,
    "function_call_filter": ir.FinishReason.MALFORMED_CALL,  # Google's, with its own reason behind a colon
    "abort": ir.FinishReason.CANCELLED,  # vLLM's and SGLang's
    "cancelled": ir.FinishReason.CANCELLED,
}
_OVERLOADED: Mapping[str, Any] = {"message": "The upstream is overloaded.", "code": "overloaded"}
FAILED: Mapping[str, Mapping[str, Any]] = {
    "error": {},
    "network_error": _OVERLOADED,  # Zhipu's
    "insufficient_system_resource": _OVERLOADED,  # DeepSeek's
}
"""Finish reasons that mean a failure, and the error to raise where the response holds none."""
_BLANK = frozenset({"", "null", "none"})


def decode_finish(word: str) -> ir.FinishReason | None:
    """Decode a finish reason in any spelling; return None for an empty one."""
    known = FINISH_IN.get(word)
    if known is None:
        word = word.partition(":")[0].strip().lower()
        known = None if word in _BLANK else FINISH_IN.get(word, ir.FinishReason.UNKNOWN)
    return known


FINISH_OUT: Mapping[ir.FinishReason, str] = {
    ir.FinishReason.STOP: "stop",
    ir.FinishReason.STOP_SEQUENCE: "stop",
    ir.FinishReason.TOOL_CALLS: "tool_calls",
    ir.FinishReason.LENGTH: "length",
    ir.FinishReason.CONTEXT_LENGTH: "length",
    ir.FinishReason.CONTENT_FILTER: "content_filter",
    ir.FinishReason.REFUSAL: "stop",
    ir.FinishReason.PAUSE: "stop",
    ir.FinishReason.MALFORMED_CALL: "stop",
    ir.FinishReason.COMPACTION: "stop",
    ir.FinishReason.CANCELLED: "stop",
    ir.FinishReason.UNKNOWN: "stop",
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


def decode_usage(found: Any) -> ir.Usage | None:
    """Decode the token counts; None if there are none. Values that cannot be counts are read as 0."""
    if type(found) is not dict:
        return None
    try:
        counts = convert(found, Counts)
    except MsgspecError:
        counts = _readable_counts(found)
    ins = counts.prompt_tokens_details or _NO_INPUT
    outs = counts.completion_tokens_details or _NO_OUTPUT
    input_tokens, output_tokens = counts.prompt_tokens or 0, counts.completion_tokens or 0
    cached = (
        ins.cached_tokens or counts.cached_tokens or counts.prompt_cache_hit_tokens or counts.cache_read_input_tokens
    ) or 0
    written = ins.cache_write_tokens or counts.cache_creation_input_tokens or 0
    reasoning = outs.reasoning_tokens or counts.reasoning_tokens or 0
    if reasoning and counts.total_tokens == input_tokens + output_tokens + reasoning:
        output_tokens += reasoning  # xAI counts reasoning beside the completion
    return ir.Usage(
        input=max(input_tokens, cached + written),
        output=max(output_tokens, reasoning),
        cache_read=cached,
        cache_write=written,
        reasoning=reasoning,
        audio_input=ins.audio_tokens or 0,
        audio_output=outs.audio_tokens or 0,
        image_input=ins.image_tokens or 0,
        image_output=outs.image_tokens or 0,
        extras={PROTOCOL: found},
    )


def encode_usage(usage: ir.Usage) -> dict[str, Any]:
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


def _readable_counts(found: Mapping[str, Any]) -> Counts:
    """Decode token counts among which some values cannot be counts: those are left out."""
    counts = Counts(**_fields(found, Counts))
    counts.prompt_tokens_details = InputCounts(**_fields(found.get("prompt_tokens_details"), InputCounts))
    counts.completion_tokens_details = OutputCounts(**_fields(found.get("completion_tokens_details"), OutputCounts))
    return counts


def _fields(found: Any, kind: type[Struct]) -> dict[str, Any]:
    names = kind.__struct_fields__
    return dict(zip(names, _counts(found, names), strict=True))


def _count(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key)
    if not value:  # most are absent, or 0
        return 0
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value <= ir.MOST_TOKENS else 0


# ── parts of responses ───────────────────────────────────────────────────────────────────────────────────────────────

_ANSWER_PREFIX = "chatcmpl-"


def answer_id(found: str, nonce: str = "") -> str:
    """Return the upstream's id if it has this protocol's format, else one derived from it."""
    if found.startswith(_ANSWER_PREFIX) and len(found) <= 128:
        return found
    return derived(_ANSWER_PREFIX, found, nonce)


def encode_finish(reason: ir.FinishReason, *, refused: bool, legacy: bool) -> str:
    """Encode a finish reason; callers that declared `functions` expect another one for a call."""
    if legacy and reason is ir.FinishReason.TOOL_CALLS:
        return "function_call"
    if reason is ir.FinishReason.REFUSAL and not refused:
        return "content_filter"  # without a refusal text, "stop" would look like a normal end
    return FINISH_OUT[reason]


def encode_annotation(citation: ir.Citation, offset: int, end: int) -> dict[str, Any] | None:
    """Encode a citation as `url_citation`, counted from the message's start; None if it has no address.

    Args:
        citation: With its span within its own text part.
        offset: Code points of the message before that part.
        end: Code points of the message so far, for a citation without a span.
    """
    if citation.url is None:
        return None
    start = offset + citation.start if citation.start is not None else offset
    stop = offset + citation.end if citation.end is not None else end
    native = {k: v for k, v in citation.extras.get(PROTOCOL, {}).items() if k not in {"start_index", "end_index"}}
    inner = {**native, "start_index": start, "end_index": stop, "url": citation.url, "title": citation.title or ""}
    return {"type": "url_citation", "url_citation": inner}


def decode_annotation(found: Any) -> ir.Citation | None:
    """Decode a `url_citation` with its span in the message; None for other annotations."""
    if type(found) is not dict or type(inner := found.get("url_citation")) is not dict:
        return None
    url, title = inner.get("url"), inner.get("title")
    start, end = inner.get("start_index"), inner.get("end_index")
    spanned = type(start) is int and type(end) is int and 0 <= start <= end
    extras = {k: v for k, v in inner.items() if k not in {"url", "title", "start_index", "end_index"}}
    if type(url) is not str:
        return None
    return ir.Citation(
        url=url,
        title=title if type(title) is str and title else None,
        start=start if spanned else None,
        end=end if spanned else None,
        extras={PROTOCOL: extras} if extras else {},
    )


def encode_image(media: ir.Media, source: ir.Source, index: int) -> dict[str, Any]:
    """Encode an image for the `images` list, which other gateways send and their clients read."""
    match source:
        case ir.InlineData(data=data):
            url = f"data:{image_type(data, media.media_type)};base64,{data}"
        case ir.Link(url=url):
            pass
        case _:
            url = ""
    return {"index": index, "type": "image_url", "image_url": {"url": url}}


def encode_logprobs(tokens: Sequence[ir.TokenLogprob]) -> dict[str, Any]:
    """Encode log probabilities, separately for content and refusal."""
    refusal = [encode_logprob(token) for token in tokens if token.refusal]
    content = [encode_logprob(token) for token in tokens if not token.refusal]
    return {"content": content or (None if refusal else []), "refusal": refusal or None}


def decode_logprobs(found: Any) -> tuple[ir.TokenLogprob, ...]:
    """Decode the log probabilities of a choice; skip unreadable entries."""
    if type(found) is Raw:
        try:
            found = split_object(found)
        except MsgspecError:
            return ()
    if type(found) is not dict:
        return ()
    return decode_entries(found.get("content")) + decode_entries(found.get("refusal"), refusal=True)
