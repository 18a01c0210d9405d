"""The corridor: a call from its caller's request to the last batch of its answer.

::

    Intake ─ catalog ─▶ targets ─ executor ─▶ attempt ─ first event (commit point) ─▶ batches ─▶ bytes or events

It reads like that drawing and decides nothing by itself: who may call is decided before it, how bytes reach a caller
after it.
"""

import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec
from typing_extensions import override

from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.conversation import EMPTY, Batch, Failed, Request, Response, StreamEvent, Usage
from llmproxy_asgi.custody.affinity import Pin, distance, pin
from llmproxy_asgi.custody.reasoning import NOTHING, Kept, ReasoningTap, missing, remember, restore
from llmproxy_asgi.custody.responses import ResponseCustody
from llmproxy_asgi.custody.stateful import Turn
from llmproxy_asgi.errors import BadRequest, GatewayError, InternalError
from llmproxy_asgi.execution.allowance import Allowance
from llmproxy_asgi.execution.attempt import Answered, Asked, Attempt, Job
from llmproxy_asgi.execution.counting import Counted
from llmproxy_asgi.execution.executor import Opened
from llmproxy_asgi.execution.tokens import size_of
from llmproxy_asgi.facts import Course
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.routing.affinity import Conversation, Place, conversation_in, conversation_of
from llmproxy_asgi.routing.catalog import Allowed, Choice, allow, everything
from llmproxy_asgi.runtime import Runtime
from llmproxy_asgi.stores.base import Owner
from llmproxy_asgi.telemetry.telling import Caller, CountTelling, Telling, tell_refusal
from llmproxy_asgi.translators.base import AnyInbound, Headers, Intake, StreamEncoder
from llmproxy_asgi.translators.embeddings.records import Embeddings


class _Tap(ReasoningTap):
    """Sees every event but deltas: what is worth keeping, and what observers are told at the end."""

    __slots__ = ("_telling",)

    def __init__(self, telling: Telling) -> None:
        super().__init__()
        self._telling = telling

    @override
    def border(self, event: StreamEvent) -> Kept:
        self._telling.see(event)
        return super().border(event)


class Call:
    """One call. Entering it runs up to the commit point; leaving it lets go of the upstream, at once.

    Raises (on entering):
        CallerError: Refused before any upstream was asked.
        UpstreamError: Every target failed before its first event.
    """

    __slots__ = (
        "_admitted",
        "_allowance",
        "_attempt",
        "_choice",
        "_conversation",
        "_entered",
        "_job",
        "_owner",
        "_pin",
        "_remade",
        "_runtime",
        "tap",
        "telling",
        "turn",
    )

    def __init__(
        self,
        runtime: Runtime,
        choice: Choice,
        job: Job,
        owner: Owner,
        conversation: Callable[[], Conversation | None],
        *,
        allowance: Allowance | None = None,
    ) -> None:
        self._runtime = runtime
        self._owner = owner
        self._allowance = allowance
        self._admitted = self._entered = False
        self._choice = choice
        self._job = job
        self._attempt: Opened
        self.telling = Telling(
            runtime.observers,
            runtime.clock,
            job.course,
            _caller(owner, choice, job),
        )
        """What observers are told of it, and what is known of its usage."""
        self._conversation = conversation
        self._pin: Pin | None = None
        self._remade: Callable[[Intake], tuple[Job, Callable[[], Conversation | None]]] | None = None
        self.turn: Turn | None = None
        """Its dealings with kept answers, if it has any."""

    def going_on(self, turn: Turn, remade: Callable[[Intake], tuple[Job, Callable[[], Conversation | None]]]) -> Self:
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
            intake = await self.turn.open(may_pass_on=any(_keeps(target, self._job) for target in self._choice.targets))
            self._job, self._conversation = remade(intake)

    async def admit(self) -> None:
        """Take what its caller's limits must let it have. Entering it does so too, where nobody has.

        Whoever admits a call and never enters it gives that back: see `give_up`.

        Raises:
            CallerError: It is over them, or there is nothing that it could go on from.
        """
        if self._allowance is not None and not self._admitted:
            await self.prepare()
            self._job = await self._allowance.take(self._job)
            self._admitted = True

    def give_up(self) -> None:
        """Give back what was taken for a call that is not entered; of one that was, nothing is left to give back."""
        if self._allowance is not None and self._admitted and not self._entered:
            self._allowance.end(asked=False)

    async def __aenter__(self) -> Self:
        await self.admit()
        self._entered = True
        self.telling.start()
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
        self.telling.begin(attempt.whole)
        self.tap = _Tap(self.telling)
        if self.turn is not None:
            self.turn.begin(relayed=self.relays)
        if isinstance(attempt.whole, Response) and (kept := remember(attempt.whole)):
            await self.keep(kept)

    def check(self) -> None:
        """Read the request whole at once, where no target could take its bytes as they are.

        Raises:
            BadRequest: It is wrong.
        """
        if self._job.protocol not in self._spoken():
            self._job.request()

    def _spoken(self) -> list[str]:
        """The protocols that the targets which can serve it are spoken to in."""
        protocol = self._job.protocol
        return [target.line(protocol).outbound.protocol for target in self._choice.targets if target.takes(protocol)]

    @property
    def course(self) -> Course:
        """How it goes, or went."""
        return self._job.course

    @property
    def custody(self) -> ResponseCustody:
        """Where its answer is kept, if it is."""
        return self._runtime.responses

    async def _recalling(self, job: Job) -> Job:
        """The job, with the reasoning that its caller lost; looked for only where a target translates."""
        if job.each is not None or all(spoken == job.protocol for spoken in self._spoken()):
            return job
        try:
            asked = job.request()
        except BadRequest:
            return job  # a target that takes the bytes as they are may serve it all the same
        ids = missing(asked) if isinstance(asked, Request) else ()
        thoughts = await self._runtime.reasoning.find(self._owner, ids) if ids else NOTHING
        if isinstance(asked, Request) and self._choice.several:
            self._pin = pin(asked, thoughts)
        if not thoughts:
            return job
        return msgspec.structs.replace(job, recall=lambda request, upstream: restore(request, thoughts, upstream))

    async def _placed(self, job: Job) -> Opened:
        """Begun where the conversation belongs, if that can serve: where its state can be opened, its cache is warm."""
        runtime, choice = self._runtime, self._choice
        targets = runtime.strategies.order(choice)
        conversation = self._conversation() if choice.several and choice.affinity else None
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
            known = self._pin is not None and target.takes(protocol)
            away = distance(self._pin, target.line(protocol).upstream) if known else 0
            return away, place is not None and target.name != place.target

        return sorted(targets, key=far)

    async def keep(self, kept: Kept) -> None:
        """Keep what the tap told, before the caller reads on."""
        await self._runtime.reasoning.keep(self._owner, kept)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not hasattr(self, "_attempt"):
            self.telling.finish(error, None)
            if self._allowance is not None:
                self._allowance.end(asked=not isinstance(error, Exception))
            return
        self.telling.finish(error, self._attempt.target, self.warnings, guess=self._least)
        try:
            await self._attempt.close()
        finally:
            if self._allowance is not None:
                attempt, told = self._attempt, self.telling
                self._allowance.end(attempt.permit, usage=told.usage, answer=attempt.whole, complete=told.ended)

    def _least(self) -> Usage:
        return Usage(input=size_of(self._job).input, estimated=True)

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

    def broke(self, error: GatewayError) -> GatewayError:
        """The error that ends a relayed stream, with what its event must say of how far the stream had come."""
        return self._attempt.broke(error) if isinstance(self._attempt, Attempt) else error

    @property
    def next(self) -> Callable[[], Awaitable[Batch | None]]:
        """The next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        read = self._attempt.next  # handed on as it is: a layer here would cost every read of every stream
        return read if self._allowance is None else self._allowance.counting(read)

    async def events(self) -> AsyncIterator[StreamEvent]:
        """A stream, event by event.

        Raises:
            GatewayError: It broke.
        """
        read = self.next
        while (batch := await read()) is not None:
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
        # Observers may have several gateways to tell apart.
        self._calls = itertools.count(secrets.randbits(31) << 32 | 1)

    def take(
        self,
        intake: Intake,
        inbound: AnyInbound,
        grant: Grant,
        *,
        headers: Headers = EMPTY,
        strict: bool = False,
        request_id: str = "",
    ) -> Call:
        """A call for a request that came as bytes.

        Args:
            intake: The request.
            inbound: Reads it, where it must be read.
            grant: Who asks, and for what they may.
            headers: Of the request; one of them may name the conversation.
            strict: Whether it goes only where it can be taken as it is.
            request_id: Names it in what observers are told; without one, it gets a name.

        Raises:
            ModelNotFound: There is no such model for this caller.
        """
        course = self._course(request_id)

        def remade(asked: Intake) -> tuple[Job, Callable[[], Conversation | None]]:
            job = msgspec.structs.replace(_job(asked, inbound, strict=strict), course=course)
            return job, lambda: conversation_in(asked, headers)

        call = self._call(intake.model, grant, *remade(intake))
        return call if intake.state is None else call.going_on(self._turn(intake, grant), remade)

    def _turn(self, intake: Intake, grant: Grant) -> Turn:
        return Turn(self.runtime.responses, Owner.of(grant.principal), intake)

    async def count(
        self, intake: Intake, inbound: AnyInbound, grant: Grant, *, strict: bool = False, request_id: str = ""
    ) -> Counted:
        """How many tokens a request that came as bytes is; the arguments are those of `take`.

        A count is no call, but one request of its caller's all the same.

        Raises:
            CallerError: The request is wrong, there is no such model for this caller, or it is over its limits.
            UpstreamError: Every upstream that counts failed.
        """
        if intake.state is not None:
            intake = await self._turn(intake, grant).open(may_pass_on=False)
        job = msgspec.structs.replace(_job(intake, inbound, strict=strict), course=self._course(request_id))
        return await self._count(intake.model, grant, job)

    async def count_request(self, request: Request, grant: Grant) -> Counted:
        """How many tokens a request made in Python is.

        Raises:
            GatewayError: As `count`.
        """
        return await self._count(request.model, grant, msgspec.structs.replace(_asked(request), course=self._course()))

    def refused(self, error: GatewayError, *, protocol: str) -> None:
        """Tell that a request made in Python became no call, unless its end has been told."""
        tell_refusal(self.runtime.observers, error, request_id=self._course().request_id, protocol=protocol)

    def not_ready(self) -> str | None:
        """Why calls would fail now, in words for anybody; None: they would not."""
        runtime = self.runtime
        if runtime.open_calls.draining:
            return "shutting down"
        if not runtime.providers:
            return "no provider is enabled"
        executor = runtime.executor
        if any(
            not any(executor.ready(target.provider) for target in choice.targets) for choice in runtime.catalog.routes()
        ):
            return "no upstream of some model can serve now"
        if not any(executor.ready(provider) for provider in runtime.providers.values()):
            return "no upstream can serve now"
        return None

    def ask(self, request: Asked, grant: Grant) -> Call:
        """A call for a request made in Python, for somebody who reads events.

        Raises:
            ModelNotFound: There is no such model for this caller.
        """
        begins = (lambda: conversation_of(request)) if isinstance(request, Request) else (lambda: None)
        job = msgspec.structs.replace(_asked(request), course=self._course())
        return self._call(request.model, grant, job, begins)

    def _course(self, request_id: str = "") -> Course:
        number = next(self._calls)
        return Course(call=number, request_id=request_id or f"call_{number:x}")

    def _call(self, model: str, grant: Grant, job: Job, conversation: Callable[[], Conversation | None]) -> Call:
        runtime = self.runtime  # one plan for the whole call: a reload never splits it
        choice = runtime.catalog.resolve(model, granted(grant))
        owner = Owner.of(grant.principal)
        return Call(runtime, choice, job, owner, conversation, allowance=_allowance(runtime, owner, grant))

    async def _count(self, model: str, grant: Grant, job: Job) -> Counted:
        runtime = self.runtime
        choice = runtime.catalog.resolve(model, granted(grant))
        owner = Owner.of(grant.principal)
        allowance = _allowance(runtime, owner, grant, spends=False)
        if allowance is not None:
            job = await allowance.take(job)
        told = CountTelling(runtime.observers, runtime.clock, job.course, _caller(owner, choice, job))
        try:
            found = await runtime.counting.count(job, choice.targets)
        except BaseException as error:
            told.finish(error)
            raise
        finally:
            if allowance is not None:
                allowance.end()
        told.finish(None, found.target, tokens=found.tokens, estimated=found.estimated)
        return found


def _caller(owner: Owner, choice: Choice, job: Job) -> Caller:
    return Caller(
        principal=owner.principal_id,
        tenant=owner.tenant,
        protocol=job.protocol,
        model=choice.name,
        stream=job.stream,
    )


def _allowance(runtime: Runtime, owner: Owner, grant: Grant, *, spends: bool = True) -> Allowance | None:
    """What a call may take of limits; None: nothing is limited that it has to do with.

    Args:
        runtime: The plan.
        owner: Whose call it is.
        grant: Holds the owner's limits.
        spends: Whether it spends tokens.
    """
    counts_tokens = runtime.executor.counts_tokens
    if grant.limits is None and not (spends and counts_tokens):
        return None
    gate = None if grant.limits is None else runtime.callers.gate(owner, grant.limits)
    return Allowance(gate, counts_tokens=counts_tokens, clock=runtime.clock, observers=runtime.observers, spends=spends)


def _job(intake: Intake, inbound: AnyInbound, *, strict: bool) -> Job:
    """What a request that came as bytes asks for; it is read whole once, and only if it must be."""
    decoded: list[Asked] = []

    def request() -> Asked:
        if not decoded:
            decoded.append(inbound.decode(intake))
        return decoded[0]

    return Job(
        protocol=intake.protocol,
        stream=intake.stream,
        request=request,
        intake=intake,
        each=(lambda: inbound.decode_each(intake)) if intake.several else None,
        strict=strict,
    )


def _keeps(target: Target, job: Job) -> bool:
    """Whether a target's upstream keeps answers that callers of this protocol may go on from."""
    if not target.takes(job.protocol):
        return False
    line = target.line(job.protocol)
    return line.upstream.capabilities.stored and line.outbound.protocol == job.protocol


def _asked(request: Asked) -> Job:
    return Job(protocol=request.protocol, stream=request.stream, request=lambda: request)


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
        if batch.events:
            self._tap.feed(batch.events)
            if isinstance(batch.events[-1], Failed):
                return raw + failure(self._inbound, self._intake, batch.events[-1].error)
        return raw

    async def broke(self, error: GatewayError) -> bytes:
        """The last bytes of a stream that something of ours broke off, whatever came of it; none if it had ended."""
        if self._encoder is not None:
            return self._encoder.feed((Failed(error),))
        if self._call.telling.ended:
            return b""
        return failure(self._inbound, self._intake, self._call.broke(error))


class KeptStream(CallerStream):
    """One that is kept as it passes, and told as what it then is."""

    __slots__ = ("_turn",)

    def __init__(self, call: Call, inbound: AnyInbound, turn: Turn) -> None:
        super().__init__(call, inbound, turn.said)
        self._turn = turn

    @override
    async def next(self) -> bytes | None:
        data = await super().next()
        return await self._turn.tell(data) if data and self._turn.concerns(data) else data

    @override
    async def broke(self, error: GatewayError) -> bytes:
        data = await super().broke(error)
        return await self._turn.tell(data) if data else data


def stream_of(call: Call, inbound: AnyInbound, intake: Intake) -> CallerStream:
    """A streamed answer as its caller reads it."""
    return CallerStream(call, inbound, intake) if call.turn is None else KeptStream(call, inbound, call.turn)


async def whole_of(call: Call, inbound: AnyInbound, intake: Intake) -> bytes:
    """A whole answer as its caller reads it."""
    answer, turn = call.answer(), call.turn
    if isinstance(answer, Batch):
        body = answer.raw or b""
    else:
        body = inbound.encode(answer, intake if turn is None else turn.said)
    return body if turn is None else await turn.tell_whole(body)


def failure(inbound: AnyInbound, intake: Intake, error: GatewayError) -> bytes:
    """An error as an event of the caller's protocol, for a stream of which anything may have been sent already."""
    return inbound.encoder(intake).feed((Failed(error),))


def granted(grant: Grant) -> Allowed:
    """What a grant allows, as the catalog asks it."""
    return everything if grant.models is None else allow(grant.models)
