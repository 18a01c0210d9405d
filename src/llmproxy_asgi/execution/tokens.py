"""How many tokens a call is, before its upstream says so and where it never does.

What is set aside for a call is decided here, by rules that are cheap even for a request that is only passed on: four
bytes of text are a token, whatever is inlined (a picture, a document) counts the same however large it is, and an
answer is as long as the request allows, or `USUAL_ANSWER`. The upstream's own count takes the place of all of it as
soon as it is known.
"""

from typing import NamedTuple

import msgspec

from llmproxy_asgi.conversation import Batch, PartDelta, Request, Response, Text
from llmproxy_asgi.execution.attempt import Answered, Job
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.registry import translator

USUAL_ANSWER = 1024
"""Tokens that are set aside for an answer whose request names no limit."""
INLINED = 1500
"""Tokens that anything inlined counts."""

_BYTES = 4
"""Of text, in a token."""
_FRAME_BYTES = 100
"""Of an event stream that is passed on, in a token of its text."""
_LARGE = 32 * 1024
"""Bytes; in smaller requests nothing is inlined that is worth looking for."""
_RUN = 4096
"""Bytes without a blank that are no text."""


class Size(NamedTuple):
    """Of a call, in tokens."""

    input: int
    output: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.input + self.output


def size_of(job: Job) -> Size:
    """What to set aside for a call."""
    speaks = translator(job.protocol)
    if job.inbound_request is not None:
        told, limit = _told(job.inbound_request), speaks.inbound.max_output_tokens(job.inbound_request)
    else:
        request = job.request.decode()
        told = len(msgspec.json.encode(request, enc_hook=str)) // _BYTES
        limit = request.max_output_tokens if isinstance(request, Request) else None
    if speaks.outbound.family == "embedding":
        return Size(told, 0)
    # Of bytes that are passed on nobody has looked at the number: less than nothing would fill a bucket.
    return Size(told, USUAL_ANSWER if limit is None else max(0, limit))


def passed(batch: Batch) -> float:
    """Tokens that a read of a stream was, roughly."""
    if batch.raw is not None:
        return len(batch.raw) / _FRAME_BYTES
    length = 0
    for event in batch.events:
        if type(event) is PartDelta:
            length += len(getattr(event.delta, "text", ""))
    return length / _BYTES


def whole(answer: Batch | Answered) -> int:
    """Tokens that a whole answer was, roughly, where it does not say."""
    if isinstance(answer, Batch):
        return len(answer.raw or b"") // _BYTES
    if not isinstance(answer, Response):
        return 0
    parts = (part for candidate in answer.candidates for part in candidate.parts)
    return sum(len(part.text) for part in parts if isinstance(part, Text)) // _BYTES


def _told(inbound_request: InboundRequest) -> int:
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
    return (inbound_request.size - inlined) // _BYTES + count * INLINED
