"""What a call takes before it may run: from its caller's own limits, and from those of the provider that serves it.

::

    caller ─ CallerGates.gate(owner, limits) ─ admit ─▶ Permit      else RateLimited, before any upstream is asked
    target ─ TargetAdmission.try_take ─▶ Permit | None (it is full: the next target)
                             all full ─ wait ─▶ (target, credential, Permit)      else RateLimited or Unavailable

The gates outlive the plan (`LiveGates`), so that a reload gives nobody a second allowance; where limits changed, they
begin anew. Nothing here knows who may call, or which target is the better one.
"""

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from llmproxy_asgi.clock import SYSTEM, AlarmClock
from llmproxy_asgi.errors import RateLimited, Unavailable
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.gate import UNLIMITED, Full, Gate, Permit, pass_first
from llmproxy_asgi.execution.rate_limit import Limiter, TokenBucket, plural
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.settings import CallLimits

_LOOKED_AT = 4
"""Callers that are looked at whenever a new one comes, whether they can be forgotten."""

Place: TypeAlias = tuple[str, str, CallLimits]
"""A provider, the fingerprint of a credential (or nothing: all of them together), and the limits."""


class CallerGates:
    """The gates of callers, each made when it is first needed and forgotten when it is as if nobody had come.

    Args:
        clock: Of every limit.
        lock: Of every gate.
    """

    def __init__(self, clock: AlarmClock = SYSTEM, *, lock: "threading.RLock | None" = None) -> None:
        self._clock = clock
        self._lock = lock or threading.RLock()
        self._gates: dict[tuple[Owner, CallLimits], Gate] = {}

    def __len__(self) -> int:
        return len(self._gates)

    def gate(self, owner: Owner, limits: CallLimits) -> Gate:
        """Where an owner's calls must pass."""
        key = (owner, limits)
        with self._lock:
            gate = self._gates.get(key)
            if gate is None:
                self._forget_some()
                gate = self._gates[key] = _gate(limits, _slots(limits), self._clock, self._lock)
            return gate

    def forget(self, owner: Owner) -> int:
        """Forget what has been counted for an owner; how many limits that were. Calls under way end as they began."""
        found = [key for key in self._gates if key[0] == owner]
        return sum(not self._gates.pop(key).is_idle for key in found)

    def _forget_some(self) -> None:
        """Those who have not called for long; who still counts goes to the end, to be looked at again later."""
        for _ in range(min(_LOOKED_AT, len(self._gates))):
            key = next(iter(self._gates))
            gate = self._gates.pop(key)
            if not gate.is_idle:
                self._gates[key] = gate


async def admit(gate: Gate, tokens: int) -> Permit:
    """Let a call in, when its caller's limits allow.

    Args:
        gate: The caller's.
        tokens: How many the call is estimated to be.

    Raises:
        RateLimited: They do not, nor did they in the time that a call may wait.
    """
    permit = gate.try_pass(tokens)
    if permit is not None:
        return permit
    try:
        return (await pass_first((gate,), tokens))[1]
    except Full as full:
        raise _over(full) from None


def refused(gate: Gate) -> RateLimited:
    """The refusal of a request that its caller's limits keep out now, whatever its size."""
    return _over(Full(gate.forecast(0), limit=gate.lacking(0), timed=not gate.lacks_slot))


def _over(full: Full) -> RateLimited:
    when = f"in {shown_wait(full.wait)}" if full.timed else "when one of them has ended"
    return RateLimited(f"You have reached your limit of {full.limit}. Try again {when}.", retry_after=full.wait)


class TargetAdmission:
    """What targets still take, by provider or by credential, as their providers are configured.

    Args:
        gates: By the fingerprint of the credential; a credential that is not there is not limited.
    """

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        self._gates = gates
        self.counts_tokens = any(gate.counts_tokens for gate in gates.values())
        """Whether it matters how many tokens a call is."""

    def try_take(self, target: Target, credential: Credential, tokens: int) -> Permit | None:
        """A permit for one call, at once; None: the target is full, or others are waiting for it already.

        Whoever gets one must `settle` it once it is known how many tokens were spent, and `release` it when the call is
        over (its answer closed), or `refund` it if nothing was sent.

        Args:
            target: Where the call would go.
            credential: What would sign it.
            tokens: How many it is estimated to be, in and out.
        """
        gate = self._gates.get(credential.fingerprint)
        return UNLIMITED if gate is None else gate.try_pass(tokens)

    async def wait(
        self, candidates: Sequence[tuple[Target, Credential]], tokens: int
    ) -> tuple[Target, Credential, Permit]:
        """A permit from the first of these to have room, however long each lets a call wait. Cancel it at any time.

        Args:
            candidates: Best first; not empty.
            tokens: As for `try_take`.

        Raises:
            RateLimited: None had room in time; `retry_after` says when the first one will.
            Unavailable: Likewise, and only the end of other calls makes room.
        """
        gates: dict[Gate, tuple[Target, Credential]] = {}
        for target, credential in candidates:
            gate = self._gates.get(credential.fingerprint)
            if gate is None:
                return target, credential, UNLIMITED
            gates.setdefault(gate, (target, credential))
        try:
            index, permit = await pass_first(tuple(gates), tokens)
        except Full as full:
            reached = f"This gateway has reached its limit for every upstream of this model ({full.limit}). Try again"
            if full.timed:
                raise RateLimited(f"{reached} in {shown_wait(full.wait)}.", retry_after=full.wait) from None
            raise Unavailable(f"{reached} when a call has ended.", retry_after=full.wait) from None
        target, credential = tuple(gates.values())[index]
        return target, credential, permit


class LiveGates:
    """Every gate, of callers and of targets, for as long as the process lives.

    Args:
        clock: Of every limit.
    """

    def __init__(self, clock: AlarmClock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # one for all: a call may wait at several gates together
        self.callers = CallerGates(clock, lock=self._lock)
        self._targets: dict[Place, Gate] = {}
        self._slots: dict[tuple[str, CallLimits], Slots] = {}

    def targets(self, providers: Iterable[Provider]) -> TargetAdmission | None:
        """The gates of a plan's targets: those of the plan before, where nothing changed. None: nothing is limited."""
        kept: dict[Place, Gate] = {}
        shared: dict[tuple[str, CallLimits], Slots] = {}
        gates: dict[str, Gate] = {}
        for provider in providers:
            limits = provider.config.call_limits
            if limits is None:
                continue
            slots = self._slots.get((provider.name, limits)) or _slots(limits)
            if slots is not None:
                shared[provider.name, limits] = slots
            for credential in provider.credentials:
                place = (provider.name, credential.fingerprint if limits.per_credential else "", limits)
                gate = kept.get(place) or self._targets.get(place)
                if gate is None:
                    gate = _gate(limits, slots, self._clock, self._lock)
                kept[place] = gates[credential.fingerprint] = gate
        self._targets, self._slots = kept, shared
        return TargetAdmission(gates) if gates else None


def _slots(limits: CallLimits) -> Slots | None:
    return Slots(limits.max_concurrency) if limits.max_concurrency is not None else None


def _gate(limits: CallLimits, slots: Slots | None, clock: AlarmClock, lock: "threading.RLock") -> Gate:
    calls = [TokenBucket(rate, capacity, clock, limit=_per(rate, capacity)) for rate, capacity in limits.calls]
    tokens = limits.tokens_per_minute
    bucket = None
    if tokens is not None:
        bucket = TokenBucket(tokens / 60, tokens, clock, limit=f"{plural(tokens, 'token')} per minute")
    limiter = Limiter(calls, bucket) if calls or bucket is not None else None
    return Gate(limiter, slots, queue_timeout=limits.queue_timeout, max_queue=limits.max_queue, clock=clock, lock=lock)


def _per(rate: float, capacity: float) -> str:
    """A limit of calls in words: one that lets a minute's worth come at once was configured by the minute."""
    if math.isclose(rate * 60, capacity):
        return f"{plural(capacity, 'request')} per minute"
    return f"{plural(rate, 'request')} per second"


def shown_wait(seconds: float) -> str:
    """A wait for people, never shorter than it is."""
    if seconds < 10:
        return f"{max(0.1, math.ceil(seconds * 10) / 10):g} s"
    return f"{math.ceil(seconds)} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
