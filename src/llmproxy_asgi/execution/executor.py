"""Tries targets until one has something to say: the only place that retries, and the commit point.

Up to an attempt's first event (or its whole answer) any failure may be retried or taken to the next target, because
nothing of it has reached the caller. After it nothing is retried any more. Three turns are looked for here and made
elsewhere: a request refused for its reasoning goes once more without it (`reasoning`), an answer that its upstream
pauses is gone on with for callers who cannot (`continuation`), and what a caller asks at once is asked one by one where
the upstream takes it only so (`together`). Who may call, in which order targets come, and what is written to the
caller, is decided elsewhere.
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
from llmproxy_asgi.execution.continuation import Continuation, may_need
from llmproxy_asgi.execution.cooldown import Rest
from llmproxy_asgi.execution.reasoning import without_reasoning
from llmproxy_asgi.execution.retry import CREDENTIAL_BOUND, wait_before_retry
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.execution.together import Together
from llmproxy_asgi.execution.tokens import size_of
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

Opened: TypeAlias = Attempt | Continuation | Together
"""What has begun, and is read and closed in the same way whatever it is."""

Seat: TypeAlias = tuple[Target, Credential]
"""Where one call may go, and what would sign it there."""


class Candidate(msgspec.Struct, frozen=True):
    """A target, and the credentials that it may be tried with, in order."""

    target: Target
    credentials: Sequence[Credential]
    forced: bool = False
    """Whether it is tried although it rests, because nothing else is left."""


class _PassedOver(Exception):
    """None of a target's credentials can be tried: they rest, or they are full. Never leaves the executor."""


class Executor:
    """Begins attempts.

    Args:
        pools: The connection pool of a provider.
        cooldowns: What is left alone for now.
        budgets: How much may be tried again.
        admission: What targets still take; None: as much as there is.
        largest_answer: Bytes that a whole answer may have.
        largest_stream: Bytes that all of a stream may have.
        observers: Who wants to know.
        heard: Told how long a target (by its name) took to its first event, in seconds; None: nobody asks.
        clock: Told the time by, and slept with.
        worker: Where large requests and answers are read and written.
        draw: Where jitter comes from.
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
        heard: Callable[[str, float], None] | None = None,
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
        self._heard = heard
        self._clock = clock
        self._worker = worker or Worker()
        self._draw = draw or random.Random()  # noqa: S311  jitter, not secrets
        self._turn = itertools.count()

    async def begin(self, job: Job, targets: Sequence[Target], *, prefer: str | None = None) -> Opened:
        """The first attempt that has something to say. The caller closes it.

        Args:
            job: What is to be done.
            targets: Best first; not empty.
            prefer: The fingerprint of the credential to begin with, where a target has it.

        Raises:
            UpstreamError: Every target failed; this is how the last one did.
            BadRequest: No target can express the request, or the request itself is broken.
            RateLimited: Those that could take it are full, and were for as long as a call may wait.
            Unavailable: As before, but time alone makes no room.
        """
        failures: list[UpstreamError] = []
        unfit: Unsupported | None = None
        full: list[Seat] = []
        # One that cannot be spoken to for this caller must not stand in for a fit one that rests.
        fit = supporting(targets, job.protocol)
        try:
            for candidate in self._candidates(fit, prefer, job.context):
                self._tell(job.context, "failover")
                try:
                    try:
                        return await self._on_target(job, candidate, full)
                    except Unsupported as error:
                        return await self._another_way(job, candidate, full, error)
                except _PassedOver:
                    continue
                except Unsupported as error:
                    unfit = unfit or in_callers_terms(error, translator(job.protocol).inbound.spelling)
                    step = Step(candidate.target.name, "skipped", "unfit", param=error.param)
                    job.context.steps.append(step)
                except UpstreamError as error:
                    failures.append(error)
                    if not error.failover:
                        break
            else:
                if full:
                    return await self._in_line(job, full, failures, unfit)
        finally:
            self._tell(job.context, "give_up")
        raise _verdict(failures) or unfit or _nobody()

    @property
    def counts_tokens(self) -> bool:
        """Whether any target minds how many tokens a call is (`Job.tokens`)."""
        return self._admission is not None and self._admission.counts_tokens

    async def _in_line(
        self,
        job: Job,
        full: list[Seat],
        failures: list[UpstreamError],
        unfit: Unsupported | None,
    ) -> Opened:
        """On the full ones, in the order in which they let the call in; as far as it may go on, and as `begin` does."""
        rests: list[Rest] = []
        while full:
            target, credential, permit = await self._when_there_is_room(job, full, failures)
            full = [each for each in full if each != (target, credential)]  # one fewer each time: this ends
            if (rest := self._cooldowns.resting(target, credential)) is not None:
                permit.cancel()  # others were sent away from there meanwhile
                rests.append(rest)
                job.context.steps.append(Step(target.name, "skipped", "resting"))
                continue
            candidate = Candidate(target, [credential, *(each[1] for each in full if each[0] is target)])
            elsewhere = [each for each in full if each[0] is not target]
            try:
                return await self._on_target(job, candidate, [], first=(credential, permit))
            except Unsupported as error:
                full = elsewhere
                unfit = unfit or in_callers_terms(error, translator(job.protocol).inbound.spelling)
                if (other := target.next_protocol(job.protocol)) is not None:
                    full.append((other, credential))
            except UpstreamError as error:
                failures.append(error)
                if not error.failover:
                    break
                if not isinstance(error, CREDENTIAL_BOUND):
                    full = elsewhere
        raise _verdict(failures) or unfit or self._pause(rests)

    async def _when_there_is_room(
        self, job: Job, full: Sequence[Seat], failures: Sequence[UpstreamError]
    ) -> tuple[Target, Credential, Permit]:
        """The first of the full ones that lets the call in."""
        assert self._admission is not None, "only limits make anything full"
        since = self._clock.monotonic()
        provider, admitted = full[0][0].provider.name, False
        try:
            target, credential, permit = await self._admission.wait(full, job.tokens)
            provider, admitted = target.provider.name, True
        except (RateLimited, Unavailable) as error:
            raise _verdict(failures) or error from None
        finally:
            seconds = self._clock.monotonic() - since
            job.context.queue_seconds += seconds
            if self._observers.listening:
                left = QueueLeft(call=job.context.call, provider=provider, seconds=seconds, admitted=admitted)
                self._observers.notice(left)
        self._tell(job.context, "failover")
        return target, credential, permit

    async def _another_way(self, job: Job, candidate: Candidate, full: list[Seat], unfit: Unsupported) -> Opened:
        """In the first of the upstream's other protocols that can express the request.

        Args:
            job: What is to be done.
            candidate: Where.
            full: As in `_on_target`.
            unfit: Why it could not be expressed before; raised where it cannot be in any other, either.
        """
        other = candidate.target.next_protocol(job.protocol)
        while other is not None:
            try:
                return await self._on_target(job, msgspec.structs.replace(candidate, target=other), full)
            except Unsupported:
                other = other.next_protocol(job.protocol)
        raise unfit

    async def _on_target(
        self, job: Job, candidate: Candidate, full: list[Seat], *, first: tuple[Credential, Permit] | None = None
    ) -> Opened:
        """As often as it may be tried, with each of its credentials in turn.

        Args:
            job: What is to be done.
            candidate: Where.
            full: Takes those that are full.
            first: The credential to begin with, and the room that was waited for.
        """
        target = candidate.target
        retry = target.provider.config.retry
        budget = self._budgets.of(target.provider.name)
        failure: UpstreamError | None = None
        places = self._places(candidate, job, full)
        for tried, (credential, permit) in enumerate(places if first is None else itertools.chain([first], places), 1):
            if tried == 1:
                budget.tried()
            try:
                return await self._with_permit(job, target, credential, permit)
            except UpstreamError as error:
                failure = error
                if isinstance(error, CREDENTIAL_BOUND) and tried < min(len(candidate.credentials), retry.attempts):
                    wait: float | None = 0.0
                else:
                    wait = wait_before_retry(error, retry, tried=tried, draw=self._draw)
                if wait is None or candidate.forced or not self._is_awake(candidate, wait) or not budget.may_retry():
                    raise
            self._tell(job.context, "retry", wait)
            if wait:
                await self._clock.sleep(wait)
        raise failure or _PassedOver

    def _is_awake(self, candidate: Candidate, wait: float) -> bool:
        """Whether one of its credentials does not rest after a wait: else nobody need wait for it."""
        rests = [self._cooldowns.resting(candidate.target, each) for each in candidate.credentials]
        return any(rest is None or self._cooldowns.seconds_left(rest) <= wait for rest in rests)

    def _places(self, candidate: Candidate, job: Job, full: list[Seat]) -> Iterator[tuple[Credential, Permit]]:
        """In turn, for ever, as long as one of them neither rests nor is full. Those that are full are noted down."""
        target, context = candidate.target, job.context
        while True:
            why = "resting"
            found = False
            for credential in candidate.credentials:
                if not candidate.forced and self._cooldowns.resting(target, credential) is not None:
                    continue
                permit = UNLIMITED
                if self._admission is not None:
                    room = self._admission.try_admit(target, credential, job.tokens)
                    if room is None:
                        why = "full"
                        full.append((target, credential))
                        continue
                    permit = room
                found = True
                yield credential, permit
            if not found:
                context.steps.append(Step(target.name, "skipped", why))
                return

    async def _with_permit(self, job: Job, target: Target, credential: Credential, permit: Permit) -> Opened:
        try:
            if job.request.is_batch and target.route(job.protocol).outbound.protocol != job.protocol:
                opened: Opened = await self._together(job, target, credential)
            else:
                opened = await self._once(job, target, credential)
        except UpstreamError:
            permit.settle(0)
            permit.release()
            raise
        except GatewayError:
            permit.cancel()  # nothing was sent
            raise
        except BaseException:
            if permit.counts_tokens:
                permit.settle(size_of(job).input)  # all that is known: its caller left before anything came
            permit.release()
            raise
        opened.permit = permit
        return opened

    async def _once(self, job: Job, target: Target, credential: Credential) -> Attempt | Continuation:
        run = self._worker.run
        attempt = await run(Attempt, job, target, credential) if job.heavy else Attempt(job, target, credential)
        try:
            await self._begun(attempt)
        except UpstreamRefused as refusal:
            bare = await run(without_reasoning, attempt, refusal) if job.heavy else without_reasoning(attempt, refusal)
            if bare is None:
                raise
            self._tell(job.context, "retry")
            attempt = await self._begun(bare)
        return await self._in_rounds(attempt) if may_need(attempt) else attempt

    async def _together(self, job: Job, target: Target, credential: Credential) -> Together:
        """What was asked at once, one by one; no stream: all of it is there."""
        admission = self._admission
        made = partial(
            Together,
            job,
            target,
            credential,
            begin=lambda one: self._once(one, target, credential),
            # Tokens were set aside for all of them together.
            one_more=lambda: UNLIMITED if admission is None else admission.try_admit(target, credential, 0),
        )
        together = await self._worker.run(made) if job.heavy else made()
        try:
            await together.begin()
        except BaseException:
            await together.close()
            raise
        return together

    async def _in_rounds(self, attempt: Attempt) -> Continuation:
        """An answer that may take several rounds; they are over already where no stream is wanted."""

        async def next_round(upstream_request: UpstreamRequest) -> Attempt:
            return await self._begun(
                Attempt(attempt.job, attempt.target, attempt.credential, upstream_request=upstream_request)
            )

        continuation = Continuation(attempt, next_round)
        try:
            await continuation.complete()
        except BaseException:
            await continuation.close()
            raise
        return continuation

    async def _begun(self, attempt: Attempt) -> Attempt:
        """Begin it, and take note of how that went; closed where it failed."""
        target, credential, context = attempt.target, attempt.credential, attempt.job.context
        number = context.next_attempt()
        if self._observers.wants_starts:
            self._observers.notice(_began(attempt, number))
        self._cooldowns.trying(target, credential)
        largest = self._largest_stream if attempt.job.stream else self._largest_answer
        since = self._clock.monotonic()
        try:
            await attempt.begin(self._pools(target.provider), largest=largest, worker=self._worker)
        except BaseException as error:
            if isinstance(error, UpstreamError):
                self._note_failure(attempt, error, number, self._clock.monotonic() - since)
            else:
                self._cooldowns.gave_up(target, credential)
            await attempt.close()
            raise
        seconds = self._clock.monotonic() - since
        context.steps.append(Step(target.name, "served", seconds=round(seconds, 3)))
        if self._heard is not None:
            self._heard(target.name, seconds)
        if attempt.ended:
            self._cooldowns.succeeded(target, credential)
        else:
            self._cooldowns.answered(target, credential)
            attempt.over = self._at_the_end(target, credential)
        return attempt

    def _at_the_end(self, target: Target, credential: Credential) -> Callable[[UpstreamError | None], None]:
        """What is done when a stream that has begun ends: breaking off in the middle is a failure like any other."""

        def over(failure: UpstreamError | None) -> None:
            if failure is None:
                self._cooldowns.succeeded(target, credential)
            else:
                failure.provider = target.provider.name
                self._count(target, credential, failure)

        return over

    def _note_failure(self, attempt: Attempt, error: UpstreamError, number: int, seconds: float) -> None:
        provider, credential = attempt.target.provider, attempt.credential
        error.provider = provider.name
        self._count(attempt.target, credential, error)
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

    def _count(self, target: Target, credential: Credential, error: UpstreamError) -> None:
        """Count a failure against what it is about, unless it says nothing of the upstream."""
        if error.blames_upstream:
            self._cooldowns.failed(target, credential, error, target.provider.config.cooldown)
        else:
            self._cooldowns.gave_up(target, credential)

    def _tell(self, context: CallContext, next_action: NextAction, wait: float = 0.0) -> None:
        """Tell of the failures of which it is decided now what follows."""
        if context.pending_failures:
            pending_failures, context.pending_failures = context.pending_failures, []
            for failed in pending_failures:
                self._observers.notice(msgspec.structs.replace(failed, next_action=next_action, wait=wait))

    def _candidates(self, targets: Sequence[Target], prefer: str | None, context: CallContext) -> Sequence[Candidate]:
        """Targets with the credentials that do not rest; if all rest, the one that the contract says may be tried.

        Raises:
            UpstreamRateLimited: All rest because their upstreams asked for it.
        """
        turn = next(self._turn)
        if not self._cooldowns.known:
            return [Candidate(target, _in_turn(target.provider.credentials, turn, prefer)) for target in targets]
        ready: list[Candidate] = []
        resting: list[tuple[Rest, Target, Credential]] = []
        for target in targets:
            awake = []
            rests = []
            for credential in _in_turn(target.provider.credentials, turn, prefer):
                rest = self._cooldowns.resting(target, credential)
                if rest is None:
                    awake.append(credential)
                else:
                    rests.append((rest, target, credential))
            if awake:
                ready.append(Candidate(target, awake))
            else:
                seconds = min(self._cooldowns.seconds_left(rest) for rest, _, _ in rests)
                context.steps.append(Step(target.name, "skipped", "resting", seconds=round(seconds, 3)))
            resting += rests
        return ready or [self._nearest(resting)]

    def _nearest(self, resting: list[tuple[Rest, Target, Credential]]) -> Candidate:
        unasked = [entry for entry in resting if not entry[0].asked]
        if unasked:
            _, target, credential = min(unasked, key=lambda entry: entry[0].until)
            return Candidate(target, [credential], forced=True)
        raise self._pause([rest for rest, _, _ in resting])

    def _pause(self, rests: Sequence[Rest]) -> GatewayError:
        """What a caller is told for whom nothing is left but what rests."""
        if not rests:
            return _nobody()
        wait = min(map(self._cooldowns.seconds_left, rests))
        if all(rest.asked for rest in rests):
            asked = f"Every upstream of this model has asked for a pause. Try again in {format_wait(wait)}."
            return UpstreamRateLimited(asked, retry_after=wait)
        return Unavailable("No upstream can serve this model now: try again later.", retry_after=wait)


def _in_turn(credentials: Sequence[Credential], turn: int, prefer: str | None) -> Sequence[Credential]:
    if len(credentials) == 1:
        return credentials
    start = turn % len(credentials)
    if prefer is not None:
        start = next((at for at, each in enumerate(credentials) if each.fingerprint == prefer), start)
    return [*credentials[start:], *credentials[:start]]


def _verdict(failures: Sequence[UpstreamError]) -> UpstreamError | None:
    """What the caller is told: how the last target failed; after waits alone, the shortest one."""
    if not failures:
        return None
    last = failures[-1]
    waits = [each.retry_after for each in failures if isinstance(each, _WAITS) and each.retry_after is not None]
    if waits and all(isinstance(each, _WAITS) for each in failures):
        last = next(each for each in failures if each.retry_after == min(waits))
    return last


def _nobody() -> Unavailable:
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
