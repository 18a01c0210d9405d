"""Token counts of requests: from the upstream that would serve them, else estimated with a warning.

A count is no attempt at a response: each credential is tried once, without a wait, and the result shows nothing about
an upstream's health, because vendors limit and disable their counters separately from their models. The tokens are
estimated for an upstream without a counter, and for one at its limit.
"""

from collections.abc import Callable, Sequence

import msgspec

from llmproxy_asgi.conversation import Request
from llmproxy_asgi.errors import GatewayError, Unavailable, Unsupported, UpstreamError
from llmproxy_asgi.execution.admission import TargetAdmission
from llmproxy_asgi.execution.admission_queue import UNLIMITED
from llmproxy_asgi.execution.attempt import Attempt, Job
from llmproxy_asgi.execution.attempt_timer import AttemptTimer
from llmproxy_asgi.execution.retry import CREDENTIAL_BOUND
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.providers.target import Route, Target, supporting
from llmproxy_asgi.translators.base import UpstreamRequest
from llmproxy_asgi.translators.estimate import estimate
from llmproxy_asgi.translators.losses import refuse_held_elsewhere
from llmproxy_asgi.translators.refusals import in_callers_terms
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.transport import Pool
from llmproxy_asgi.worker import Worker

_NO_COUNTER = frozenset({404, 405, 501})
"""Statuses of an upstream without a counter."""
_MAX_SILENCE = 60.0
"""Seconds that a counter may be silent: it generates nothing, so it needs less time than a response."""
_ESTIMATED = "estimated:input_tokens"


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The token count of a request, the target that it is for, and warnings about what was not counted."""

    tokens: int
    estimated: bool
    target: Target
    warnings: tuple[str, ...] = ()


class Counting:
    """Counts the tokens of requests.

    Args:
        pools: Returns a provider's connection pool.
        cooldowns: Credentials that cool down are tried last.
        largest_answer: The maximum size of a response, in bytes.
        admission: The capacity of targets; None: unlimited.
        worker: Decodes large requests.
    """

    def __init__(
        self,
        pools: Callable[[Provider], Pool],
        cooldowns: TargetCooldowns,
        *,
        largest_answer: int,
        admission: TargetAdmission | None = None,
        worker: Worker | None = None,
    ) -> None:
        self._pools = pools
        self._worker = worker or Worker()
        self._admission = admission
        self._cooldowns = cooldowns
        self._largest_answer = largest_answer

    async def count(self, job: Job, targets: Sequence[Target]) -> Counted:
        """Return the count of the first target that has one.

        Args:
            job: The request; whether it is streamed doesn't matter.
            targets: Best first; not empty.

        Raises:
            UpstreamError: Every target with a counter failed; this is the failure of the last one.
            BadRequest: No target can express the request, or the request itself is invalid.
        """
        failure: GatewayError | None = None
        for target in supporting(targets, job.protocol):
            try:
                return await self._on_target(job, target)
            except Unsupported as error:
                failure = failure or in_callers_terms(error, translator(job.protocol).inbound.spelling)
            except UpstreamError as error:
                failure = error
                if not error.failover:
                    break
        raise failure or Unavailable("No upstream can count tokens for this model now: try again later.")

    async def _on_target(self, job: Job, target: Target) -> Counted:
        route = target.counting_route(job.protocol)
        if route is None:
            return await self._estimated(job, target)
        failure: UpstreamError | None = None
        for credential in self._credentials(target):
            permit = UNLIMITED if self._admission is None else self._admission.try_admit(target, credential, 0)
            if permit is None:
                continue
            try:
                return await self._once(job, target, route, credential)
            except CREDENTIAL_BOUND as error:
                failure = error
            finally:
                permit.release()
        if failure is None:
            return await self._estimated(job, target)
        raise failure

    async def _once(self, job: Job, target: Target, route: Route, credential: Credential) -> Counted:
        attempt = (
            await self._worker.run(_CountAttempt, job, target, route, credential)
            if job.heavy
            else _CountAttempt(job, target, route, credential)
        )
        job.context.next_attempt()
        try:
            tokens = await attempt.count(self._pools(target.provider), largest_answer=self._largest_answer)
        except UpstreamError as error:
            error.provider = target.provider.name
            raise
        finally:
            await attempt.close()
        if tokens is None:
            return await self._estimated(job, target)
        return Counted(tokens=tokens, estimated=False, target=target, warnings=attempt.upstream_request.warnings)

    async def _estimated(self, job: Job, target: Target) -> Counted:
        return await self._worker.run(_estimated, job, target) if job.heavy else _estimated(job, target)

    def _credentials(self, target: Target) -> list[Credential]:
        """Return the credentials, those out of cooldown first."""
        return sorted(target.provider.credentials, key=lambda each: self._cooldowns.active(target, each) is not None)


class _CountAttempt(Attempt):
    """One request to a counter, within the timeouts of its provider."""

    __slots__ = ()

    def __init__(self, job: Job, target: Target, route: Route, credential: Credential) -> None:
        super().__init__(job, target, credential, upstream_request=_upstream_request(job, route))
        self.route = route

    async def count(self, pool: Pool, *, largest_answer: int) -> int | None:
        """Return the count; None: there is no counter after all.

        Raises:
            UpstreamError: The counter failed.
        """
        try:
            return await self._count(pool, largest_answer)
        except UpstreamError as error:
            redacted = self._redacted(error)
            if redacted is error:
                raise
            raise redacted from error

    async def _count(self, pool: Pool, largest_answer: int) -> int | None:
        route, timeout = self.route, self.target.provider.config.timeout
        assert route.counting_address is not None
        first_byte, idle = min(timeout.first_byte, _MAX_SILENCE), min(timeout.idle, _MAX_SILENCE)
        self._timer = AttemptTimer(timeout.model_copy(update={"first_byte": first_byte, "idle": idle}))
        headers = self._headers()
        response = self._response = await self._timed(
            pool.open(
                "POST",
                route.counting_address,
                headers,
                self.upstream_request.body,
                connect=timeout.connect,
                progress=self._timer,
            )
        )
        if response.status in _NO_COUNTER:
            return None
        if response.status >= 300:
            raise await self._read_error(response, route.counting_address)
        return route.outbound.decode_count(await self._read_body(response, largest_answer))


def _upstream_request(job: Job, route: Route) -> UpstreamRequest:
    outbound, upstream = route.outbound, route.upstream
    if job.inbound_request is not None and outbound.protocol == job.protocol:
        upstream_request = outbound.passthrough_request(job.inbound_request, upstream)
    else:
        upstream_request = outbound.encode(job.request.for_upstream(upstream), upstream)
    return outbound.encode_count(upstream_request, upstream)


def _estimated(job: Job, target: Target) -> Counted:
    route = target.route(job.protocol)
    request = job.request.decode()
    assert isinstance(request, Request), "only conversations are counted"
    refuse_held_elsewhere(request)
    tokens = estimate(request, route.outbound.protocol)
    return Counted(tokens=tokens, estimated=True, target=target, warnings=(_ESTIMATED,))
