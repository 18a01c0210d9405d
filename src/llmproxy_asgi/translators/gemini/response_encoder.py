"""Encode responses for Google's clients: pieces shared with the stream encoder, and complete responses."""

from collections.abc import Iterable, Sequence

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.custom_tools import wrapped_input
from llmproxy_asgi.translators.gemini.grounding import GroundingEncoder
from llmproxy_asgi.translators.gemini.mappings import BLOCK_REASONS, encode_finish, encode_logprobs, encode_usage
from llmproxy_asgi.translators.gemini.reasoning import encode_signature
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.pairing import arguments_raw


def encode_response(response: ir.Response, model: str) -> bytes:
    """Encode a complete response."""
    body: JSONObject = {}
    if is_blocked([(candidate.finish, bool(candidate.parts)) for candidate in response.candidates]):
        body |= prompt_feedback(response.candidates[0].finish)
    else:
        body["candidates"] = [_candidate(candidate) for candidate in response.candidates]
    body["usageMetadata"] = encode_usage(response.usage)
    return msgspec.json.encode({**body, **head(model, response.id), **response.extras.get(PROTOCOL, {})})


def head(model: str, response_id: str) -> JSONObject:
    """Return the fields that every chunk of a response has."""
    return {"modelVersion": model, **({"responseId": response_id} if response_id else {})}


def is_blocked(endings: Iterable[tuple[ir.Finish, bool]]) -> bool:
    """Return whether the prompt was blocked: all candidates are filtered and none has parts.

    Args:
        endings: Each candidate's finish, and whether it has parts.
    """
    found = list(endings)
    return bool(found) and all(
        finish.reason is ir.FinishReason.CONTENT_FILTER and not has_parts for finish, has_parts in found
    )


def prompt_feedback(finish: ir.Finish) -> JSONObject:
    """Encode a blocked prompt, which replaces the candidates."""
    reason = finish.native if finish.native in BLOCK_REASONS else "SAFETY"
    message = {"blockReasonMessage": finish.message} if finish.message else {}
    return {"promptFeedback": {"blockReason": reason, **message}}


def finish_fields(finish: ir.Finish) -> JSONObject:
    """Encode why a candidate ended."""
    fields: JSONObject = {"finishReason": encode_finish(finish), **(finish.resume or {})}
    return {**fields, "finishMessage": finish.message} if finish.message else fields


def encode_part(part: ir.Part) -> JSONObject | None:
    """Encode a part without its seals; None if Google's format can't express it."""
    match part:
        case ir.Text(text=text) | ir.Refusal(text=text):
            return {"text": text}
        case ir.Reasoning(text=text):
            return {"text": text, "thought": True}
        case ir.ToolCall():
            arguments = wrapped_input(part.arguments) if part.kind == "custom" else part.arguments
            # A chunk is one line; line ends within JSON are white space.
            on_one_line = msgspec.Raw(bytes(arguments_raw(arguments)).translate(None, b"\r\n"))
            return {"functionCall": {"id": part.call_id, "name": part.name, "args": on_one_line}}
        case ir.Media():
            return _media(part)
        case ir.Opaque(protocol=protocol, data=data):
            return dict(data) if protocol == PROTOCOL else None
        case _:
            return None


def bare_signature(signature: str) -> JSONObject:
    """Return an empty text part with a signature."""
    return {"text": "", "thoughtSignature": signature}


def signed(wire: JSONObject, signatures: Sequence[str]) -> list[JSONObject]:
    """Return a part with the last signature, after empty parts with the others: a part has only one."""
    if not signatures:
        return [wire]
    return [*map(bare_signature, signatures[:-1]), {**wire, "thoughtSignature": signatures[-1]}]


def _candidate(candidate: ir.Candidate) -> JSONObject:
    parts: list[JSONObject] = []
    grounding = GroundingEncoder()
    pending: list[str] = []
    for part in candidate.parts:
        signatures = [encode_signature(seal) for seal in part.seals]
        wire = encode_part(part)
        if isinstance(part, ir.Reasoning):
            parts += map(bare_signature, pending)
            pending = signatures
            parts += [wire] if wire and part.text else []
        elif wire is not None and (wire != {"text": ""} or signatures):
            parts += signed(wire, [*pending, *signatures])
            pending = []
            if isinstance(part, ir.Text):
                grounding.add(part.citations, part.text, part=len(parts) - 1)
    parts += map(bare_signature, pending)
    fields: JSONObject = {"content": {"parts": parts, "role": "model"}, **finish_fields(candidate.finish)}
    if candidate.logprobs:
        fields["logprobsResult"] = encode_logprobs(candidate.logprobs)
    return {**fields, "index": candidate.index, **grounding.fields()}


def _media(part: ir.Media) -> JSONObject | None:
    match part.source:
        case ir.InlineData(data=data):
            return {"inlineData": {"mimeType": part.media_type or "application/octet-stream", "data": data}}
        case ir.Link(url=address) | ir.StoredFile(protocol="gemini", id=address):
            kind = {"mimeType": part.media_type} if part.media_type else {}
            return {"fileData": {"fileUri": address, **kind}}
        case _:
            return None
