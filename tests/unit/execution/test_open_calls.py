"""How calls end when the host shuts down."""

import asyncio
import contextlib

import pytest

from llmproxy_asgi.errors import Unavailable
from llmproxy_asgi.execution.open_calls import SHUTTING_DOWN, OpenCalls

pytestmark = pytest.mark.anyio


async def serve(calls: OpenCalls, until: asyncio.Event, told: list[str]) -> None:
    """A call that takes as long as it likes."""
    try:
        with calls.call():
            await until.wait()
        told.append("served")
    except Unavailable as error:
        told.append(error.code or "")


async def begun(calls: OpenCalls, *tasks: "asyncio.Task[None]") -> None:
    while len(calls) < len(tasks):  # noqa: ASYNC110  it begins without telling anybody
        await asyncio.sleep(0)


async def test_calls_under_way_may_end_and_new_ones_are_refused() -> None:
    """Draining waits for the one and turns the other away."""
    calls, until, told = OpenCalls(), asyncio.Event(), list[str]()
    open_one = asyncio.create_task(serve(calls, until, told))
    await begun(calls, open_one)
    draining = asyncio.create_task(calls.drain(60))
    await asyncio.sleep(0)
    await serve(calls, until, told)
    assert told == [SHUTTING_DOWN]
    assert not draining.done()
    until.set()
    await draining
    await open_one
    assert told == [SHUTTING_DOWN, "served"]


async def test_what_outlasts_the_window_is_interrupted_and_says_so() -> None:
    """Fail each remaining call with an error that its caller can receive."""
    calls, told = OpenCalls(), list[str]()
    tasks = [asyncio.create_task(serve(calls, asyncio.Event(), told)) for _ in range(3)]
    await begun(calls, *tasks)
    await calls.drain(0)
    assert len(calls) == 0
    await asyncio.gather(*tasks)
    assert told == [SHUTTING_DOWN] * 3
    assert all(task.cancelling() == 0 for task in tasks)


async def test_a_task_that_outlived_a_cancellation_is_interrupted_like_any_other() -> None:
    """A server's task may have caught one before, without taking it back."""
    calls, told = OpenCalls(), list[str]()

    async def weathered() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        await serve(calls, asyncio.Event(), told)

    task = asyncio.create_task(weathered())
    await begun(calls, task)
    await calls.drain(0)
    await task
    assert told == [SHUTTING_DOWN]


def test_calls_of_a_closed_loop_are_not_waited_for() -> None:
    """Ignore calls of closed loops, and interrupt those of other loops."""
    calls, told = OpenCalls(), list[str]()
    first = asyncio.new_event_loop()
    deserted = first.create_task(serve(calls, asyncio.Event(), told))
    first.run_until_complete(begun(calls, deserted))
    first.close()
    deserted._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what this test is about

    async def drained() -> None:
        tasks = [asyncio.create_task(serve(calls, asyncio.Event(), told))]
        await begun(calls, deserted, *tasks)
        await calls.drain(0)
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(drained(), 30))
    assert (told, len(calls)) == ([SHUTTING_DOWN], 0)


async def test_a_foreign_cancellation_passes_through() -> None:
    """Do not translate a cancellation that did not come from the shutdown."""
    calls, told = OpenCalls(), list[str]()
    task = asyncio.create_task(serve(calls, asyncio.Event(), told))
    await begun(calls, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == []
    assert len(calls) == 0


async def test_draining_nothing_is_over_at_once_and_can_be_taken_back() -> None:
    """A host that starts again serves again."""
    calls, told, until = OpenCalls(), list[str](), asyncio.Event()
    await calls.drain(60)
    until.set()
    await serve(calls, until, told)
    calls.reopen()
    await serve(calls, until, told)
    assert told == [SHUTTING_DOWN, "served"]


async def test_calls_of_another_loop_are_waited_for_and_interrupted() -> None:
    """Drain calls of another event loop too, as where a WSGI server's threads share one."""
    calls, told = OpenCalls(), list[str]()

    def elsewhere() -> None:
        asyncio.run(serve(calls, asyncio.Event(), told))

    thread = asyncio.create_task(asyncio.to_thread(elsewhere))
    while not len(calls):  # noqa: ASYNC110  it begins without telling anybody
        await asyncio.sleep(0.001)
    await calls.drain(0)
    await thread
    assert told == [SHUTTING_DOWN]
