"""Structs of Anthropic's JSON, with the fields that the codec uses.

Source: the type definitions of Anthropic's Python SDK 2.11.0, read 2026-11-21. Requests are read field by field with
their paths (`request_decoder.py`); this module holds what an upstream sends: complete responses and stream events. All
fields are optional, because compatible servers omit many.
"""

from typing import Annotated, Any

import msgspec

import llmproxy_asgi.conversation as ir

PROTOCOL = "anthropic-messages"
ISSUER = "anthropic"
"""The issuer of signatures in requests of Anthropic's clients."""

FIRST_VERSION = "2023-06-01"
VERSION = "2026-10-21"
"""Since this version Claude refuses sampling values, documents in assistant messages and citations in user messages."""


ABSENT = msgspec.Raw()
"""The default of an absent raw field."""


class Delta(msgspec.Struct, gc=False):
    """The delta of `content_block_delta` or `message_delta`."""

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
    """A content block of a response."""

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


class Message(msgspec.Struct):
    """A complete response, or the message of `message_start`."""

    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=ir.MOST_PARTS)] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    container: dict[str, Any] | None = None
    error: Any = None


class Event(msgspec.Struct, gc=False):
    """A stream event of any type."""

    type: str | None = None
    index: int | None = None
    delta: Delta | None = None
    content_block: msgspec.Raw = ABSENT
    message: Message | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    metrics: dict[str, Any] | None = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")
    """Token counts in Bedrock's last event."""


class BlockDelta(msgspec.Struct, gc=False):
    """The delta of a content block."""

    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    citation: dict[str, Any] | None = None


class DeltaEvent(msgspec.Struct, gc=False, tag_field="type", tag="content_block_delta"):
    """A `content_block_delta`, the most common event; decoded by its own decoder for speed."""

    index: int | None = None
    delta: BlockDelta | None = None


EVENT = msgspec.json.Decoder(Event)
DELTA_EVENT = msgspec.json.Decoder(DeltaEvent)
MESSAGE = msgspec.json.Decoder(Message)
BLOCK = msgspec.json.Decoder(Block)
