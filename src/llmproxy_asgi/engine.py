"""The corridor: a call from its caller's request to the last batch of its answer.

::

    Intake ─ catalog ─▶ targets ─ executor ─▶ attempt ─ first event (commit point) ─▶ batches ─▶ bytes or events

It reads like that drawing and decides nothing by itself: who may call is decided before it, how bytes reach a caller
after it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import msgspec

from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.conversation import Batch, Failed, Request, Response, StreamEvent
from llmproxy_asgi.custody.reasoning import NOTHING, Kept, ReasoningTap, missing, remember, restore
from llmproxy_asgi.errors import BadRequest, GatewayError, InternalError
from llmproxy_asgi.execution.attempt import Answered, Asked, Job
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.routing.catalog import Allowed, allow, everything
from llmproxy_asgi.runtime import Runtime
from llmproxy_asgi.stores.base import Owner
from llmproxy_asgi.translators.base import AnyInbound, Intake, StreamEncoder
from llmproxy_asgi.translators.embeddings.records import Embeddings


class Call:
    """One call. Entering it runs up to the commit point; leaving it lets go of the upstream, at once.

    Raises (on entering):
        CallerError: Refused before any upstream was asked.
        UpstreamError: Every target failed before its first event.
    """

    __slots__ = ("_attempt", "_job", "_owner", "_runtime", "_targets", "tap")

    def __init__(self, runtime: Runtime, targets: tuple[Target, ...], job: Job, owner: Owner) -> None:
        self._runtime = runtime
        self._owner = owner
        self._targets = targets
        self._job = job

    async def __aenter__(self) -> Self:
        job = await self._recalling(self._job)
        self._attempt = await self._runtime.executor.begin(job, self._targets)
        whole = self._attempt.whole
        if isinstance(whole, Response) and (kept := remember(whole)):
            try:
                await self.keep(kept)
            except BaseException:
                await self._attempt.close()
                raise
        self.tap = ReasoningTap()
        return self

    async def _recalling(self, job: Job) -> Job:
        """The job, with the reasoning that its caller lost; looked for only where a target translates."""
        protocol = job.protocol
        fit = (target for target in self._targets if target.takes(protocol))
        if job.each is not None or all(target.line(protocol).outbound.protocol == protocol for target in fit):
            return job
        try:
            asked = job.request()
        except BadRequest:
            return job  # a target that takes the bytes as they are may serve it all the same
        ids = missing(asked) if isinstance(asked, Request) else ()
        thoughts = await self._runtime.reasoning.find(self._owner, ids) if ids else NOTHING
        if not thoughts:
            return job
        return msgspec.structs.replace(job, recall=lambda request, upstream: restore(request, thoughts, upstream))

    async def keep(self, kept: Kept) -> None:
        """Keep what the tap told, before the caller reads on."""
        await self._runtime.reasoning.keep(self._owner, kept)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._attempt.close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the request, or of its answer, was lost or approximated on its way."""
        warnings = self._attempt.outgoing.warnings
        whole = self._attempt.whole
        return (*warnings, "estimated:usage") if isinstance(whole, Embeddings) and whole.usage.estimated else warnings

    @property
    def upstream_model(self) -> str:
        """The upstream's own name of the model that answers."""
        return self._attempt.target.model

    @property
    def relays(self) -> bool:
        """Whether `Batch.raw` is already in the caller's protocol."""
        return self._attempt.relays is not None

    @property
    def next(self) -> Callable[[], Awaitable[Batch | None]]:
        """The next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        return self._attempt.next  # handed on as it is: a layer here would cost every read of every stream

    async def events(self) -> AsyncIterator[StreamEvent]:
        """A stream, event by event.

        Raises:
            GatewayError: It broke.
        """
        while (batch := await self._attempt.next()) is not None:
            if kept := self.tap.feed(batch.events):
                await self.keep(kept)
            for event in batch.events:
                if isinstance(event, Failed):
                    raise event.error
                yield event

    def answer(self) -> Batch | Answered:
        """The whole answer, where no stream was wanted: a `Batch` whose `raw` is it if the call relays."""
        whole = self._attempt.whole
        if whole is None:
            raise InternalError("A streamed call has no whole answer.")
        return whole


class Engine:
    """Opens calls on whatever plan is in force."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def take(self, intake: Intake, inbound: AnyInbound, grant: Grant) -> Call:
        """A call for a request that came as bytes.

        Raises:
            ModelNotFound: There is no such model for this caller.
        """
        decoded: list[Asked] = []

        def request() -> Asked:
            if not decoded:
                decoded.append(inbound.decode(intake))
            return decoded[0]

        job = Job(
            protocol=intake.protocol,
            stream=intake.stream,
            request=request,
            intake=intake,
            each=(lambda: inbound.decode_each(intake)) if intake.several else None,
        )
        return self._call(intake.model, grant, job)

    def ask(self, request: Asked, grant: Grant) -> Call:
        """A call for a request made in Python, for somebody who reads events.

        Raises:
            ModelNotFound: There is no such model for this caller.
        """
        job = Job(protocol=request.protocol, stream=request.stream, request=lambda: request)
        return self._call(request.model, grant, job)

    def _call(self, model: str, grant: Grant, job: Job) -> Call:
        runtime = self.runtime  # one plan for the whole call: a reload never splits it
        return Call(runtime, runtime.catalog.resolve(model, granted(grant)), job, Owner.of(grant.principal))


class CallerStream:
    """A call's batches as the bytes that its caller reads.

    A failure is written as the protocol's own error event, whether the stream was relayed or translated.
    """

    __slots__ = ("_call", "_encoder", "_inbound", "_intake", "_next", "_tap")

    def __init__(self, call: Call, inbound: AnyInbound, intake: Intake) -> None:
        self._next = call.next
        self._call = call
        self._tap = call.tap
        self._inbound = inbound
        self._intake = intake
        self._encoder: StreamEncoder | None = None if call.relays else inbound.encoder(intake)

    async def next(self) -> bytes | None:
        """The next bytes, maybe none yet; None after the last."""
        batch = await self._next()
        if batch is None:
            return None
        if self._encoder is not None:
            if kept := self._tap.feed(batch.events):
                await self._call.keep(kept)
            return self._encoder.feed(batch.events)
        raw = batch.raw or b""
        if batch.events and isinstance(batch.events[-1], Failed):
            return raw + failure(self._inbound, self._intake, batch.events[-1].error)
        return raw


def failure(inbound: AnyInbound, intake: Intake, error: GatewayError) -> bytes:
    """An error as an event of the caller's protocol, for a stream of which anything may have been sent already."""
    return inbound.encoder(intake).feed((Failed(error),))


def granted(grant: Grant) -> Allowed:
    """What a grant allows, as the catalog asks it."""
    return everything if grant.models is None else allow(grant.models)
