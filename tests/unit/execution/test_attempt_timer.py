"""One timer enforces three timeouts, and distinguishes its cancellation from others."""

import asyncio
import contextlib

import pytest

from llmproxy_asgi.errors import UpstreamTimeout
from llmproxy_asgi.execution.attempt_timer import AttemptTimer
from llmproxy_asgi.settings import Timeouts

pytestmark = pytest.mark.anyio


def clocks(connect: float = 60, first_byte: float = 60, idle: float = 60, total: float = 60) -> AttemptTimer:
    return AttemptTimer(Timeouts(connect=connect, first_byte=first_byte, idle=idle, total=total))


async def interrupted(made: AttemptTimer) -> UpstreamTimeout | None:
    made.start_wait()
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        return made.timeout_error()
    finally:
        made.end_wait()
        made.stop()
    raise AssertionError("nothing interrupted the wait")


async def test_until_the_request_is_sent_connecting_has_its_time() -> None:
    """Allow connect and first byte together if the transport doesn't report when the request was sent."""
    error = await interrupted(clocks(connect=0.01, first_byte=0.02))
    assert error is not None
    assert error.code == "upstream_first_byte_timeout"


async def test_the_first_byte_clock_starts_when_the_request_is_sent() -> None:
    """However long connecting may take, and although the timer was armed before."""
    made = clocks(first_byte=0.03)
    await asyncio.sleep(0.01)
    made.sent()
    began = asyncio.get_running_loop().time()
    error = await interrupted(made)
    assert error is not None
    assert error.code == "upstream_first_byte_timeout"
    assert asyncio.get_running_loop().time() - began >= 0.03


async def test_connecting_again_stops_the_first_byte_clock() -> None:
    """A request that has to be sent on another connection is not waited for yet."""
    made = clocks(connect=0.2, first_byte=0.02)
    made.sent()
    made.connecting()
    await asyncio.sleep(0.1)
    made.sent()
    made.received()
    made.stop()


async def test_a_request_is_sent_as_long_as_it_is_read() -> None:
    """Each piece starts the idle clock again; the first-byte clock has not begun."""
    made = clocks(connect=0.01, first_byte=0.01, idle=0.1)
    for _ in range(3):
        made.sending()
        await asyncio.sleep(0.06)
    made.sending()
    error = await interrupted(made)
    assert error is not None
    assert (error.code, error.message) == ("upstream_idle_timeout", "The upstream stopped reading the request.")


async def test_headers_do_not_start_the_first_byte_clock_again() -> None:
    """All waits before the first byte are one."""
    made = clocks(first_byte=0.1)
    made.sent()
    made.start_wait()
    await asyncio.sleep(0.06)
    made.end_wait()
    began = asyncio.get_running_loop().time()
    assert await interrupted(made) is not None
    assert asyncio.get_running_loop().time() - began < 0.1


async def test_the_idle_clock_takes_over_at_once() -> None:
    """A long first-byte clock does not delay a short idle one."""
    made = clocks(idle=0.02)
    made.received()
    error = await interrupted(made)
    assert error is not None
    assert error.code == "upstream_idle_timeout"


async def test_the_idle_clock_takes_over_however_late_the_answer_begins() -> None:
    """A wait for the first byte that outlasts many idle times does not blunt the idle clock after it."""
    made = clocks(idle=0.01)
    made.start_wait()
    await asyncio.sleep(0.05)
    made.end_wait()
    made.received()
    error = await interrupted(made)
    assert error is not None
    assert error.code == "upstream_idle_timeout"


async def test_the_total_clock_ends_a_wait() -> None:
    """Enforce the total whatever the other timeouts."""
    error = await interrupted(clocks(total=0.03))
    assert error is not None
    assert error.code == "upstream_total_timeout"


async def test_no_timeout_counts_between_waits() -> None:
    """A slow caller is not the upstream's fault; an overdue total is noticed at the next wait."""
    made = clocks(idle=0.01, total=0.02)
    made.received()
    made.end_wait()
    await asyncio.sleep(0.06)
    with pytest.raises(UpstreamTimeout, match="longer than its time limit"):
        made.start_wait()
    made.stop()


async def test_a_foreign_cancellation_is_no_timeout() -> None:
    """Pass on the cancellation of a caller who disconnects."""
    made = clocks()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    assert await interrupted(made) is None
    assert task.cancelling() == 1
    task.uncancel()


async def test_a_task_that_survived_a_cancellation_has_timeouts_like_any_other() -> None:
    """A host may have caught one without taking it back; the next timeout is a timeout all the same."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert await interrupted(clocks(connect=0.01, first_byte=0.01)) is not None
    assert task.cancelling() == 1
    task.uncancel()


async def test_a_timeout_leaves_the_task_uncancelled() -> None:
    """Let the same task continue with the next attempt after a timeout."""
    assert await interrupted(clocks(connect=0.01, first_byte=0.01))
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)
