"""Several requests at once, read by their caller as one answer: each answer's candidates follow those before it.

Legacy completions take a list of prompts. Where the upstream holds conversations instead, each prompt is one of them::

    prompt 0 ─ attempt ─ candidates 0..n-1 ┐
    prompt 1 ─ attempt ─ candidates n..2n-1├─▶ one Started, their parts as they come, usage summed, one Ended
    ...                                    ┘

All go to one target with one credential, a few at a time, each in a task of its own because an attempt's clocks belong
to the task that began it. The call has one place at its provider already; whatever is under way beside that takes one
of its own, and where there is none, they go one after another. The first to say something commits all of them: before
it any failure fails the whole try, which whoever made it may repeat; after it a failure is the stream's last event.
Nothing is retried here.
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
)
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.execution.admission_queue import UNLIMITED, Permit
from llmproxy_asgi.execution.attempt import Attempt, Job
from llmproxy_asgi.execution.continuation import Continuation
from llmproxy_asgi.execution.lazy_request import DecodedRequest
from llmproxy_asgi.execution.spent import total
from llmproxy_asgi.providers.base import Credential
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.refusals import refusal

AT_ONCE = 4
"""Upstream requests of one call that are under way together."""
MOST = 128
"""Upstream requests that one call may become."""

_AHEAD = 64
"""Batches that are read before their caller takes them."""

Begin: TypeAlias = Callable[[Job], Awaitable[Attempt | Continuation]]
OneMore: TypeAlias = Callable[[], Permit | None]
"""A further place at the provider, if one is free; it is waited for by nobody."""
_Told: TypeAlias = Batch | Response | Exception | None
"""What one of the tasks has to say: a batch, the whole answer, why it failed, or that it is done."""


class Together:
    """Several attempts; read, and closed, like one.

    Args:
        job: What the caller asked for; a batch.
        target: Where they go.
        credential: What signs them.
        begin: Begins one of them.
        one_more: Makes room for one beside those that are under way.

    Raises:
        Unsupported: There are more than one call may become.
    """

    __slots__ = (
        "_begin",
        "_ended",
        "_first",
        "_gate",
        "_jobs",
        "_one_more",
        "_over",
        "_parts",
        "_place",
        "_queue",
        "_started",
        "_tasks",
        "_usages",
        "credential",
        "passthrough",
        "permit",
        "target",
        "upstream_request",
        "whole",
    )

    def __init__(
        self, job: Job, target: Target, credential: Credential, begin: Begin, one_more: OneMore = lambda: UNLIMITED
    ) -> None:
        requests = job.request.decode_each()
        if len(requests) > MOST:
            raise refusal("Too many prompts in one call", "prompt", f"send at most {MOST} to this upstream")
        self._jobs = [msgspec.structs.replace(job, request=DecodedRequest(request)) for request in requests]
        # Candidates are numbered before they come: each request has as many as it asks for.
        self._parts = [requests[0].candidates * number for number in range(len(requests))]
        self._begin = begin
        self._one_more = one_more
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._place = asyncio.Lock()  # whoever holds it is under way in the call's own place
        self._queue: asyncio.Queue[tuple[int, _Told]] = asyncio.Queue(_AHEAD)
        self._tasks: list[asyncio.Task[None]] = []
        self._first: tuple[int, _Told] | None = None
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
        """Ask, until one has something to say, or until every answer is there where no stream is wanted.

        Raises:
            GatewayError: One of them failed; nothing has been shown to anybody.
        """
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._ask(number, job)) for number, job in enumerate(self._jobs)]
        if self._jobs[0].stream:
            self._first = await self._heard()
        else:
            await self._complete()

    async def next(self) -> Batch | None:
        """The next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        while not self._over:
            first, self._first = self._first, None
            try:
                number, told = first or await self._heard()
            except GatewayError as error:
                self._over = True
                return Batch((Failed(error),))
            if isinstance(told, Batch):
                events = self._told(number, told.events)
                if events:
                    return Batch(events)
        return None

    async def close(self) -> None:
        """Let go of every upstream answer. May be called more than once."""
        self._over = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self.permit.release()

    # ── one of them ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(self, number: int, job: Job) -> None:
        try:
            async with self._gate:
                await self._in_some_place(number, job)
        except Exception as error:  # noqa: BLE001  it is raised again by whoever listens
            await self._queue.put((number, error))

    async def _in_some_place(self, number: int, job: Job) -> None:
        permit = self._one_more() if self._place.locked() else None
        if permit is None:
            async with self._place:
                await self._tell(number, job)
            return
        try:
            await self._tell(number, job)
        finally:
            permit.release()

    async def _tell(self, number: int, job: Job) -> None:
        attempt = await self._begin(job)
        try:
            if not hasattr(self, "upstream_request"):
                self.upstream_request = attempt.upstream_request
            if not job.stream:
                assert isinstance(attempt.whole, Response), "answers to several requests do not pass through"
                await self._queue.put((number, attempt.whole))
                return
            while (batch := await attempt.next()) is not None:
                await self._queue.put((number, batch))
        finally:
            await attempt.close()

    async def _heard(self) -> tuple[int, _Told]:
        number, told = await self._queue.get()
        if isinstance(told, Exception):
            raise told
        return number, told

    # ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _complete(self) -> None:
        answers: dict[int, Response] = {}
        while len(answers) < len(self._jobs):
            number, told = await self._heard()
            assert isinstance(told, Response), "no stream was wanted"
            answers[number] = told
        candidates = [
            msgspec.structs.replace(candidate, index=self._parts[number] + candidate.index)
            for number in sorted(answers)
            for candidate in answers[number].candidates
        ]
        usage = total([answer.usage for answer in answers.values()])
        self.whole = msgspec.structs.replace(answers[0], candidates=tuple(candidates), usage=usage)

    def _told(self, number: int, events: Sequence[StreamEvent]) -> list[StreamEvent]:
        """The events of one as events of the one answer."""
        told: list[StreamEvent] = []
        for event in events:
            match event:
                case Started():
                    told += self._start(number, event)
                case UsageReported(usage=usage):
                    told.append(self._spend(number, usage))
                case Ended():
                    self._ended += 1
                    if self._ended == len(self._jobs):
                        self._over = True
                        told.append(event)
                case Failed():
                    self._over = True
                    told.append(event)
                    break
                case Finished(candidate=candidate, finish=finish):
                    told.append(Finished(self._parts[number] + candidate, finish))
                case Passed():
                    pass
                case _:
                    told.append(msgspec.structs.replace(event, candidate=self._parts[number] + event.candidate))
        return told

    def _start(self, number: int, event: Started) -> list[StreamEvent]:
        """The first to start starts the answer; what the others say there of their usage is told all the same."""
        if not self._started:
            self._started = True
            self._usages[number] = event.usage or Usage()
            return [event]
        return [self._spend(number, event.usage)] if event.usage else []

    def _spend(self, number: int, usage: Usage) -> UsageReported:
        self._usages[number] = usage
        return UsageReported(total(self._usages))
