"""Queues: first come first served, bounded, exact, and nobody who leaves keeps anything."""

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
    """Let everybody run who can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def comes(*queues: AdmissionQueue, tokens: int = 0) -> Passing:
    """Somebody comes, and stands in line if need be."""
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
    """The permit of somebody who was let in."""
    assert task.done(), "is still waiting"
    return task.result()[1]


async def test_those_who_wait_are_let_in_in_their_order_and_on_time(clock: FakeClock) -> None:
    """One passes, and the others follow at the rate, each at its own time and not a millisecond before."""
    one = queue(clock, calls=(2, 1))
    tasks = [await comes(one) for _ in range(4)]
    assert [task.done() for task in tasks] == [True, False, False, False]
    for count in range(1, 4):
        await turn(clock, 0.499)
        assert sum(task.done() for task in tasks) == count
        await turn(clock, 0.001)
        assert [task.done() for task in tasks] == [index <= count for index in range(4)]
    assert clock.alarms == 0, "a timer was left behind"


async def test_nobody_passes_those_who_wait(clock: FakeClock) -> None:
    """A call so small that there would be enough for it stands behind a large one."""
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


async def test_who_leaves_the_line_gives_the_place_back_at_once(clock: FakeClock) -> None:
    """The next one takes it without any time passing, and nothing of the one who left was spent."""
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
    """Pass the permit of a cancelled call to the next in line."""
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
    """However often a permit is released, or refunded after it, one slot is free."""
    slots = Slots(2)
    one = queue(clock, slots=slots, calls=(1, 5))
    permit, _other = let(await comes(one)), let(await comes(one))
    permit.release()
    permit.release()
    permit.cancel()
    assert slots.used == 1
    assert one.forecast(0) == 0.0
    assert not one.is_idle, "the call counts, though it is over"


async def test_a_call_that_went_nowhere_is_not_counted(clock: FakeClock) -> None:
    """A refund gives back the call, its tokens and its slot, and lets in the next one at once."""
    one = queue(clock, calls=(0.1, 1), tokens=(1, 100), slots=1)
    permit = let(await comes(one, tokens=100))
    task = await comes(one, tokens=100)
    assert not task.done()
    permit.cancel()
    await settle_down()
    let(task).cancel()
    assert one.is_idle


async def test_a_refund_lets_in_who_waits_for_the_rate_alone(clock: FakeClock) -> None:
    """Also where there are no slots whose release would."""
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
    """A turn that comes in the very moment in which patience ends is taken."""
    one = queue(clock, calls=(1, 1), queue_timeout=2.0)
    _, second, third = [await comes(one) for _ in range(3)]
    await turn(clock, 2.0)
    assert second.done()
    let(third)


async def test_a_wait_may_be_shorter_than_it_looks(clock: FakeClock) -> None:
    """While calls are under way whose tokens may come back, it is worth waiting for them."""
    one = queue(clock, tokens=(1, 100), queue_timeout=5.0)
    big = let(await comes(one, tokens=100))
    task = await comes(one, tokens=60)
    assert not task.done()
    await turn(clock, 1.0)
    big.settle(20)
    await settle_down()
    let(task)


async def test_once_every_call_is_settled_there_is_nothing_to_hope_for(clock: FakeClock) -> None:
    """With nothing set aside any more, a wait that is too long is refused at once."""
    one = queue(clock, tokens=(1, 100), queue_timeout=5.0)
    big = let(await comes(one, tokens=100))
    big.settle(100)
    big.release()
    task = await comes(one, tokens=60)
    assert (await refused(task)).wait == pytest.approx(60)


async def test_settling_again_corrects_the_first_word(clock: FakeClock) -> None:
    """A stream that reports its usage several times is charged for the last one."""
    one = queue(clock, tokens=(1, 100))
    permit = let(await comes(one, tokens=50))
    permit.settle(10)
    permit.settle(30)
    permit.release()
    permit.settle(40)
    assert one.forecast(60) == 0.0
    assert one.forecast(61) == pytest.approx(1.0)


async def test_what_is_never_settled_counts_as_spent(clock: FakeClock) -> None:
    """Return no tokens to a call that does not report what it spent."""
    one = queue(clock, tokens=(1, 100))
    let(await comes(one, tokens=50)).release()
    assert one.forecast(100) == pytest.approx(50.0)


async def test_the_line_is_bounded(clock: FakeClock) -> None:
    """More than `max_queue` are turned away at once."""
    one = queue(clock, slots=1, max_queue=3)
    let(await comes(one))
    waiting = [await comes(one) for _ in range(3)]
    await refused(await comes(one))
    assert one.waiting == 3
    for task in waiting:
        await leaves(task)
    assert one.waiting == 0


async def test_nobody_waits_where_waiting_is_not_wanted(clock: FakeClock) -> None:
    """With `queue_timeout` 0, which is the default, the answer comes at once."""
    one = queue(clock, calls=(1, 1), queue_timeout=0.0)
    let(await comes(one))
    assert (await refused(await comes(one))).wait == pytest.approx(1.0)


async def test_whichever_gate_opens_first(clock: FakeClock) -> None:
    """Admit a call that waits at two queues once, and remove it from the other line."""
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


async def test_an_admission_while_lining_up_leaves_no_place_in_other_lines() -> None:
    """Leave no place in other lines when time passes between the check of a queue and the place in its line."""

    class Busy(FakeClock):
        """One that goes on while a timer is set."""

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


async def test_the_best_gate_that_is_open_is_taken(clock: FakeClock) -> None:
    """Order decides where several are open."""
    first, second = queue(clock, calls=(1, 1)), queue(clock, calls=(1, 1))
    assert (await comes(first, second)).result()[0] == 0
    assert (await comes(first, second)).result()[0] == 1


async def test_each_line_has_its_own_timeout(clock: FakeClock) -> None:
    """Keep waiting in the other line after one was refused; raise the shortest wait in the end."""
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


async def test_gates_that_share_slots_serve_who_waited_longest(clock: FakeClock) -> None:
    """Two credentials of one provider, and one line for its slots in effect."""
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


async def test_many_who_wait_in_two_lines_are_let_in_without_depth(clock: FakeClock) -> None:
    """A refund that lets in a whole line at once needs no stack for it."""
    queues = [queue(clock, tokens=(1, 5_000), max_queue=5_000) for _ in range(2)]
    holders = [let(await comes(each, tokens=5_000)) for each in queues]
    tasks = [await comes(*queues[:: 1 if index % 2 else -1], tokens=1) for index in range(1_500)]
    for holder in holders:
        holder.settle(0)
    await settle_down()
    assert all(task.done() for task in tasks)
    assert [each.waiting for each in queues] == [0, 0]


def test_those_of_a_closed_loop_do_not_block_the_line(clock: FakeClock) -> None:
    """A loop that was closed over its waiting calls leaves the queue usable by the next one."""
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
        assert one.waiting == 1, "the abandoned one is out, this one waits for the slot"
        await leaves(task)

    asyncio.run(later())


@pytest.mark.parametrize("word", [lambda: UNLIMITED.settle(5), UNLIMITED.release, UNLIMITED.cancel])
def test_the_permit_of_whoever_needs_none_takes_every_word(word: Callable[[], None]) -> None:
    """Code that serves a call need not ask whether anything is limited."""
    word()
    assert not UNLIMITED.counts_tokens
