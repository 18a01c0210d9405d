"""The JSON of Chat Completions that the codec reads: one permissive struct and one typed decoder per shape.

Source: the types of the openai Python SDK 3.52.0 (read 2026-11-21), and what compatible servers add
(`reasoning_content`, `reasoning`, `reasoning_details`, `extra_content`, `images`).

All fields are optional and nullable, because compatible servers omit fields that the official clients don't read.
Unknown fields are ignored. Requests have no struct: their errors contain the field's path, which `request_decoder`
provides. The garbage collector does not track the structs: decoded JSON has no cycles.
"""

from typing import Annotated, Any

import msgspec

import llmproxy_asgi.conversation as ir

Loose = Any
"""A value of any type, which the codec checks itself."""

ABSENT = msgspec.Raw()
"""A missing field that is read as bytes."""


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
    """A delta of a message, or a complete message."""

    content: str | list[Any] | None = None
    tool_calls: Annotated[list[CallDelta], msgspec.Meta(max_length=ir.MOST_CALLS)] | None = None
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
    """The message so far or the complete one, which a few servers send besides or instead of `delta`."""


class NextChunk(msgspec.Struct, gc=False):
    """A chunk after the first one, without the fields that each chunk repeats.

    Each field costs time in each chunk, so there are few, in their usual order.
    """

    service_tier: str | None = None
    choices: Annotated[list[ChunkChoice], msgspec.Meta(max_length=ir.MOST_CANDIDATES)] | None = None
    usage: Loose = None
    error: Loose = None


class Chunk(NextChunk, gc=False):
    """The first chunk of a stream."""

    id: str | None = None
    created: int | float | None = None


TokenCount = Annotated[int, msgspec.Meta(ge=0, le=ir.MOST_TOKENS)]


class InputCounts(msgspec.Struct, gc=False):
    """The details of a usage's input tokens."""

    cached_tokens: TokenCount | None = None
    cache_write_tokens: TokenCount | None = None
    audio_tokens: TokenCount | None = None
    image_tokens: TokenCount | None = None


class OutputCounts(msgspec.Struct, gc=False):
    """The details of a usage's output tokens."""

    reasoning_tokens: TokenCount | None = None
    audio_tokens: TokenCount | None = None
    image_tokens: TokenCount | None = None


class Counts(msgspec.Struct, gc=False):
    """The counts of a usage, among them those that compatible servers put beside the details."""

    prompt_tokens: TokenCount | None = None
    completion_tokens: TokenCount | None = None
    total_tokens: TokenCount | None = None
    prompt_tokens_details: InputCounts | None = None
    completion_tokens_details: OutputCounts | None = None
    cached_tokens: TokenCount | None = None  # Moonshot's
    prompt_cache_hit_tokens: TokenCount | None = None  # DeepSeek's
    cache_read_input_tokens: TokenCount | None = None  # Anthropic's name, which gateways keep
    cache_creation_input_tokens: TokenCount | None = None
    reasoning_tokens: TokenCount | None = None  # Perplexity's


class CountedChoice(msgspec.Struct, gc=False):
    usage: Loose = None


class CountedChunk(msgspec.Struct, gc=False):
    """The fields of a chunk in which servers report usage."""

    choices: list[CountedChoice] | None = None
    usage: Loose = None
    x_groq: Loose = None
    timings: Loose = None


class Choice(msgspec.Struct, gc=False):
    message: Delta | None = None
    index: int | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = ABSENT
    """Left as bytes, because it may contain millions of values."""
    error: Loose = None
    usage: Loose = None


class Answer(msgspec.Struct, gc=False):
    """A complete response."""

    choices: Annotated[list[Choice], msgspec.Meta(max_length=ir.MOST_CANDIDATES)] | None = None
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
    """The fields of a chunk that passthrough reads."""

    choices: Annotated[list[PassthroughChoice], msgspec.Meta(max_length=ir.MOST_CANDIDATES)] | None = None
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
