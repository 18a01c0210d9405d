"""Chat Completions' JSON as far as we act on it: one permissive struct per shape, read by one typed decoder each.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21), and what compatible servers add
(`reasoning_content`, `reasoning`, `reasoning_details`, `extra_content`, `images`).

Everything is optional and may be null, because servers that call themselves compatible leave out or null whatever the
official clients do not look at. Unknown fields are passed over. Requests have no struct: a complaint about one must
name the field's path, which `decode_request` does. No struct is tracked by the collector: what a JSON reader makes
are trees, and they need none.
"""

from typing import Annotated, Any

import msgspec

from llmproxy_asgi.conversation import MOST_CALLS, MOST_CANDIDATES

Loose = Any
"""A value that is looked at by hand, where it is there at all."""

ABSENT = msgspec.Raw()
"""A field that is taken as its bytes and is not there."""


class FunctionDelta(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CustomDelta(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class CallDelta(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None
    custom: CustomDelta | None = None
    extra_content: Loose = None


class Delta(msgspec.Struct, gc=False):
    """A piece of a message, or the whole of one."""

    content: str | list[Any] | None = None
    tool_calls: Annotated[list[CallDelta], msgspec.Meta(max_length=MOST_CALLS)] | None = None
    reasoning_content: str | None = None
    reasoning: str | Loose = None
    reasoning_details: list[Any] | None = None
    refusal: str | None = None
    function_call: FunctionDelta | None = None
    audio: Loose = None
    annotations: list[Any] | None = None
    images: list[Any] | None = None


class ChunkChoice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: Delta | None = None
    logprobs: Loose = None
    finish_reason: str | None = None
    error: Loose = None
    message: msgspec.Raw = ABSENT
    """The message so far, or all of it, which a few servers send beside or instead of `delta`."""


class NextChunk(msgspec.Struct, gc=False):
    """One event of a stream that has begun: what each chunk repeats is not read again.

    Each field costs time in each chunk, so the fields stand in the order in which they mostly come, and there are few.
    """

    service_tier: str | None = None
    choices: Annotated[list[ChunkChoice], msgspec.Meta(max_length=MOST_CANDIDATES)] | None = None
    usage: Loose = None
    error: Loose = None


class Chunk(NextChunk, gc=False):
    """One event of a stream that has not begun."""

    id: str | None = None
    created: int | float | None = None


class CountedChoice(msgspec.Struct, gc=False):
    usage: Loose = None


class CountedChunk(msgspec.Struct, gc=False):
    """The places of a chunk in which servers put usage."""

    choices: list[CountedChoice] | None = None
    usage: Loose = None
    x_groq: Loose = None
    timings: Loose = None


class Choice(msgspec.Struct, gc=False):
    message: Delta | None = None
    index: int | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = ABSENT
    """Maybe millions of values, so that they are read one by one."""
    error: Loose = None
    usage: Loose = None


class Answer(msgspec.Struct, gc=False):
    """A whole answer."""

    choices: Annotated[list[Choice], msgspec.Meta(max_length=MOST_CANDIDATES)] | None = None
    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    usage: Loose = None
    service_tier: str | None = None
    error: Loose = None
    x_groq: Loose = None
    timings: Loose = None


class PassthroughChoice(msgspec.Struct, gc=False):
    index: int | None = None
    finish_reason: str | None = None
    error: Loose = None
    usage: Loose = None


class PassthroughChunk(msgspec.Struct, gc=False):
    """What a passthrough looks at in a frame."""

    choices: Annotated[list[PassthroughChoice], msgspec.Meta(max_length=MOST_CANDIDATES)] | None = None
    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    usage: Loose = None
    service_tier: str | None = None
    error: Loose = None
    x_groq: Loose = None
    timings: Loose = None


CHUNK = msgspec.json.Decoder(Chunk)
NEXT_CHUNK = msgspec.json.Decoder(NextChunk)
COUNTED_CHUNK = msgspec.json.Decoder(CountedChunk)
ANSWER = msgspec.json.Decoder(Answer)
PASSTHROUGH = msgspec.json.Decoder(PassthroughChunk)
MESSAGE = msgspec.json.Decoder(Delta)
