"""The transport seam: reads a request's bytes as the protocol in its path, writes an answer's bytes at a model's pace.

Each piece of a stream is one read for whoever listens. Nothing runs beside the caller's own task: waiting is the
stream's own, ends with its cancellation, and whoever closes the stream leaves nothing behind.
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
    MOST_CANDIDATES,
    Ask,
    Ending,
    Performance,
    perform,
    pieces,
    words,
)
from llmproxy_asgi.translators.assemble import unfold
from llmproxy_asgi.translators.base import Inbound, Intake
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.transport import AsyncByteStream, AsyncTransport, HTTPRequest, HTTPResponse
from llmproxy_asgi.wire.json_body import Bounds

_BOUNDS = Bounds(values=10**9, messages=10**9, tools=10**9)
"""The gateway's own limits have been applied to what arrives here."""
_ISSUERS = {"openai-chat": "openai", "anthropic-messages": "anthropic"}
"""Whose state each protocol carries as it is; under another name it would be wrapped, which no vendor does."""
_MADE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""When every answer was made: the same request gives the same bytes."""
_RUBBISH = b"<html>\x00\xff\xfe this is neither JSON nor an event {]\n\n"
_PIECES_BEFORE_SILENCE = 3
_FRAGMENT = 8


class SimulatedTransport(AsyncTransport):
    """An upstream that is not there.

    Args:
        delay: Seconds between two pieces of a stream.
        clock: Slept with.
    """

    def __init__(self, *, delay: float = 0.0, clock: Clock = SYSTEM) -> None:
        self._delay = delay
        self._clock = clock

    @override
    async def handle_async_request(self, request: HTTPRequest) -> HTTPResponse:
        """Answer in the protocol that the path begins with."""
        protocol, _, rest = request.url.path[1:].partition("/")
        model, _, method = rest.rpartition(":")
        said = {"model": model, "method": method, "alt": "sse"} if rest else EMPTY
        inbound = translator(protocol).inbound
        body = await request.aread()
        digest = blake2s(body, digest_size=16, person=b"simulate").hexdigest()
        try:
            intake = inbound.open(body, headers=dict(request.headers.items()), path=said, bounds=_BOUNDS)
            asked = inbound.decode(intake)
            shows = _perform(asked, digest)
        except GatewayError as error:
            return _problem(inbound, error, digest)
        response = _response(asked, shows, digest)
        if not intake.stream:
            return await self._whole(inbound, intake, response, shows[0])
        head = _head(digest, "text/event-stream")
        return HTTPResponse(200, headers=head, stream=_Body(self._stream(inbound, intake, response, shows[0])))

    async def _whole(self, inbound: Inbound, intake: Intake, response: Response, show: Performance) -> HTTPResponse:
        if show.wait:
            await self._clock.sleep(show.wait)
        if show.ending is Ending.SILENCE:
            await _for_ever()
        content = _RUBBISH if show.ending is Ending.RUBBISH else inbound.encode(response, intake)
        if show.ending is Ending.CUT:
            content = content[: len(content) // 2]
        return HTTPResponse(200, headers=_head(response.id, "application/json"), content=content)

    async def _stream(
        self, inbound: Inbound, intake: Intake, response: Response, show: Performance
    ) -> AsyncIterator[bytes]:
        if show.ending is Ending.RUBBISH:
            yield _RUBBISH
            return
        if show.wait:
            await self._clock.sleep(show.wait)
        encoder = inbound.encoder(intake)
        for number, events in enumerate(_shown(list(_reads(response)), show.ending)):
            # Also without a delay: others get their turn between two pieces, and a cancellation is noticed.
            if number:
                await self._clock.sleep(max(self._delay, show.pace))
            yield encoder.feed(events)
        if show.ending is Ending.SILENCE:
            await _for_ever()


class _Body(AsyncByteStream):
    """A body that is made while it is read."""

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


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def _head(digest: str, media_type: str) -> dict[str, str]:
    return {"content-type": media_type, "x-request-id": f"req_{digest}", "request-id": f"req_{digest}"}


def _problem(inbound: Inbound, error: GatewayError, digest: str) -> HTTPResponse:
    problem = inbound.problem(error, request_id=f"req_{digest}")
    headers = {**_head(digest, "application/json"), **dict(problem.headers)}
    # The status as it was asked for: translators write some by another number for their clients.
    return HTTPResponse(error.status, headers=headers, content=problem.body)


def _perform(asked: Request, digest: str) -> list[Performance]:
    if asked.candidates > MOST_CANDIDATES:
        raise BadRequest(f"n: at most {MOST_CANDIDATES} answers are given at once.", param="n")
    issuer = _ISSUERS.get(asked.protocol, "simulated")
    return [perform(Ask(asked, digest, issuer, candidate)) for candidate in range(asked.candidates)]


def _response(asked: Request, shows: Sequence[Performance], digest: str) -> Response:
    candidates = tuple(
        Candidate(index=index, parts=show.parts, finish=Finish(reason=show.finish)) for index, show in enumerate(shows)
    )
    thoughts = [part for show in shows for part in show.parts if isinstance(part, Reasoning)]
    usage = Usage(
        input=sum(words(message.parts) for message in asked.messages),
        output=sum(words(show.parts) for show in shows),
        reasoning=words(thoughts),
    )
    return Response(id=digest, model=asked.model, created_at=_MADE, candidates=candidates, usage=usage)


# ── a stream's pieces ────────────────────────────────────────────────────────────────────────────────────────────────


def _shown(reads: list[list[StreamEvent]], ending: Ending) -> list[list[StreamEvent]]:
    if ending is Ending.CUT:
        return reads[: len(reads) // 2]
    if ending is Ending.SILENCE:
        return reads[:_PIECES_BEFORE_SILENCE]
    return reads


def _reads(response: Response) -> Iterator[list[StreamEvent]]:
    """The events of an answer, as they come: each read ends with a piece of content, the last with the stream."""
    read: list[StreamEvent] = []
    for event in _events(response):
        read.append(event)
        if isinstance(event, PartDelta):
            yield read
            read = []
    yield read


def _events(response: Response) -> Iterator[StreamEvent]:
    """The answer's events, cut into small pieces; several candidates take turns."""
    flows: dict[int, list[StreamEvent]] = {candidate.index: [] for candidate in response.candidates}
    tail: list[StreamEvent] = []
    for event in unfold(response):
        match event:
            case Started(usage=Usage() as usage):
                # At its start an upstream knows what it was asked, and not yet what it will answer.
                yield Started(
                    event.id, event.model, event.created_at, msgspec.structs.replace(usage, output=0, reasoning=0)
                )
            case PartDelta(candidate=candidate, index=index, delta=delta):
                flows[candidate] += [PartDelta(candidate, index, piece) for piece in _cut(delta)]
            case PartStarted(candidate=candidate) | PartEnded(candidate=candidate):
                flows[candidate].append(event)
            case _:
                tail.append(event)
    for turn in zip_longest(*flows.values()):
        yield from (event for event in turn if event is not None)
    yield from tail


def _cut(delta: Delta) -> list[Delta]:
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
