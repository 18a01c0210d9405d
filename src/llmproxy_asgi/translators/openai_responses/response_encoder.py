"""Encode the response object and its output items.

The object repeats the options of the request with their original bytes. A complete response is the final object of its
own stream, so both have one encoder.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import ErrorKind, GatewayError, UpstreamAuthFailed
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.openai.errors import ABOUT_THE_INPUT, FAILED_EVENT, error_object
from llmproxy_asgi.translators.openai.mappings import NATIVE_ISSUER
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, TIER_OUT, encode_usage
from llmproxy_asgi.translators.pairing import arguments_object
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.translators.seals import wrap

_ECHOED: Mapping[str, bytes] = {
    "background": b"false",
    "frequency_penalty": b"0.0",
    "instructions": b"null",
    "max_output_tokens": b"null",
    "max_tool_calls": b"null",
    "parallel_tool_calls": b"true",
    "presence_penalty": b"0.0",
    "previous_response_id": b"null",
    "prompt_cache_key": b"null",
    "prompt_cache_retention": b"null",
    "reasoning": b'{"effort":null,"summary":null}',
    "safety_identifier": b"null",
    "store": b"false",
    "temperature": b"1.0",
    "text": b'{"format":{"type":"text"},"verbosity":"medium"}',
    "tool_choice": b'"auto"',
    "tools": b"[]",
    "top_logprobs": b"0",
    "top_p": b"1.0",
    "truncation": b'"disabled"',
    "user": b"null",
    "metadata": b"{}",
}
"""Request fields that the object repeats, with their defaults."""
_FILLED: Mapping[str, Mapping[str, Any]] = {
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
}
"""Members of repeated fields that the vendor always sends."""
_FUNCTION: Mapping[str, Any] = {"description": None, "parameters": None, "strict": False}
"""Members of a declared function; other vendors' models are strict only if the caller requests it."""
_LISTED = msgspec.json.Decoder(list[msgspec.Raw])
_NULL = b"null"
_UNFINISHED = frozenset({"queued", "in_progress"})

_ERROR_CODES = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout"}) | ABOUT_THE_INPUT
"""The closed list of a failed response's error codes."""
_LIMITS = frozenset({ErrorKind.RATE_LIMIT, ErrorKind.QUOTA, ErrorKind.BILLING})


# ── response ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class ResponseObject:
    """The response object of one response, in any state.

    Args:
        inbound_request: The caller's request.
        answer: The response's valid id.
        model: The model's name if the request has none.
        created_at: The time of creation.
        extras: Fields that only this protocol has.
    """

    __slots__ = ("_base", "_created", "_echo", "_extras", "_requested_tier", "service_tier")

    def __init__(
        self,
        inbound_request: InboundRequest,
        *,
        answer: str,
        model: str,
        created_at: datetime,
        extras: Mapping[str, Any] = ir.EMPTY,
    ) -> None:
        self._base: dict[str, Any] = {"id": answer, "object": "response", "created_at": int(created_at.timestamp())}
        self._created = {"model": inbound_request.model or model}
        self._echo = _echo(inbound_request)
        self._requested_tier = _requested_tier(inbound_request)
        self._extras = extras
        self.service_tier: ir.ServiceTier | None = None

    def encode(
        self,
        status: str,
        output: Sequence[JSONObject],
        *,
        usage: ir.Usage | None = None,
        error: JSONObject | None = None,
        incomplete: str | None = None,
    ) -> bytes:
        """Encode the object in this state; `completed_at` among the extras replaces the clock's."""
        completed: int | None = None
        if status == "completed":
            completed = self._extras.get("completed_at") or max(int(time.time()), self._base["created_at"])
        return msgspec.json.encode(
            {
                **self._base,
                "status": status,
                "error": error,
                "incomplete_details": {"reason": incomplete} if incomplete else None,
                **self._created,
                "output": output,
                **self._echo,
                "service_tier": self._tier(status),
                "moderation": None,
                "usage": encode_usage(usage) if usage is not None else None,
                **self._extras,
                "completed_at": completed,
            }
        )

    def _tier(self, status: str) -> str:
        """Return the tier that served the response; until it is known, the requested one."""
        if self.service_tier is not None:
            return TIER_OUT[self.service_tier]
        return self._requested_tier if status in _UNFINISHED else TIER_OUT[ir.ServiceTier.STANDARD]


def _requested_tier(inbound_request: InboundRequest) -> str:
    given = inbound_request.raw.get("service_tier")
    try:
        return msgspec.json.decode(given, type=str) if given is not None else "auto"
    except msgspec.MsgspecError:
        return "auto"


def _echo(inbound_request: InboundRequest) -> dict[str, msgspec.Raw]:
    echo: dict[str, msgspec.Raw] = {}
    for key, default in _ECHOED.items():
        given = inbound_request.raw.get(key)
        if key == "store":  # whether it is stored, not whether storage was requested
            echo[key] = msgspec.Raw(
                b"true" if inbound_request.state is not None and inbound_request.state.store else b"false"
            )
            continue
        echo[key] = msgspec.Raw(default) if given is None or bytes(given) == _NULL else _filled(key, given)
    return echo


def _filled(key: str, given: msgspec.Raw) -> msgspec.Raw:
    """Return the caller's value with the members that the vendor always sends."""
    try:
        if key in _FILLED:
            return _on_one_line(_with_members(given, _FILLED[key]))
        if key == "tools":
            tools = [_declared(tool) for tool in _LISTED.decode(given)]
            return _on_one_line(msgspec.Raw(msgspec.json.encode(tools)))
    except msgspec.MsgspecError:  # passed through unread; the upstream refuses it
        pass
    return _on_one_line(given)


def _declared(tool: msgspec.Raw) -> msgspec.Raw:
    data = bytes(tool)
    if b'"function"' not in data or (b'"strict"' in data and b'"description"' in data and b'"parameters"' in data):
        return tool
    members = split_object(tool)
    if bytes(members.get("type", b"")) != b'"function"':
        return tool
    return _with_members(tool, _FUNCTION)


def _with_members(given: msgspec.Raw, default: Mapping[str, Any]) -> msgspec.Raw:
    members = split_object(given)
    missing = {key: raw(value) for key, value in default.items() if key not in members}
    return msgspec.Raw(join_object({**members, **missing})) if missing else given


def _on_one_line(given: msgspec.Raw) -> msgspec.Raw:
    """Remove the line ends of indented JSON, which would end an event's line; strings contain none."""
    text = bytes(given)
    return msgspec.Raw(text.translate(None, b"\r\n")) if b"\n" in text or b"\r" in text else given


def failure_object(error: GatewayError) -> JSONObject:
    """Encode the error of a failed response: a code of the closed list, and the message."""
    code = error.code
    if code not in _ERROR_CODES or isinstance(error, UpstreamAuthFailed):
        refused = error.status < 500 and error.kind not in _LIMITS
        code = "rate_limit_exceeded" if error.kind in _LIMITS else "invalid_prompt" if refused else "server_error"
    return {"code": code, "message": error.message}


def error_event(error: GatewayError) -> JSONObject:
    """Encode an error event for a stream in any state.

    The flat fields are the vendor's. The nested object makes the official clients raise an error.
    """
    nested = error_object(error)
    flat = {key: nested.get(key) for key in ("code", "message", "param")}
    return {"type": "error", **flat, "sequence_number": 0, "error": nested}


def passthrough_failure(error: GatewayError) -> JSONObject | None:
    """Return the `response.failed` event of a passed-through stream: the upstream's or the gateway's."""
    event = error.native.get(FAILED_EVENT) if error.native else None
    return event if isinstance(event, dict) else None


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def message_item(found: str, content: Sequence[JSONObject], *, status: str, phase: str | None) -> JSONObject:
    """Encode a message item."""
    item: JSONObject = {
        "id": found,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": list(content),
    }
    return {**item, "phase": phase} if phase else item


def phase_of(part: ir.Text | ir.Refusal) -> str | None:
    """Return a text's phase: commentary or final answer."""
    phase = part.extras.get(PROTOCOL, ir.EMPTY).get("phase")
    return phase if isinstance(phase, str) else None


def reasoning_item(found: str, text: str, seal: ir.Seal | None, *, as_content: bool, status: str) -> JSONObject:
    """Encode a reasoning item with its seal."""
    item: JSONObject = {"id": found, "type": "reasoning", "summary": []}
    if text and as_content:
        item["content"] = [{"type": "reasoning_text", "text": text}]
    elif text:
        item["summary"] = [{"type": "summary_text", "text": text}]
    if seal is not None:
        item["encrypted_content"] = encode_seal(seal)
    return {**item, "status": status}


def encode_seal(seal: ir.Seal) -> str:
    """Encode a seal's data: unchanged for the vendor's own, wrapped for others."""
    return seal.data if seal.issuer == NATIVE_ISSUER and seal.kind == "encrypted" else wrap(seal)


def call_item(found: str, call: ir.ToolCall, *, namespace: str | None, status: str) -> JSONObject:
    """Encode a call to one of the caller's tools."""
    item: JSONObject = {"id": found, "type": f"{call.kind}_call", "status": status}
    if call.kind == "custom":
        item |= {"type": "custom_tool_call", "call_id": call.call_id, "name": call.name, "input": call.arguments}
    else:
        item |= {"call_id": call.call_id, "name": call.name, "arguments": call.arguments}
    if namespace is not None:
        item["namespace"] = namespace
    if call.caller is not None and PROTOCOL in call.extras:
        item["caller"] = call.caller
    return item


def search_item(found: str, call: ir.ServerToolCall, *, status: str) -> JSONObject | None:
    """Encode a web search; return None for other server tools, unless they are native."""
    native = call.extras.get(PROTOCOL)
    if native:
        return {**native, "id": native.get("id") or found}
    arguments = arguments_object(call.arguments)
    if call.tool == "web_search":
        action: JSONObject = {"type": "search", "query": str(arguments.get("query", ""))}
    elif call.tool == "url_fetch":
        action = {"type": "open_page", "url": str(arguments.get("url", ""))}
    else:
        return None
    return {"id": found, "type": "web_search_call", "status": status, "action": action}


def image_item(found: str, media: ir.Media, data: str) -> JSONObject:
    """Encode a generated image."""
    native = media.extras.get(PROTOCOL, ir.EMPTY)
    form = (media.media_type or "").removeprefix("image/")
    fields: JSONObject = {"output_format": form} if form else {}
    return {**fields, **native, "id": found, "type": "image_generation_call", "status": "completed", "result": data}


def annotation(citation: ir.Citation, length: int) -> JSONObject | None:
    """Encode a citation; return None if this protocol can't express it.

    Args:
        citation: With its span within its text part.
        length: Code points of that part so far, for a citation without a span.
    """
    native = citation.extras.get(PROTOCOL, ir.EMPTY)
    if citation.url is None:
        return cast("JSONObject", dict(native)) if native.get("type") else None
    return {
        **native,
        "type": "url_citation",
        "start_index": 0 if citation.start is None else citation.start,
        "end_index": length if citation.end is None else citation.end,
        "url": citation.url,
        "title": citation.title or "",
    }
