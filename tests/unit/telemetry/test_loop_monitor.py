"""The event loop monitor measures lag and leaves no timer or task behind."""

import asyncio
import time

import pytest

from llmproxy_asgi.telemetry import loop_monitor
from llmproxy_asgi.telemetry.loop_monitor import EventLoopMonitor
from support.telemetry import finished, started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_monitor, "INTERVAL", 0.005)
    monkeypatch.setattr(loop_monitor, "_IDLE", 3)


async def until(condition: object) -> None:
    """Poll until the condition holds; the timeout only guards against hanging."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  it polls on purpose
            await asyncio.sleep(0.001)


@pytest.mark.anyio
async def test_it_ticks_with_calls_and_ends_without() -> None:
    """A call starts the timer; after some ticks without another it ends, and the next call starts it again."""
    ticks: list[int] = []
    monitor = EventLoopMonitor(on_tick=lambda: ticks.append(1))
    assert not monitor.running
    for _ in range(2):
        before = len(ticks)
        monitor.notice(started())
        assert monitor.running
        await until(lambda: not monitor.running)
        assert len(ticks) >= before + 3
        assert monitor.lag() == 0


@pytest.mark.anyio
async def test_a_blocked_loop_is_seen() -> None:
    """A blocked event loop is reported as lag."""
    monitor = EventLoopMonitor()
    monitor.notice(started())
    time.sleep(0.05)  # noqa: ASYNC251  the very thing to be measured
    await until(lambda: monitor.lag() > 0)
    assert monitor.lag() >= 0.04
    monitor.stop()


@pytest.mark.anyio
async def test_stopping_leaves_nothing() -> None:
    """A stopped monitor holds no timer and no task, and has called `on_tick` once more."""
    ticks: list[int] = []
    monitor = EventLoopMonitor(on_tick=lambda: ticks.append(1))
    before = asyncio.all_tasks()
    monitor.notice(started())
    monitor.stop()
    monitor.stop()
    assert asyncio.all_tasks() == before
    assert not monitor.running
    assert ticks == [1]


def test_another_loop_has_a_timer_of_its_own() -> None:
    """A gateway that is used in one event loop after another ticks in the loop that runs."""
    monitor = EventLoopMonitor()

    async def call() -> bool:
        monitor.notice(started())
        monitor.notice(finished())
        return monitor.running and monitor._loop is asyncio.get_running_loop()

    assert asyncio.run(call())
    assert asyncio.run(call())
    monitor.stop()
