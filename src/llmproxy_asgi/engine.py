"""The corridor: a call from its caller's request to the last batch of its answer.

::

    InboundRequest ─ catalog ─▶ targets ─ executor ─▶ attempt ─ first event (commit point) ─▶ batches ─▶ bytes or events

It reads like that drawing and decides nothing by itself: who may call is decided before it, how bytes reach a caller
after it.
"""

import itertools
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.call import Belongs, Call, Made, recorded_caller
from llmproxy_asgi.conversation import EMPTY, Request
from llmproxy_asgi.errors import GatewayError, ModelNotFound
from llmproxy_asgi.execution.attempt import Asked, Job
from llmproxy_asgi.execution.bodies import HeldBody
from llmproxy_asgi.execution.counting import Counted
from llmproxy_asgi.execution.open_calls import going_down
from llmproxy_asgi.execution.reservation import Reservation
from llmproxy_asgi.facts import CallContext
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.routing.affinity import conversation_in, conversation_of
from llmproxy_asgi.routing.catalog import Allowed, allow, everything
from llmproxy_asgi.runtime import Runtime
from llmproxy_asgi.telemetry.call_recorder import CountRecorder, record_refusal
from llmproxy_asgi.translators.base import AnyInbound, Headers, InboundRequest

if TYPE_CHECKING:
    from llmproxy_asgi.conversation_state.stateful import ConversationTurn


class Entry:
    """What a request has been let in with by its head, before its body is read. Leave it, whatever happens between.

    Args:
        grant: Who asks, and for what they may.
        reservation: Of its caller's limits; None: nothing is limited.
        body: What is held of its body.
    """

    __slots__ = ("_kept", "body", "grant", "reservation")

    def __init__(self, grant: Grant, reservation: Reservation | None, body: HeldBody) -> None:
        self.grant = grant
        self.reservation = reservation
        self.body = body
        self._kept = False

    def keep(self) -> Callable[[], None]:
        """Go on holding the body when the request is over; to be called when it is held no more."""
        self._kept = True
        return self.body.release

    def leave(self) -> None:
        """Give back what no call has, when the request is over."""
        if not self._kept:
            self.body.release()
        if self.reservation is not None and not self.reservation.is_reserved:
            self.reservation.settle(sent=False)


class Engine:
    """Opens calls on whatever plan is in force."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        # Observers may have several gateways to tell apart.
        self._calls = itertools.count(secrets.randbits(31) << 32 | 1)

    def enter(self, grant: Grant, *, spends: bool = True) -> Entry:
        """Let a request in, as far as its head tells.

        Args:
            grant: Who asks, and for what they may.
            spends: Whether it spends tokens.

        Raises:
            RateLimited: Its caller is over their limits, and it would wait in vain.
            Unavailable: The host shuts down.
        """
        runtime = self.runtime
        if runtime.open_calls.draining:
            raise going_down()
        reservation = _reservation(runtime, grant.owner, grant, spends=spends)
        if reservation is not None:
            reservation.reserve_early()
        return Entry(grant, reservation, HeldBody(runtime.bodies, grant.owner, runtime.config.limits.bodies))

    def take(
        self,
        inbound_request: InboundRequest,
        inbound: AnyInbound,
        grant: Grant,
        *,
        reservation: Reservation | None = None,
        headers: Headers = EMPTY,
        strict: bool = False,
        request_id: str = "",
    ) -> Call:
        """A call for a request that came as bytes.

        Args:
            inbound_request: The request.
            inbound: Reads it, where it must be read.
            grant: Who asks, and for what they may.
            reservation: The one made at `enter`; None: it is made here.
            headers: Of the request; one of them may name the conversation.
            strict: Whether it goes only where it can be taken as it is.
            request_id: Names it in what observers are told; without one, it gets a name.

        Raises:
            ModelNotFound: There is no such model for this caller.
        """
        context = self._new_context(request_id)

        inbound_request = self._keepable(inbound_request, strict=strict)

        def remade(asked: InboundRequest) -> Made:
            return _job(asked, inbound, context, strict=strict), lambda: conversation_in(asked, headers)

        call = self._call(inbound_request.model, grant, *remade(inbound_request), reservation)
        return call if inbound_request.state is None else call.attach_state(self._turn(inbound_request, grant), remade)

    def _keepable(self, inbound_request: InboundRequest, *, strict: bool) -> InboundRequest:
        """The request as it may be served, where nothing may be kept of callers.

        Raises:
            BadRequest: It cannot be served without.
        """
        if inbound_request.state is None or self.runtime.config.store != "never":
            return inbound_request
        from llmproxy_asgi.translators.openai_responses.state import without_storage

        return without_storage(inbound_request, strict=strict)

    def _turn(self, inbound_request: InboundRequest, grant: Grant) -> "ConversationTurn":
        from llmproxy_asgi.conversation_state.stateful import (
            ConversationTurn,  # with the words of Responses, which alone has kept answers
        )

        return ConversationTurn(self.runtime.responses, grant.owner, inbound_request)

    async def count(
        self,
        inbound_request: InboundRequest,
        inbound: AnyInbound,
        grant: Grant,
        *,
        reservation: Reservation | None = None,
        strict: bool = False,
        request_id: str = "",
    ) -> Counted:
        """How many tokens a request that came as bytes is; the arguments are those of `take`.

        A count is no call, but one request of its caller's all the same.

        Raises:
            CallerError: The request is wrong, there is no such model for this caller, or it is over its limits.
            UpstreamError: Every upstream that counts failed.
        """
        inbound_request = self._keepable(inbound_request, strict=strict)
        if inbound_request.state is not None:
            inbound_request = await self._turn(inbound_request, grant).open(may_pass_on=False)
        job = _job(inbound_request, inbound, self._new_context(request_id), strict=strict)
        return await self._count(inbound_request.model, grant, job, reservation)

    async def count_request(self, request: Request, grant: Grant) -> Counted:
        """How many tokens a request made in Python is.

        Raises:
            GatewayError: As `count`.
        """
        return await self._count(request.model, grant, _asked(request, self._new_context()))

    def refused(self, error: GatewayError, *, protocol: str) -> None:
        """Record that a request made in Python became no call, unless its end has been recorded."""
        record_refusal(self.runtime.observers, error, request_id=self._new_context().request_id, protocol=protocol)

    def not_ready(self) -> str | None:
        """Why this process takes no calls; None: it does.

        What upstreams fail at is no reason: it is the same for every replica, and a balancer could not help it.
        """
        runtime = self.runtime
        if runtime.open_calls.draining:
            return "shutting down"
        return None if runtime.providers else "no provider is enabled"

    def degraded(self) -> list[str]:
        """The names of models that no upstream can serve now; `provider/*` where a provider lists none."""
        return self.runtime.degraded()

    async def models(self, grant: Grant) -> list[str]:
        """Every name that can be listed for this caller; open-ended providers' upstreams are asked what they serve."""
        catalog, listings = self.runtime.catalog, self.runtime.listings
        open_ended = catalog.open_ended()
        await listings.refresh(open_ended)
        return catalog.names(granted(grant), listings.known(open_ended))

    async def find_model(self, name: str, grant: Grant) -> None:
        """Look a name up as callers may list it; an upstream that alone can know the name is asked what it serves.

        Raises:
            ModelNotFound: There is no such model for this caller, or no upstream that it leads to lists it.
        """
        catalog, listings = self.runtime.catalog, self.runtime.listings
        targets = catalog.passed_on(catalog.resolve(name, granted(grant)))
        if not targets:
            return
        await listings.refresh({target.provider.name: target.provider for target in targets}.values())
        if not any(listings.may_serve(target.provider, target.model) for target in targets):
            raise ModelNotFound(name)

    def known_models(self) -> list[str]:
        """The same for everybody, without asking anybody."""
        catalog = self.runtime.catalog
        return catalog.names(upstream=self.runtime.listings.known(catalog.open_ended()))

    def ask(self, request: Asked, grant: Grant) -> Call:
        """A call for a request made in Python, for somebody who reads events.

        Raises:
            ModelNotFound: There is no such model for this caller.
        """
        begins = (lambda: conversation_of(request)) if isinstance(request, Request) else (lambda: None)
        return self._call(request.model, grant, _asked(request, self._new_context()), begins)

    def _new_context(self, request_id: str = "") -> CallContext:
        number = next(self._calls)
        return CallContext(call=number, request_id=request_id or f"call_{number:x}")

    def _call(
        self, model: str, grant: Grant, job: Job, conversation: Belongs, reservation: Reservation | None = None
    ) -> Call:
        runtime = self.runtime  # one plan for the whole call: a reload never splits it
        choice = runtime.catalog.resolve(model, granted(grant))
        owner = grant.owner
        if reservation is None:
            reservation = _reservation(runtime, owner, grant)
        return Call(runtime, choice, job, owner, conversation, reservation=reservation)

    async def _count(self, model: str, grant: Grant, job: Job, reservation: Reservation | None = None) -> Counted:
        runtime = self.runtime
        choice = runtime.catalog.resolve(model, granted(grant))
        owner = grant.owner
        if reservation is None:
            reservation = _reservation(runtime, owner, grant, spends=False)
        if reservation is not None:
            job = await reservation.reserve(job)
        recorder = CountRecorder(runtime.observers, runtime.clock, job.context, recorded_caller(owner, choice, job))
        try:
            found = await runtime.counting.count(job, choice.targets)
        except BaseException as error:
            recorder.finish(error)
            raise
        finally:
            if reservation is not None:
                reservation.settle()
        recorder.finish(None, found.target, tokens=found.tokens, estimated=found.estimated)
        return found


def _reservation(runtime: Runtime, owner: Owner, grant: Grant, *, spends: bool = True) -> Reservation | None:
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
    queue = None if grant.limits is None else runtime.callers.queue(owner, grant.limits)
    return Reservation(
        queue,
        counts_tokens=counts_tokens,
        clock=runtime.clock,
        observers=runtime.observers,
        worker=runtime.worker,
        uses_tokens=spends,
    )


def _job(inbound_request: InboundRequest, inbound: AnyInbound, context: CallContext, *, strict: bool) -> Job:
    """What a request that came as bytes asks for; it is read whole once, and only if it must be."""
    decoded: list[Asked] = []

    def request() -> Asked:
        if not decoded:
            decoded.append(inbound.decode(inbound_request))
        return decoded[0]

    return Job(
        protocol=inbound_request.protocol,
        stream=inbound_request.stream,
        request=request,
        inbound_request=inbound_request,
        each=(lambda: inbound.decode_each(inbound_request)) if inbound_request.is_batch else None,
        strict=strict,
        heavy=inbound_request.heavy,
        context=context,
    )


def _asked(request: Asked, context: CallContext) -> Job:
    return Job(protocol=request.protocol, stream=request.stream, request=lambda: request, context=context)


def granted(grant: Grant) -> Allowed:
    """What a grant allows, as the catalog asks it."""
    return everything if grant.models is None else allow(grant.models)
