"""Answers for Anthropic's clients: what stands in whole answers and in streams alike, and the whole answer."""

import re

import msgspec

from llmproxy_asgi.conversation import (
    Candidate,
    Finish,
    FinishReason,
    JSONObject,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Response,
    ServerToolCall,
    ServerToolResult,
    Text,
    ToolCall,
    Usage,
)
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import encode_citation
from llmproxy_asgi.translators.anthropic_messages.reasoning import encode_reasoning, for_call
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.anthropic_messages.usage import encode_usage, estimated_input
from llmproxy_asgi.translators.names import CallIds, derived
from llmproxy_asgi.translators.pairing import arguments_object, arguments_raw

_STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.CONTEXT_LENGTH: "model_context_window_exceeded",
    FinishReason.CONTENT_FILTER: "refusal",
    FinishReason.REFUSAL: "refusal",
    FinishReason.PAUSE: "pause_turn",
    FinishReason.COMPACTION: "compaction",
}
_CATEGORIES = frozenset({"cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms"})
_ID = re.compile(r"msg_[A-Za-z0-9_-]{1,128}")


def answer_id(given: str, nonce: str = "") -> str:
    """The upstream's id where it looks like Anthropic's, else one made from it and from what the answer has alone."""
    return given if _ID.fullmatch(given) else derived("msg_", given, nonce)


def encode_call_id(call_id: str) -> str:
    """A call's id in the form that every vendor takes back; the same in every turn."""
    return CallIds(prefix="toolu_").outward(call_id)


def encode_stop(finish: Finish, refusal: Refusal | None) -> JSONObject:
    """Why the answer ended; `refusal`: what the model said to decline, if it did."""
    reason = finish.reason
    if refusal is not None and reason in {FinishReason.STOP, FinishReason.UNKNOWN}:
        reason = FinishReason.REFUSAL
    word = _STOP_REASONS.get(reason, "end_turn")
    fields: JSONObject = {"stop_reason": word, "stop_sequence": finish.stop_sequence}
    if word == "refusal":
        category = finish.category or (refusal.category if refusal else None)
        fields["stop_details"] = {
            "type": "refusal",
            "category": category if category in _CATEGORIES else None,
            "explanation": finish.message or (refusal.text if refusal else None),
        }
    return fields


def encode_blocks(part: Part) -> list[JSONObject]:
    """The blocks of one part; none where Anthropic's clients have no word for it."""
    match part:
        case Text(text=text):
            return [_text_block(part)] if text or part.citations else []
        case Refusal(text=text):
            return [{"type": "text", "text": text}] if text else []
        case Reasoning():
            return encode_reasoning(part)
        case ToolCall():
            return [*(for_call(seal, encode_call_id(part.call_id)) for seal in part.seals), _tool_use(part)]
        case ServerToolCall():
            call = server_tools.shown_call(part, arguments_object(part.arguments))
            return [call] if call else []
        case ServerToolResult():
            block = server_tools.shown_result(part)
            return [block] if block else []
        case Opaque(protocol=protocol, data=data):
            return [data] if protocol == PROTOCOL else []
        case _:
            return []


def _text_block(part: Text) -> JSONObject:
    citations = [native for native in map(encode_citation, part.citations) if native]
    return {"type": "text", "text": part.text, **({"citations": citations} if citations else {})}


def _tool_use(part: ToolCall) -> JSONObject:
    custom = part.kind == "custom"
    arguments = {"input": part.arguments} if custom else arguments_raw(part.arguments)
    return {
        "type": "tool_use",
        "id": encode_call_id(part.call_id),
        "name": part.name,
        "input": arguments,
        **({"caller": part.caller} if part.caller else {}),
    }


def encode_answer(response: Response, model: str, size: int) -> bytes:
    """A whole answer: the first candidate, since Anthropic knows no other.

    Args:
        response: The answer.
        model: The name that the caller asked for.
        size: Bytes of the request, for an estimate where the upstream told no usage.
    """
    empty = Candidate(finish=Finish(reason=FinishReason.UNKNOWN))
    candidate = response.candidates[0] if response.candidates else empty
    refusal = next((part for part in candidate.parts if isinstance(part, Refusal)), None)
    body: JSONObject = {
        "id": answer_id(response.id, response.nonce),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block for part in candidate.parts for block in encode_blocks(part)],
        "stop_details": None,
        **encode_stop(candidate.finish, refusal),
        "usage": encode_usage(_usage(response, candidate, size), response.service_tier),
    }
    return msgspec.json.encode({**body, **response.extras.get(PROTOCOL, {})})


def _usage(response: Response, candidate: Candidate, size: int) -> Usage:
    if response.usage.total:
        return with_searches(response.usage, sum(is_search(part) for part in candidate.parts))
    written = sum(len(part.text) for part in candidate.parts if isinstance(part, Text | Reasoning | Refusal))
    return msgspec.structs.replace(estimated_input(size), output=max(1, -(-written // 4)))


def is_search(part: Part) -> bool:
    """Whether a part is a search of the web that the upstream made."""
    return isinstance(part, ServerToolCall) and part.tool == "web_search"


def with_searches(usage: Usage, searches: int) -> Usage:
    """The counts with these searches, where the upstream did not count them itself."""
    if not searches or usage.server_tool_calls.get("web_search"):
        return usage
    return msgspec.structs.replace(usage, server_tool_calls={**usage.server_tool_calls, "web_search": searches})


def message_start(answer: str, nonce: str, model: str, usage: Usage) -> bytes:
    """The first event of a stream."""
    message: JSONObject = {
        "id": answer_id(answer, nonce),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": encode_usage(usage),
    }
    return msgspec.json.encode({"type": "message_start", "message": message})
