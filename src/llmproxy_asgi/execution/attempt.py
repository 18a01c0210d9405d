"""One try on one target: the request goes out, and the answer comes back a read at a time.

An attempt knows neither the caller nor any other attempt. It raises until it has begun; from then on a failure is the
last event of what `next()` gives. Whoever began it closes it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, TypeAlias, TypeVar

import msgspec

from llmproxy_asgi.conversation import UNDATED, Batch, Ended, Failed, Request, Response, Started, StreamEvent
from llmproxy_asgi.errors import GatewayError, UpstreamError, UpstreamProtocolError
from llmproxy_asgi.execution.admission_queue import UNLIMITED
from llmproxy_asgi.execution.clocks import Clocks
from llmproxy_asgi.execution.lazy_request import LazyRequest
from llmproxy_asgi.execution.reasons import answered, disclosed
from llmproxy_asgi.facts import CallContext
from llmproxy_asgi.providers.base import Credential, HeaderList
from llmproxy_asgi.providers.target import Route, Target
from llmproxy_asgi.translators.addresses import refuse_addresses
from llmproxy_asgi.translators.answer_bounds import refuse_crowded
from llmproxy_asgi.translators.assemble import fold, reasoning_first, unfold
from llmproxy_asgi.translators.base import ErrorT, InboundRequest, StreamDecoder, UpstreamRequest
from llmproxy_asgi.translators.embeddings.records import Embeddings
from llmproxy_asgi.translators.losses import refuse_losses
from llmproxy_asgi.transport import Address, Pool, UpstreamResponse
from llmproxy_asgi.worker import Worker

_LAST = (Failed, Ended)
_LARGEST_ERROR = 256 * 1024
_STEP = 32 * 1024
"""Bytes of a stream that are decoded in one step of the event loop."""
_LARGE_ANSWER = 256 * 1024
"""Bytes of a whole answer that are read on the event loop."""
_TOO_LARGE = "The upstream's response is larger than this gateway accepts."
_SSE = "text/event-stream"
_SPACE = b" \t\r\n"
_LOOK = 1024
"""Bytes of a whole answer in which its first letter is looked for."""

_T = TypeVar("_T")

Answered: TypeAlias = Response | Embeddings


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, whoever does it.

    Args:
        protocol: The caller's.
        stream: Whether the answer is wanted as it comes.
        request: The request, decoded where its bytes cannot be passed on.
        inbound_request: The request as it came. None: it was made in Python and its caller reads events, so nothing
            passes through.
        strict: Whether a target that cannot take the request as it is said is unfit for it.
        heavy: Whether the request is read and written off the event loop.
        context: Where it is noted how the call goes.
        tokens: How many it is estimated to be, in and out; 0 where nobody counts them.
    """

    protocol: str
    stream: bool
    request: LazyRequest
    inbound_request: InboundRequest | None = None
    strict: bool = False
    heavy: bool = False
    context: CallContext = msgspec.field(default_factory=CallContext)
    tokens: int = 0

    def with_inbound_request(self, inbound_request: InboundRequest) -> "Job":
        """Return the job of another received request of the same protocol."""
        return msgspec.structs.replace(
            self,
            stream=inbound_request.stream,
            request=self.request.replaced_by(inbound_request),
            inbound_request=inbound_request,
            heavy=inbound_request.heavy,
        )

    def passed_on(self, inbound_request: InboundRequest, route: Route) -> InboundRequest:
        """Return the request to pass through, with cached reasoning restored if the upstream requires it."""
        if not self.request.restores_reasoning or not route.outbound.lacks_reasoning(inbound_request, route.upstream):
            return inbound_request
        request = self.request.for_upstream(route.upstream)
        return (
            route.outbound.with_reasoning(inbound_request, request) if isinstance(request, Request) else inbound_request
        )


class Attempt:
    """One try. Make it, `await begin()`, then read; `await close()` always.

    Args:
        job: What is to be done.
        target: Where.
        credential: What signs it.
        upstream_request: The request, where it is another than the job's own encoding. The answer still passes
            through if it can.

    Raises:
        Unsupported: The target cannot take the request; if the job is strict: not without a loss.
        BadRequest: The request is broken.

    Attributes:
        first: The first batch of a stream, read when it began.
        heavy: Whether the whole answer is read and written off the event loop.
        route: How the target is spoken to.
        permit: What it has taken of its provider's limits; given back when it is closed.
        on_end: Receives the end of a stream once: None, or the upstream's failure. Set when the attempt has begun.
        passthrough: The request whose bytes were passed on, so that the answer's are, too; None where both are
            translated.
        whole: The answer, where no stream was wanted; a `Batch` where it is in the caller's own protocol already.
    """

    __slots__ = (
        "_ahead",
        "_answer",
        "_clocks",
        "_decoder",
        "_ended",
        "_left",
        "credential",
        "first",
        "heavy",
        "job",
        "on_end",
        "passthrough",
        "permit",
        "route",
        "target",
        "upstream_request",
        "whole",
    )

    def __init__(
        self, job: Job, target: Target, credential: Credential, *, upstream_request: UpstreamRequest | None = None
    ) -> None:
        self.job = job
        self.target = target
        self.credential = credential
        self.first: Batch | None = None
        self.whole: Batch | Answered | None = None
        self._ahead = b""
        self._answer: UpstreamResponse | None = None
        self._decoder: StreamDecoder | None = None
        self._ended = False
        self.heavy = False
        self.permit = UNLIMITED
        self.on_end: Callable[[UpstreamError | None], None] | None = None
        route = self.route = target.route(job.protocol)
        self.passthrough: InboundRequest | None = (
            job.inbound_request if route.outbound.protocol == job.protocol else None
        )
        if job.inbound_request is not None:
            refuse_addresses(job.inbound_request, route.upstream)
        if upstream_request is None:
            upstream_request = (
                route.outbound.encode(job.request.for_upstream(route.upstream), route.upstream)
                if self.passthrough is None
                else route.outbound.passthrough_request(job.passed_on(self.passthrough, route), route.upstream)
            )
            if job.inbound_request is not None and job.inbound_request.warnings:
                every = tuple(dict.fromkeys((*job.inbound_request.warnings, *upstream_request.warnings)))
                upstream_request = msgspec.structs.replace(upstream_request, warnings=every)
        if self.passthrough is None:
            upstream_request = msgspec.structs.replace(upstream_request, nonce=token_hex(8))
        if job.strict and upstream_request.warnings:
            refuse_losses(upstream_request.warnings)
        self.upstream_request: UpstreamRequest = upstream_request

    async def begin(self, pool: Pool, *, largest: int, worker: Worker) -> None:
        """Send the request and read until the answer has something to say, or is whole.

        Args:
            pool: The provider's connections.
            largest: Bytes that the answer may have: whole, or over all of a stream.
            worker: Where a large answer is read.

        Raises:
            UpstreamError: It failed; nothing of it has been shown to anybody.
        """
        timeouts, stream = self.target.provider.config.timeout, self.job.stream
        self._clocks = Clocks(timeouts)
        self._left = largest
        route = self.route
        url = route.stream_address if stream else route.address
        try:
            answer = self._answer = await self._upstreams_turn(
                pool.open(
                    "POST",
                    url,
                    self._headers(route),
                    self.upstream_request.body,
                    connect=timeouts.connect,
                    progress=self._clocks,
                )
            )
            if answer.status >= 300:
                raise await self._refusal(answer, route, url)
            if stream:
                await self._begin_stream(answer, worker)
            else:
                await self._read_whole(answer, worker)
        except UpstreamError as error:
            found = self._disclosed(error)
            if found is error:
                raise
            raise found from error

    async def next(self) -> Batch | None:
        """The next batch of a stream that holds anything; None after the last.

        A failure is a batch that ends with `Failed`. This runs once per read of every stream, so the wait for the
        upstream stands here in full instead of behind `_upstreams_turn`.
        """
        if self.first is not None:
            batch, self.first = self.first, None
            return batch
        clocks, answer, decoder = self._clocks, self._answer, self._decoder
        assert answer is not None
        assert decoder is not None
        while not self._ended:
            try:
                clocks.waiting()
                data = await (self._more() if self._ahead else answer.chunk())
            except asyncio.CancelledError:
                verdict = clocks.verdict()
                if verdict is None:
                    raise
                return self._failed(verdict)
            except UpstreamError as error:
                return self._failed(error)
            finally:
                clocks.working()
            size = len(data)
            if size > _STEP:
                self._ahead, data = data[_STEP:], data[:_STEP]
                size = _STEP
            self._left -= size
            if self._left < 0:  # who answers without an end would fill our memory where answers are put together
                return self._failed(UpstreamProtocolError(_TOO_LARGE))
            batch = decoder.feed(data) if data else decoder.close()
            events = batch.events
            if not data or (events and isinstance(events[-1], _LAST)):
                batch = self._ending(batch)
            if events or batch.raw:
                return batch
        return None

    async def _more(self) -> bytes:
        """The rest of a large read, when others have had their turn."""
        await asyncio.sleep(0)
        data, self._ahead = self._ahead, b""
        return data

    def move_here(self) -> None:
        """It is read by the running task from now on; by default by the one that began it."""
        self._clocks.move_here()

    @property
    def ended(self) -> bool:
        """Whether the upstream has nothing more to say."""
        return self._ended or self.whole is not None

    async def close(self) -> None:
        """Let go of the upstream: at once where it has not said everything. May be called more than once."""
        if hasattr(self, "_clocks"):
            self._clocks.stop()
        answer, self._answer = self._answer, None
        try:
            if answer is not None:
                await answer.aclose()
        finally:
            self.permit.release()  # not before: the upstream still has it under way

    def _headers(self, route: Route) -> HeaderList:
        headers = self.target.provider.headers(route.outbound.protocol, self.credential)
        if not self.upstream_request.headers:
            return headers
        own = tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in self.upstream_request.headers)
        return (*headers, *own)

    async def _begin_stream(self, answer: UpstreamResponse, worker: Worker) -> None:
        begin = await self._first_bytes(answer)
        route = self.route
        begins = route.outbound.begins_stream(begin)
        if not begins and begin[:1] in (b"{", b"["):  # a whole answer, or an error, whatever its content type says
            await self._read_whole_as_stream(answer, begin, worker)
            return
        media_type = (answer.header("content-type") or _SSE).partition(";")[0].strip().lower()
        if media_type != _SSE and not begins:
            raise UpstreamProtocolError(
                "The upstream did not respond with a stream.",
                upstream_status=answer.status,
                reason=f"{answer.status} with {media_type[:60]} where a stream was asked for",
            )
        if self.passthrough is not None:
            self._decoder = route.outbound.passthrough_stream(self.passthrough, route.upstream)
        else:
            self._decoder = route.outbound.decoder(self.upstream_request, route.upstream)
        begin, self._ahead = begin[:_STEP], begin[_STEP:]
        decoder = self._decoder
        read: Batch = decoder.feed(begin) if begin else decoder.close()
        if not begin or (read.events and isinstance(read.events[-1], _LAST)):
            self._end(read.events)
        batch = read if read.events or read.raw else await self.next()
        if batch is not None and batch.events:
            if isinstance(failed := batch.events[-1], Failed):
                raise _as_upstream(failed.error)
            batch = Batch(_dated(batch.events), batch.raw)
        self.first = batch

    async def _first_bytes(self, answer: UpstreamResponse) -> bytes:
        """Read until the answer has begun; the white space that some servers send meanwhile is left out."""
        while data := await self._upstreams_turn(answer.chunk()):
            self._clocks.began()
            self._left -= len(data)
            if self._left < 0:
                raise UpstreamProtocolError(_TOO_LARGE)
            if begin := data.lstrip(_SPACE):
                return begin
        return b""

    async def _read_whole_as_stream(self, answer: UpstreamResponse, begin: bytes, worker: Worker) -> None:
        """Read a whole answer where a stream was asked for; its caller reads the events that would have told it."""
        body = begin + await self._body(answer, self._left)
        route = self.route
        self._translate()
        self._decoder = route.outbound.decoder(self.upstream_request, route.upstream)  # nothing is left for it to read
        large = len(body) > _LARGE_ANSWER or self.job.heavy
        response = await worker.run(self._decoded, body) if large else self._decoded(body)
        assert isinstance(response, Response), "only conversations are streamed"
        self.first = Batch(tuple(unfold(response)))
        self._end(self.first.events)

    def _translate(self) -> None:
        """Translate an answer that cannot be passed on, because it came in another form than was asked for."""
        if self.passthrough is not None:
            self.passthrough = None
            self.upstream_request = msgspec.structs.replace(self.upstream_request, nonce=token_hex(8))

    def broke(self, error: ErrorT) -> ErrorT:
        """The error that ends a stream which something else than its upstream broke off: see `StreamDecoder.broke`."""
        return error if self._decoder is None else self._decoder.broke(error)

    def _failed(self, error: UpstreamError) -> Batch:
        events = (Failed(self.broke(error)),)
        return self._ending(Batch(events))

    def _ending(self, batch: Batch) -> Batch:
        """The last batch, and what is known by it; a failure in it has passed the mask."""
        events = batch.events
        if events and isinstance(last := events[-1], Failed):
            disclosed = self._disclosed(last.error)
            if disclosed is not last.error:
                batch = Batch((*events[:-1], Failed(self.broke(disclosed))), batch.raw)
        self._end(batch.events)
        return batch

    def _end(self, events: Sequence[StreamEvent]) -> None:
        self._ended = True
        if self.on_end is not None and events:
            last = events[-1]
            if isinstance(last, Ended):
                self.on_end(None)
            elif isinstance(last, Failed):
                self.on_end(_as_upstream(last.error))

    async def _read_whole(self, answer: UpstreamResponse, worker: Worker) -> None:
        body = await self._body(answer, self._left)
        self.heavy = len(body) > _LARGE_ANSWER or self.job.heavy
        try:
            if self.heavy:
                self.whole = await worker.run(self._decoded, body)
            else:
                self.whole = self._decoded(body)
        except UpstreamProtocolError as error:
            error.reason = f"{error.message} {answered(answer, self.route.address, body)}"
            raise

    def _decoded(self, body: bytes) -> Batch | Answered:
        if not body.isascii() and not _is_text(body):
            raise UpstreamProtocolError("The upstream's answer is not valid UTF-8.")
        route = self.route
        if body[:1] != b"{" and route.outbound.begins_stream(body[:_LOOK].lstrip(_SPACE)):
            self._translate()
            return self._folded(route, body)
        refuse_crowded(body, route.outbound.many)
        if self.passthrough is not None:
            return route.outbound.passthrough_response(body, self.passthrough, route.upstream)
        decoded: Answered = route.outbound.decode(
            body, self.upstream_request, route.upstream, received_at=datetime.now(UTC)
        )
        return decoded

    async def _refusal(self, answer: UpstreamResponse, route: Route, url: Address) -> UpstreamError:
        """What an answer other than a good one means."""
        body = await self._error_body(answer)
        error = route.outbound.decode_error(answer.status, answer.headers, body)
        error.reason = answered(answer, url, body)
        return error

    def _disclosed(self, error: GatewayError) -> GatewayError:
        """The error as it may leave the attempt: without secrets, and with a reason for the operator."""
        mask = self.target.provider.mask(self.credential)
        return disclosed(error, mask, sent=self.upstream_request.body, model=self.target.model)

    def _folded(self, route: Route, body: bytes) -> Response:
        """The whole answer in a stream that came without being asked for."""
        decoder = route.outbound.decoder(self.upstream_request, route.upstream)
        events = (*decoder.feed(body).events, *decoder.close().events)
        return reasoning_first(fold(_dated(events)))

    async def _error_body(self, answer: UpstreamResponse) -> bytes:
        try:
            return await self._body(answer, _LARGEST_ERROR)
        except UpstreamError:
            return b""  # the status alone already says what happened

    async def _body(self, answer: UpstreamResponse, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while data := await self._upstreams_turn(answer.chunk()):
            self._clocks.began()
            pieces.append(data)
            size += len(data)
            if size > limit:
                raise UpstreamProtocolError(_TOO_LARGE)
            if answer.is_read:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _upstreams_turn(self, waiting: Coroutine[Any, Any, _T]) -> _T:
        clocks = self._clocks
        try:
            clocks.waiting()
            return await waiting
        except asyncio.CancelledError:
            verdict = clocks.verdict()
            if verdict is None:
                raise
            raise verdict from None
        finally:
            clocks.working()
            waiting.close()  # where the call was over its total before this turn, it has not even begun


def _dated(events: Sequence[StreamEvent]) -> Sequence[StreamEvent]:
    """With the time of its arrival on an answer that its upstream did not date."""
    return [
        msgspec.structs.replace(event, created_at=datetime.now(UTC))
        if isinstance(event, Started) and event.created_at == UNDATED
        else event
        for event in events
    ]


def _is_text(body: bytes) -> bool:
    try:
        str(body, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _as_upstream(error: GatewayError) -> UpstreamError:
    return error if isinstance(error, UpstreamError) else UpstreamProtocolError(error.message, code=error.code)
