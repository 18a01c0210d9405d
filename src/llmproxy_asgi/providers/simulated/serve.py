"""A transport that decodes requests in the protocol of their path and sends the response at the model's pace.

Each chunk of a stream is one read for the client. Everything runs in the caller's task: cancelling it ends a wait, and
a closed stream leaves nothing behind.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2s
from itertools import zip_longest

import msgspec
from typing_extensions import override

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.conversation import (
    EMPTY,
    ArgumentsDelta,
    Candidate,
    Delta,
    Finish,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    ReasoningDelta,
    RefusalDelta,
    Request,
    Response,
    Started,
    StreamEvent,
    TextDelta,
    Usage,
)
from llmproxy_asgi.errors import BadRequest, GatewayError
from llmproxy_asgi.providers.simulated.behaviours import (
    MAX_CANDIDATES,
    Ending,
    Prompt,
    Script,
    pieces,
    script_for,
    words,
)
from llmproxy_asgi.translators.assemble import unfold
from llmproxy_asgi.translators.base import Inbound, InboundRequest
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.transport import AsyncByteStream, AsyncTransport, HTTPRequest, HTTPResponse
from llmproxy_asgi.wire.json_body import Bounds

_BOUNDS = Bounds(values=10**9, messages=10**9, tools=10**9)
"""The gateway's own limits have been applied to what arrives here."""
_ISSUERS = {"openai-chat": "openai", "anthropic-messages": "anthropic"}
"""The issuer whose state each protocol carries as it is; any other would be wrapped, which no vendor does."""
_CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""The creation time of every response, so that the same request gets the same bytes."""
_GARBAGE = b"<html>\x00\xff\xfe this is neither JSON nor an event {]\n\n"
_CHUNKS_BEFORE_STALL = 3
_FRAGMENT = 8


class SimulatedTransport(AsyncTransport):
    """A simulated upstream.

    Args:
        delay: Seconds between two chunks of a stream.
        clock: Waits between chunks.
    """

    def __init__(self, *, delay: float = 0.0, clock: Clock = SYSTEM) -> None:
        self._delay = delay
        self._clock = clock

    @override
    async def handle_async_request(self, request: HTTPRequest) -> HTTPResponse:
        """Answer in the protocol that the path begins with."""
        protocol, _, rest = request.url.path[1:].partition("/")
        model, _, method = rest.rpartition(":")
        path = {"model": model, "method": method, "alt": "sse"} if rest else EMPTY
        inbound = translator(protocol).inbound
        body = await request.aread()
        digest = blake2s(body, digest_size=16, person=b"simulate").hexdigest()
        try:
            inbound_request = inbound.open(body, headers=dict(request.headers.items()), path=path, bounds=_BOUNDS)
            decoded = inbound.decode(inbound_request)
            scripts = _scripts(decoded, digest)
        except GatewayError as error:
            return _problem(inbound, error, digest)
        response = _response(decoded, scripts, digest)
        if not inbound_request.stream:
            return await self._complete(inbound, inbound_request, response, scripts[0])
        head = _head(digest, "text/event-stream")
        return HTTPResponse(
            200, headers=head, stream=_Body(self._stream(inbound, inbound_request, response, scripts[0]))
        )

    async def _complete(
        self, inbound: Inbound, inbound_request: InboundRequest, response: Response, script: Script
    ) -> HTTPResponse:
        if script.wait:
            await self._clock.sleep(script.wait)
        if script.ending is Ending.STALLED:
            await _wait_forever()
        content = _GARBAGE if script.ending is Ending.GARBAGE else inbound.encode(response, inbound_request)
        if script.ending is Ending.TRUNCATED:
            content = content[: len(content) // 2]
        return HTTPResponse(200, headers=_head(response.id, "application/json"), content=content)

    async def _stream(
        self, inbound: Inbound, inbound_request: InboundRequest, response: Response, script: Script
    ) -> AsyncIterator[bytes]:
        if script.ending is Ending.GARBAGE:
            yield _GARBAGE
            return
        if script.wait:
            await self._clock.sleep(script.wait)
        encoder = inbound.encoder(inbound_request)
        for number, events in enumerate(_truncate(list(_reads(response)), script.ending)):
            # Without a delay, too: it lets other tasks run between two chunks, and delivers a cancellation.
            if number:
                await self._clock.sleep(max(self._delay, script.pace))
            yield encoder.feed(events)
        if script.ending is Ending.STALLED:
            await _wait_forever()


class _Body(AsyncByteStream):
    """A body that is produced while it is read."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    @override
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    @override
    async def aclose(self) -> None:
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()


async def _wait_forever() -> None:
    await asyncio.get_running_loop().create_future()


def _head(digest: str, media_type: str) -> dict[str, str]:
    return {"content-type": media_type, "x-request-id": f"req_{digest}", "request-id": f"req_{digest}"}


def _problem(inbound: Inbound, error: GatewayError, digest: str) -> HTTPResponse:
    problem = inbound.problem(error, request_id=f"req_{digest}")
    headers = {**_head(digest, "application/json"), **dict(problem.headers)}
    # The model's own status: codecs replace some for their clients.
    return HTTPResponse(error.status, headers=headers, content=problem.body)


def _scripts(decoded: Request, digest: str) -> list[Script]:
    if decoded.candidates > MAX_CANDIDATES:
        raise BadRequest(f"Too many candidates (n): ask for at most {MAX_CANDIDATES}.", param="n")
    issuer = _ISSUERS.get(decoded.protocol, "simulated")
    return [script_for(Prompt(decoded, digest, issuer, candidate)) for candidate in range(decoded.candidates)]


def _response(decoded: Request, scripts: Sequence[Script], digest: str) -> Response:
    candidates = tuple(
        Candidate(index=index, parts=script.parts, finish=Finish(reason=script.finish))
        for index, script in enumerate(scripts)
    )
    reasoning = [part for script in scripts for part in script.parts if isinstance(part, Reasoning)]
    usage = Usage(
        input=sum(words(message.parts) for message in decoded.messages),
        output=sum(words(script.parts) for script in scripts),
        reasoning=words(reasoning),
    )
    return Response(
        id=digest,
        model=decoded.model,
        created_at=_CREATED_AT,
        candidates=candidates,
        usage=usage,
        extras={"openai-responses": {"completed_at": int(_CREATED_AT.timestamp())}},
    )


# ── a stream's pieces ────────────────────────────────────────────────────────────────────────────────────────────────


def _truncate(reads: list[list[StreamEvent]], ending: Ending) -> list[list[StreamEvent]]:
    if ending is Ending.TRUNCATED:
        return reads[: len(reads) // 2]
    if ending is Ending.STALLED:
        return reads[:_CHUNKS_BEFORE_STALL]
    return reads


def _reads(response: Response) -> Iterator[list[StreamEvent]]:
    """Yield a response's events by read: each read ends with a content delta, the last with the stream."""
    read: list[StreamEvent] = []
    for event in _events(response):
        read.append(event)
        if isinstance(event, PartDelta):
            yield read
            read = []
    yield read


def _events(response: Response) -> Iterator[StreamEvent]:
    """Yield a response's events in small deltas; several candidates alternate."""
    flows: dict[int, list[StreamEvent]] = {candidate.index: [] for candidate in response.candidates}
    tail: list[StreamEvent] = []
    for event in unfold(response):
        match event:
            case Started(usage=Usage() as usage):
                # At the start of a stream an upstream knows the input tokens, but not the output tokens yet.
                yield msgspec.structs.replace(event, usage=msgspec.structs.replace(usage, output=0, reasoning=0))
            case PartDelta(candidate=candidate, index=index, delta=delta):
                flows[candidate] += [PartDelta(candidate, index, piece) for piece in _split_delta(delta)]
            case PartStarted(candidate=candidate) | PartEnded(candidate=candidate):
                flows[candidate].append(event)
            case _:
                tail.append(event)
    for turn in zip_longest(*flows.values()):
        yield from (event for event in turn if event is not None)
    yield from tail


def _split_delta(delta: Delta) -> list[Delta]:
    match delta:
        case TextDelta(text=text):
            return [TextDelta(piece) for piece in pieces(text)]
        case ReasoningDelta(text=text):
            return [ReasoningDelta(piece) for piece in pieces(text)]
        case RefusalDelta(text=text):
            return [RefusalDelta(piece) for piece in pieces(text)]
        case ArgumentsDelta(text=text):
            return [ArgumentsDelta(text[start : start + _FRAGMENT]) for start in range(0, len(text), _FRAGMENT)]
        case _:
            return [delta]
