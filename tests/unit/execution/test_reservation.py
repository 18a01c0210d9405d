"""What one call takes of limits, and what it pays in the end, however it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from llmproxy_asgi.conversation import Batch, Candidate, Finish, FinishReason, Response, Text, Usage
from llmproxy_asgi.errors import RateLimited
from llmproxy_asgi.execution.admission_queue import AdmissionQueue
from llmproxy_asgi.execution.attempt import Job
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.lazy_request import LazyRequest
from llmproxy_asgi.execution.rate_limit import Limiter, TokenBucket
from llmproxy_asgi.execution.reservation import Reservation
from llmproxy_asgi.facts import Observers, QueueLeft
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.worker import Worker
from support.clock import FakeClock
from support.telemetry import RecordingObserver

pytestmark = pytest.mark.anyio

CAPACITY = 1_000
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 500}).encode()
INPUT = len(BODY) // 4


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(at=0.0)


def queue(clock: FakeClock, *, queue_timeout: float = 0.0) -> AdmissionQueue:
    limiter = Limiter([], TokenBucket(CAPACITY / 60, CAPACITY, clock))
    return AdmissionQueue(limiter, None, queue_timeout=queue_timeout, max_queue=10, clock=clock)


def job() -> Job:
    inbound = translator("openai-chat").inbound
    inbound_request = inbound.open(BODY, headers={})
    return Job(
        protocol="openai-chat",
        stream=True,
        request=LazyRequest(inbound, inbound_request),
        inbound_request=inbound_request,
    )


def reservation(
    at: AdmissionQueue | None,
    clock: FakeClock,
    observer: RecordingObserver | None = None,
    *,
    counts_tokens: bool = False,
) -> Reservation:
    observers = Observers([observer] if observer else [])
    return Reservation(at, counts_tokens=counts_tokens, clock=clock, observers=observers, worker=Worker())


def spent(at: AdmissionQueue) -> float:
    """Tokens that are missing from the bucket."""
    return round(at.forecast(CAPACITY) * CAPACITY / 60, 6)


def answer(*texts: str) -> Response:
    parts = tuple(Text(text=text) for text in texts)
    candidate = Candidate(parts=parts, finish=Finish(reason=FinishReason.STOP))
    return Response(id="r", model="m", created_at=datetime.now(UTC), candidates=(candidate,))


async def reads(*raws: bytes) -> AsyncIterator[Batch]:
    for raw in raws:
        yield Batch((), raw)


async def test_the_reserved_tokens_are_in_the_job(clock: FakeClock) -> None:
    """The job carries its estimate from there on."""
    one = queue(clock)
    taken = await reservation(one, clock).reserve(job())
    assert taken.tokens == spent(one) == INPUT + 500


@pytest.mark.parametrize(
    ("end", "paid"),
    [
        ({"usage": Usage(input=30, output=12), "complete": True}, 42),
        ({"usage": Usage(input=30, output=12), "answer": answer("x" * 400)}, 42),
        ({"usage": Usage(input=30, output=1)}, 30 + 5),
        ({"usage": Usage(input=30, output=9)}, 30 + 9),
        ({}, INPUT + 5),
        ({"complete": True}, INPUT + 5),
        ({"answer": answer("x" * 40, "y" * 40)}, INPUT + 20),
        ({"answer": Batch((), b"x" * 400)}, INPUT + 100),
        ({"sent": False}, 0),
    ],
    ids=[
        "reported", "reported-whole", "cut-after-more", "cut-after-less", "cut-unreported", "never-reported",
        "whole-unreported", "passthrough-unreported", "not-sent",
    ],
)  # fmt: skip
async def test_what_a_call_pays(clock: FakeClock, end: dict[str, object], paid: int) -> None:
    """The upstream's word where all of it came; of what was cut what is known, and an estimate of what had passed."""
    one = queue(clock)
    its = reservation(one, clock)
    await its.reserve(job())
    batches = reads(b"x" * 300, b"y" * 200)

    async def read() -> Batch | None:
        return await anext(batches, None)

    counted = its.counting(read)
    while await counted() is not None:
        pass
    its.settle(**end)  # type: ignore[arg-type]
    assert spent(one) == paid


async def test_a_target_that_counts_tokens_is_told_them_for_callers_without_limits(clock: FakeClock) -> None:
    """The caller's own limits are none; the provider's permit is settled all the same."""
    one = queue(clock)
    its = reservation(None, clock, counts_tokens=True)
    taken = await its.reserve(job())
    permit = one.try_admit(taken.tokens)
    assert permit is not None
    its.settle(permit, usage=Usage(input=3, output=4), complete=True)
    assert spent(one) == 7


async def test_nothing_is_counted_where_only_calls_are(clock: FakeClock) -> None:
    """Reads are handed on as they are, and no request is weighed."""
    slots_only = AdmissionQueue(
        Limiter([TokenBucket(1, 1, clock)], None), None, queue_timeout=0, max_queue=1, clock=clock
    )
    its = reservation(slots_only, clock)
    assert (await its.reserve(job())).tokens == 0

    async def read() -> Batch | None:
        return None

    assert its.counting(read) is read
    its.settle()


async def test_the_slot_is_free_when_the_call_is_over(clock: FakeClock) -> None:
    """However it ended."""
    one = AdmissionQueue(None, Slots(1), queue_timeout=0, max_queue=1, clock=clock)
    for sent in (True, False):
        its = reservation(one, clock)
        await its.reserve(job())
        assert one.lacks_slot
        its.settle(sent=sent)
        assert not one.lacks_slot


async def test_the_wait_in_a_queue_is_observed(clock: FakeClock) -> None:
    """Report to observers how long a call waited for its caller's limit, and whether it was admitted."""
    one, observer = queue(clock, queue_timeout=30.0), RecordingObserver()
    first = one.try_admit(CAPACITY)
    assert first is not None
    waiting, asked = reservation(one, clock, observer), job()
    task = asyncio.create_task(waiting.reserve(asked))
    await asyncio.sleep(0)
    clock.turn(5.0)
    first.settle(0)
    await task
    assert asked.context.queue_seconds == 5.0
    impatient = asyncio.create_task(reservation(one, clock, observer).reserve(job()))
    await asyncio.sleep(0)
    clock.turn(0.5)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    with pytest.raises(RateLimited):
        await reservation(exhausted_queue(clock), clock, observer).reserve(job())
    assert [(fact.seconds, fact.admitted) for fact in observer.facts if isinstance(fact, QueueLeft)] == [
        (5.0, True),
        (0.5, False),
    ]


def exhausted_queue(clock: FakeClock) -> AdmissionQueue:
    made = queue(clock)
    assert made.try_admit(CAPACITY) is not None
    return made
