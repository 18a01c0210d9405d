"""Tries targets until one has something to say: the only place that retries, and the commit point.

Up to an attempt's first event (or its whole answer) any failure may be retried or taken to the next target, because
nothing of it has reached the caller. After it nothing is retried any more. Three turns are looked for here and made
elsewhere: a request refused for its reasoning goes once more without it (`reasoning`), an answer that its upstream
pauses is gone on with for callers who cannot (`continuation`), and what a caller asks at once is asked one by one where
the upstream takes it only so (`together`). Who may call, and what is written to the caller, is decided elsewhere.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import (
    GatewayError,
    Unavailable,
    Unsupported,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamQuotaSpent,
    UpstreamRateLimited,
    UpstreamRefused,
)
from llmproxy_asgi.execution.attempt import Attempt, Job
from llmproxy_asgi.execution.continuation import Continuation, may_need
from llmproxy_asgi.execution.cooldown import Cooldowns, Rest
from llmproxy_asgi.execution.reasoning import without_reasoning
from llmproxy_asgi.execution.retry import wait_before_retry
from llmproxy_asgi.execution.together import Together
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.base import Outgoing
from llmproxy_asgi.transport import Pool

_CREDENTIAL_BOUND = (UpstreamRateLimited, UpstreamQuotaSpent, UpstreamAuthFailed)
"""Failures that another credential of the same provider need not share."""

Candidate = tuple[Target, list[Credential]]
Opened: TypeAlias = Attempt | Continuation | Together
"""What has begun, and is read and closed in the same way whatever it is."""


class Executor:
    """Begins attempts.

    Args:
        pools: The connection pool of a provider.
        cooldowns: What rests.
        largest_answer: Bytes that a whole answer may have.
        clock: Told the time by, and slept with.
        draw: Where jitter comes from.
    """

    def __init__(
        self,
        pools: Callable[[Provider], Pool],
        cooldowns: Cooldowns,
        *,
        largest_answer: int,
        clock: Clock = SYSTEM,
        draw: random.Random | None = None,
    ) -> None:
        self._pools = pools
        self._cooldowns = cooldowns
        self._largest_answer = largest_answer
        self._clock = clock
        self._draw = draw or random.Random()  # noqa: S311  jitter, not secrets
        self._turn = itertools.count()

    async def begin(self, job: Job, targets: Sequence[Target]) -> Opened:
        """The first attempt that has something to say. The caller closes it.

        Args:
            job: What is to be done.
            targets: Best first; not empty.

        Raises:
            UpstreamError: Every target failed; this is how the last one did.
            BadRequest: No target can express the request, or the request itself is broken.
        """
        failure: GatewayError | None = None
        # One that cannot be spoken to for this caller must not stand in for a fit one that rests.
        fit = [target for target in targets if target.takes(job.protocol)]
        for target, credentials in self._candidates(fit or targets):
            try:
                return await self._on_target(job, target, credentials)
            except Unsupported as error:
                failure = failure or error
            except UpstreamError as error:
                failure = error
                if not error.failover:
                    break
        raise failure or Unavailable("No upstream can serve this model now.")

    async def _on_target(self, job: Job, target: Target, credentials: list[Credential]) -> Opened:
        config = target.provider.config
        tried = 0
        while True:
            credential = credentials[tried % len(credentials)]
            tried += 1
            try:
                if job.each is not None and target.line(job.protocol).outbound.protocol != job.protocol:
                    return await self._together(job, target, credential)
                return await self._once(job, target, credential)
            except UpstreamError as error:
                if isinstance(error, _CREDENTIAL_BOUND) and tried < min(len(credentials), config.retry.attempts):
                    continue
                wait = wait_before_retry(error, config.retry, tried=tried, draw=self._draw)
                if wait is None:
                    raise
            await self._clock.sleep(wait)

    async def _once(self, job: Job, target: Target, credential: Credential) -> Attempt | Continuation:
        attempt = Attempt(job, target, credential)
        try:
            await self._begun(attempt)
        except UpstreamRefused as refusal:
            bare = without_reasoning(attempt, refusal)
            if bare is None:
                raise
            attempt = await self._begun(bare)
        return await self._in_rounds(attempt) if may_need(attempt) else attempt

    async def _together(self, job: Job, target: Target, credential: Credential) -> Together:
        """What was asked at once, one by one; no stream: all of it is there."""
        together = Together(job, target, lambda one: self._once(one, target, credential))
        try:
            await together.begin()
        except BaseException:
            await together.close()
            raise
        return together

    async def _in_rounds(self, attempt: Attempt) -> Continuation:
        """An answer that may take several rounds; they are over already where no stream is wanted."""

        async def next_round(outgoing: Outgoing) -> Attempt:
            return await self._begun(Attempt(attempt.job, attempt.target, attempt.credential, outgoing=outgoing))

        continuation = Continuation(attempt, next_round)
        try:
            await continuation.complete()
        except BaseException:
            await continuation.close()
            raise
        return continuation

    async def _begun(self, attempt: Attempt) -> Attempt:
        """Begin it, and take note of how that went; closed where it failed."""
        provider, fingerprint = attempt.target.provider, attempt.credential.fingerprint
        try:
            await attempt.begin(self._pools(provider), largest_answer=self._largest_answer)
        except BaseException as error:
            if isinstance(error, UpstreamError):
                error.provider = provider.name
                self._cooldowns.failed(fingerprint, error, provider.config.cooldown)
            await attempt.close()
            raise
        self._cooldowns.succeeded(fingerprint)
        return attempt

    def _candidates(self, targets: Sequence[Target]) -> list[Candidate]:
        """Targets with the credentials that do not rest; if all rest, the one that the contract says may be tried.

        Raises:
            UpstreamRateLimited: All rest because their upstreams asked for it.
        """
        turn = next(self._turn)
        ready: list[Candidate] = []
        resting: list[tuple[Rest, Target, Credential]] = []
        for target in targets:
            credentials = target.provider.credentials
            if len(credentials) > 1:
                start = turn % len(credentials)
                credentials = credentials[start:] + credentials[:start]
            awake = []
            for credential in credentials:
                rest = self._cooldowns.resting(credential.fingerprint)
                if rest is None:
                    awake.append(credential)
                else:
                    resting.append((rest, target, credential))
            if awake:
                ready.append((target, awake))
        return ready or [self._nearest(resting)]

    def _nearest(self, resting: list[tuple[Rest, Target, Credential]]) -> Candidate:
        unasked = [entry for entry in resting if not entry[0].asked]
        if unasked:
            _, target, credential = min(unasked, key=lambda entry: entry[0].until)
            return target, [credential]
        if not resting:
            raise Unavailable("No upstream can serve this model now.")
        wait = min(self._cooldowns.seconds_left(rest) for rest, _, _ in resting)
        raise UpstreamRateLimited("Every upstream for this model asked for a pause.", retry_after=wait)
