"""An admission queue under any order of calls, cancellations, settlements, releases and waits, against its contract."""

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from llmproxy_asgi.execution.admission_queue import AdmissionQueue, NotAdmitted, Permit, admit_first
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.rate_limit import SLACK, Limiter, TokenBucket
from support.clock import FakeClock

PICK = st.integers(0, 1_000)


class Caller:
    """A call that was started."""

    def __init__(self, number: int, tokens: int, task: "asyncio.Task[tuple[int, Permit]]", came: float) -> None:
        self.number = number
        self.tokens = tokens
        self.task = task
        self.came = came
        self.charged = 0.0
        """Tokens that it was charged beyond its reservation, less those that were returned."""
        self.beyond = 0.0
        """Tokens that it was charged after its admission, which no limit can prevent."""
        self.held = False
        self.cancelled = False

    @property
    def waits(self) -> bool:
        return not self.task.done()


class AdmissionQueueMachine(RuleBasedStateMachine):
    """One queue with slots, a limit of calls and one of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock(at=0.0)
        self.callers: list[Caller] = []
        self.admitted: list[Caller] = []

    @initialize(
        calls=st.tuples(st.floats(0.1, 50), st.integers(1, 5)),
        tokens=st.integers(1, 200),
        slots=st.integers(1, 4),
        bounds=st.tuples(st.sampled_from([0.0, 0.5, 5.0]), st.integers(1, 6)),
    )
    def open(self, calls: tuple[float, int], tokens: int, slots: int, bounds: tuple[float, int]) -> None:
        (self.rate, self.burst), self.capacity = calls, tokens
        self.slots = Slots(slots)
        self.limiter = Limiter([TokenBucket(*calls, self.clock)], TokenBucket(tokens / 60, tokens, self.clock))
        timeout, size = bounds
        self.queue = AdmissionQueue(self.limiter, self.slots, queue_timeout=timeout, max_queue=size, clock=self.clock)

    def run(self) -> None:
        """Let every task run that can, and record admitted calls in order."""
        for _ in range(6):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        for caller in self.callers:
            if caller.task.done() and not caller.task.cancelled() and caller not in self.admitted:
                if isinstance(caller.task.exception(), NotAdmitted):
                    continue
                caller.task.result()
                caller.held = True
                self.admitted.append(caller)

    def pick(self, which: int, among: list[Caller]) -> Caller:
        return among[which % len(among)]

    def permits(self) -> list[Caller]:
        return [caller for caller in self.admitted if caller.held]

    def waiting(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.waits]

    @rule(tokens=st.integers(0, 250))
    def come(self, tokens: int) -> None:
        task = self.loop.create_task(admit_first((self.queue,), tokens))
        self.callers.append(Caller(len(self.callers), min(tokens, self.capacity), task, self.clock.at))
        self.run()

    @precondition(lambda self: self.waiting())
    @rule(which=PICK)
    def leave(self, which: int) -> None:
        self.pick(which, self.waiting()).task.cancel()
        self.run()

    @precondition(lambda self: self.permits() and self.waiting())
    @rule(which=PICK, holder=PICK)
    def leave_while_a_slot_comes_free(self, which: int, holder: int) -> None:
        first = self.pick(holder, self.permits())
        first.held = False
        first.task.result()[1].release()
        self.pick(which, self.waiting()).task.cancel()
        self.run()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.3, 1.0, 7.0, 100.0]))
    def wait(self, seconds: float) -> None:
        async def turn() -> None:
            self.clock.turn(seconds)

        # On the callers' event loop, so that a timer is set at the time at which its predecessor rang.
        self.loop.run_until_complete(turn())
        self.run()

    @precondition(lambda self: self.permits())
    @rule(which=PICK, spent=st.integers(0, 300))
    def settle(self, which: int, spent: int) -> None:
        caller = self.pick(which, self.permits())
        caller.task.result()[1].settle(spent)
        charged = spent - caller.tokens
        caller.beyond += max(0.0, charged - caller.charged)
        caller.charged = charged
        self.run()

    @precondition(lambda self: self.permits())
    @rule(which=PICK, again=st.booleans())
    def release(self, which: int, again: bool) -> None:
        caller = self.pick(which, self.permits())
        caller.held = False
        caller.task.result()[1].release()
        if again:
            caller.task.result()[1].release()
        self.run()

    @precondition(lambda self: self.permits())
    @rule(which=PICK)
    def cancel(self, which: int) -> None:
        caller = self.pick(which, self.permits())
        caller.held, caller.cancelled = False, True
        caller.task.result()[1].cancel()
        self.run()

    @precondition(lambda self: not self.waiting() and self.slots.free)
    @rule(tokens=st.integers(0, 250))
    def the_forecast_is_exact(self, tokens: int) -> None:
        told = self.queue.forecast(tokens)
        if told > 100 * SLACK:
            self.clock.turn(told * 0.99)
            assert self.queue.try_admit(tokens) is None
            self.clock.turn(told * 0.01)
        permit = self.queue.try_admit(tokens)
        assert permit is not None
        permit.cancel()
        self.run()

    @invariant()
    def no_slot_is_lost_and_none_is_given_twice(self) -> None:
        if hasattr(self, "slots"):
            assert self.slots.used == len(self.permits()) <= self.slots.limit

    @invariant()
    def first_come_first_served(self) -> None:
        numbers = [caller.number for caller in self.admitted]
        assert numbers == sorted(numbers)
        if self.waiting():
            oldest = self.waiting()[0].number
            assert all(number < oldest for number in numbers)

    @invariant()
    def no_call_waits_for_available_capacity(self) -> None:
        if self.waiting() and not self.queue.lacks_slot:
            assert self.limiter.wait(self.waiting()[0].tokens) > 0
            assert self.clock.alarms > len(self.waiting()) - 1, "and a timer will advance the queue"

    @invariant()
    def the_queue_is_bounded_in_length_and_time(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.waiting == len(self.waiting()) <= self.queue.max_queue
            assert all(self.clock.at - caller.came <= self.queue.queue_timeout + SLACK for caller in self.waiting())

    @invariant()
    def the_limits_are_never_exceeded(self) -> None:
        if not hasattr(self, "queue"):
            return
        passed = [caller for caller in self.admitted if not caller.cancelled]
        elapsed = self.clock.at + len(self.callers) * SLACK
        assert len(passed) <= self.burst + self.rate * elapsed + 1e-6
        beyond = sum(caller.beyond for caller in passed)
        spent = sum(caller.tokens + caller.charged for caller in passed)
        assert spent <= self.capacity + self.capacity / 60 * elapsed + beyond + 1e-6

    @override
    def teardown(self) -> None:
        """Check that the queue is idle a while after every call has ended."""
        if hasattr(self, "queue"):
            for caller in self.waiting():
                caller.task.cancel()
            self.run()
            for caller in self.permits():
                caller.held = False
                caller.task.result()[1].release()
            assert self.clock.alarms == 0
            self.clock.turn(10 * 86400)
            assert self.queue.is_idle
        self.loop.close()


AdmissionQueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAdmissionQueue: Any = AdmissionQueueMachine.TestCase
