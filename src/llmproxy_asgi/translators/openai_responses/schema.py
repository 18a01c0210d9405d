"""Responses' JSON as far as we act on it: one permissive struct per shape, read by one typed decoder each.

Source: the types and the stream accumulator of the openai Python SDK 3.52.0 (read 2026-11-21).

Everything is optional and may be null, because servers that call themselves compatible leave out or null whatever the
official clients do not look at. Unknown fields are passed over. Items stay bytes until it is known what they are.
Requests have no struct: a complaint about one must name the field's path, which `decode_request` does. No struct is
tracked by the collector: what a JSON reader makes are trees, and they need none.
"""

from typing import Annotated, Any

import msgspec

from llmproxy_asgi.conversation import MOST_PARTS

Loose = Any
"""A value that is looked at by hand, where it is there at all."""


ABSENT = msgspec.Raw()
"""Where there is no value, not even null."""


class Event(msgspec.Struct, gc=False):
    """One event of a stream, whatever it is."""

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
    """More of what is said, thought or called: nearly all that a stream consists of, read for itself."""

    delta: Loose = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    logprobs: Loose = None


class IncompleteDetails(msgspec.Struct, gc=False):
    reason: str | None = None


class Answer(msgspec.Struct, gc=False):
    """A whole answer, and what an event of its life says of it."""

    id: str | None = None
    model: str | None = None
    created_at: int | float | None = None
    status: str | None = None
    output: Annotated[list[Any], msgspec.Meta(max_length=MOST_PARTS)] | None = None
    usage: Loose = None
    tool_usage: Loose = None
    error: Loose = None
    incomplete_details: IncompleteDetails | None = None
    service_tier: str | None = None
    input_transformations: Loose = None
    object: str | None = None


class LargeAnswer(Answer, gc=False):
    """A whole answer of so many bytes that its items are read one after the other."""

    output: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MOST_PARTS)] | None = None


class PassthroughItem(msgspec.Struct, gc=False):
    type: str | None = None


class PassthroughAnswer(msgspec.Struct, gc=False):
    """What a passthrough looks at in an answer."""

    id: str | None = None
    model: str | None = None
    created_at: int | float | None = None
    status: str | None = None
    output: Annotated[list[PassthroughItem], msgspec.Meta(max_length=MOST_PARTS)] | None = None
    usage: Loose = None
    tool_usage: Loose = None
    error: Loose = None
    incomplete_details: IncompleteDetails | None = None
    service_tier: str | None = None


class PassthroughEvent(msgspec.Struct, gc=False):
    """What a passthrough looks at in a frame."""

    type: str | None = None
    response: PassthroughAnswer | None = None
    error: Loose = None


class ItemDone(msgspec.Struct, gc=False):
    """What a passthrough keeps of an item."""

    item: msgspec.Raw
    output_index: int | None = None


EVENT = msgspec.json.Decoder(Event)
DELTA_EVENT = msgspec.json.Decoder(DeltaEvent)
ANSWER = msgspec.json.Decoder(Answer)
LARGE_ANSWER = msgspec.json.Decoder(LargeAnswer)
PASSTHROUGH = msgspec.json.Decoder(PassthroughEvent)
ITEM_DONE = msgspec.json.Decoder(ItemDone)
PASSTHROUGH_ANSWER = msgspec.json.Decoder(PassthroughAnswer)
