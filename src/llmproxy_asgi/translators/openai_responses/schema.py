"""The JSON of Responses that the codec reads: one permissive struct and one typed decoder per shape.

Source: the types and the stream accumulator of the openai Python SDK 3.52.0 (read 2026-11-21).

All fields are optional and nullable, because compatible servers omit fields that the official clients don't read.
Unknown fields are ignored. Items stay bytes until their type is known. Requests have no struct: their errors contain
the field's path, which `request_decoder` provides. The garbage collector does not track the structs: decoded JSON has
no cycles.
"""

from typing import Annotated, Any

import msgspec

import llmproxy_asgi.conversation as ir

Loose = Any
"""A value of any type, which the codec checks itself."""


ABSENT = msgspec.Raw()
"""A missing value, in contrast to null."""


class Event(msgspec.Struct, gc=False):
    """Any event of a stream."""

    type: str | None = None
    delta: Loose = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    logprobs: Loose = None
    text: str | None = None
    arguments: str | None = None
    input: str | None = None
    refusal: str | None = None
    annotation: Loose = None
    part: Loose = None
    item: Loose = None
    response: msgspec.Raw = ABSENT
    error: Loose = None


class DeltaEvent(msgspec.Struct, gc=False):
    """A delta event: nearly all events of a stream, with a faster decoder."""

    delta: Loose = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    logprobs: Loose = None


class IncompleteDetails(msgspec.Struct, gc=False):
    reason: str | None = None


class Answer(msgspec.Struct, gc=False):
    """A complete response, or the response object of a lifecycle event."""

    id: str | None = None
    model: str | None = None
    created_at: int | float | None = None
    status: str | None = None
    output: Annotated[list[Any], msgspec.Meta(max_length=ir.MOST_PARTS)] | None = None
    usage: Loose = None
    tool_usage: Loose = None
    error: Loose = None
    incomplete_details: IncompleteDetails | None = None
    service_tier: str | None = None
    input_transformations: Loose = None
    object: str | None = None


class LargeAnswer(Answer, gc=False):
    """A large complete response, whose items are decoded one by one."""

    output: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=ir.MOST_PARTS)] | None = None


class PassthroughItem(msgspec.Struct, gc=False):
    type: str | None = None


class PassthroughAnswer(msgspec.Struct, gc=False):
    """The fields of a response that passthrough reads."""

    id: str | None = None
    model: str | None = None
    created_at: int | float | None = None
    status: str | None = None
    output: Annotated[list[PassthroughItem], msgspec.Meta(max_length=ir.MOST_PARTS)] | None = None
    usage: Loose = None
    tool_usage: Loose = None
    error: Loose = None
    incomplete_details: IncompleteDetails | None = None
    service_tier: str | None = None


class PassthroughEvent(msgspec.Struct, gc=False):
    """The fields of an event that passthrough reads."""

    type: str | None = None
    response: PassthroughAnswer | None = None
    error: Loose = None


class ItemDone(msgspec.Struct, gc=False):
    """The fields of a done item that passthrough keeps."""

    item: msgspec.Raw
    output_index: int | None = None


EVENT = msgspec.json.Decoder(Event)
DELTA_EVENT = msgspec.json.Decoder(DeltaEvent)
ANSWER = msgspec.json.Decoder(Answer)
LARGE_ANSWER = msgspec.json.Decoder(LargeAnswer)
PASSTHROUGH = msgspec.json.Decoder(PassthroughEvent)
ITEM_DONE = msgspec.json.Decoder(ItemDone)
PASSTHROUGH_ANSWER = msgspec.json.Decoder(PassthroughAnswer)
