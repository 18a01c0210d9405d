"""One call: the conversation that it continues, its limits, its attempt, and what is recorded of it.

Entering a call runs it up to the commit point; leaving it closes the upstream and releases everything that it holds.
`execution` selects and tries targets, and `endpoints` write to clients.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
from typing_extensions import override

from llmproxy_asgi.clock import SYSTEM
from llmproxy_asgi.conversation import (
    EMPTY,
    MOST_PARTS,
    Batch,
    Failed,
    Message,
    PartStarted,
    Request,
    Response,
    StreamEvent,
    Usage,
)
from llmproxy_asgi.conversation_state.affinity import IssuerPin, distance, pin
from llmproxy_asgi.conversation_state.reasoning import (
    NO_REASONING,
    Before,
    CachedReasoningByKey,
    ReasoningEntries,
    ReasoningTap,
    extract_reasoning,
    missing,
    restore,
)
from llmproxy_asgi.errors import BadRequest, GatewayError, InternalError, UpstreamProtocolError
from llmproxy_asgi.execution.attempt import AnyResponse, Job
from llmproxy_asgi.execution.lazy_request import AnyRequest, DecodedRequest
from llmproxy_asgi.execution.open_response import OpenResponse
from llmproxy_asgi.execution.reservation import Reservation
from llmproxy_asgi.execution.tokens import estimate_tokens
from llmproxy_asgi.facts import CallContext
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.routing.affinity import Affinity, ConversationKey, conversation_in, conversation_of
from llmproxy_asgi.routing.catalog import ResolvedModel
from llmproxy_asgi.runtime import Runtime
from llmproxy_asgi.telemetry.call_recorder import Caller, CallRecorder
from llmproxy_asgi.translators.base import Headers, InboundRequest, Upstream, UpstreamRequest
from llmproxy_asgi.translators.embeddings.records import Embeddings
from llmproxy_asgi.worker import Worker


class CallState(Protocol):
    """The stored state of one call: the conversation that it continues, and the response that it stores.

    Attributes:
        request: The request, for the response's encoder.
    """

    request: InboundRequest

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the request's use of stored state."""

    async def open(self, *, may_pass_on: bool) -> InboundRequest:
        """Return the request with the whole conversation that it continues.

        Args:
            may_pass_on: Whether upstreams store responses for clients.

        Raises:
            CallerError: The conversation does not exist, or cannot be continued.
        """

    def begin(self, *, passed_through: bool) -> None:
        """Prepare for the response.

        Args:
            passed_through: Whether it passes through in the client's protocol.
        """

    def needs_rewrite(self, data: bytes) -> bool:
        """Whether this part of a stream (whole events) must be rewritten. Runs once per read."""

    async def rewrite(self, data: bytes) -> bytes:
        """Return this part of a stream (whole events) as the client reads it."""

    async def rewrite_whole(self, body: bytes) -> bytes:
        """Return a complete response as the client reads it."""


class _Tap(ReasoningTap):
    """See all events but deltas: collect reasoning to cache, and record the call's end for observers."""

    __slots__ = ("_parts", "_recorder")

    def __init__(self, recorder: CallRecorder, *, include_text: bool = False, before: Before = tuple) -> None:
        super().__init__(include_text=include_text, before=before)
        self._recorder = recorder
        self._parts = 0

    @override
    def observe(self, event: StreamEvent) -> ReasoningEntries:
        self._recorder.see(event)
        if isinstance(event, PartStarted):
            self._parts += 1
            if self._parts > MOST_PARTS:
                raise UpstreamProtocolError(f"The upstream's answer has more than {MOST_PARTS} parts.")
        return super().observe(event)


class _RestoredRequest(DecodedRequest):
    """A request whose client lost reasoning that was cached for it."""

    __slots__ = ("_cached",)

    restores_reasoning = True

    def __init__(self, request: AnyRequest, cached: CachedReasoningByKey) -> None:
        super().__init__(request)
        self._cached = cached

    @override
    def for_upstream(self, upstream: Upstream) -> AnyRequest:
        request = self.decode()
        return restore(request, self._cached, upstream) if isinstance(request, Request) else request


class Call:
    """One call. Entering it runs it up to the commit point; leaving it closes the upstream immediately.

    Args:
        runtime: The runtime of the whole call: a reload never splits it.
        choice: The targets of its model.
        job: The request.
        owner: The owner of all its records.
        headers: The request's headers; one of them may name the conversation.
        reservation: Of the caller's limits; None: nothing is limited.

    Raises:
        CallerError: On entering: it was refused before an upstream was tried.
        UpstreamError: On entering: every target failed before its first event.

    Attributes:
        recorder: Reports it to observers, and knows its usage so far.
        tap: Sees the events of its response.
        state: Its stored state, if it has any.
    """

    __slots__ = (
        "_admitted",
        "_attempt",
        "_choice",
        "_entered",
        "_headers",
        "_job",
        "_owner",
        "_pin",
        "_prepared",
        "_reservation",
        "_runtime",
        "recorder",
        "state",
        "tap",
    )

    def __init__(
        self,
        runtime: Runtime,
        choice: ResolvedModel,
        job: Job,
        owner: Owner,
        *,
        headers: Headers = EMPTY,
        reservation: Reservation | None = None,
    ) -> None:
        self._runtime = runtime
        self._owner = owner
        self._reservation = reservation
        self._admitted = self._entered = False
        self._prepared = True
        self._choice = choice
        self._job = job
        self._headers = headers
        self._attempt: OpenResponse
        self.recorder = CallRecorder(
            runtime.observers,
            runtime.clock,
            job.context,
            recorded_caller(owner, choice, job),
        )
        self._pin: IssuerPin | None = None
        self.state: CallState | None = None

    def attach_state(self, state: CallState) -> Self:
        """Let the call use stored state; return it."""
        self.state, self._prepared = state, False
        return self

    async def prepare(self) -> None:
        """Expand the request by the stored conversation that it continues. Entering does it, too, if necessary.

        Raises:
            CallerError: The conversation does not exist, or cannot be continued.
        """
        if self._prepared or self.state is None:
            return
        self._prepared = True
        stored_upstream = any(_stores_responses(target, self._job) for target in self._choice.targets)
        self._job = self._job.with_inbound_request(await self.state.open(may_pass_on=stored_upstream))

    async def admit(self) -> None:
        """Reserve what the caller's limits require. Entering does it, too, if necessary.

        A call that is admitted but never entered must be released: see `release`.

        Raises:
            CallerError: A limit is reached, or the request cannot be prepared.
        """
        if self._reservation is not None and not self._admitted:
            await self.prepare()
            self._job = await self._reservation.reserve(self._job)
            self._admitted = True

    def release(self) -> None:
        """Release the reservation of a call that was not entered; leaving an entered call releases it."""
        if self._reservation is not None and self._admitted and not self._entered:
            self._reservation.settle(sent=False)

    async def __aenter__(self) -> Self:
        await self.admit()
        self._entered = True
        self.recorder.start()
        try:
            await self._begin()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def _begin(self) -> None:
        self._runtime.health.keep_running()
        await self.prepare()
        job = await self._with_reasoning(self._job)
        attempt = self._attempt = await self._begin_attempt(job)
        self.recorder.begin(attempt.whole)
        include_text = attempt.route.upstream.capabilities.needs_reasoning_content
        before = partial(_messages, job)
        self.tap = _Tap(self.recorder, include_text=include_text, before=before)
        if self.state is not None:
            self.state.begin(passed_through=self.is_passthrough)
        whole = await self._decode_passthrough() if include_text and self.is_passthrough else attempt.whole
        if isinstance(whole, Response) and (
            entries := extract_reasoning(whole, include_text=include_text, before=before)
        ):
            await self.keep(entries)

    async def _decode_passthrough(self) -> AnyResponse | None:
        """Decode a complete response that passes through, for reasoning to cache; None if it has no tool calls."""
        whole = self._attempt.whole
        if not isinstance(whole, Batch) or not whole.raw or b'"tool_calls"' not in whole.raw:
            return None
        route = self._attempt.route
        decode = partial(
            route.outbound.decode,
            upstream_request=UpstreamRequest(body=b"", stream=False),
            upstream=route.upstream,
            received_at=SYSTEM.now(),
        )
        decoded: AnyResponse = await self.worker.run(decode, whole.raw) if self.heavy else decode(whole.raw)
        return decoded

    async def check(self) -> None:
        """Decode the request now if no target could take its bytes unchanged.

        Raises:
            BadRequest: The request is invalid.
        """
        job = self._job
        routes = (target.find_route(job.protocol) for target in self._choice.targets)
        if not any(route is not None and route.passthrough for route in routes):
            await self._runtime.worker.run(job.request.decode) if job.heavy else job.request.decode()

    @property
    def worker(self) -> Worker:
        """The thread for work that is too large for one step of the event loop."""
        return self._runtime.worker

    @property
    def heavy(self) -> bool:
        """Whether its complete response is encoded in the worker thread."""
        return self._attempt.heavy

    @property
    def context(self) -> CallContext:
        """The running counts of the call."""
        return self._job.context

    async def _with_reasoning(self, job: Job) -> Job:
        """Return the job with the reasoning that its client lost, if a target can use it."""
        if job.request.is_batch or not any(_takes_reasoning(target, job) for target in self._choice.targets):
            return job
        try:
            request, keys = await self._runtime.worker.run(_lost_reasoning, job) if job.heavy else _lost_reasoning(job)
        except BadRequest:
            return job  # a target that takes the bytes unchanged may still serve it
        cached = await self._runtime.reasoning.find(self._owner, keys) if keys else NO_REASONING
        if isinstance(request, Request) and self._choice.has_alternatives:
            self._pin = pin(request, cached)
        return msgspec.structs.replace(job, request=_RestoredRequest(request, cached)) if cached else job

    async def _begin_attempt(self, job: Job) -> OpenResponse:
        """Begin an attempt, at the conversation's target if possible: its state can be used, its cache is warm."""
        runtime, choice = self._runtime, self._choice
        targets = runtime.strategies.order(choice)
        conversation = None
        if choice.has_alternatives and choice.affinity:
            conversation = await runtime.worker.run(self._conversation) if job.heavy else self._conversation()
        if conversation is None and self._pin is None:
            return await runtime.executor.begin(job, targets)
        affinity = runtime.affinities.find(self._owner, choice.name, conversation) if conversation else None
        attempt = await runtime.executor.begin(
            job, self._nearest_first(targets, affinity), prefer=affinity.credential if affinity else None
        )
        if conversation is not None:
            served = Affinity(attempt.target.name, attempt.credential.fingerprint)
            runtime.affinities.keep(self._owner, choice.name, conversation, served)
        return attempt

    def _conversation(self) -> ConversationKey | None:
        """Return the conversation of the request; None if it cannot be identified."""
        if self._job.inbound_request is not None:
            return conversation_in(self._job.inbound_request, self._headers)
        request = self._job.request.decode()
        return conversation_of(request) if isinstance(request, Request) else None

    def _nearest_first(self, targets: Sequence[Target], affinity: Affinity | None) -> Sequence[Target]:
        protocol = self._job.protocol

        def key(target: Target) -> tuple[int, bool]:
            route = target.find_route(protocol) if self._pin is not None else None
            away = distance(self._pin, route.upstream) if route is not None else 0
            return away, affinity is not None and target.name != affinity.target

        return sorted(targets, key=key)

    async def keep(self, entries: ReasoningEntries) -> None:
        """Cache reasoning before the client reads on."""
        await self._runtime.reasoning.keep(self._owner, entries)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not hasattr(self, "_attempt"):
            self.recorder.finish(error, None)
            if self._reservation is not None:
                self._reservation.settle(sent=not isinstance(error, Exception))
            return
        self.recorder.finish(error, self._attempt.route, self.warnings, guess=self._estimated_usage)
        try:
            await self._attempt.close()
        finally:
            if self._reservation is not None:
                attempt, recorder = self._attempt, self.recorder
                self._reservation.settle(
                    attempt.permit, usage=recorder.usage, answer=attempt.whole, complete=recorder.ended
                )

    def _estimated_usage(self) -> Usage:
        return Usage(input=estimate_tokens(self._job).input, estimated=True)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was lost or approximated of the request or its response."""
        warnings = self._attempt.upstream_request.warnings
        if self.state is not None:
            warnings = (*self.state.warnings, *warnings)
        whole = self._attempt.whole
        return (*warnings, "estimated:usage") if isinstance(whole, Embeddings) and whole.usage.estimated else warnings

    @property
    def upstream_model(self) -> str:
        """The upstream's name of the model that responds."""
        return self._attempt.target.model

    @property
    def metadata(self) -> dict[str, Any]:
        """The fields of `Response` and `Ended` that HTTP clients receive as headers."""
        context = self.context
        return {
            "model": self.upstream_model,
            "provider": self._attempt.target.provider.name,
            "request_id": context.request_id,
            "attempts": context.attempts,
            "warnings": self.warnings,
        }

    @property
    def is_passthrough(self) -> bool:
        """Whether `Batch.raw` is in the client's protocol already."""
        return self._attempt.passthrough is not None

    def stream_error(self, error: GatewayError) -> GatewayError:
        """Return the error that ends a stream passed through, with the stream's position where its event needs it."""
        return self._attempt.broke(error)

    @property
    def next(self) -> Callable[[], Awaitable[Batch | None]]:
        """Reads the next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        read = self._attempt.next  # unwrapped: a wrapper would cost every read of every stream
        return read if self._reservation is None else self._reservation.counting(read)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Stream the events; each may be requested by another task, as `asyncio.wait_for` does.

        Raises:
            GatewayError: The stream failed.
        """
        read, attempt = self.next, self._attempt
        while True:
            attempt.adopt_current_task()
            if (batch := await read()) is None:
                return
            if entries := self.tap.feed(batch.events):
                await self.keep(entries)
            for event in batch.events:
                if isinstance(event, Failed):
                    raise event.error
                yield event

    def response(self) -> Batch | AnyResponse:
        """Return the complete response of an unstreamed call: if it passes through, a `Batch` with it as `raw`."""
        whole = self._attempt.whole
        if whole is None:
            raise InternalError("A streamed call has no whole response.")
        return whole


def _lost_reasoning(job: Job) -> tuple[AnyRequest, Sequence[str]]:
    """Return the decoded request, and the keys of its calls that lack their reasoning."""
    request = job.request.decode()
    return request, missing(request) if isinstance(request, Request) else ()


def _messages(job: Job) -> Sequence[Message]:
    """Return the conversation before the response, as `missing` will see it."""
    request = None if job.request.is_batch else job.request.decode()
    return request.messages if isinstance(request, Request) else ()


def _takes_reasoning(target: Target, job: Job) -> bool:
    """Whether a target can use reasoning that a client lost: it translates, or its upstream requires reasoning."""
    route = target.find_route(job.protocol)
    if route is None:
        return False
    if not route.passthrough:
        return True
    return job.inbound_request is not None and route.outbound.lacks_reasoning(job.inbound_request, route.upstream)


def _stores_responses(target: Target, job: Job) -> bool:
    """Whether a target's upstream stores responses that clients of this protocol may continue."""
    route = target.find_route(job.protocol)
    return route is not None and route.passthrough and route.upstream.capabilities.stored


def recorded_caller(owner: Owner, choice: ResolvedModel, job: Job) -> Caller:
    """Return the caller and its request, as facts describe them."""
    return Caller(
        principal=owner.id,
        principal_kind=owner.kind,
        tenant=owner.tenant,
        protocol=job.protocol,
        model=choice.name,
        stream=job.stream,
    )
