"""What a caller reads of an answer: the response object around it, and the items in it.

The object repeats what the caller asked for, in the very bytes it came in. A whole answer is the object that its own
stream would end with, so there is one way to write an answer.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import msgspec

from llmproxy_asgi.conversation import (
    EMPTY,
    Citation,
    JSONObject,
    Media,
    Refusal,
    Seal,
    ServerToolCall,
    ServiceTier,
    Text,
    ToolCall,
    Usage,
)
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
"""What the object repeats of the request, and what it says where the caller said nothing."""
_FILLED: Mapping[str, Mapping[str, Any]] = {
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
}
"""Members of what it repeats that the vendor always sends."""
_FUNCTION: Mapping[str, Any] = {"description": None, "parameters": None, "strict": False}
"""The same of a declared function. Other vendors' models are not made strict unless the caller says so."""
_LISTED = msgspec.json.Decoder(list[msgspec.Raw])
_NULL = b"null"
_UNFINISHED = frozenset({"queued", "in_progress"})

_ERROR_CODES = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout"}) | ABOUT_THE_INPUT
"""The closed list of a failed answer's codes."""
_LIMITS = frozenset({ErrorKind.RATE_LIMIT, ErrorKind.QUOTA, ErrorKind.BILLING})


# ── the object ───────────────────────────────────────────────────────────────────────────────────────────────────────


class ResponseObject:
    """The response object of one answer, whatever it has come to.

    Args:
        inbound_request: The request that is answered.
        answer: The answer's id, already legal.
        model: What it is called where the caller named no model.
        created_at: When it began.
        extras: Fields that only this protocol knows.
    """

    __slots__ = ("_asked_tier", "_base", "_created", "_echo", "_extras", "service_tier")

    def __init__(
        self,
        inbound_request: InboundRequest,
        *,
        answer: str,
        model: str,
        created_at: datetime,
        extras: Mapping[str, Any] = EMPTY,
    ) -> None:
        self._base: dict[str, Any] = {"id": answer, "object": "response", "created_at": int(created_at.timestamp())}
        self._created = {"model": inbound_request.model or model}
        self._echo = _echo(inbound_request)
        self._asked_tier = _asked_tier(inbound_request)
        self._extras = extras
        self.service_tier: ServiceTier | None = None

    def encode(
        self,
        status: str,
        output: Sequence[JSONObject],
        *,
        usage: Usage | None = None,
        error: JSONObject | None = None,
        incomplete: str | None = None,
    ) -> bytes:
        """The object in this state; a completed one is dated by the clock."""
        completed = max(int(time.time()), self._base["created_at"]) if status == "completed" else None
        return msgspec.json.encode(
            {
                **self._base,
                "status": status,
                "completed_at": completed,
                "error": error,
                "incomplete_details": {"reason": incomplete} if incomplete else None,
                **self._created,
                "output": output,
                **self._echo,
                "service_tier": self._tier(status),
                "moderation": None,
                "usage": encode_usage(usage) if usage is not None else None,
                **self._extras,
            }
        )

    def _tier(self, status: str) -> str:
        """The tier that served the answer; while it is made the one that was asked for."""
        if self.service_tier is not None:
            return TIER_OUT[self.service_tier]
        return self._asked_tier if status in _UNFINISHED else TIER_OUT[ServiceTier.STANDARD]


def _asked_tier(inbound_request: InboundRequest) -> str:
    said = inbound_request.raw.get("service_tier")
    try:
        return msgspec.json.decode(said, type=str) if said is not None else "auto"
    except msgspec.MsgspecError:
        return "auto"


def _echo(inbound_request: InboundRequest) -> dict[str, msgspec.Raw]:
    echo: dict[str, msgspec.Raw] = {}
    for key, otherwise in _ECHOED.items():
        said = inbound_request.raw.get(key)
        if key == "store":  # whether it is kept, not whether that was asked for
            echo[key] = msgspec.Raw(
                b"true" if inbound_request.state is not None and inbound_request.state.store else b"false"
            )
            continue
        echo[key] = msgspec.Raw(otherwise) if said is None or bytes(said) == _NULL else _filled(key, said)
    return echo


def _filled(key: str, said: msgspec.Raw) -> msgspec.Raw:
    """What the caller said, with the members that the vendor always sends."""
    try:
        if key in _FILLED:
            return _on_one_line(_with_members(said, _FILLED[key]))
        if key == "tools":
            tools = [_declared(tool) for tool in _LISTED.decode(said)]
            return _on_one_line(msgspec.Raw(msgspec.json.encode(tools)))
    except msgspec.MsgspecError:  # passed on unread, for the upstream to refuse
        pass
    return _on_one_line(said)


def _declared(tool: msgspec.Raw) -> msgspec.Raw:
    told = bytes(tool)
    if b'"function"' not in told or (b'"strict"' in told and b'"description"' in told and b'"parameters"' in told):
        return tool
    members = split_object(tool)
    if bytes(members.get("type", b"")) != b'"function"':
        return tool
    return _with_members(tool, _FUNCTION)


def _with_members(said: msgspec.Raw, otherwise: Mapping[str, Any]) -> msgspec.Raw:
    members = split_object(said)
    missing = {key: raw(value) for key, value in otherwise.items() if key not in members}
    return msgspec.Raw(join_object({**members, **missing})) if missing else said


def _on_one_line(said: msgspec.Raw) -> msgspec.Raw:
    """JSON without line ends, which would end an event's line: callers may indent theirs. None is within a string."""
    text = bytes(said)
    return msgspec.Raw(text.translate(None, b"\r\n")) if b"\n" in text or b"\r" in text else said


def failure_object(error: GatewayError) -> JSONObject:
    """An error as a failed answer tells it: a code of the closed list, and why."""
    code = error.code
    if code not in _ERROR_CODES or isinstance(error, UpstreamAuthFailed):
        refused = error.status < 500 and error.kind not in _LIMITS
        code = "rate_limit_exceeded" if error.kind in _LIMITS else "invalid_prompt" if refused else "server_error"
    return {"code": code, "message": error.message}


def error_event(error: GatewayError) -> JSONObject:
    """An error in a stream of which nothing is known here, not even whether it has begun.

    The flat form is the vendor's. The nested one is what makes the official clients raise.
    """
    nested = error_object(error)
    flat = {key: nested.get(key) for key in ("code", "message", "param")}
    return {"type": "error", **flat, "sequence_number": 0, "error": nested}


def passthrough_failure(error: GatewayError) -> JSONObject | None:
    """The `response.failed` that a passthrough stream ends with: the upstream's own, or one that the gateway made."""
    event = error.native.get(FAILED_EVENT) if error.native else None
    return event if isinstance(event, dict) else None


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def message_item(found: str, content: Sequence[JSONObject], *, status: str, phase: str | None) -> JSONObject:
    """Something said."""
    item: JSONObject = {
        "id": found,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": list(content),
    }
    return {**item, "phase": phase} if phase else item


def phase_of(part: Text | Refusal) -> str | None:
    """Whether a text is meant as commentary or as the answer."""
    phase = part.extras.get(PROTOCOL, EMPTY).get("phase")
    return phase if isinstance(phase, str) else None


def reasoning_item(found: str, text: str, seal: Seal | None, *, as_content: bool, status: str) -> JSONObject:
    """Something thought, and its state."""
    item: JSONObject = {"id": found, "type": "reasoning", "summary": []}
    if text and as_content:
        item["content"] = [{"type": "reasoning_text", "text": text}]
    elif text:
        item["summary"] = [{"type": "summary_text", "text": text}]
    if seal is not None:
        item["encrypted_content"] = spelled(seal)
    return {**item, "status": status}


def spelled(seal: Seal) -> str:
    """The seal's blob as a caller gets it: the vendor's own as it is, anybody else's wrapped."""
    return seal.data if seal.issuer == NATIVE_ISSUER and seal.kind == "encrypted" else wrap(seal)


def call_item(found: str, call: ToolCall, *, namespace: str | None, status: str) -> JSONObject:
    """A call of the caller's tools."""
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


def search_item(found: str, call: ServerToolCall, *, status: str) -> JSONObject | None:
    """A look into the web; None for what else an upstream may run, unless it is this protocol's own."""
    native = call.extras.get(PROTOCOL)
    if native:
        return {**native, "id": native.get("id") or found}
    asked = arguments_object(call.arguments)
    if call.tool == "web_search":
        action: JSONObject = {"type": "search", "query": str(asked.get("query", ""))}
    elif call.tool == "url_fetch":
        action = {"type": "open_page", "url": str(asked.get("url", ""))}
    else:
        return None
    return {"id": found, "type": "web_search_call", "status": status, "action": action}


def image_item(found: str, media: Media, data: str) -> JSONObject:
    """A picture that was made."""
    native = media.extras.get(PROTOCOL, EMPTY)
    form = (media.media_type or "").removeprefix("image/")
    made: JSONObject = {"output_format": form} if form else {}
    return {**made, **native, "id": found, "type": "image_generation_call", "status": "completed", "result": data}


def annotation(citation: Citation, length: int) -> JSONObject | None:
    """A citation; None where this protocol has no words for it.

    Args:
        citation: With its span within its text part.
        length: Code points of that part so far, for a citation without a span.
    """
    native = citation.extras.get(PROTOCOL, EMPTY)
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
