"""Mappings of Messages in both directions: finish reasons and their details."""

from collections.abc import Mapping
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject

FINISH_IN: Mapping[str, ir.FinishReason] = {
    "end_turn": ir.FinishReason.STOP,
    "stop_sequence": ir.FinishReason.STOP_SEQUENCE,
    "tool_use": ir.FinishReason.TOOL_CALLS,
    "max_tokens": ir.FinishReason.LENGTH,
    "model_context_window_exceeded": ir.FinishReason.CONTEXT_LENGTH,
    "refusal": ir.FinishReason.REFUSAL,
    "pause_turn": ir.FinishReason.PAUSE,
    "compaction": ir.FinishReason.COMPACTION,
}
FINISH_OUT: Mapping[ir.FinishReason, str] = {
    ir.FinishReason.STOP: "end_turn",
    ir.FinishReason.STOP_SEQUENCE: "stop_sequence",
    ir.FinishReason.TOOL_CALLS: "tool_use",
    ir.FinishReason.LENGTH: "max_tokens",
    ir.FinishReason.CONTEXT_LENGTH: "model_context_window_exceeded",
    ir.FinishReason.CONTENT_FILTER: "refusal",
    ir.FinishReason.REFUSAL: "refusal",
    ir.FinishReason.PAUSE: "pause_turn",
    ir.FinishReason.COMPACTION: "compaction",
}
_CATEGORIES = frozenset({"cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms"})


def is_known_stop_reason(reason: str | None) -> bool:
    """Return whether a stop reason maps to a finish reason."""
    return reason in FINISH_IN


def decode_finish(reason: str | None, sequence: str | None, details: Mapping[str, Any] | None) -> ir.Finish:
    """Decode why a response ended; an unknown stop reason becomes `UNKNOWN` and is kept in `native`.

    Args:
        reason: The upstream's stop reason.
        sequence: The stop sequence that ended the response.
        details: The upstream's details about a refusal.
    """
    explanation = details.get("explanation") if details else None
    category = details.get("category") if details else None
    return ir.Finish(
        reason=FINISH_IN.get(reason or "", ir.FinishReason.UNKNOWN),
        native=reason,
        stop_sequence=sequence,
        message=explanation if isinstance(explanation, str) else None,
        category=category if isinstance(category, str) else None,
    )


def encode_stop_reason(finish: ir.Finish, refusal: ir.Refusal | None) -> JSONObject:
    """Encode why the response ended; `refusal` is the model's refusal, if any."""
    reason = finish.reason
    if refusal is not None and reason in {ir.FinishReason.STOP, ir.FinishReason.UNKNOWN}:
        reason = ir.FinishReason.REFUSAL
    stop_reason = FINISH_OUT.get(reason, "end_turn")
    fields: JSONObject = {"stop_reason": stop_reason, "stop_sequence": finish.stop_sequence}
    if stop_reason == "refusal":
        category = finish.category or (refusal.category if refusal else None)
        fields["stop_details"] = {
            "type": "refusal",
            "category": category if category in _CATEGORIES else None,
            "explanation": finish.message or (refusal.text if refusal else None),
        }
    return fields
