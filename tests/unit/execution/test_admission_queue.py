"""Admission queues: first come first served, bounded, exact, and without leaks."""

import asyncio
from collections.abc import Callable

import pytest
from typing_extensions import override

from llmproxy_asgi.execution.admission_queue import (
    UNKNOWN_WAIT,
    UNLIMITED,
    AdmissionQueue,
    NotAdmitted,
    Permit,
    admit_first,
)
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.rate_limit import Limiter, TokenBucket
from support.clock import FakeAlarm, FakeClock

pytestmark = pytest.mark.anyio

Passing = asyncio.Task[tuple[int, Permit]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(at=0.0)


def queue(
    clock: FakeClock,
    *,
    calls: tuple[float, float] | None = None,
    tokens: tuple[float, float] | None = None,
    slots: Slots | int | None = None,
    queue_timeout: float = 10.0,
    max_queue: int = 100,
) -> AdmissionQueue:
    limiter = None
    if calls or tokens:
        buckets = [TokenBucket(*calls, clock)] if calls else []
        limiter = Limiter(buckets, TokenBucket(*tokens, clock) if tokens else None)
    made = Slots(slots) if isinstance(slots, int) else slots
    return AdmissionQueue(limiter, made, queue_timeout=queue_timeout, max_queue=max_queue, clock=clock)


async def settle_down() -> None:
    """Let every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def comes(*queues: AdmissionQueue, tokens: int = 0) -> Passing:
    """Start a call, which waits in the queues if necessary."""
    task = asyncio.create_task(admit_first(queues, tokens))
    await settle_down()
    return task


async def turn(clock: FakeClock, seconds: float) -> None:
    clock.turn(seconds)
    await settle_down()


async def leaves(task: Passing) -> None:
    task.cancel()
    await settle_down()
    assert task.cancelled()


async def refused(task: Passing) -> NotAdmitted:
    with pytest.raises(NotAdmitted) as caught:
        await task
    return caught.value


def let(task: Passing) -> Permit:
    """Return the permit of an admitted call."""
    assert task.done(), "is still waiting"
    return task.result()[1]


async def test_waiting_calls_are_admitted_in_order_and_on_time(clock: FakeClock) -> None:
    """Admit one call at once and the others at the rate, each exactly when it is due."""
    one = queue(clock, calls=(2, 1))
    tasks = [await comes(one) for _ in range(4)]
    assert [task.done() for task in tasks] == [True, False, False, False]
    for count in range(1, 4):
        await turn(clock, 0.499)
        assert sum(task.done() for task in tasks) == count
        await turn(clock, 0.001)
        assert [task.done() for task in tasks] == [index <= count for index in range(4)]
    assert clock.alarms == 0, "a timer was left behind"


async def test_no_call_overtakes_waiting_calls(clock: FakeClock) -> None:
    """Queue a small call behind a large one, although there is capacity for it."""
    one = queue(clock, tokens=(10, 100))
    let(await comes(one, tokens=50))
    large = await comes(one, tokens=80)
    small = await comes(one, tokens=1)
    assert one.try_admit(1) is None
    assert not small.done()
    await turn(clock, 3.0)
    assert large.done()
    assert not small.done()
    await turn(clock, 0.1)
    assert small.done()


async def test_a_cancelled_wait_admits_the_next_call_at_once(clock: FakeClock) -> None:
    """Admit the next call without any time passing, and charge nothing for the cancelled one."""
    one = queue(clock, tokens=(10, 100))
    let(await comes(one, tokens=100))
    first = await comes(one, tokens=90)
    second = await comes(one, tokens=10)
    await turn(clock, 1.0)
    assert not second.done()
    await leaves(first)
    assert second.done()
    assert one.waiting == 0
    assert clock.alarms == 0


async def test_an_admission_that_is_cancelled_at_once_keeps_nothing(clock: FakeClock) -> None:
    """Pass the permit of a cancelled call to the next waiting call."""
    slots = Slots(1)
    one = queue(clock, slots=slots)
    holder = let(await comes(one))
    first, second = await comes(one), await comes(one)
    holder.release()  # resolves the first one's wait ...
    first.cancel()  # ... before it runs
    await settle_down()
    assert first.cancelled()
    assert second.done()
    assert slots.used == 1
    let(second).release()
    assert slots.used == 0
    assert one.is_idle


async def test_a_slot_is_given_back_once(clock: FakeClock) -> None:
    """Free one slot, however often a permit is released, or cancelled after it."""
    slots = Slots(2)
    one = queue(clock, slots=slots, calls=(1, 5))
    permit, _other = let(await comes(one)), let(await comes(one))
    permit.release()
    permit.release()
    permit.cancel()
    assert slots.used == 1
    assert one.forecast(0) == 0.0
    assert not one.is_idle, "the call counts, though it is over"


async def test_a_call_that_was_never_sent_is_not_counted(clock: FakeClock) -> None:
    """Return the call, its tokens and its slot, and admit the next call at once."""
    one = queue(clock, calls=(0.1, 1), tokens=(1, 100), slots=1)
    permit = let(await comes(one, tokens=100))
    task = await comes(one, tokens=100)
    assert not task.done()
    permit.cancel()
    await settle_down()
    let(task).cancel()
    assert one.is_idle


async def test_a_cancelled_permit_admits_a_call_that_waits_for_the_rate(clock: FakeClock) -> None:
    """Admit the next call also where there are no slots."""
    one = queue(clock, calls=(0.2, 1))
    permit = let(await comes(one))
    task = await comes(one)
    assert not task.done()
    permit.cancel()
    await settle_down()
    let(task)


async def test_a_queue_timeout_ends_the_wait(clock: FakeClock) -> None:
    """Refuse a call when no slot becomes free within `queue_timeout`, and leave no trace of it."""
    one = queue(clock, slots=1, queue_timeout=2.0)
    holder = let(await comes(one))
    task = await comes(one)
    await turn(clock, 1.999)
    assert not task.done()
    await turn(clock, 0.001)
    error = await refused(task)
    assert (error.wait, error.timed) == (UNKNOWN_WAIT, False)
    assert one.waiting == 0
    holder.release()
    assert one.is_idle
    assert clock.alarms == 0


async def test_a_wait_longer_than_the_timeout_is_refused_at_once(clock: FakeClock) -> None:
    """Refuse at once, with the exact wait, where the time that is needed exceeds the timeout."""
    one = queue(clock, calls=(1, 2), queue_timeout=2.0)
    tasks = [await comes(one) for _ in range(5)]
    assert [task.done() for task in tasks] == [True, True, False, False, True]
    error = await refused(tasks[4])
    assert error.timed
    assert error.wait == pytest.approx(3.0)
    await turn(clock, error.wait)
    let(await comes(one))


async def test_the_last_moment_is_in_time(clock: FakeClock) -> None:
    """Admit a call for which capacity becomes available exactly at its timeout."""
    one = queue(clock, calls=(1, 1), queue_timeout=2.0)
    _, second, third = [await comes(one) for _ in range(3)]
    await turn(clock, 2.0)
    assert second.done()
    let(third)


async def test_a_wait_may_be_shorter_than_it_looks(clock: FakeClock) -> None:
    """Wait while running calls may return tokens."""
    one = queue(clock, tokens=(1, 100), queue_timeout=5.0)
    big = let(await comes(one, tokens=100))
    task = await comes(one, tokens=60)
    assert not task.done()
    await turn(clock, 1.0)
    big.settle(20)
    await settle_down()
    let(task)


async def test_a_wait_is_refused_once_every_call_is_settled(clock: FakeClock) -> None:
    """Refuse a wait that is too long when no tokens are reserved any more."""
    one = queue(clock, tokens=(1, 100), queue_timeout=5.0)
    big = let(await comes(one, tokens=100))
    big.settle(100)
    big.release()
    task = await comes(one, tokens=60)
    assert (await refused(task)).wait == pytest.approx(60)


async def test_settling_again_replaces_the_first_charge(clock: FakeClock) -> None:
    """Charge a stream that reports its usage several times for the last report."""
    one = queue(clock, tokens=(1, 100))
    permit = let(await comes(one, tokens=50))
    permit.settle(10)
    permit.settle(30)
    permit.release()
    permit.settle(40)
    assert one.forecast(60) == 0.0
    assert one.forecast(61) == pytest.approx(1.0)


async def test_tokens_that_are_never_settled_stay_charged(clock: FakeClock) -> None:
    """Return no tokens to a call that does not report what it spent."""
    one = queue(clock, tokens=(1, 100))
    let(await comes(one, tokens=50)).release()
    assert one.forecast(100) == pytest.approx(50.0)


async def test_the_queue_is_bounded(clock: FakeClock) -> None:
    """Refuse more than `max_queue` waiting calls at once."""
    one = queue(clock, slots=1, max_queue=3)
    let(await comes(one))
    waiting = [await comes(one) for _ in range(3)]
    await refused(await comes(one))
    assert one.waiting == 3
    for task in waiting:
        await leaves(task)
    assert one.waiting == 0


async def test_no_call_waits_without_a_queue_timeout(clock: FakeClock) -> None:
    """Refuse calls at once with `queue_timeout` 0, the default."""
    one = queue(clock, calls=(1, 1), queue_timeout=0.0)
    let(await comes(one))
    assert (await refused(await comes(one))).wait == pytest.approx(1.0)


async def test_the_first_queue_with_capacity_admits(clock: FakeClock) -> None:
    """Admit a call that waits in two queues once, and remove it from the other queue."""
    near, far = queue(clock, calls=(1, 1)), queue(clock, calls=(0.25, 1))
    for each in (near, far):
        let(await comes(each))
    both = await comes(far, near)
    behind = await comes(far)
    await turn(clock, 1.0)
    assert let(both)
    assert both.result()[0] == 1
    assert far.waiting == 1
    await turn(clock, 3.0)
    let(behind)
    assert clock.alarms == 0


async def test_an_admission_while_queueing_leaves_no_entry_in_other_queues() -> None:
    """Leave no entry in other queues when time passes between the check of a queue and the entry."""

    class Busy(FakeClock):
        """A clock that advances while a timer is set."""

        @override
        def call_later(self, seconds: float, callback: Callable[[], object]) -> FakeAlarm:
            self.at += 1.0
            return super().call_later(seconds, callback)

    clock = Busy(at=0.0)
    quick, slow = queue(clock, calls=(1, 1)), queue(clock, calls=(0.25, 1))
    let(await comes(slow))
    waiting = await comes(slow)
    assert quick.try_admit(0) is not None
    let(await comes(quick, slow))
    assert (quick.waiting, slow.waiting) == (0, 1)
    await turn(clock, 8.0)
    let(waiting)
    assert clock.alarms == 0, "a timer was left behind"


async def test_the_best_queue_with_capacity_is_used(clock: FakeClock) -> None:
    """Use the first of several queues with capacity."""
    first, second = queue(clock, calls=(1, 1)), queue(clock, calls=(1, 1))
    assert (await comes(first, second)).result()[0] == 0
    assert (await comes(first, second)).result()[0] == 1


async def test_each_queue_has_its_own_timeout(clock: FakeClock) -> None:
    """Keep waiting in the other queue after one timed out; raise the shortest wait in the end."""
    short, long = queue(clock, slots=1, queue_timeout=1.0), queue(clock, slots=1, queue_timeout=3.0)
    let(await comes(short))
    holder = let(await comes(long))
    first, second = await comes(short, long), await comes(short, long)
    await turn(clock, 2.0)
    assert (short.waiting, long.waiting) == (0, 2)
    holder.release()
    await settle_down()
    assert first.result()[0] == 1
    await turn(clock, 1.0)
    await refused(second)
    assert long.waiting == 0


async def test_queues_with_shared_slots_admit_the_longest_wait(clock: FakeClock) -> None:
    """Admit calls of two credentials in the order of their waits for the provider's slots."""
    slots = Slots(1)
    left, right = queue(clock, slots=slots), queue(clock, slots=slots)
    holder = let(await comes(left))
    order: list[str] = []

    async def waits(name: str, at: AdmissionQueue) -> Passing:
        task = await comes(at)
        task.add_done_callback(lambda _: order.append(name))
        return task

    tasks = [await waits(name, at) for name, at in (("a", right), ("b", left), ("c", right), ("d", right), ("e", left))]
    holder.release()
    for task in tasks:
        await settle_down()
        let(task).release()
    await settle_down()
    assert order == ["a", "b", "c", "d", "e"]
    assert slots.used == 0


async def test_many_calls_in_two_queues_are_admitted_without_recursion(clock: FakeClock) -> None:
    """Admit a whole queue at once without a deep stack."""
    queues = [queue(clock, tokens=(1, 5_000), max_queue=5_000) for _ in range(2)]
    holders = [let(await comes(each, tokens=5_000)) for each in queues]
    tasks = [await comes(*queues[:: 1 if index % 2 else -1], tokens=1) for index in range(1_500)]
    for holder in holders:
        holder.settle(0)
    await settle_down()
    assert all(task.done() for task in tasks)
    assert [each.waiting for each in queues] == [0, 0]


def test_entries_of_a_closed_loop_do_not_block_the_queue(clock: FakeClock) -> None:
    """Keep the queue usable after an event loop was closed over its waiting calls."""
    one = queue(clock, slots=1)

    async def hold_and_wait() -> None:
        let(await comes(one)).release()
        let(await comes(one))
        waiting = asyncio.ensure_future(admit_first((one,), 0))
        await settle_down()
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what this test is about

    loop = asyncio.new_event_loop()
    loop.run_until_complete(hold_and_wait())
    loop.close()
    assert one.waiting == 1

    async def later() -> None:
        task = await comes(one)
        assert one.waiting == 1, "the abandoned entry is removed, this one waits for the slot"
        await leaves(task)

    asyncio.run(later())


@pytest.mark.parametrize("word", [lambda: UNLIMITED.settle(5), UNLIMITED.release, UNLIMITED.cancel])
def test_the_unlimited_permit_ignores_every_call(word: Callable[[], None]) -> None:
    """Accept every method, so that callers need not check for limits."""
    word()
    assert not UNLIMITED.counts_tokens
