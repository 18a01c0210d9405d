"""One call: what it goes on from, where it belongs, what it may spend, and what is told of it.

A call is entered up to its commit point and left when its answer has been read, or is not wanted any more; whatever it
has taken is given back then. Which targets there are and how they are tried is decided elsewhere, and so is how bytes
reach a caller.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import msgspec
from typing_extensions import override

from llmproxy_asgi.clock import SYSTEM
from llmproxy_asgi.conversation import (
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
    ReasoningEntries,
    ReasoningTap,
    extract_reasoning,
    missing,
    restore,
)
from llmproxy_asgi.conversation_state.responses import ResponseStore
from llmproxy_asgi.errors import BadRequest, GatewayError, InternalError, UpstreamProtocolError
from llmproxy_asgi.execution.attempt import Answered, Asked, Attempt, Job
from llmproxy_asgi.execution.executor import Opened
from llmproxy_asgi.execution.reservation import Reservation
from llmproxy_asgi.execution.tokens import size_of
from llmproxy_asgi.facts import CallContext
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.routing.affinity import Conversation, Place
from llmproxy_asgi.routing.catalog import Choice
from llmproxy_asgi.runtime import Runtime
from llmproxy_asgi.telemetry.call_recorder import Caller, CallRecorder
from llmproxy_asgi.translators.base import InboundRequest, UpstreamRequest
from llmproxy_asgi.translators.embeddings.records import Embeddings
from llmproxy_asgi.worker import Worker

if TYPE_CHECKING:
    from llmproxy_asgi.conversation_state.stateful import ConversationTurn

Belongs: TypeAlias = Callable[[], Conversation | None]
"""Finds out which conversation a request belongs to; None: one that nobody will go on with."""

Made: TypeAlias = tuple[Job, Belongs]
"""What a request comes to."""


class _Tap(ReasoningTap):
    """See every event but deltas: find what is worth keeping, and record what observers receive at the end."""

    __slots__ = ("_parts", "_recorder")

    def __init__(self, recorder: CallRecorder, *, words: bool = False, before: Before = tuple) -> None:
        super().__init__(words=words, before=before)
        self._recorder = recorder
        self._parts = 0

    @override
    def border(self, event: StreamEvent) -> ReasoningEntries:
        self._recorder.see(event)
        if isinstance(event, PartStarted):
            self._parts += 1
            if self._parts > MOST_PARTS:
                raise UpstreamProtocolError(f"The upstream's answer has more than {MOST_PARTS} parts.")
        return super().border(event)


class Call:
    """One call. Entering it runs up to the commit point; leaving it lets go of the upstream, at once.

    Raises (on entering):
        CallerError: Refused before any upstream was asked.
        UpstreamError: Every target failed before its first event.
    """

    __slots__ = (
        "_admitted",
        "_attempt",
        "_choice",
        "_conversation",
        "_entered",
        "_job",
        "_owner",
        "_pin",
        "_remade",
        "_reservation",
        "_runtime",
        "recorder",
        "tap",
        "turn",
    )

    def __init__(
        self,
        runtime: Runtime,
        choice: Choice,
        job: Job,
        owner: Owner,
        conversation: Belongs,
        *,
        reservation: Reservation | None = None,
    ) -> None:
        self._runtime = runtime
        self._owner = owner
        self._reservation = reservation
        self._admitted = self._entered = False
        self._choice = choice
        self._job = job
        self._attempt: Opened
        self.recorder = CallRecorder(
            runtime.observers,
            runtime.clock,
            job.context,
            recorded_caller(owner, choice, job),
        )
        """Records it for observers, and holds what is known of its usage."""
        self._conversation = conversation
        self._pin: IssuerPin | None = None
        self._remade: Callable[[InboundRequest], Made] | None = None
        self.turn: ConversationTurn | None = None
        """Its dealings with kept answers, if it has any."""

    def attach_state(self, turn: "ConversationTurn", remade: Callable[[InboundRequest], Made]) -> Self:
        """The same call, which has dealings with kept answers; `remade`: what it does if its request is another."""
        self.turn, self._remade = turn, remade
        return self

    async def prepare(self) -> None:
        """Look up what the request goes on from. Entering does so too, where nobody has.

        Raises:
            CallerError: There is nothing that it could go on from.
        """
        remade, self._remade = self._remade, None
        if self.turn is not None and remade is not None:
            inbound_request = await self.turn.open(
                may_pass_on=any(_keeps(target, self._job) for target in self._choice.targets)
            )
            self._job, self._conversation = remade(inbound_request)

    async def admit(self) -> None:
        """Take what its caller's limits must let it have. Entering it does so too, where nobody has.

        Whoever admits a call and never enters it gives that back: see `release`.

        Raises:
            CallerError: It is over them, or there is nothing that it could go on from.
        """
        if self._reservation is not None and not self._admitted:
            await self.prepare()
            self._job = await self._reservation.reserve(self._job)
            self._admitted = True

    def release(self) -> None:
        """Give back what was taken for a call that is not entered; of one that was, nothing is left to give back."""
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
        job = await self._recalling(self._job)
        attempt = self._attempt = await self._placed(job)
        self.recorder.begin(attempt.whole)
        words = attempt.target.route(job.protocol).upstream.capabilities.needs_reasoning_content
        before = partial(_messages, job)
        self.tap = _Tap(self.recorder, words=words, before=before)
        if self.turn is not None:
            self.turn.begin(passed_through=self.is_passthrough)
        whole = await self._reread() if words and self.is_passthrough else attempt.whole
        if isinstance(whole, Response) and (kept := extract_reasoning(whole, words=words, before=before)):
            await self.keep(kept)

    async def _reread(self) -> Answered | None:
        """The whole answer whose bytes are passed on, read for what its caller may lose of it; None: there is none."""
        whole = self._attempt.whole
        if not isinstance(whole, Batch) or not whole.raw or b'"tool_calls"' not in whole.raw:
            return None
        route = self._attempt.target.route(self._job.protocol)
        read = partial(
            route.outbound.decode,
            upstream_request=UpstreamRequest(body=b"", stream=False),
            upstream=route.upstream,
            received_at=SYSTEM.now(),
        )
        found: Answered = await self.worker.run(read, whole.raw) if self.heavy else read(whole.raw)
        return found

    async def check(self) -> None:
        """Read the request whole at once, where no target could take its bytes as they are.

        Raises:
            BadRequest: It is wrong.
        """
        protocol = self._job.protocol
        if not any(target.passes_through(protocol) for target in self._choice.targets):
            await self._runtime.worker.run(self._job.request) if self._job.heavy else self._job.request()

    @property
    def worker(self) -> Worker:
        """Where what is too large for a step of the event loop is read and written."""
        return self._runtime.worker

    @property
    def heavy(self) -> bool:
        """Whether its whole answer is written off the event loop."""
        return isinstance(self._attempt, Attempt) and self._attempt.heavy

    @property
    def context(self) -> CallContext:
        """How it goes, or went."""
        return self._job.context

    @property
    def responses(self) -> ResponseStore:
        """The store of its response, if it is stored."""
        return self._runtime.responses

    async def _recalling(self, job: Job) -> Job:
        """The job, with the reasoning that its caller lost; looked for only where a target takes it."""
        if job.each is not None or not any(_recalls(target, job) for target in self._choice.targets):
            return job
        try:
            asked, ids = await self._runtime.worker.run(_read, job) if job.heavy else _read(job)
        except BadRequest:
            return job  # a target that takes the bytes as they are may serve it all the same
        thoughts = await self._runtime.reasoning.find(self._owner, ids) if ids else NO_REASONING
        if isinstance(asked, Request) and self._choice.several:
            self._pin = pin(asked, thoughts)
        if not thoughts:
            return job
        return msgspec.structs.replace(job, recall=lambda request, upstream: restore(request, thoughts, upstream))

    async def _placed(self, job: Job) -> Opened:
        """Begun where the conversation belongs, if that can serve: where its state can be opened, its cache is warm."""
        runtime, choice = self._runtime, self._choice
        targets = runtime.strategies.order(choice)
        conversation = None
        if choice.several and choice.affinity:
            conversation = await runtime.worker.run(self._conversation) if job.heavy else self._conversation()
        if conversation is None and self._pin is None:
            return await runtime.executor.begin(job, targets)
        place = runtime.affinities.find(self._owner, choice.name, conversation) if conversation else None
        attempt = await runtime.executor.begin(
            job, self._nearest_first(targets, place), prefer=place.credential if place else None
        )
        if conversation is not None:
            served = Place(attempt.target.name, attempt.credential.fingerprint)
            runtime.affinities.keep(self._owner, choice.name, conversation, served)
        return attempt

    def _nearest_first(self, targets: Sequence[Target], place: Place | None) -> Sequence[Target]:
        protocol = self._job.protocol

        def far(target: Target) -> tuple[int, bool]:
            known = self._pin is not None and target.supports(protocol)
            away = distance(self._pin, target.route(protocol).upstream) if known else 0
            return away, place is not None and target.name != place.target

        return sorted(targets, key=far)

    async def keep(self, kept: ReasoningEntries) -> None:
        """Keep what the tap told, before the caller reads on."""
        await self._runtime.reasoning.keep(self._owner, kept)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not hasattr(self, "_attempt"):
            self.recorder.finish(error, None)
            if self._reservation is not None:
                self._reservation.settle(sent=not isinstance(error, Exception))
            return
        self.recorder.finish(error, self._attempt.target, self.warnings, guess=self._least)
        try:
            await self._attempt.close()
        finally:
            if self._reservation is not None:
                attempt, recorder = self._attempt, self.recorder
                self._reservation.settle(
                    attempt.permit, usage=recorder.usage, answer=attempt.whole, complete=recorder.ended
                )

    def _least(self) -> Usage:
        return Usage(input=size_of(self._job).input, estimated=True)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the request, or of its answer, was lost or approximated on its way."""
        warnings = self._attempt.upstream_request.warnings
        if self.turn is not None:
            warnings = (*self.turn.warnings, *warnings)
        whole = self._attempt.whole
        return (*warnings, "estimated:usage") if isinstance(whole, Embeddings) and whole.usage.estimated else warnings

    @property
    def upstream_model(self) -> str:
        """The upstream's own name of the model that answers."""
        return self._attempt.target.model

    @property
    def metadata(self) -> dict[str, Any]:
        """What HTTP tells of it in headers, as the fields of `Response` and `Ended`."""
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
        """Whether `Batch.raw` is already in the caller's protocol."""
        return self._attempt.passthrough is not None

    def stream_error(self, error: GatewayError) -> GatewayError:
        """The error that ends a passed-through stream, with what its event must say of how far the stream had come."""
        return self._attempt.broke(error) if isinstance(self._attempt, Attempt) else error

    @property
    def next(self) -> Callable[[], Awaitable[Batch | None]]:
        """The next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        read = self._attempt.next  # handed on as it is: a layer here would cost every read of every stream
        return read if self._reservation is None else self._reservation.counting(read)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """A stream, event by event; each may be asked for by another task, as `asyncio.wait_for` does it.

        Raises:
            GatewayError: It broke.
        """
        read, attempt = self.next, self._attempt
        while True:
            if isinstance(attempt, Attempt):
                attempt.move_here()
            if (batch := await read()) is None:
                return
            if kept := self.tap.feed(batch.events):
                await self.keep(kept)
            for event in batch.events:
                if isinstance(event, Failed):
                    raise event.error
                yield event

    def response(self) -> Batch | Answered:
        """The whole answer, where no stream was wanted: a `Batch` whose `raw` is it if the call passes through."""
        whole = self._attempt.whole
        if whole is None:
            raise InternalError("A streamed call has no whole response.")
        return whole


def _read(job: Job) -> tuple[Asked, Sequence[str]]:
    """The request, read whole, and the ids of calls in it whose reasoning it lacks."""
    asked = job.request()
    return asked, missing(asked) if isinstance(asked, Request) else ()


def _messages(job: Job) -> Sequence[Message]:
    """The conversation that an answer goes on from, as `missing` will see it."""
    asked = job.request() if job.each is None else None
    return asked.messages if isinstance(asked, Request) else ()


def _recalls(target: Target, job: Job) -> bool:
    """Whether a target takes reasoning that a caller has lost: where it translates, or refuses a turn without it."""
    if target.translates(job.protocol):
        return True
    if job.inbound_request is None or not target.passes_through(job.protocol):
        return False
    route = target.route(job.protocol)
    return route.outbound.lacks_reasoning(job.inbound_request, route.upstream)


def _keeps(target: Target, job: Job) -> bool:
    """Whether a target's upstream keeps answers that callers of this protocol may go on from."""
    if not target.supports(job.protocol):
        return False
    route = target.route(job.protocol)
    return route.upstream.capabilities.stored and route.outbound.protocol == job.protocol


def recorded_caller(owner: Owner, choice: Choice, job: Job) -> Caller:
    """Return who asks for what, as facts name it."""
    return Caller(
        principal=owner.id,
        principal_kind=owner.kind,
        tenant=owner.tenant,
        protocol=job.protocol,
        model=choice.name,
        stream=job.stream,
    )
