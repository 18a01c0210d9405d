"""Tries targets until one responds: the only place that retries, and the commit point.

Until an attempt's first event (or its whole response) any failure may be retried or failed over, because nothing of it
has reached the caller. After it nothing is retried. Three special cases are recognized here and implemented elsewhere:
a request that is refused for its reasoning is sent once more without it (`reasoning`), a response that its upstream
pauses is continued for callers who can't (`continuation`), and several prompts are sent one by one to an upstream that
takes only one (`fan_out`). Who may call, the order of targets, and what is written to the caller are decided elsewhere.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import (
    GatewayError,
    RateLimited,
    Unavailable,
    Unsupported,
    UpstreamError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
)
from llmproxy_asgi.execution.admission import TargetAdmission, format_wait
from llmproxy_asgi.execution.admission_queue import UNLIMITED, Permit
from llmproxy_asgi.execution.attempt import Attempt, Job
from llmproxy_asgi.execution.budget import RetryBudgets
from llmproxy_asgi.execution.continuation import Continuation, may_pause
from llmproxy_asgi.execution.cooldown import Cooldown
from llmproxy_asgi.execution.fan_out import FanOutAttempt
from llmproxy_asgi.execution.open_response import OpenResponse
from llmproxy_asgi.execution.reasoning import without_reasoning
from llmproxy_asgi.execution.retry import CREDENTIAL_BOUND, wait_before_retry
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.execution.tokens import estimate_tokens
from llmproxy_asgi.facts import (
    NO_OBSERVERS,
    AttemptBegan,
    AttemptFailed,
    CallContext,
    NextAction,
    Observers,
    QueueLeft,
    Step,
)
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.providers.target import Target, supporting
from llmproxy_asgi.translators.base import UpstreamRequest
from llmproxy_asgi.translators.refusals import in_callers_terms
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.transport import Pool
from llmproxy_asgi.worker import Worker

_WAITS = (UpstreamRateLimited, UpstreamQuotaExceeded)

TargetCredential: TypeAlias = tuple[Target, Credential]
"""Where a call may be sent, and with which credential."""


class EligibleTarget(msgspec.Struct, frozen=True):
    """A target, and the credentials to try it with, in order."""

    target: Target
    credentials: Sequence[Credential]
    forced: bool = False
    """Whether it is tried although it cools down, because no other target is left."""


class _NoCredential(Exception):
    """No credential of a target can be used: they cool down or are at their limits. Never leaves the executor."""


class Executor:
    """Begins attempts.

    Args:
        pools: Returns a provider's connection pool.
        cooldowns: What is avoided for now.
        budgets: How many retries are allowed.
        admission: The capacity of targets; None: unlimited.
        largest_answer: The maximum size of a whole response, in bytes.
        largest_stream: The maximum size of a stream, in bytes.
        observers: Receive facts.
        on_first_event: Receives a target's name and its seconds to the first event; None: no strategy needs them.
        clock: Measures time, and sleeps.
        worker: Reads and writes large requests and responses.
        draw: The source of jitter.
    """

    def __init__(
        self,
        pools: Callable[[Provider], Pool],
        cooldowns: TargetCooldowns,
        *,
        largest_answer: int,
        largest_stream: int,
        budgets: RetryBudgets | None = None,
        admission: TargetAdmission | None = None,
        observers: Observers = NO_OBSERVERS,
        on_first_event: Callable[[str, float], None] | None = None,
        clock: Clock = SYSTEM,
        worker: Worker | None = None,
        draw: random.Random | None = None,
    ) -> None:
        self._pools = pools
        self._cooldowns = cooldowns
        self._budgets = budgets or RetryBudgets(clock)
        self._admission = admission
        self._largest_answer = largest_answer
        self._largest_stream = largest_stream
        self._observers = observers
        self._on_first_event = on_first_event
        self._clock = clock
        self._worker = worker or Worker()
        self._draw = draw or random.Random()  # noqa: S311  jitter, not secrets
        self._rotation = itertools.count()

    async def begin(self, job: Job, targets: Sequence[Target], *, prefer: str | None = None) -> OpenResponse:
        """Return the first attempt that responds. The caller closes it.

        Args:
            job: The request.
            targets: Best first; not empty.
            prefer: The fingerprint of the credential to begin with, where a target has it.

        Raises:
            UpstreamError: Every target failed; this is the failure of the last one.
            BadRequest: No target can express the request, or the request itself is invalid.
            RateLimited: The targets that could serve it are at their limits, as long as a call may wait.
            Unavailable: Likewise, and time alone adds no capacity.
        """
        failures: list[UpstreamError] = []
        unsupported: Unsupported | None = None
        full: list[TargetCredential] = []
        # A target without a route for this caller must not be forced in place of a supporting one that cools down.
        supported = supporting(targets, job.protocol)
        try:
            for eligible in self._eligible(supported, prefer, job.context):
                self._notify_failures(job.context, "failover")
                try:
                    try:
                        return await self._try_target(job, eligible, full)
                    except Unsupported as error:
                        return await self._try_protocols(job, eligible, full, error)
                except _NoCredential:
                    continue
                except Unsupported as error:
                    unsupported = unsupported or in_callers_terms(error, translator(job.protocol).inbound.spelling)
                    step = Step(eligible.target.name, "skipped", "unfit", param=error.param)
                    job.context.steps.append(step)
                except UpstreamError as error:
                    failures.append(error)
                    if not error.failover:
                        break
            else:
                if full:
                    return await self._wait_then_try(job, full, failures, unsupported)
        finally:
            self._notify_failures(job.context, "give_up")
        raise _final_error(failures) or unsupported or _no_upstream()

    @property
    def counts_tokens(self) -> bool:
        """Whether any target limits the tokens of a call (`Job.tokens`)."""
        return self._admission is not None and self._admission.counts_tokens

    async def _wait_then_try(
        self,
        job: Job,
        full: list[TargetCredential],
        failures: list[UpstreamError],
        unsupported: Unsupported | None,
    ) -> OpenResponse:
        """Try the targets at their limits in the order in which they admit the call; otherwise as `begin`."""
        cooldowns: list[Cooldown] = []
        while full:
            target, credential, permit = await self._acquire(job, full, failures)
            full = [each for each in full if each != (target, credential)]  # one fewer each time, so the loop ends
            if (cooldown := self._cooldowns.active(target, credential)) is not None:
                permit.cancel()  # it began to cool down while the call waited
                cooldowns.append(cooldown)
                job.context.steps.append(Step(target.name, "skipped", "resting"))
                continue
            eligible = EligibleTarget(target, [credential, *(each[1] for each in full if each[0] is target)])
            elsewhere = [each for each in full if each[0] is not target]
            try:
                return await self._try_target(job, eligible, [], first=(credential, permit))
            except Unsupported as error:
                full = elsewhere
                unsupported = unsupported or in_callers_terms(error, translator(job.protocol).inbound.spelling)
                if (other := target.next_protocol(job.protocol)) is not None:
                    full.append((other, credential))
            except UpstreamError as error:
                failures.append(error)
                if not error.failover:
                    break
                if not isinstance(error, CREDENTIAL_BOUND):
                    full = elsewhere
        raise _final_error(failures) or unsupported or self._cooldown_error(cooldowns)

    async def _acquire(
        self, job: Job, full: Sequence[TargetCredential], failures: Sequence[UpstreamError]
    ) -> tuple[Target, Credential, Permit]:
        """Wait for the first of the full targets that admits the call."""
        assert self._admission is not None, "only limits make a target full"
        since = self._clock.monotonic()
        provider, admitted = full[0][0].provider.name, False
        try:
            target, credential, permit = await self._admission.wait(full, job.tokens)
            provider, admitted = target.provider.name, True
        except (RateLimited, Unavailable) as error:
            raise _final_error(failures) or error from None
        finally:
            seconds = self._clock.monotonic() - since
            job.context.queue_seconds += seconds
            if self._observers.listening:
                left = QueueLeft(call=job.context.call, provider=provider, seconds=seconds, admitted=admitted)
                self._observers.notice(left)
        self._notify_failures(job.context, "failover")
        return target, credential, permit

    async def _try_protocols(
        self, job: Job, eligible: EligibleTarget, full: list[TargetCredential], unsupported: Unsupported
    ) -> OpenResponse:
        """Try the upstream's other protocols, until one can express the request.

        Args:
            job: The request.
            eligible: The target.
            full: As in `_try_target`.
            unsupported: Why the first protocol can't express it; raised if no other can, either.
        """
        other = eligible.target.next_protocol(job.protocol)
        while other is not None:
            try:
                return await self._try_target(job, msgspec.structs.replace(eligible, target=other), full)
            except Unsupported:
                other = other.next_protocol(job.protocol)
        raise unsupported

    async def _try_target(
        self,
        job: Job,
        eligible: EligibleTarget,
        full: list[TargetCredential],
        *,
        first: tuple[Credential, Permit] | None = None,
    ) -> OpenResponse:
        """Try a target as often as its retries allow, with each of its credentials in turn.

        Args:
            job: The request.
            eligible: The target.
            full: Receives the credentials that are at their limits.
            first: The credential to begin with, and the permit that was waited for.
        """
        target = eligible.target
        retry = target.provider.config.retry
        budget = self._budgets.of(target.provider.name)
        failure: UpstreamError | None = None
        usable = self._usable_credentials(eligible, job, full)
        for tried, (credential, permit) in enumerate(usable if first is None else itertools.chain([first], usable), 1):
            if tried == 1:
                budget.first_attempt()
            try:
                return await self._with_permit(job, target, credential, permit)
            except UpstreamError as error:
                failure = error
                if isinstance(error, CREDENTIAL_BOUND) and tried < min(len(eligible.credentials), retry.attempts):
                    wait: float | None = 0.0
                else:
                    wait = wait_before_retry(error, retry, tried=tried, draw=self._draw)
                if wait is None or eligible.forced or not self._is_ready_in(eligible, wait) or not budget.try_retry():
                    raise
            self._notify_failures(job.context, "retry", wait)
            if wait:
                await self._clock.sleep(wait)
        raise failure or _NoCredential

    def _is_ready_in(self, eligible: EligibleTarget, wait: float) -> bool:
        """Return whether one of its credentials is out of cooldown after a wait; else the wait would be in vain."""
        active = [self._cooldowns.active(eligible.target, each) for each in eligible.credentials]
        return any(each is None or self._cooldowns.seconds_left(each) <= wait for each in active)

    def _usable_credentials(
        self, eligible: EligibleTarget, job: Job, full: list[TargetCredential]
    ) -> Iterator[tuple[Credential, Permit]]:
        """Yield credentials in turn, endlessly, while one is neither cooling down nor at its limit."""
        target, context = eligible.target, job.context
        while True:
            why = "resting"
            found = False
            for credential in eligible.credentials:
                if not eligible.forced and self._cooldowns.active(target, credential) is not None:
                    continue
                permit = UNLIMITED
                if self._admission is not None:
                    admitted = self._admission.try_admit(target, credential, job.tokens)
                    if admitted is None:
                        why = "full"
                        full.append((target, credential))
                        continue
                    permit = admitted
                found = True
                yield credential, permit
            if not found:
                context.steps.append(Step(target.name, "skipped", why))
                return

    async def _with_permit(self, job: Job, target: Target, credential: Credential, permit: Permit) -> OpenResponse:
        try:
            if job.request.is_batch and not target.route(job.protocol).passthrough:
                opened: OpenResponse = await self._fan_out(job, target, credential)
            else:
                opened = await self._attempt(job, target, credential)
        except UpstreamError:
            permit.settle(0)
            permit.release()
            raise
        except GatewayError:
            permit.cancel()  # nothing was sent
            raise
        except BaseException:
            if permit.counts_tokens:
                permit.settle(estimate_tokens(job).input)  # all that is known: it was cancelled before a response began
            permit.release()
            raise
        opened.permit = permit
        return opened

    async def _attempt(self, job: Job, target: Target, credential: Credential) -> Attempt | Continuation:
        run = self._worker.run
        attempt = await run(Attempt, job, target, credential) if job.heavy else Attempt(job, target, credential)
        try:
            await self._begin(attempt)
        except UpstreamRefused as error:
            bare = await run(without_reasoning, attempt, error) if job.heavy else without_reasoning(attempt, error)
            if bare is None:
                raise
            self._notify_failures(job.context, "retry")
            attempt = await self._begin(bare)
        return await self._continue(attempt) if may_pause(attempt) else attempt

    async def _fan_out(self, job: Job, target: Target, credential: Credential) -> FanOutAttempt:
        """Send several prompts one by one; unstreamed, every response is complete on return."""
        admission = self._admission
        make = partial(
            FanOutAttempt,
            job,
            target,
            credential,
            begin=lambda one: self._attempt(one, target, credential),
            # The tokens of all of them are reserved already.
            try_admit=lambda: UNLIMITED if admission is None else admission.try_admit(target, credential, 0),
        )
        fan_out = await self._worker.run(make) if job.heavy else make()
        try:
            await fan_out.begin()
        except BaseException:
            await fan_out.close()
            raise
        return fan_out

    async def _continue(self, attempt: Attempt) -> Continuation:
        """Return a response that may take several rounds; unstreamed, all of them are complete on return."""

        async def next_round(upstream_request: UpstreamRequest) -> Attempt:
            return await self._begin(
                Attempt(attempt.job, attempt.target, attempt.credential, upstream_request=upstream_request)
            )

        continuation = Continuation(attempt, next_round)
        try:
            await continuation.complete()
        except BaseException:
            await continuation.close()
            raise
        return continuation

    async def _begin(self, attempt: Attempt) -> Attempt:
        """Begin an attempt and record its result; a failed attempt is closed."""
        target, credential, context = attempt.target, attempt.credential, attempt.job.context
        number = context.next_attempt()
        if self._observers.wants_starts:
            self._observers.notice(_began(attempt, number))
        self._cooldowns.attempt_started(target, credential)
        largest = self._largest_stream if attempt.job.stream else self._largest_answer
        since = self._clock.monotonic()
        try:
            await attempt.begin(self._pools(target.provider), largest=largest, worker=self._worker)
        except BaseException as error:
            if isinstance(error, UpstreamError):
                self._record_failure(attempt, error, number, self._clock.monotonic() - since)
            else:
                self._cooldowns.attempt_abandoned(target, credential)
            await attempt.close()
            raise
        seconds = self._clock.monotonic() - since
        context.steps.append(Step(target.name, "served", seconds=round(seconds, 3)))
        if self._on_first_event is not None:
            self._on_first_event(target.name, seconds)
        if attempt.ended:
            self._cooldowns.succeeded(target, credential)
        else:
            self._cooldowns.response_started(target, credential)
            attempt.on_end = self._stream_recorder(target, credential)
        return attempt

    def _stream_recorder(self, target: Target, credential: Credential) -> Callable[[UpstreamError | None], None]:
        """Return what records the end of a stream: one that breaks off is a failure like any other."""

        def record_end(failure: UpstreamError | None) -> None:
            if failure is None:
                self._cooldowns.succeeded(target, credential)
            else:
                failure.provider = target.provider.name
                self._count_failure(target, credential, failure)

        return record_end

    def _record_failure(self, attempt: Attempt, error: UpstreamError, number: int, seconds: float) -> None:
        provider, credential = attempt.target.provider, attempt.credential
        error.provider = provider.name
        self._count_failure(attempt.target, credential, error)
        step = Step(
            attempt.target.name,
            "failed",
            error.kind.value,
            error.upstream_status,
            round(seconds, 3),
            reason=error.reason,
        )
        attempt.job.context.steps.append(step)
        if self._observers.listening:
            failed = AttemptFailed(
                call=attempt.job.context.call,
                request_id=attempt.job.context.request_id,
                attempt=number,
                provider=provider.name,
                model=attempt.target.model,
                credential=credential.fingerprint,
                kind=error.kind.value,
                status=error.upstream_status,
                reason=error.reason,
                upstream_request_id=error.upstream_request_id or "",
                seconds=seconds,
                next_action="give_up",
            )
            attempt.job.context.pending_failures.append(failed)

    def _count_failure(self, target: Target, credential: Credential, error: UpstreamError) -> None:
        """Count a failure for cooldowns, unless it shows nothing about the upstream."""
        if error.blames_upstream:
            self._cooldowns.failed(target, credential, error, target.provider.config.cooldown)
        else:
            self._cooldowns.attempt_abandoned(target, credential)

    def _notify_failures(self, context: CallContext, next_action: NextAction, wait: float = 0.0) -> None:
        """Notify observers of the failures whose next action is decided now."""
        if context.pending_failures:
            pending_failures, context.pending_failures = context.pending_failures, []
            for failed in pending_failures:
                self._observers.notice(msgspec.structs.replace(failed, next_action=next_action, wait=wait))

    def _eligible(
        self, targets: Sequence[Target], prefer: str | None, context: CallContext
    ) -> Sequence[EligibleTarget]:
        """Return targets with the credentials out of cooldown; if there are none, the one that may be forced.

        Raises:
            UpstreamRateLimited: All cool down because their upstreams asked for it.
        """
        rotation = next(self._rotation)
        if not self._cooldowns.known:
            return [
                EligibleTarget(target, _rotated(target.provider.credentials, rotation, prefer)) for target in targets
            ]
        eligible: list[EligibleTarget] = []
        cooling: list[tuple[Cooldown, Target, Credential]] = []
        for target in targets:
            ready = []
            not_ready = []
            for credential in _rotated(target.provider.credentials, rotation, prefer):
                cooldown = self._cooldowns.active(target, credential)
                if cooldown is None:
                    ready.append(credential)
                else:
                    not_ready.append((cooldown, target, credential))
            if ready:
                eligible.append(EligibleTarget(target, ready))
            else:
                seconds = min(self._cooldowns.seconds_left(cooldown) for cooldown, _, _ in not_ready)
                context.steps.append(Step(target.name, "skipped", "resting", seconds=round(seconds, 3)))
            cooling += not_ready
        return eligible or [self._forced(cooling)]

    def _forced(self, cooling: list[tuple[Cooldown, Target, Credential]]) -> EligibleTarget:
        """Return the target to force: the one whose cooldown ends first, among those that no upstream asked for."""
        not_asked = [entry for entry in cooling if not entry[0].asked]
        if not_asked:
            _, target, credential = min(not_asked, key=lambda entry: entry[0].until)
            return EligibleTarget(target, [credential], forced=True)
        raise self._cooldown_error([cooldown for cooldown, _, _ in cooling])

    def _cooldown_error(self, cooldowns: Sequence[Cooldown]) -> GatewayError:
        """Return the error of a call for which only targets in cooldown are left."""
        if not cooldowns:
            return _no_upstream()
        wait = min(map(self._cooldowns.seconds_left, cooldowns))
        if all(cooldown.asked for cooldown in cooldowns):
            message = f"Every upstream of this model has asked for a pause. Try again in {format_wait(wait)}."
            return UpstreamRateLimited(message, retry_after=wait)
        return Unavailable("No upstream can serve this model now: try again later.", retry_after=wait)


def _rotated(credentials: Sequence[Credential], rotation: int, prefer: str | None) -> Sequence[Credential]:
    if len(credentials) == 1:
        return credentials
    start = rotation % len(credentials)
    if prefer is not None:
        start = next((at for at, each in enumerate(credentials) if each.fingerprint == prefer), start)
    return [*credentials[start:], *credentials[:start]]


def _final_error(failures: Sequence[UpstreamError]) -> UpstreamError | None:
    """Return the failure to raise: of the last target; if all asked for a wait, the one with the shortest."""
    if not failures:
        return None
    last = failures[-1]
    waits = [each.retry_after for each in failures if isinstance(each, _WAITS) and each.retry_after is not None]
    if waits and all(isinstance(each, _WAITS) for each in failures):
        last = next(each for each in failures if each.retry_after == min(waits))
    return last


def _no_upstream() -> Unavailable:
    return Unavailable("No upstream can serve this model now: try again later.")


def _began(attempt: Attempt, number: int) -> AttemptBegan:
    target = attempt.target
    return AttemptBegan(
        call=attempt.job.context.call,
        request_id=attempt.job.context.request_id,
        attempt=number,
        provider=target.provider.name,
        model=target.model,
        protocol=attempt.route.outbound.protocol,
        credential=attempt.credential.fingerprint,
    )
