"""Encode responses for Anthropic's clients: pieces shared with the stream encoder, and complete responses."""

import re

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import encode_citation
from llmproxy_asgi.translators.anthropic_messages.mappings import encode_stop_reason
from llmproxy_asgi.translators.anthropic_messages.reasoning import encode_reasoning, redacted_block_for_call
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.anthropic_messages.usage import encode_usage, estimated_input
from llmproxy_asgi.translators.names import CallIds, derived
from llmproxy_asgi.translators.pairing import arguments_object, arguments_raw

_ID = re.compile(r"msg_[A-Za-z0-9_-]{1,128}")


def encode_message_id(given: str, nonce: str = "") -> str:
    """Return the upstream's id if it has Anthropic's form, else an id derived from it and the response's nonce."""
    return given if _ID.fullmatch(given) else derived("msg_", given, nonce)


def encode_call_id(call_id: str) -> str:
    """Encode a call's id in a form that every vendor accepts; the result is the same in every request."""
    return CallIds(prefix="toolu_").outward(call_id)


def encode_blocks(part: ir.Part) -> list[JSONObject]:
    """Encode one part into blocks; none if Anthropic's format can't express it."""
    match part:
        case ir.Text(text=text):
            return [_text_block(part)] if text or part.citations else []
        case ir.Refusal(text=text):
            return [{"type": "text", "text": text}] if text else []
        case ir.Reasoning():
            return encode_reasoning(part)
        case ir.ToolCall():
            return [
                *(redacted_block_for_call(seal, encode_call_id(part.call_id)) for seal in part.seals),
                _tool_use(part),
            ]
        case ir.ServerToolCall():
            call = server_tools.encode_call_for_client(part, arguments_object(part.arguments))
            return [call] if call else []
        case ir.ServerToolResult():
            block = server_tools.encode_result_for_client(part)
            return [block] if block else []
        case ir.Opaque(protocol=protocol, data=data):
            return [data] if protocol == PROTOCOL else []
        case _:
            return []


def _text_block(part: ir.Text) -> JSONObject:
    citations = [native for native in map(encode_citation, part.citations) if native]
    return {"type": "text", "text": part.text, **({"citations": citations} if citations else {})}


def _tool_use(part: ir.ToolCall) -> JSONObject:
    custom = part.kind == "custom"
    arguments = {"input": part.arguments} if custom else arguments_raw(part.arguments)
    return {
        "type": "tool_use",
        "id": encode_call_id(part.call_id),
        "name": part.name,
        "input": arguments,
        **({"caller": part.caller} if part.caller else {}),
    }


def encode_response(response: ir.Response, model: str, size: int) -> bytes:
    """Encode a complete response with its first candidate: Anthropic's format has only one.

    Args:
        response: The response.
        model: The model name of the caller's request.
        size: Bytes of the request, for an estimate if the upstream reported no usage.
    """
    empty = ir.Candidate(finish=ir.Finish(reason=ir.FinishReason.UNKNOWN))
    candidate = response.candidates[0] if response.candidates else empty
    refusal = next((part for part in candidate.parts if isinstance(part, ir.Refusal)), None)
    body: JSONObject = {
        "id": encode_message_id(response.id, response.nonce),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block for part in candidate.parts for block in encode_blocks(part)],
        "stop_details": None,
        **encode_stop_reason(candidate.finish, refusal),
        "usage": encode_usage(_usage(response, candidate, size), response.service_tier),
    }
    return msgspec.json.encode({**body, **response.extras.get(PROTOCOL, {})})


def _usage(response: ir.Response, candidate: ir.Candidate, size: int) -> ir.Usage:
    if response.usage.total:
        return with_searches(response.usage, sum(is_web_search(part) for part in candidate.parts))
    written = sum(len(part.text) for part in candidate.parts if isinstance(part, ir.Text | ir.Reasoning | ir.Refusal))
    return msgspec.structs.replace(estimated_input(size), output=max(1, -(-written // 4)))


def is_web_search(part: ir.Part) -> bool:
    """Return whether a part is a web search that the upstream ran."""
    return isinstance(part, ir.ServerToolCall) and part.tool == "web_search"


def with_searches(usage: ir.Usage, searches: int) -> ir.Usage:
    """Add web searches to the usage, unless the upstream counted them."""
    if not searches or usage.server_tool_calls.get("web_search"):
        return usage
    return msgspec.structs.replace(usage, server_tool_calls={**usage.server_tool_calls, "web_search": searches})


def message_start(given_id: str, nonce: str, model: str, usage: ir.Usage) -> bytes:
    """Encode the data of a stream's first event."""
    message: JSONObject = {
        "id": encode_message_id(given_id, nonce),
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
