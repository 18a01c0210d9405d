"""A second attempt without replayed reasoning, for requests that were refused with a 400.

Reasoning state is opaque, and nothing in it shows whether the upstream will accept it: keys rotate, models are
replaced, callers edit earlier turns. The conversation matters more than its reasoning, so the reasoning is dropped.
The status and the presence of reasoning decide, never the text of the error; the executor tries this once per attempt.
"""

import msgspec

from llmproxy_asgi.conversation import Message, Part, Reasoning, Request
from llmproxy_asgi.errors import BadRequest, UpstreamRefused
from llmproxy_asgi.execution.attempt import Attempt
from llmproxy_asgi.execution.lazy_request import DecodedRequest

_WARNING = "dropped:reasoning"


def without_reasoning(attempt: Attempt, refusal: UpstreamRefused) -> Attempt | None:
    """Return the same attempt without replayed reasoning.

    Returns:
        None if there is none, the rest can't be encoded, or the job is strict.
    """
    job, target = attempt.job, attempt.target
    route = attempt.route
    if refusal.status != 400 or job.strict or not route.outbound.replays_reasoning(attempt.upstream_request.body):
        return None
    try:
        decoded = job.request.decode()
        assert isinstance(decoded, Request), "only conversations hold reasoning"
        request = _without_reasoning(decoded)
        upstream_request = route.outbound.encode(request, route.upstream)
    except BadRequest:
        return None  # bytes that pass through may be invalid for the decoder; the refusal is final
    upstream_request = msgspec.structs.replace(
        upstream_request, warnings=tuple(dict.fromkeys((*upstream_request.warnings, _WARNING)))
    )
    # A response that uses other names of tools can't pass through.
    renamed = attempt.passthrough is not None and bool(upstream_request.names or upstream_request.emulated)
    bare = msgspec.structs.replace(
        job, request=DecodedRequest(request), inbound_request=None if renamed else job.inbound_request
    )
    return Attempt(bare, target, attempt.credential, upstream_request=upstream_request)


def _without_reasoning(request: Request) -> Request:
    messages = (_bare_message(message) for message in request.messages)
    return msgspec.structs.replace(request, messages=tuple(message for message in messages if message.parts))


def _bare_message(message: Message) -> Message:
    parts = tuple(_bare_part(part) for part in message.parts if not isinstance(part, Reasoning))
    return msgspec.structs.replace(message, parts=parts)


def _bare_part(part: Part) -> Part:
    return msgspec.structs.replace(part, seals=()) if part.seals else part
