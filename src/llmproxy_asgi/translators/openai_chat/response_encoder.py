"""Encode a complete response for callers of Chat Completions."""

from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.openai.mappings import TIER_OUT
from llmproxy_asgi.translators.openai_chat.mappings import (
    PROTOCOL,
    answer_id,
    encode_annotation,
    encode_finish,
    encode_image,
    encode_logprobs,
    encode_usage,
)
from llmproxy_asgi.translators.openai_chat.reasoning import call_extras, encode_details


def encode_answer(response: ir.Response, inbound_request: InboundRequest) -> bytes:
    """Encode the response with the requested model's name."""
    legacy = "functions" in inbound_request.raw and "tools" not in inbound_request.raw
    answer: dict[str, Any] = {
        "id": answer_id(response.id, response.nonce),
        "object": "chat.completion",
        "created": int(response.created_at.timestamp()),
        "model": inbound_request.model or response.model,
        "choices": [_choice(candidate, legacy=legacy) for candidate in response.candidates],
        "usage": encode_usage(response.usage),
        "system_fingerprint": response.extras.get(PROTOCOL, {}).get("system_fingerprint"),
    }
    if response.service_tier is not None and response.service_tier in TIER_OUT:
        answer["service_tier"] = TIER_OUT[response.service_tier]
    return msgspec.json.encode(answer)


def _choice(candidate: ir.Candidate, *, legacy: bool) -> dict[str, Any]:
    message = _message(candidate, legacy=legacy)
    refused = message["refusal"] is not None
    return {
        "index": candidate.index,
        "message": message,
        "logprobs": encode_logprobs(candidate.logprobs) if candidate.logprobs else None,
        "finish_reason": encode_finish(candidate.finish.reason, refused=refused, legacy=legacy),
    }


def _message(candidate: ir.Candidate, *, legacy: bool) -> dict[str, Any]:
    texts: list[str] = []
    annotations: list[dict[str, Any]] = []
    refusals: list[str] = []
    reasoning: list[ir.Reasoning] = []
    calls: list[ir.ToolCall] = []
    media: list[ir.Media] = []
    length = 0
    for part in candidate.parts:
        match part:
            case ir.Text():
                end = length + len(part.text)
                annotations += [found for cited in part.citations if (found := encode_annotation(cited, length, end))]
                texts.append(part.text)
                length = end
                if part.seals:
                    reasoning.append(ir.Reasoning(seals=part.seals))
            case ir.Refusal():
                refusals.append(part.text)
            case ir.Reasoning():
                reasoning.append(part)
            case ir.ToolCall():
                calls.append(part)
            case ir.Media():
                media.append(part)
            case _:  # this protocol can't express server tools
                pass
    finish = candidate.finish
    if finish.reason is ir.FinishReason.REFUSAL and finish.message and not (length or refusals):
        refusals.append(finish.message)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
        "annotations": annotations,
    }
    _add_reasoning(message, reasoning, calls)
    _add_calls(message, calls, legacy=legacy)
    _add_media(message, media)
    return message


def _add_reasoning(message: dict[str, Any], reasoning: list[ir.Reasoning], calls: list[ir.ToolCall]) -> None:
    readable = "".join(part.text for part in reasoning)
    if readable:
        message["reasoning_content"] = message["reasoning"] = readable
    details = encode_details(reasoning, [(call.call_id, call.seals) for call in calls])
    if details:
        message["reasoning_details"] = details


def _add_calls(message: dict[str, Any], calls: list[ir.ToolCall], *, legacy: bool) -> None:
    if legacy and calls:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments or "{}"}
    elif calls:
        message["tool_calls"] = [encode_call(call) for call in calls]


def encode_call(call: ir.ToolCall) -> dict[str, Any]:
    """Encode a call of a complete message."""
    if call.kind == "custom":
        encoded: dict[str, Any] = {"name": call.name, "input": call.arguments}
    else:
        encoded = {"name": call.name, "arguments": call.arguments or "{}"}
    extra = call_extras(call.seals)
    entry = {"id": call.call_id, "type": call.kind, call.kind: encoded}
    return {**entry, "extra_content": extra} if extra else entry


def _add_media(message: dict[str, Any], media: list[ir.Media]) -> None:
    images = [part for part in media if part.kind == "image"]
    if images:
        message["images"] = [encode_image(part, part.source, number) for number, part in enumerate(images)]
    audio = next((part for part in media if part.kind == "audio" and isinstance(part.source, ir.InlineData)), None)
    if audio is not None and isinstance(audio.source, ir.InlineData):
        expires = audio.extras.get(PROTOCOL, {}).get("expires_at", 0)
        message["audio"] = {
            "id": audio.id or "",
            "data": audio.source.data,
            "expires_at": expires,
            "transcript": audio.transcript or "",
        }
