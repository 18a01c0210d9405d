"""Several requests sent together, and read by their caller as one response: candidates follow those of the one before.

Legacy completions take a list of prompts. For an upstream of conversations each prompt is a conversation::

    prompt 0 ─ attempt ─ candidates 0..n-1 ┐
    prompt 1 ─ attempt ─ candidates n..2n-1├─▶ one Started, their parts as they come, usage summed, one Ended
    ...                                    ┘

All are sent to one target with one credential, a few at a time, each in its own task because the timeouts of an attempt
belong to the task that began it. The call's own permit counts for one of them; each further one takes a permit while it
runs, and if there is none, they run one after another. The first event commits all of them: before it a failure fails
the whole try, which the executor may repeat; after it a failure is the last event of the stream. Nothing is retried
here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec

from llmproxy_asgi.conversation import (
    Batch,
    Ended,
    Failed,
    Finished,
    Passed,
    Response,
    Started,
    StreamEvent,
    Usage,
    UsageReported,
    sum_usage,
)
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.execution.admission_queue import UNLIMITED, Permit
from llmproxy_asgi.execution.attempt import Attempt, Job
from llmproxy_asgi.execution.continuation import Continuation
from llmproxy_asgi.execution.lazy_request import DecodedRequest
from llmproxy_asgi.providers.base import Credential
from llmproxy_asgi.providers.target import Route, Target
from llmproxy_asgi.translators.base import ErrorT
from llmproxy_asgi.translators.refusals import refusal

MAX_CONCURRENCY = 4
"""Upstream requests of one call that run at once."""
MAX_REQUESTS = 128
"""Upstream requests that one call may become."""

_READ_AHEAD = 64
"""Batches that are read before the caller takes them."""

Begin: TypeAlias = Callable[[Job], Awaitable[Attempt | Continuation]]
TryAdmit: TypeAlias = Callable[[], Permit | None]
"""Returns a further permit of the provider if one is available, without waiting."""
_Result: TypeAlias = Batch | Response | Exception
"""What one of the requests yields: a batch, the whole response, or its failure."""


class FanOutAttempt:
    """Several attempts that are read and closed as one.

    Args:
        job: The call; its request is a batch.
        target: Where they are sent.
        credential: What authenticates them.
        begin: Begins one of them.
        try_admit: Admits one in addition to those that run.

    Raises:
        Unsupported: There are more than one call may become.
    """

    __slots__ = (
        "_begin",
        "_ended",
        "_first",
        "_first_candidates",
        "_jobs",
        "_limit",
        "_over",
        "_own_permit",
        "_queue",
        "_started",
        "_tasks",
        "_try_admit",
        "_usages",
        "credential",
        "passthrough",
        "permit",
        "target",
        "upstream_request",
        "whole",
    )

    heavy = False

    def __init__(
        self, job: Job, target: Target, credential: Credential, begin: Begin, try_admit: TryAdmit = lambda: UNLIMITED
    ) -> None:
        requests = job.request.decode_each()
        if len(requests) > MAX_REQUESTS:
            raise refusal("Too many prompts in one call", "prompt", f"send at most {MAX_REQUESTS} to this upstream")
        self._jobs = [msgspec.structs.replace(job, request=DecodedRequest(request)) for request in requests]
        # Candidates are numbered before they arrive, because each request has as many as it asks for.
        self._first_candidates = [requests[0].candidates * number for number in range(len(requests))]
        self._begin = begin
        self._try_admit = try_admit
        self._limit = asyncio.Semaphore(MAX_CONCURRENCY)
        self._own_permit = asyncio.Lock()  # held by the request that runs on the call's own permit
        self._queue: asyncio.Queue[tuple[int, _Result]] = asyncio.Queue(_READ_AHEAD)
        self._tasks: list[asyncio.Task[None]] = []
        self._first: tuple[int, _Result] | None = None
        self._usages = [Usage()] * len(requests)
        self._started = False
        self._ended = 0
        self._over = False
        self.target = target
        self.credential = credential
        self.permit = UNLIMITED
        self.passthrough = None
        self.whole: Response | None = None

    async def begin(self) -> None:
        """Send the requests until one has an event or, unstreamed, until every response is complete.

        Raises:
            GatewayError: One of them failed; nothing has reached the caller.
        """
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(number, job)) for number, job in enumerate(self._jobs)]
        if self._jobs[0].stream:
            self._first = await self._next_result()
        else:
            await self._complete()

    async def next(self) -> Batch | None:
        """Return the next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        while not self._over:
            first, self._first = self._first, None
            try:
                number, result = first or await self._next_result()
            except GatewayError as error:
                self._over = True
                return Batch((Failed(error),))
            if isinstance(result, Batch):
                events = self._merged(number, result.events)
                if events:
                    return Batch(events)
        return None

    async def close(self) -> None:
        """Close every upstream response. May be called more than once."""
        self._over = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self.permit.release()

    @property
    def route(self) -> Route:
        """The target with the protocol of this call."""
        return self.target.route(self._jobs[0].protocol)

    def broke(self, error: ErrorT) -> ErrorT:
        """Return the error unchanged, because several responses never pass through."""
        return error

    def adopt_current_task(self) -> None:
        """Do nothing, because each response is read by its own task."""

    # ── one of them ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, number: int, job: Job) -> None:
        try:
            async with self._limit:
                await self._run_admitted(number, job)
        except Exception as error:  # noqa: BLE001  the reader raises it
            await self._queue.put((number, error))

    async def _run_admitted(self, number: int, job: Job) -> None:
        permit = self._try_admit() if self._own_permit.locked() else None
        if permit is None:
            async with self._own_permit:
                await self._read(number, job)
            return
        try:
            await self._read(number, job)
        finally:
            permit.release()

    async def _read(self, number: int, job: Job) -> None:
        attempt = await self._begin(job)
        try:
            if not hasattr(self, "upstream_request"):
                self.upstream_request = attempt.upstream_request
            if not job.stream:
                assert isinstance(attempt.whole, Response), "responses to several requests do not pass through"
                await self._queue.put((number, attempt.whole))
                return
            while (batch := await attempt.next()) is not None:
                await self._queue.put((number, batch))
        finally:
            await attempt.close()

    async def _next_result(self) -> tuple[int, _Result]:
        number, result = await self._queue.get()
        if isinstance(result, Exception):
            raise result
        return number, result

    # ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _complete(self) -> None:
        responses: dict[int, Response] = {}
        while len(responses) < len(self._jobs):
            number, result = await self._next_result()
            assert isinstance(result, Response), "no stream was requested"
            responses[number] = result
        candidates = [
            msgspec.structs.replace(candidate, index=self._first_candidates[number] + candidate.index)
            for number in sorted(responses)
            for candidate in responses[number].candidates
        ]
        usage = sum_usage([response.usage for response in responses.values()])
        self.whole = msgspec.structs.replace(responses[0], candidates=tuple(candidates), usage=usage)

    def _merged(self, number: int, events: Sequence[StreamEvent]) -> list[StreamEvent]:
        """Return the events of one stream as events of the merged one."""
        merged: list[StreamEvent] = []
        offset = self._first_candidates[number]
        for event in events:
            match event:
                case Started():
                    merged += self._start(number, event)
                case UsageReported(usage=usage):
                    merged.append(self._add_usage(number, usage))
                case Ended():
                    self._ended += 1
                    if self._ended == len(self._jobs):
                        self._over = True
                        merged.append(event)
                case Failed():
                    self._over = True
                    merged.append(event)
                    break
                case Finished(candidate=candidate, finish=finish):
                    merged.append(Finished(offset + candidate, finish))
                case Passed():
                    pass
                case _:
                    merged.append(msgspec.structs.replace(event, candidate=offset + event.candidate))
        return merged

    def _start(self, number: int, event: Started) -> list[StreamEvent]:
        """Start the merged stream once; the usage in later starts is reported separately."""
        if not self._started:
            self._started = True
            self._usages[number] = event.usage or Usage()
            return [event]
        return [self._add_usage(number, event.usage)] if event.usage else []

    def _add_usage(self, number: int, usage: Usage) -> UsageReported:
        self._usages[number] = usage
        return UsageReported(sum_usage(self._usages))
