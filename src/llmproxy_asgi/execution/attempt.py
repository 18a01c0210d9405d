"""One attempt on one target: send the request, and read the response one read at a time.

An attempt knows neither the caller nor any other attempt. It raises until it has begun; from then on a failure is the
last event of `next()`. The executor that begins it hands it to the call, which closes it.
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
from llmproxy_asgi.execution.attempt_timer import AttemptTimer
from llmproxy_asgi.execution.lazy_request import LazyRequest
from llmproxy_asgi.execution.reasons import describe_response, redact_error
from llmproxy_asgi.facts import CallContext
from llmproxy_asgi.providers.base import Credential, HeaderList
from llmproxy_asgi.providers.target import Route, Target
from llmproxy_asgi.translators.addresses import refuse_addresses
from llmproxy_asgi.translators.answer_bounds import MOST_VALUES, refuse_crowded
from llmproxy_asgi.translators.assemble import fold, reasoning_first, unfold
from llmproxy_asgi.translators.base import ErrorT, InboundRequest, StreamDecoder, UpstreamRequest
from llmproxy_asgi.translators.embeddings.records import Embeddings
from llmproxy_asgi.translators.losses import refuse_losses
from llmproxy_asgi.transport import Address, Pool, UpstreamResponse
from llmproxy_asgi.worker import Worker

_LAST = (Failed, Ended)
_MAX_ERROR = 256 * 1024
"""Bytes of an error response that are read."""
_STEP = 32 * 1024
"""Bytes of a stream that are decoded in one step of the event loop."""
_LARGE = 256 * 1024
"""Bytes of a whole response from which on it is decoded off the event loop."""
_TOO_LARGE = "The upstream's response is larger than this gateway accepts."
_SSE = "text/event-stream"
_SPACE = b" \t\r\n"
_HEAD = 1024
"""Bytes at the start of a whole response that are searched for its first character."""

_T = TypeVar("_T")

AnyResponse: TypeAlias = Response | Embeddings


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The work of one call, independent of who performs it.

    Args:
        protocol: The caller's protocol.
        stream: Whether the response is streamed.
        request: The request, decoded only if its bytes can't pass through.
        inbound_request: The request as received. None: it was made in Python and its caller reads events, so nothing
            passes through.
        strict: Whether a target that can't take the request without a loss is unsuitable.
        heavy: Whether the request is decoded and encoded off the event loop.
        context: Records the steps of the call.
        tokens: The estimated size, input and output; 0 where no limit counts tokens.
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

    def passthrough_request(self, inbound_request: InboundRequest, route: Route) -> InboundRequest:
        """Return the request to pass through, with cached reasoning restored if the upstream requires it."""
        if not self.request.restores_reasoning or not route.outbound.lacks_reasoning(inbound_request, route.upstream):
            return inbound_request
        request = self.request.for_upstream(route.upstream)
        return (
            route.outbound.with_reasoning(inbound_request, request) if isinstance(request, Request) else inbound_request
        )


class Attempt:
    """One attempt: create it, `await begin()`, then read; always `await close()`.

    Args:
        job: The work.
        target: Where the request is sent.
        credential: What authenticates it.
        upstream_request: The request, if it differs from the job's own encoding. The response still passes through if
            it can.

    Raises:
        Unsupported: The target can't take the request; for a strict job: not without a loss.
        BadRequest: The request is invalid.

    Attributes:
        first: The first batch of a stream, read by `begin`.
        heavy: Whether a whole response is decoded and encoded off the event loop.
        route: The target with the protocol of this call.
        permit: What the call holds of its provider's limits; released by `close`.
        on_end: Receives the end of a stream once: None, or the upstream's failure. Set when the attempt has begun.
        passthrough: The request whose bytes were passed through, so that the response's are, too; None: translation.
        whole: The response, if it is not streamed; a `Batch` if it is in the caller's own protocol already.
    """

    __slots__ = (
        "_bytes_left",
        "_decoder",
        "_ended",
        "_response",
        "_timer",
        "_unread",
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
        self.whole: Batch | AnyResponse | None = None
        self._unread = b""
        self._response: UpstreamResponse | None = None
        self._decoder: StreamDecoder | None = None
        self._ended = False
        self.heavy = False
        self.permit = UNLIMITED
        self.on_end: Callable[[UpstreamError | None], None] | None = None
        route = self.route = target.route(job.protocol)
        self.passthrough: InboundRequest | None = job.inbound_request if route.passthrough else None
        if job.inbound_request is not None:
            refuse_addresses(job.inbound_request, route.upstream)
        if upstream_request is None:
            upstream_request = (
                route.outbound.encode(job.request.for_upstream(route.upstream), route.upstream)
                if self.passthrough is None
                else route.outbound.passthrough_request(
                    job.passthrough_request(self.passthrough, route), route.upstream
                )
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
        """Send the request and read until the response has its first event, or is complete.

        Args:
            pool: The provider's connections.
            largest: The maximum size of the response, whole or streamed, in bytes.
            worker: Decodes a large response.

        Raises:
            UpstreamError: The attempt failed; nothing has reached the caller.
        """
        timeouts, stream = self.target.provider.config.timeout, self.job.stream
        self._timer = AttemptTimer(timeouts)
        self._bytes_left = largest
        route = self.route
        url = route.stream_address if stream else route.address
        try:
            response = self._response = await self._timed(
                pool.open(
                    "POST",
                    url,
                    self._headers(),
                    self.upstream_request.body,
                    connect=timeouts.connect,
                    progress=self._timer,
                )
            )
            if response.status >= 300:
                raise await self._read_error(response, url)
            if stream:
                await self._begin_stream(response, worker)
            else:
                await self._read_whole(response, worker)
        except UpstreamError as error:
            redacted = self._redacted(error)
            if redacted is error:
                raise
            raise redacted from error

    async def next(self) -> Batch | None:
        """Return the next batch of a stream that is not empty; None after the last.

        A failure is a batch that ends with `Failed`. This runs once per read of every stream, so the wait for the
        upstream is written out here instead of in `_timed`.
        """
        if self.first is not None:
            batch, self.first = self.first, None
            return batch
        timer, response, decoder = self._timer, self._response, self._decoder
        assert response is not None
        assert decoder is not None
        while not self._ended:
            try:
                timer.start_wait()
                data = await (self._rest() if self._unread else response.chunk())
            except asyncio.CancelledError:
                too_slow = timer.timeout_error()
                if too_slow is None:
                    raise
                return self._failed(too_slow)
            except UpstreamError as error:
                return self._failed(error)
            finally:
                timer.end_wait()
            size = len(data)
            if size > _STEP:
                self._unread, data = data[_STEP:], data[:_STEP]
                size = _STEP
            self._bytes_left -= size
            if self._bytes_left < 0:  # an endless response would fill memory where responses are assembled
                return self._failed(UpstreamProtocolError(_TOO_LARGE))
            batch = decoder.feed(data) if data else decoder.close()
            events = batch.events
            if not data or (events and isinstance(events[-1], _LAST)):
                batch = self._last(batch)
            if events or batch.raw:
                return batch
        return None

    async def _rest(self) -> bytes:
        """Return the rest of a large read, after other tasks have run."""
        await asyncio.sleep(0)
        data, self._unread = self._unread, b""
        return data

    def adopt_current_task(self) -> None:
        """Let the running task read the response from now on, instead of the one that began it."""
        self._timer.adopt_current_task()

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""
        return self._ended or self.whole is not None

    async def close(self) -> None:
        """Close the upstream response; abort it if it is unfinished. May be called more than once."""
        if hasattr(self, "_timer"):
            self._timer.stop()
        response, self._response = self._response, None
        try:
            if response is not None:
                await response.aclose()
        finally:
            self.permit.release()  # not before, because until then the upstream works on the call

    def _headers(self) -> HeaderList:
        headers = self.target.provider.headers(self.route.outbound.protocol, self.credential)
        if not self.upstream_request.headers:
            return headers
        own = tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in self.upstream_request.headers)
        return (*headers, *own)

    async def _begin_stream(self, response: UpstreamResponse, worker: Worker) -> None:
        begin = await self._first_bytes(response)
        route = self.route
        begins = route.outbound.begins_stream(begin)
        if not begins and begin[:1] in (b"{", b"["):  # a whole response, or an error, whatever its content type
            await self._read_whole_as_stream(response, begin, worker)
            return
        media_type = (response.header("content-type") or _SSE).partition(";")[0].strip().lower()
        if media_type != _SSE and not begins:
            raise UpstreamProtocolError(
                "The upstream did not respond with a stream.",
                upstream_status=response.status,
                reason=f"{response.status} with {media_type[:60]} where a stream was asked for",
            )
        if self.passthrough is not None:
            self._decoder = route.outbound.passthrough_stream(self.passthrough, route.upstream)
        else:
            self._decoder = route.outbound.decoder(self.upstream_request, route.upstream)
        begin, self._unread = begin[:_STEP], begin[_STEP:]
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

    async def _first_bytes(self, response: UpstreamResponse) -> bytes:
        """Read until the response has begun; white space that some servers send before it is left out."""
        while data := await self._timed(response.chunk()):
            self._timer.received()
            self._bytes_left -= len(data)
            if self._bytes_left < 0:
                raise UpstreamProtocolError(_TOO_LARGE)
            if begin := data.lstrip(_SPACE):
                return begin
        return b""

    async def _read_whole_as_stream(self, response: UpstreamResponse, begin: bytes, worker: Worker) -> None:
        """Read a whole response where a stream was requested; the caller reads the events of an equivalent stream."""
        body = begin + await self._read_body(response, self._bytes_left)
        route = self.route
        self._translate()
        self._decoder = route.outbound.decoder(self.upstream_request, route.upstream)  # it has nothing left to read
        large = len(body) > _LARGE or self.job.heavy
        decoded = await worker.run(self._decode, body) if large else self._decode(body)
        assert isinstance(decoded, Response), "only conversations are streamed"
        self.first = Batch(tuple(unfold(decoded)))
        self._end(self.first.events)

    def _translate(self) -> None:
        """Translate a response that can't pass through, because its form is not the requested one."""
        if self.passthrough is not None:
            self.passthrough = None
            self.upstream_request = msgspec.structs.replace(self.upstream_request, nonce=token_hex(8))

    def broke(self, error: ErrorT) -> ErrorT:
        """Return the error for a stream that was not interrupted by its upstream: see `StreamDecoder.broke`."""
        return error if self._decoder is None else self._decoder.broke(error)

    def _failed(self, error: UpstreamError) -> Batch:
        events = (Failed(self.broke(error)),)
        return self._last(Batch(events))

    def _last(self, batch: Batch) -> Batch:
        """Return the last batch with its failure redacted, and record the end."""
        events = batch.events
        if events and isinstance(last := events[-1], Failed):
            redacted = self._redacted(last.error)
            if redacted is not last.error:
                batch = Batch((*events[:-1], Failed(self.broke(redacted))), batch.raw)
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

    async def _read_whole(self, response: UpstreamResponse, worker: Worker) -> None:
        body = await self._read_body(response, self._bytes_left)
        self.heavy = len(body) > _LARGE or self.job.heavy
        try:
            if self.heavy:
                self.whole = await worker.run(self._decode, body)
            else:
                self.whole = self._decode(body)
        except UpstreamProtocolError as error:
            error.reason = f"{error.message} {describe_response(response, self.route.address, body)}"
            raise

    def _decode(self, body: bytes) -> Batch | AnyResponse:
        if not body.isascii() and not _is_utf8(body):
            raise UpstreamProtocolError("The upstream's answer is not valid UTF-8.")
        route = self.route
        if body[:1] != b"{" and route.outbound.begins_stream(body[:_HEAD].lstrip(_SPACE)):
            self._translate()
            return self._folded(body)
        refuse_crowded(body, route.outbound.many)
        if self.passthrough is not None:
            return route.outbound.passthrough_response(body, self.passthrough, route.upstream)
        decoded: AnyResponse = route.outbound.decode(
            body, self.upstream_request, route.upstream, received_at=datetime.now(UTC)
        )
        return decoded

    async def _read_error(self, response: UpstreamResponse, url: Address) -> UpstreamError:
        """Read an error response, and return its error."""
        try:
            body = await self._read_body(response, _MAX_ERROR)
        except UpstreamError:
            body = b""  # the status alone is enough
        error = self.route.outbound.decode_error(response.status, response.headers, body)
        error.reason = describe_response(response, url, body)
        return error

    def _redacted(self, error: GatewayError) -> GatewayError:
        """Return the error as it may leave the attempt: without secrets, and with a reason for the operator."""
        mask = self.target.provider.mask(self.credential)
        return redact_error(error, mask, sent=self.upstream_request.body, model=self.target.model)

    def _folded(self, body: bytes) -> Response:
        """Return the whole response of a stream that was not requested."""
        route = self.route
        decoder = route.outbound.decoder(self.upstream_request, route.upstream)
        events: list[StreamEvent] = []
        for start in range(0, len(body), _STEP):
            events += decoder.feed(body[start : start + _STEP]).events
            if len(events) > MOST_VALUES:
                raise UpstreamProtocolError(f"The upstream's stream has more than {MOST_VALUES} events.")
        events += decoder.close().events
        return reasoning_first(fold(_dated(events)))

    async def _read_body(self, response: UpstreamResponse, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while data := await self._timed(response.chunk()):
            self._timer.received()
            pieces.append(data)
            size += len(data)
            if size > limit:
                raise UpstreamProtocolError(_TOO_LARGE)
            if response.is_read:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _timed(self, waiting: Coroutine[Any, Any, _T]) -> _T:
        """Wait for the upstream within the timeouts."""
        timer = self._timer
        try:
            timer.start_wait()
            return await waiting
        except asyncio.CancelledError:
            too_slow = timer.timeout_error()
            if too_slow is None:
                raise
            raise too_slow from None
        finally:
            timer.end_wait()
            waiting.close()  # it has not started if the call had exceeded its total before


def _dated(events: Sequence[StreamEvent]) -> Sequence[StreamEvent]:
    """Return the events with the time of arrival on a response that its upstream did not date."""
    return [
        msgspec.structs.replace(event, created_at=datetime.now(UTC))
        if isinstance(event, Started) and event.created_at == UNDATED
        else event
        for event in events
    ]


def _is_utf8(body: bytes) -> bool:
    try:
        str(body, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _as_upstream(error: GatewayError) -> UpstreamError:
    return error if isinstance(error, UpstreamError) else UpstreamProtocolError(error.message, code=error.code)
