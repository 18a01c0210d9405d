"""The reservation of one call: what it takes from the limits of its caller, and the tokens it is charged in the end.

Created only where something is limited, so a call without limits costs nothing here. Tokens are reserved by an estimate
before any upstream is called, and settled when the call ends: by the upstream's count if it gave one. A stream that was
interrupted or abandoned is charged with what is known, and with an estimate of what had passed until then.
"""

from collections.abc import Awaitable, Callable

import msgspec

from llmproxy_asgi.clock import Clock
from llmproxy_asgi.conversation import Batch, Usage
from llmproxy_asgi.execution.admission import admit, rejection
from llmproxy_asgi.execution.admission_queue import UNLIMITED, AdmissionQueue, Permit
from llmproxy_asgi.execution.attempt import AnyResponse, Job
from llmproxy_asgi.execution.tokens import TokenEstimate, estimate_tokens, response_tokens, streamed_tokens
from llmproxy_asgi.facts import Observers, QueueLeft
from llmproxy_asgi.worker import Worker

Next = Callable[[], Awaitable[Batch | None]]

_NOTHING = TokenEstimate(0, 0)


class Reservation:
    """The reservation of one call. Reserve it, then settle it in any case.

    Args:
        queue: Admits the caller's calls; None: the caller is not limited.
        counts_tokens: Whether any target limits tokens.
        clock: Measures the wait.
        observers: Receive the wait.
        worker: Estimates the size of large requests.
        uses_tokens: Whether the call uses tokens at all.
    """

    __slots__ = (
        "_clock",
        "_counts_tokens",
        "_estimate",
        "_is_reserved",
        "_observers",
        "_permit",
        "_queue",
        "_streamed",
        "_worker",
    )

    def __init__(
        self,
        queue: AdmissionQueue | None,
        *,
        counts_tokens: bool,
        clock: Clock,
        observers: Observers,
        worker: Worker,
        uses_tokens: bool = True,
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._counts_tokens = uses_tokens and (counts_tokens or (queue is not None and queue.counts_tokens))
        self._clock = clock
        self._observers = observers
        self._permit = UNLIMITED
        self._estimate = _NOTHING
        self._streamed = 0.0
        self._is_reserved = False

    @property
    def is_reserved(self) -> bool:
        """Whether a call owns it, which will settle it."""
        return self._is_reserved

    def reserve_early(self) -> None:
        """Admit a request before its body is read. One that may wait is admitted by `reserve` only.

        Raises:
            RateLimited: The caller's limits are reached, and waiting would be in vain.
        """
        if self._queue is None:
            return
        permit = self._queue.try_admit(0)
        if permit is not None:
            self._permit = permit
        elif not self._queue.is_worth_waiting(0):
            raise rejection(self._queue)

    async def reserve(self, job: Job) -> Job:
        """Admit a call, and return its job with the estimated tokens where these are limited.

        Raises:
            RateLimited: The caller's limits are reached, and the call could not be admitted in time.
        """
        if self._counts_tokens:
            self._estimate = await self._worker.run(estimate_tokens, job) if job.heavy else estimate_tokens(job)
            job = msgspec.structs.replace(job, tokens=self._estimate.total)
        queue = self._queue
        if queue is not None and (queue.counts_tokens or self._permit is UNLIMITED):
            self._permit.cancel()  # of a request that was admitted without its tokens
            self._permit = UNLIMITED
            permit = queue.try_admit(job.tokens)
            self._permit = await self._wait(queue, job) if permit is None else permit
        self._is_reserved = True
        return job

    def counting(self, read: Next) -> Next:
        """Return `read` with the tokens of its batches counted."""
        if not self._counts_tokens:
            return read

        async def counted() -> Batch | None:
            batch = await read()
            if batch is not None:
                self._streamed += streamed_tokens(batch)
            return batch

        return counted

    def settle(
        self,
        permit: Permit = UNLIMITED,
        *,
        usage: Usage | None = None,
        answer: Batch | AnyResponse | None = None,
        complete: bool = False,
        sent: bool = True,
    ) -> None:
        """Charge the call with the tokens it used, and release it.

        Args:
            permit: What the call holds of its provider's limits.
            usage: The last that the upstream reported.
            answer: The response, if it was not streamed.
            complete: Whether a stream was complete.
            sent: Whether an upstream may have worked for the call.
        """
        if self._counts_tokens:
            tokens = self._tokens_used(usage, answer, complete=complete or answer is not None) if sent else 0
            self._permit.settle(tokens)
            permit.settle(tokens)
        self._permit.release()

    def _tokens_used(self, usage: Usage | None, answer: Batch | AnyResponse | None, *, complete: bool) -> int:
        if usage is not None and complete:
            return usage.input + usage.output
        output = int(self._streamed) if answer is None else response_tokens(answer)
        if usage is not None:
            return usage.input + max(usage.output, output)
        return self._estimate.input + output

    async def _wait(self, queue: AdmissionQueue, job: Job) -> Permit:
        since, admitted = self._clock.monotonic(), False
        try:
            permit = await admit(queue, job.tokens)
            admitted = True
        finally:
            seconds = self._clock.monotonic() - since
            job.context.queue_seconds += seconds
            if seconds > 0 and self._observers.listening:
                left = QueueLeft(call=job.context.call, provider="", seconds=seconds, admitted=admitted)
                self._observers.notice(left)
        return permit
