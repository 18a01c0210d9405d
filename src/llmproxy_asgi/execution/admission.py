"""Admission: the limits of callers, and those of the providers that serve them.

::

    caller ─ CallerQueues.queue(owner, limits) ─ admit ─▶ Permit    else RateLimited, before any upstream is called
    target ─ TargetAdmission.try_admit ─▶ Permit | None (at its limit: the next target)
                          all at their limits ─ wait ─▶ (target, credential, Permit)   else RateLimited or Unavailable

The queues outlive the plan (`AdmissionQueues`), so that a reload gives no caller a second quota; where limits changed,
they start anew. This module decides neither who may call nor which target is better.
"""

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from llmproxy_asgi.clock import SYSTEM, AlarmClock
from llmproxy_asgi.errors import RateLimited, Unavailable
from llmproxy_asgi.execution.admission_queue import UNLIMITED, AdmissionQueue, NotAdmitted, Permit, admit_first
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.rate_limit import Limiter, TokenBucket, plural
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.settings import CallLimits

_EVICTION_SCAN = 4
"""Queues of callers that are checked for eviction whenever a new one is added."""

_QueueKey: TypeAlias = tuple[str, str, CallLimits]
"""A provider, the fingerprint of a credential (empty: all of them together), and the limits."""


class CallerQueues:
    """The queues of callers, created on first use and evicted once they are idle.

    Args:
        clock: Times every limit.
        lock: Guards every queue.
    """

    def __init__(self, clock: AlarmClock = SYSTEM, *, lock: "threading.RLock | None" = None) -> None:
        self._clock = clock
        self._lock = lock or threading.RLock()
        self._queues: dict[tuple[Owner, CallLimits], AdmissionQueue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def queue(self, owner: Owner, limits: CallLimits) -> AdmissionQueue:
        """Return the queue of an owner's calls."""
        key = (owner, limits)
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                self._evict_idle()
                queue = self._queues[key] = _queue(limits, _slots(limits), self._clock, self._lock)
            return queue

    def forget(self, owner: Owner) -> int:
        """Forget the counts of an owner, and return how many limits that were. Running calls end as they began."""
        found = [key for key in self._queues if key[0] == owner]
        return sum(not self._queues.pop(key).is_idle for key in found)

    def _evict_idle(self) -> None:
        """Evict some idle queues; the others move to the end, to be checked again later."""
        for _ in range(min(_EVICTION_SCAN, len(self._queues))):
            key = next(iter(self._queues))
            queue = self._queues.pop(key)
            if not queue.is_idle:
                self._queues[key] = queue


async def admit(queue: AdmissionQueue, tokens: int) -> Permit:
    """Admit a call within its caller's limits.

    Args:
        queue: The caller's.
        tokens: The estimated size of the call.

    Raises:
        RateLimited: The limits are reached, and the call could not be admitted in the time that it may wait.
    """
    permit = queue.try_admit(tokens)
    if permit is not None:
        return permit
    try:
        return (await admit_first((queue,), tokens))[1]
    except NotAdmitted as error:
        raise _rate_limited(error) from None


def rejection(queue: AdmissionQueue) -> RateLimited:
    """Return the error of a request that its caller's limits reject now, whatever its size."""
    return _rate_limited(NotAdmitted(queue.forecast(0), limit=queue.limit_reached(0), timed=not queue.lacks_slot))


def _rate_limited(error: NotAdmitted) -> RateLimited:
    when = f"in {format_wait(error.wait)}" if error.timed else "when one of them has ended"
    return RateLimited(f"You have reached your limit of {error.limit}. Try again {when}.", retry_after=error.wait)


class TargetAdmission:
    """The capacity of targets, by provider or by credential, as their providers are configured.

    Args:
        queues: By the fingerprint of the credential; a credential without a queue is not limited.
    """

    def __init__(self, queues: Mapping[str, AdmissionQueue]) -> None:
        self._queues = queues
        self.counts_tokens = any(queue.counts_tokens for queue in queues.values())
        """Whether the tokens of a call are limited."""

    def try_admit(self, target: Target, credential: Credential, tokens: int) -> Permit | None:
        """Admit a call immediately; None: the target is at its limit, or other calls wait for it already.

        The owner of the permit must `settle` it when the tokens of the call are known, and `release` it when the call
        ended (its response is closed), or `cancel` it if nothing was sent.

        Args:
            target: Where the call would go.
            credential: What would authenticate it.
            tokens: Its estimated size, input and output.
        """
        queue = self._queues.get(credential.fingerprint)
        return UNLIMITED if queue is None else queue.try_admit(tokens)

    async def wait(
        self, candidates: Sequence[tuple[Target, Credential]], tokens: int
    ) -> tuple[Target, Credential, Permit]:
        """Wait for the first of these to admit a call, as long as each lets a call wait. May be cancelled at any time.

        Args:
            candidates: Best first; not empty.
            tokens: As in `try_admit`.

        Raises:
            RateLimited: None had capacity in time; `retry_after` says when the first one will.
            Unavailable: Likewise, and only the end of other calls adds capacity.
        """
        queues: dict[AdmissionQueue, tuple[Target, Credential]] = {}
        for target, credential in candidates:
            queue = self._queues.get(credential.fingerprint)
            if queue is None:
                return target, credential, UNLIMITED
            queues.setdefault(queue, (target, credential))
        try:
            index, permit = await admit_first(tuple(queues), tokens)
        except NotAdmitted as error:
            reached = f"This gateway has reached its limit for every upstream of this model ({error.limit}). Try again"
            if error.timed:
                raise RateLimited(f"{reached} in {format_wait(error.wait)}.", retry_after=error.wait) from None
            raise Unavailable(f"{reached} when a call has ended.", retry_after=error.wait) from None
        target, credential = tuple(queues.values())[index]
        return target, credential, permit


class AdmissionQueues:
    """The queues of callers and of targets, for the lifetime of the process.

    Args:
        clock: Times every limit.
    """

    def __init__(self, clock: AlarmClock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # one for all: a call may wait in several queues together
        self.callers = CallerQueues(clock, lock=self._lock)
        self._targets: dict[_QueueKey, AdmissionQueue] = {}
        self._slots: dict[tuple[str, CallLimits], Slots] = {}

    def targets(self, providers: Iterable[Provider]) -> TargetAdmission | None:
        """Return the queues of a plan's targets, unchanged ones from the plan before; None: nothing is limited."""
        kept: dict[_QueueKey, AdmissionQueue] = {}
        shared: dict[tuple[str, CallLimits], Slots] = {}
        queues: dict[str, AdmissionQueue] = {}
        for provider in providers:
            limits = provider.config.call_limits
            if limits is None:
                continue
            slots = self._slots.get((provider.name, limits)) or _slots(limits)
            if slots is not None:
                shared[provider.name, limits] = slots
            for credential in provider.credentials:
                key = (provider.name, credential.fingerprint if limits.per_credential else "", limits)
                queue = kept.get(key) or self._targets.get(key)
                if queue is None:
                    queue = _queue(limits, slots, self._clock, self._lock)
                kept[key] = queues[credential.fingerprint] = queue
        self._targets, self._slots = kept, shared
        return TargetAdmission(queues) if queues else None


def _slots(limits: CallLimits) -> Slots | None:
    return Slots(limits.max_concurrency) if limits.max_concurrency is not None else None


def _queue(limits: CallLimits, slots: Slots | None, clock: AlarmClock, lock: "threading.RLock") -> AdmissionQueue:
    calls = [TokenBucket(rate, capacity, clock, limit=_rate(rate, capacity)) for rate, capacity in limits.calls]
    tokens = limits.tokens_per_minute
    bucket = None
    if tokens is not None:
        bucket = TokenBucket(tokens / 60, tokens, clock, limit=f"{plural(tokens, 'token')} per minute")
    limiter = Limiter(calls, bucket) if calls or bucket is not None else None
    return AdmissionQueue(
        limiter, slots, queue_timeout=limits.queue_timeout, max_queue=limits.max_queue, clock=clock, lock=lock
    )


def _rate(rate: float, capacity: float) -> str:
    """Describe a limit of calls: one that allows a burst of a minute's calls was configured by the minute."""
    if math.isclose(rate * 60, capacity):
        return f"{plural(capacity, 'request')} per minute"
    return f"{plural(rate, 'request')} per second"


def format_wait(seconds: float) -> str:
    """Return a wait for people to read, never shorter than it is."""
    if seconds < 10:
        return f"{max(0.1, math.ceil(seconds * 10) / 10):g} s"
    return f"{math.ceil(seconds)} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
