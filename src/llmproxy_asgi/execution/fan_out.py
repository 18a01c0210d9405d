"""Several requests sent together, and read by their caller as one response: candidates follow those of the one before.

Legacy completions take a list of prompts. For an upstream of conversations each prompt is a conversation::

    prompt 0 ─ attempt ─ candidates 0..n-1 ┐
    prompt 1 ─ attempt ─ candidates n..2n-1├─▶ one Started, their parts as they come, usage summed, one Ended
    ...                                    ┘

All are sent to one target with one credential by a few workers, each in its own task because the timeouts of an attempt
belong to the task that began it. One worker uses the call's own permit, the others take a further permit for each
request; without any, the requests are sent one after another. The first event commits all of them: before it a failure
fails the whole try, which the executor may repeat; after it a failure is the last event of the stream. Nothing is
retried here.
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
_Read: TypeAlias = tuple[int, Batch | Exception]
"""The number of a stream, and its next batch or its failure."""


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
        "_jobs",
        "_offsets",
        "_over",
        "_pending",
        "_queue",
        "_responses",
        "_started",
        "_stream",
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
        self._offsets = [requests[0].candidates * number for number in range(len(requests))]
        self._pending = enumerate(self._jobs)  # shared by the workers
        self._stream = job.stream
        self._begin = begin
        self._try_admit = try_admit
        self._queue: asyncio.Queue[_Read] = asyncio.Queue(_READ_AHEAD)
        self._tasks: list[asyncio.Task[None]] = []
        self._responses: dict[int, Response] = {}
        self._first: tuple[int, Batch] | None = None
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
        workers = range(min(MAX_CONCURRENCY, len(self._jobs)))
        self._tasks = [loop.create_task(self._work(is_first=worker == 0)) for worker in workers]
        if self._stream:
            self._first = await self._next_batch()
        else:
            await asyncio.gather(*self._tasks)
            self.whole = self._joined()

    async def next(self) -> Batch | None:
        """Return the next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        while not self._over:
            first, self._first = self._first, None
            try:
                number, batch = first or await self._next_batch()
            except GatewayError as error:
                self._over = True
                return Batch((Failed(error),))
            if events := self._merged(number, batch.events):
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

    async def _work(self, *, is_first: bool) -> None:
        """Send requests until none is left.

        Args:
            is_first: Whether the worker uses the call's own permit; others end if no further permit is available.
        """
        try:
            while (permit := UNLIMITED if is_first else self._try_admit()) is not None:
                try:
                    if (entry := next(self._pending, None)) is None:
                        return
                    await self._send(*entry)
                finally:
                    permit.release()
        except Exception as error:
            if not self._stream:
                raise
            await self._queue.put((-1, error))

    async def _send(self, number: int, job: Job) -> None:
        attempt = await self._begin(job)
        try:
            if not hasattr(self, "upstream_request"):
                self.upstream_request = attempt.upstream_request
            if not self._stream:
                assert isinstance(attempt.whole, Response), "responses to several requests do not pass through"
                self._responses[number] = attempt.whole
                return
            while (batch := await attempt.next()) is not None:
                await self._queue.put((number, batch))
        finally:
            await attempt.close()

    async def _next_batch(self) -> tuple[int, Batch]:
        number, read = await self._queue.get()
        if isinstance(read, Exception):
            raise read
        return number, read

    def _joined(self) -> Response:
        """Return the responses as one, with the metadata of the first."""
        responses = [self._responses[number] for number in range(len(self._jobs))]
        candidates = tuple(
            msgspec.structs.replace(candidate, index=offset + candidate.index)
            for offset, response in zip(self._offsets, responses, strict=True)
            for candidate in response.candidates
        )
        usage = sum_usage([response.usage for response in responses])
        return msgspec.structs.replace(responses[0], candidates=candidates, usage=usage)

    def _merged(self, number: int, events: Sequence[StreamEvent]) -> list[StreamEvent]:
        """Return the events of one stream as events of the merged one."""
        merged: list[StreamEvent] = []
        offset = self._offsets[number]
        for event in events:
            match event:
                case Started(usage=usage) if not self._started:
                    self._started = True
                    self._usages[number] = usage or Usage()
                    merged.append(event)
                case Started(usage=None) | Passed():
                    pass
                case Started(usage=usage) | UsageReported(usage=usage):
                    self._usages[number] = usage or Usage()
                    merged.append(UsageReported(sum_usage(self._usages)))
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
                case _:
                    merged.append(msgspec.structs.replace(event, candidate=offset + event.candidate))
        return merged
