"""How many tokens a request is: asked of the upstream that would serve it, else estimated, and then said to be so.

A count is no attempt at an answer: it is asked once of each credential, it is never worth a wait, and what becomes of
it says nothing about an upstream's health, because vendors limit and switch off their counters apart from their
models. An upstream that has no counter, or says that it has none, is estimated for; so is one that gets as many
requests as it may already.
"""

from collections.abc import Callable, Sequence

import msgspec

from llmproxy_asgi.conversation import Request
from llmproxy_asgi.errors import GatewayError, Unavailable, Unsupported, UpstreamError
from llmproxy_asgi.execution.admission import TargetAdmission
from llmproxy_asgi.execution.admission_queue import UNLIMITED
from llmproxy_asgi.execution.attempt import Attempt, Job
from llmproxy_asgi.execution.clocks import Clocks
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
"""Statuses by which an upstream says that it has no counter."""
_LONGEST_COUNT = 60.0
"""Seconds that a counter may be silent: it generates nothing, so it has no reason to take as long as an answer."""
_ESTIMATED = "estimated:input_tokens"


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens a request is, for which target, and what of the request was not counted."""

    tokens: int
    estimated: bool
    target: Target
    warnings: tuple[str, ...] = ()


class Counting:
    """Counts.

    Args:
        pools: The connection pool of a provider.
        cooldowns: What is left alone for now; a credential that is one of them is asked last.
        largest_answer: Bytes that an answer may have.
        admission: What targets still take; None: as much as there is.
        worker: Where large requests are read.
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
        """The count of the first target that gives one.

        Args:
            job: The request; what it says of streams does not matter.
            targets: Best first; not empty.

        Raises:
            UpstreamError: Every target that has a counter failed; this is how the last one did.
            BadRequest: No target can express the request, or the request itself is broken.
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
        question = (
            await self._worker.run(_Question, job, target, route, credential)
            if job.heavy
            else _Question(job, target, route, credential)
        )
        job.context.next_attempt()
        try:
            tokens = await question.ask(self._pools(target.provider), largest_answer=self._largest_answer)
        except UpstreamError as error:
            error.provider = target.provider.name
            raise
        finally:
            await question.close()
        if tokens is None:
            return await self._estimated(job, target)
        return Counted(tokens=tokens, estimated=False, target=target, warnings=question.upstream_request.warnings)

    async def _estimated(self, job: Job, target: Target) -> Counted:
        return await self._worker.run(_estimated, job, target) if job.heavy else _estimated(job, target)

    def _credentials(self, target: Target) -> list[Credential]:
        """Those that do not rest first."""
        return sorted(target.provider.credentials, key=lambda each: self._cooldowns.active(target, each) is not None)


class _Question(Attempt):
    """One request to a counter, on the clocks of its provider."""

    __slots__ = ("_route",)

    def __init__(self, job: Job, target: Target, route: Route, credential: Credential) -> None:
        super().__init__(job, target, credential, upstream_request=_upstream_request(job, route))
        self._route = route

    async def ask(self, pool: Pool, *, largest_answer: int) -> int | None:
        """The count; None: there is no counter after all.

        Raises:
            UpstreamError: It failed.
        """
        try:
            return await self._asked(pool, largest_answer)
        except UpstreamError as error:
            found = self._disclosed(error)
            if found is error:
                raise
            raise found from error

    async def _asked(self, pool: Pool, largest_answer: int) -> int | None:
        route, timeout = self._route, self.target.provider.config.timeout
        assert route.counting_address is not None
        first_byte, idle = min(timeout.first_byte, _LONGEST_COUNT), min(timeout.idle, _LONGEST_COUNT)
        self._clocks = Clocks(timeout.model_copy(update={"first_byte": first_byte, "idle": idle}))
        headers = self._headers(route)
        answer = self._answer = await self._upstreams_turn(
            pool.open(
                "POST",
                route.counting_address,
                headers,
                self.upstream_request.body,
                connect=timeout.connect,
                progress=self._clocks,
            )
        )
        if answer.status in _NO_COUNTER:
            return None
        if answer.status >= 300:
            raise await self._refusal(answer, route, route.counting_address)
        return route.outbound.decode_count(await self._body(answer, largest_answer))


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
