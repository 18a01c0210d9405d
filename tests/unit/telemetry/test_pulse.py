"""The timer behind the metrics: it measures the loop's lateness, and leaves nothing behind."""

import asyncio
import time

import pytest

from llmproxy_asgi.telemetry import pulse as module
from llmproxy_asgi.telemetry.pulse import Pulse
from support_telemetry import finished, started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.005)
    monkeypatch.setattr(module, "_IDLE", 3)


async def until(condition: object) -> None:
    """A guard against hanging only."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  it polls on purpose
            await asyncio.sleep(0.001)


@pytest.mark.anyio
async def test_it_beats_with_calls_and_rests_without() -> None:
    """A call starts it; after some beats without another it rests, and the next call starts it again."""
    beats: list[int] = []
    pulse = Pulse(also=lambda: beats.append(1))
    assert not pulse.beating
    for _ in range(2):
        before = len(beats)
        pulse.notice(started())
        assert pulse.beating
        await until(lambda: not pulse.beating)
        assert len(beats) >= before + 3
        assert pulse.lag() == 0


@pytest.mark.anyio
async def test_a_blocked_loop_is_seen() -> None:
    """What kept the loop from turning is told as lateness until it is forgotten."""
    pulse = Pulse()
    pulse.notice(started())
    time.sleep(0.05)  # noqa: ASYNC251  the very thing to be measured
    await until(lambda: pulse.lag() > 0)
    assert pulse.lag() >= 0.04
    pulse.stop()


@pytest.mark.anyio
async def test_stopping_leaves_nothing() -> None:
    """Stopped, it holds no timer and no task, and has done its other work once more."""
    told: list[int] = []
    pulse = Pulse(also=lambda: told.append(1))
    before = asyncio.all_tasks()
    pulse.notice(started())
    pulse.stop()
    pulse.stop()
    assert asyncio.all_tasks() == before
    assert not pulse.beating
    assert told == [1]


def test_another_loop_has_a_timer_of_its_own() -> None:
    """A gateway that is used in one event loop after another keeps beating, in the one that runs."""
    pulse = Pulse()

    async def call() -> bool:
        pulse.notice(started())
        pulse.notice(finished())
        return pulse.beating and pulse._loop is asyncio.get_running_loop()

    assert asyncio.run(call())
    assert asyncio.run(call())
    pulse.stop()
