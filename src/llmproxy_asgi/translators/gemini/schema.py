"""Structs of Google's JSON, with the fields that the codec uses.

Source: the types of Google's Python SDK google-genai 3.4.0, read 2026-11-21. Requests are read field by field with
their paths (`request_decoder.py`); this module holds what an upstream sends: complete responses and the chunks of a
stream, which have one shape. All fields are optional: proto3 JSON leaves out whatever is empty.
"""

from typing import Annotated, Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject

PROTOCOL = "gemini"
ISSUER = "gemini"
"""The issuer of signatures in requests of Google's clients."""

ABSENT = msgspec.Raw()
"""The default of an absent raw field."""

PLACEHOLDER_SIGNATURE = "skip_thought_signature_validator"
"""The signature that Google documents for a call that none of its models made."""


class Blob(msgspec.Struct, rename="camel"):
    mime_type: str | None = None
    data: str | None = None


class FileData(msgspec.Struct, rename="camel"):
    mime_type: str | None = None
    file_uri: str | None = None


class FunctionCall(msgspec.Struct, rename="camel"):
    id: str | None = None
    name: str | None = None
    args: msgspec.Raw = ABSENT
    partial_args: list[JSONObject] | None = None
    will_continue: bool | None = None


class Part(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None


class Content(msgspec.Struct, gc=False):
    parts: Annotated[list[Part], msgspec.Meta(max_length=ir.MOST_PARTS)] | None = None


class Candidate(msgspec.Struct, rename="camel", gc=False):
    index: Annotated[int, msgspec.Meta(lt=2**31)] | None = None
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    continuation_token: str | None = None
    grounding_metadata: JSONObject | None = None
    citation_metadata: JSONObject | None = None
    logprobs_result: msgspec.Raw = ABSENT
    """Possibly millions of values, so they are decoded one by one."""


class Chunk(msgspec.Struct, rename="camel", gc=False):
    """A complete response, or a chunk of a streamed one."""

    candidates: Annotated[list[Candidate], msgspec.Meta(max_length=ir.MOST_CANDIDATES)] | None = None
    prompt_feedback: JSONObject | None = None
    usage_metadata: msgspec.Raw = ABSENT
    response_id: str | None = None
    create_time: str | None = None
    error: Any = None


CHUNK = msgspec.json.Decoder(Chunk)


def usage_object(given: msgspec.Raw) -> JSONObject:
    """Decode a chunk's usage; empty without any. Usage stays raw until then, because only the last chunk's matters."""
    try:
        found = msgspec.json.decode(given) if given is not ABSENT else None
    except msgspec.MsgspecError:  # a number that is out of range
        return {}
    return found if isinstance(found, dict) else {}
