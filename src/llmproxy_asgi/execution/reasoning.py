"""Requests that are refused with a 400 while they replay reasoning: the same try without it.

Reasoning state is its upstream's secret, and no seal tells whether the upstream will take it back: keys rotate, models
are replaced, callers edit the turns before it. A conversation is worth more than what was thought in it, so the state
goes. Status and presence decide, never a message's words; whoever asks for this does so once.
"""

import msgspec

from llmproxy_asgi.conversation import Message, Part, Reasoning, Request
from llmproxy_asgi.errors import BadRequest, UpstreamRefused
from llmproxy_asgi.execution.attempt import Attempt
from llmproxy_asgi.execution.lazy_request import DecodedRequest

_WARNING = "dropped:reasoning"


def without_reasoning(attempt: Attempt, refusal: UpstreamRefused) -> Attempt | None:
    """The same try with all replayed reasoning left out.

    Returns:
        None where there is none, nothing else can be said, or nothing may be lost.
    """
    job, target = attempt.job, attempt.target
    route = target.route(job.protocol)
    if refusal.status != 400 or job.strict or not route.outbound.replays_reasoning(attempt.upstream_request.body):
        return None
    try:
        asked = job.request.decode()
        assert isinstance(asked, Request), "only conversations hold reasoning"
        request = _stripped(asked)
        upstream_request = route.outbound.encode(request, route.upstream)
    except BadRequest:
        return None  # bytes that were passed on need not be such as we can read; the refusal stands
    upstream_request = msgspec.structs.replace(
        upstream_request, warnings=tuple(dict.fromkeys((*upstream_request.warnings, _WARNING)))
    )
    # An answer that speaks of tools by other names cannot be passed on as it comes.
    renamed = attempt.passthrough is not None and bool(upstream_request.names or upstream_request.emulated)
    bare = msgspec.structs.replace(
        job, request=DecodedRequest(request), inbound_request=None if renamed else job.inbound_request
    )
    return Attempt(bare, target, attempt.credential, upstream_request=upstream_request)


def _stripped(request: Request) -> Request:
    messages = (_bare_message(message) for message in request.messages)
    return msgspec.structs.replace(request, messages=tuple(message for message in messages if message.parts))


def _bare_message(message: Message) -> Message:
    parts = tuple(_bare_part(part) for part in message.parts if not isinstance(part, Reasoning))
    return msgspec.structs.replace(message, parts=parts)


def _bare_part(part: Part) -> Part:
    return msgspec.structs.replace(part, seals=()) if part.seals else part
