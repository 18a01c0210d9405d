"""Create calls, count tokens and list models on the current runtime.

::

    InboundRequest ─ catalog ─▶ targets ─ executor ─▶ attempt ─ first event (commit point) ─▶ batches ─▶ bytes or events

`access` decides who may call, before the engine; `endpoints` write to clients, after it.
"""

import itertools
import secrets
from collections.abc import Callable

from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.call import Call, recorded_caller
from llmproxy_asgi.conversation import EMPTY, Request
from llmproxy_asgi.errors import GatewayError, ModelNotFound
from llmproxy_asgi.execution.attempt import Job
from llmproxy_asgi.execution.bodies import HeldBody
from llmproxy_asgi.execution.counting import Counted
from llmproxy_asgi.execution.lazy_request import AnyRequest, DecodedRequest, LazyRequest
from llmproxy_asgi.execution.open_calls import shutting_down
from llmproxy_asgi.execution.reservation import Reservation
from llmproxy_asgi.facts import CallContext
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.routing.catalog import NameFilter, any_name, name_filter
from llmproxy_asgi.runtime import Runtime
from llmproxy_asgi.telemetry.call_recorder import CountRecorder, record_refusal
from llmproxy_asgi.translators.base import AnyInbound, Headers, InboundRequest


class AdmittedRequest:
    """A request that was admitted by its headers, before its body is read; it must be released.

    Args:
        grant: What its principal may do.
        reservation: Of its caller's limits; None: nothing is limited.
        body: Counts the bytes of its body.
    """

    __slots__ = ("_body_detached", "body", "grant", "reservation")

    def __init__(self, grant: Grant, reservation: Reservation | None, body: HeldBody) -> None:
        self.grant = grant
        self.reservation = reservation
        self.body = body
        self._body_detached = False

    def detach_body(self) -> Callable[[], None]:
        """Keep the body counted after the request; return the function that releases it."""
        self._body_detached = True
        return self.body.release

    def release(self) -> None:
        """Release everything that no call owns."""
        if not self._body_detached:
            self.body.release()
        if self.reservation is not None and not self.reservation.is_reserved:
            self.reservation.settle(sent=False)


class Engine:
    """Creates calls on the current runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        # Several gateways may share observers, so their calls must not share numbers.
        self._calls = itertools.count(secrets.randbits(31) << 32 | 1)

    def admit(self, grant: Grant, *, spends: bool = True) -> AdmittedRequest:
        """Admit a request by its headers.

        Args:
            grant: What its principal may do.
            spends: Whether it spends tokens.

        Raises:
            RateLimited: Its caller's limits are reached, and waiting would be in vain.
            Unavailable: The host shuts down.
        """
        runtime = self.runtime
        if runtime.open_calls.draining:
            raise shutting_down()
        reservation = _reservation(runtime, grant.owner, grant, spends=spends)
        if reservation is not None:
            reservation.reserve_early()
        return AdmittedRequest(grant, reservation, HeldBody(runtime.bodies, grant.owner, runtime.config.limits.bodies))

    def call(
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
        """Create the call of a received request.

        Args:
            inbound_request: The request.
            inbound: The codec of its protocol.
            grant: What its principal may do.
            reservation: The one made at `admit`; None: it is made here.
            headers: The request's headers; one of them may name the conversation.
            strict: Whether to use only targets that support the request without losses.
            request_id: Its id for observers; empty: it gets one.

        Raises:
            ModelNotFound: There is no such model for this principal.
        """
        job = _job(inbound_request, inbound, self._context(request_id), strict=strict)
        return self._call(inbound_request.model, grant, job, headers=headers, reservation=reservation)

    def call_request(self, request: AnyRequest, grant: Grant) -> Call:
        """Create the call of a request made in Python, whose caller reads events.

        Raises:
            ModelNotFound: There is no such model for this principal.
        """
        return self._call(request.model, grant, _decoded_job(request, self._context()))

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
        """Count the tokens of a received request; see `call` for the arguments.

        A count is no call, but it counts as one request of its caller.

        Raises:
            CallerError: The request is invalid, there is no such model for this principal, or a limit is reached.
            UpstreamError: Every upstream that can count tokens failed.
        """
        job = _job(inbound_request, inbound, self._context(request_id), strict=strict)
        return await self._count(inbound_request.model, grant, job, reservation)

    async def count_request(self, request: Request, grant: Grant) -> Counted:
        """Count the tokens of a request made in Python.

        Raises:
            GatewayError: See `count`.
        """
        return await self._count(request.model, grant, _decoded_job(request, self._context()))

    def record_refusal(self, error: GatewayError, *, protocol: str) -> None:
        """Record that a request made in Python became no call, unless its end has been recorded."""
        record_refusal(self.runtime.observers, error, request_id=self._context().request_id, protocol=protocol)

    def unready_reason(self) -> str | None:
        """Return why this process accepts no calls; None: it accepts them.

        Failures of upstreams are no reason: all replicas share them, so a load balancer could not avoid them.
        """
        runtime = self.runtime
        if runtime.open_calls.draining:
            return "shutting down"
        return None if runtime.providers else "no provider is enabled"

    def degraded(self) -> list[str]:
        """List the models that no upstream can serve now; `provider/*` where a provider lists none."""
        return self.runtime.degraded()

    async def models(self, grant: Grant) -> list[str]:
        """List all models of this principal; the upstreams of open-ended providers are asked for theirs."""
        catalog, listings = self.runtime.catalog, self.runtime.listings
        open_ended = catalog.open_ended()
        await listings.refresh(open_ended)
        return catalog.names(allowed_models(grant), listings.known(open_ended))

    async def find_model(self, name: str, grant: Grant) -> None:
        """Check that a model can be listed; an upstream that alone can know the name is asked for its models.

        Raises:
            ModelNotFound: There is no such model for this principal, or no upstream of it lists it.
        """
        catalog, listings = self.runtime.catalog, self.runtime.listings
        targets = catalog.unconfigured_targets(catalog.resolve(name, allowed_models(grant)))
        if not targets:
            return
        await listings.refresh({target.provider.name: target.provider for target in targets}.values())
        if not any(listings.may_serve(target.provider, target.model) for target in targets):
            raise ModelNotFound(name)

    def known_models(self) -> list[str]:
        """List all models of all principals, without asking upstreams."""
        catalog = self.runtime.catalog
        return catalog.names(upstream=self.runtime.listings.known(catalog.open_ended()))

    def _context(self, request_id: str = "") -> CallContext:
        number = next(self._calls)
        return CallContext(call=number, request_id=request_id or f"call_{number:x}")

    def _call(
        self,
        model: str,
        grant: Grant,
        job: Job,
        *,
        headers: Headers = EMPTY,
        reservation: Reservation | None = None,
    ) -> Call:
        runtime = self.runtime
        choice = runtime.catalog.resolve(model, allowed_models(grant))
        owner = grant.owner
        if reservation is None:
            reservation = _reservation(runtime, owner, grant)
        return Call(runtime, choice, job, owner, headers=headers, reservation=reservation)

    async def _count(self, model: str, grant: Grant, job: Job, reservation: Reservation | None = None) -> Counted:
        runtime = self.runtime
        choice = runtime.catalog.resolve(model, allowed_models(grant))
        owner = grant.owner
        if reservation is None:
            reservation = _reservation(runtime, owner, grant, spends=False)
        if reservation is not None:
            job = await reservation.reserve(job)
        recorder = CountRecorder(runtime.observers, runtime.clock, job.context, recorded_caller(owner, choice, job))
        try:
            counted = await runtime.counting.count(job, choice.targets)
        except BaseException as error:
            recorder.finish(error)
            raise
        finally:
            if reservation is not None:
                reservation.settle()
        recorder.finish(None, counted.target, tokens=counted.tokens, estimated=counted.estimated)
        return counted


def _reservation(runtime: Runtime, owner: Owner, grant: Grant, *, spends: bool = True) -> Reservation | None:
    """Return the reservation of a call; None: no limit applies to it.

    Args:
        runtime: The current runtime.
        owner: The owner of the call.
        grant: The owner's limits.
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
    """Return the job of a received request."""
    return Job(
        protocol=inbound_request.protocol,
        stream=inbound_request.stream,
        request=LazyRequest(inbound, inbound_request),
        inbound_request=inbound_request,
        strict=strict,
        heavy=inbound_request.heavy,
        context=context,
    )


def _decoded_job(request: AnyRequest, context: CallContext) -> Job:
    """Return the job of a request made in Python."""
    return Job(protocol=request.protocol, stream=request.stream, request=DecodedRequest(request), context=context)


def allowed_models(grant: Grant) -> NameFilter:
    """Return the check of model names that the catalog needs."""
    return any_name if grant.models is None else name_filter(grant.models)
