"""Estimates of the tokens of a call, for its reservation and for upstreams that report no usage.

The rules are cheap even for a request that passes through: four bytes of text are a token, inlined media (an image, a
document) count the same whatever their size, and a response is as long as the request allows, or
`DEFAULT_OUTPUT_TOKENS`. The upstream's usage replaces the estimate as soon as it is known.
"""

from typing import NamedTuple

import msgspec

from llmproxy_asgi.conversation import Batch, PartDelta, Request, Response, Text
from llmproxy_asgi.execution.attempt import AnyResponse, Job
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.registry import translator

DEFAULT_OUTPUT_TOKENS = 1024
"""Tokens of a response whose request sets no limit."""
INLINE_MEDIA_TOKENS = 1500
"""Tokens of one inlined image or document."""

_BYTES = 4
"""Bytes of text in a token."""
_FRAME_BYTES = 100
"""Bytes of a passed-through event stream in a token of its text."""
_LARGE = 32 * 1024
"""Bytes; smaller requests are not searched for inlined media."""
_RUN = 4096
"""Bytes without a space from which on a string is media, not text."""


class TokenEstimate(NamedTuple):
    """The estimated tokens of a call."""

    input: int
    output: int

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.input + self.output


def estimate_tokens(job: Job) -> TokenEstimate:
    """Return the tokens to reserve for a call."""
    codec = translator(job.protocol)
    if job.inbound_request is not None:
        tokens, limit = _input_tokens(job.inbound_request), codec.inbound.max_output_tokens(job.inbound_request)
    else:
        request = job.request.decode()
        tokens = len(msgspec.json.encode(request, enc_hook=str)) // _BYTES
        limit = request.max_output_tokens if isinstance(request, Request) else None
    if codec.outbound.family == "embedding":
        return TokenEstimate(tokens, 0)
    # The limit in a passed-through request is not validated, and a negative one would fill a bucket.
    return TokenEstimate(tokens, DEFAULT_OUTPUT_TOKENS if limit is None else max(0, limit))


def streamed_tokens(batch: Batch) -> float:
    """Return roughly the tokens of one read of a stream."""
    if batch.raw is not None:
        return len(batch.raw) / _FRAME_BYTES
    length = 0
    for event in batch.events:
        if type(event) is PartDelta:
            length += len(getattr(event.delta, "text", ""))
    return length / _BYTES


def response_tokens(answer: Batch | AnyResponse) -> int:
    """Return roughly the tokens of a whole response without usage."""
    if isinstance(answer, Batch):
        return len(answer.raw or b"") // _BYTES
    if not isinstance(answer, Response):
        return 0
    parts = (part for candidate in answer.candidates for part in candidate.parts)
    return sum(len(part.text) for part in parts if isinstance(part, Text)) // _BYTES


def _input_tokens(inbound_request: InboundRequest) -> int:
    if inbound_request.size < _LARGE:
        return inbound_request.size // _BYTES
    inlined = count = 0
    for value in inbound_request.raw.values():
        if len(memoryview(value)) <= _RUN:
            continue
        for piece in [each for each in bytes(value).split(b'"') if len(each) > _RUN]:
            if b" " not in piece[:_RUN]:
                inlined += len(piece)
                count += 1
    return (inbound_request.size - inlined) // _BYTES + count * INLINE_MEDIA_TOKENS
