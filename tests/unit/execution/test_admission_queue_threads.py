"""Threads with their own event loops may share queues, without lost wake-ups or counts."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy_asgi.clock import SYSTEM
from llmproxy_asgi.execution.admission_queue import AdmissionQueue, NotAdmitted, Permit, admit_first
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.rate_limit import Limiter, TokenBucket

HANG_GUARD = 30.0
"""Seconds until a test that hangs fails; far less than calls may wait here, and far more than any needs."""
PATIENT = 3600.0


class Threads:
    """Runs coroutines in threads, each on its own event loop."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        def go() -> None:
            try:
                asyncio.run(asyncio.wait_for(coroutine, HANG_GUARD))
            except BaseException as error:  # noqa: BLE001  handed to the test below
                self._failures.append(error)

        thread = threading.Thread(target=go, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(HANG_GUARD + 5)
            assert not thread.is_alive()
        for failure in self._failures:
            raise failure


def queue(
    slots: Slots | None = None,
    limiter: Limiter | None = None,
    lock: "threading.RLock | None" = None,
    queue_timeout: float = PATIENT,
) -> AdmissionQueue:
    return AdmissionQueue(limiter, slots, queue_timeout=queue_timeout, max_queue=1000, clock=SYSTEM, lock=lock)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread; a hang guard ends it."""
    waited = threading.Event()
    for _ in range(int(HANG_GUARD / 0.01)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it never happened")


def test_a_waiter_on_another_loop_is_admitted_when_a_call_ends() -> None:
    """Admit a call on one loop at once when a slot becomes free on another, not at its timeout."""
    one = queue(Slots(1))
    threads, held = Threads(), threading.Event()

    async def hold() -> None:
        _, permit = await admit_first((one,), 0)
        held.set()
        await asyncio.to_thread(until, lambda: one.waiting == 1)
        permit.release()

    async def wait() -> None:
        await asyncio.to_thread(held.wait, HANG_GUARD)
        _, permit = await admit_first((one,), 0)
        permit.release()

    threads.run(hold())
    threads.run(wait())
    threads.join()
    assert one.is_idle


def test_a_timed_wait_ends_although_the_loop_of_the_call_before_is_closed() -> None:
    """Set the timer of the next waiting call on its own loop when the first one's loop was closed."""
    limiter = Limiter([TokenBucket(20.0, 1.0, SYSTEM)], None)
    one = queue(limiter=limiter)
    threads = Threads()

    async def call() -> None:
        await admit_first((one,), 0)

    for _ in range(8):
        threads.run(call())
    threads.join()
    assert one.waiting == 0


@pytest.mark.parametrize("closed", [False, True], ids=["cancelled", "loop closed"])
def test_a_cancelled_wait_on_one_loop_adds_capacity_on_another(*, closed: bool) -> None:
    """Keep no slot for a waiter that is cancelled, or whose loop is closed."""
    one = queue(Slots(1))
    threads = Threads()
    permit = one.try_admit(0)
    assert permit is not None
    loop = asyncio.new_event_loop()
    leaving = loop.create_task(_pass(one))
    loop.run_until_complete(asyncio.sleep(0))
    assert one.waiting == 1

    async def stay() -> None:
        _, mine = await admit_first((one,), 0)
        mine.release()

    threads.run(stay())
    until(lambda: one.waiting == 2)
    if closed:
        leaving.cancel()  # so that nothing complains of it; its loop never gets to hear of it
        loop.close()
    permit.release()
    if not closed:
        until(lambda: one.waiting == 1)  # its loop stands still, but it has the place
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(leaving)
        loop.close()
    threads.join()
    assert one.is_idle


async def _pass(one: AdmissionQueue) -> Permit:
    return (await admit_first((one,), 0))[1]


@settings(max_examples=12)
@given(
    limit=st.integers(1, 4),
    callers=st.integers(2, 6),
    calls=st.integers(1, 30),
    two=st.booleans(),
    leaving=st.integers(0, 5),
)
def test_never_more_than_allowed_and_nothing_is_left_over(
    limit: int, callers: int, calls: int, two: bool, leaving: int
) -> None:
    """Run no more calls than slots, serve or cancel all of them, and return all capacity, whatever threads do."""
    lock = threading.RLock()
    slots = Slots(limit)
    bucket = TokenBucket(1e9, 1e9, SYSTEM)
    queues = [queue(slots, Limiter([], bucket), lock=lock) for _ in range(1 + two)]
    threads, counting = Threads(), threading.Lock()
    under_way, most, served = 0, 0, 0

    async def one_call(number: int) -> None:
        nonlocal under_way, most, served
        _, permit = await admit_first(queues, 10)
        with counting:
            under_way += 1
            most = max(most, under_way)
        try:
            await asyncio.sleep(0)
        finally:
            with counting:
                under_way -= 1
                served += 1
            permit.settle(number % 20)
            permit.release()

    async def caller(number: int) -> None:
        tasks = [asyncio.create_task(one_call(each)) for each in range(calls)]
        await asyncio.sleep(0)
        for task in tasks[: leaving if number == 0 else 0]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(each is None or isinstance(each, asyncio.CancelledError) for each in results), results

    for number in range(callers):
        threads.run(caller(number))
    threads.join()
    assert most <= limit
    assert callers * calls - min(leaving, calls) <= served <= callers * calls
    assert slots.used == 0
    assert all(each.waiting == 0 for each in queues)


def test_a_queue_timeout_ends_on_its_own_loop() -> None:
    """Refuse a call at its timeout while another loop holds the slot."""
    one = queue(Slots(1), queue_timeout=0.05)
    assert one.try_admit(0) is not None
    threads = Threads()

    async def in_vain() -> None:
        with pytest.raises(NotAdmitted) as told:
            await admit_first((one,), 0)
        assert told.value.limit == "1 call at once"

    for _ in range(4):
        threads.run(in_vain())
    threads.join()
