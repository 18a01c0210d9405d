"""What one call takes of its caller's limits, and what it turns out to have spent of anybody's.

Made only where something is limited: a call without an allowance costs nothing here. Tokens are set aside by estimate
before any upstream is asked, and put right when the call is over: by the upstream's own count where there is one. Of a
stream that breaks off or is left, what is known counts, and an estimate of what had passed until then.
"""

from collections.abc import Awaitable, Callable

import msgspec

from llmproxy_asgi.clock import Clock
from llmproxy_asgi.conversation import Batch, Usage
from llmproxy_asgi.execution.admission import admit, refused
from llmproxy_asgi.execution.attempt import Answered, Job
from llmproxy_asgi.execution.gate import UNLIMITED, Gate, Permit
from llmproxy_asgi.execution.tokens import Size, passed, size_of, whole
from llmproxy_asgi.facts import Observers, QueueLeft
from llmproxy_asgi.worker import Worker

Next = Callable[[], Awaitable[Batch | None]]

_NOTHING = Size(0, 0)


class Allowance:
    """One call's. Take it, then end it, whatever happens between.

    Args:
        gate: Where its caller's calls must pass; None: the caller is not limited.
        counts_tokens: Whether the tokens matter to any target.
        clock: Measures the wait.
        observers: Are told of the wait.
        worker: Where large requests are looked at.
        spends: Whether it spends any tokens at all.
    """

    __slots__ = ("_clock", "_counts_tokens", "_gate", "_observers", "_passed", "_permit", "_size", "_taken", "_worker")

    def __init__(
        self,
        gate: Gate | None,
        *,
        counts_tokens: bool,
        clock: Clock,
        observers: Observers,
        worker: Worker,
        spends: bool = True,
    ) -> None:
        self._worker = worker
        self._gate = gate
        self._counts_tokens = spends and (counts_tokens or (gate is not None and gate.counts_tokens))
        self._clock = clock
        self._observers = observers
        self._permit = UNLIMITED
        self._size = _NOTHING
        self._passed = 0.0
        self._taken = False

    @property
    def taken(self) -> bool:
        """Whether a call has it, which ends it."""
        return self._taken

    def enter(self) -> None:
        """Let a request in by its head, before its size is known. One that may wait is let in by `take` alone.

        Raises:
            RateLimited: Its caller has none left, and it would wait in vain.
        """
        if self._gate is None:
            return
        permit = self._gate.try_pass(0)
        if permit is not None:
            self._permit = permit
        elif not self._gate.is_worth_waiting(0):
            raise refused(self._gate)

    async def take(self, job: Job) -> Job:
        """The job, let in, and with its tokens counted where that matters.

        Raises:
            RateLimited: Its caller has none left, nor got any in time.
        """
        if self._counts_tokens:
            self._size = await self._worker.run(size_of, job) if job.heavy else size_of(job)
            job = msgspec.structs.replace(job, tokens=self._size.total)
        gate = self._gate
        if gate is not None and (gate.counts_tokens or self._permit is UNLIMITED):
            self._permit.refund()  # of a request that was let in without its tokens
            self._permit = UNLIMITED
            permit = gate.try_pass(job.tokens)
            self._permit = await self._waited(gate, job) if permit is None else permit
        self._taken = True
        return job

    def counting(self, read: Next) -> Next:
        """The same reads of a stream, counted as they pass."""
        if not self._counts_tokens:
            return read

        async def counted() -> Batch | None:
            batch = await read()
            if batch is not None:
                self._passed += passed(batch)
            return batch

        return counted

    def end(
        self,
        permit: Permit = UNLIMITED,
        *,
        usage: Usage | None = None,
        answer: Batch | Answered | None = None,
        complete: bool = False,
        asked: bool = True,
    ) -> None:
        """The call is over.

        Args:
            permit: What it had taken of its provider's limits.
            usage: What the upstream said of it, last.
            answer: The answer, if it came whole.
            complete: Whether all of a stream came.
            asked: Whether an upstream may have worked for it.
        """
        if self._counts_tokens:
            tokens = self._spent(usage, answer, complete=complete or answer is not None) if asked else 0
            self._permit.settle(tokens)
            permit.settle(tokens)
        self._permit.release()

    def _spent(self, usage: Usage | None, answer: Batch | Answered | None, *, complete: bool) -> int:
        if usage is not None and complete:
            return usage.input + usage.output
        output = int(self._passed) if answer is None else whole(answer)
        if usage is not None:
            return usage.input + max(usage.output, output)
        return self._size.input + output

    async def _waited(self, gate: Gate, job: Job) -> Permit:
        since, admitted = self._clock.monotonic(), False
        try:
            permit = await admit(gate, job.tokens)
            admitted = True
        finally:
            seconds = self._clock.monotonic() - since
            job.context.queue_seconds += seconds
            if seconds > 0 and self._observers.listening:
                left = QueueLeft(call=job.context.call, provider="", seconds=seconds, admitted=admitted)
                self._observers.notice(left)
        return permit
