"""Anthropic's JSON, as far as we act on it.

Source: the type definitions of Anthropic's Python SDK 2.11.0, read 2026-11-21. Requests are read field by field with
their paths (`request_decoder.py`); what stands here is what an upstream sends: whole answers and stream events. All
fields are optional, because compatible servers leave out what they please.
"""

from typing import Annotated, Any

import msgspec

from llmproxy_asgi.conversation import MOST_PARTS

PROTOCOL = "anthropic-messages"
ISSUER = "anthropic"
"""Whose signatures Anthropic's own clients hold."""

FIRST_VERSION = "2023-06-01"
VERSION = "2026-10-21"
"""Since this version Claude refuses sampling values, documents in assistant messages, citations on the user's texts."""


ABSENT = msgspec.Raw()
"""A field that is taken as its bytes and is not there."""


class Delta(msgspec.Struct, gc=False):
    """Of `content_block_delta`, and of `message_delta`."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    citation: dict[str, Any] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None


class Block(msgspec.Struct):
    """A content block of an answer."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT
    tool_use_id: str | None = None
    caller: dict[str, Any] | None = None
    citations: list[dict[str, Any]] | None = None


class Answer(msgspec.Struct):
    """A whole answer, and what `message_start` holds."""

    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MOST_PARTS)] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    container: dict[str, Any] | None = None
    error: Any = None


class Event(msgspec.Struct, gc=False):
    """Any event of a stream."""

    type: str | None = None
    index: int | None = None
    delta: Delta | None = None
    content_block: msgspec.Raw = ABSENT
    message: Answer | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    metrics: dict[str, Any] | None = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")
    """Bedrock's counts, in its last event."""


class Piece(msgspec.Struct, gc=False):
    """More of a content block."""

    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    citation: dict[str, Any] | None = None


class DeltaEvent(msgspec.Struct, gc=False):
    """A `content_block_delta`: nearly all that a stream consists of, read for itself."""

    type: str | None = None
    index: int | None = None
    delta: Piece | None = None


EVENT = msgspec.json.Decoder(Event)
DELTA_EVENT = msgspec.json.Decoder(DeltaEvent)
ANSWER = msgspec.json.Decoder(Answer)
BLOCK = msgspec.json.Decoder(Block)
