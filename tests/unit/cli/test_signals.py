"""Signals drain the gateway first; the server gets them when no call is open any more."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from llmproxy_asgi.cli.signals import DrainOnSignal

pytestmark = pytest.mark.anyio
WINDOW = 30.0


class Process:
    """A server and a gateway that record what reaches them, in order."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.over = {WINDOW: asyncio.Event(), 0: asyncio.Event()}

    def server(self, number: int, _frame: object) -> None:
        self.seen.append(signal.Signals(number).name)

    async def drain(self, window: float) -> None:
        self.seen.append(window)
        await self.over[window].wait()

    async def ask(self, *numbers: int) -> list[object]:
        for number in numbers:
            signal.raise_signal(number)
            await self.breathe()
        return self.seen

    async def end(self, window: float) -> list[object]:
        self.over[window].set()
        await self.breathe()
        return self.seen

    @staticmethod
    async def breathe() -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def alive(_scope: Scope, receive: Receive, _send: Send) -> None:
    await receive()


async def hang_up_of(made: Process, app: DrainOnSignal, times: int) -> None:
    """Start an application and hang up; the signals are given back to the process that runs the tests."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, made.server) for number in numbers}
    try:
        await start(app)
        for _ in range(times):
            await made.ask(signal.SIGHUP)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_hang_up_reloads_once_more_for_all_that_came_meanwhile() -> None:
    """Run one reload at a time and one more if files may have changed since, and stop no process."""
    made, reads = Process(), asyncio.Semaphore(0)

    async def reload() -> None:
        made.seen.append("reload")
        await reads.acquire()

    await hang_up_of(made, DrainOnSignal(alive, made.drain, window=WINDOW, reload=reload), times=3)
    assert made.seen == ["reload"]
    for _ in range(3):
        reads.release()
        await made.breathe()
    assert made.seen == ["reload", "reload"]


async def test_hang_up_without_files_ends_the_process() -> None:
    """Without files to reload the gateway drains, and then the server gets a SIGTERM."""
    made = Process()
    await hang_up_of(made, DrainOnSignal(alive, made.drain, window=WINDOW), times=1)
    assert made.seen == [WINDOW]
    assert await made.end(WINDOW) == [WINDOW, "SIGTERM"]


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    """With a gateway that is served; the signals are given back to the process that runs the tests."""
    made = Process()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, made.server) for number in numbers}
    await start(DrainOnSignal(alive, made.drain, window=WINDOW))
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


async def start(app: DrainOnSignal) -> None:
    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(_message: Message) -> None:
        raise AssertionError("there is nothing to say")

    await app({"type": "lifespan"}, receive, send)


async def test_the_server_gets_the_signal_after_the_drain(process: Process) -> None:
    """Not before, and once."""
    assert await process.ask(signal.SIGTERM) == [WINDOW]
    assert await process.end(WINDOW) == [WINDOW, "SIGTERM"]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_window(process: Process, second: int) -> None:
    """Open calls are ended now, and the server gets one signal, whichever drain is over first."""
    assert await process.ask(signal.SIGTERM, second) == [WINDOW, 0]
    assert await process.end(0) == [WINDOW, 0, signal.Signals(second).name]
    assert await process.end(WINDOW) == [WINDOW, 0, signal.Signals(second).name]


async def test_a_third_signal_is_the_servers(process: Process) -> None:
    """Whatever the gateway is still waiting for."""
    seen = await process.ask(signal.SIGINT, signal.SIGINT, signal.SIGINT)
    assert seen == [WINDOW, 0, "SIGINT"]
    await process.end(0)
    await process.end(WINDOW)


async def test_what_a_parent_adds_to_an_interrupt_is_no_second_one(process: Process) -> None:
    """Ctrl+C reaches workers from the terminal and, as a SIGTERM, from their parent; pressed again, it counts."""
    assert await process.ask(signal.SIGINT, signal.SIGTERM) == [WINDOW]
    assert await process.ask(signal.SIGINT) == [WINDOW, 0]
    await process.end(0)
    await process.end(WINDOW)


async def test_a_drain_that_fails_does_not_keep_the_server(process: Process) -> None:
    """Stop the server although the drain failed, and report the failure."""

    async def broken(_window: float) -> None:
        raise RuntimeError("broken")

    app = DrainOnSignal(alive, broken, window=WINDOW)
    signal.signal(signal.SIGTERM, process.server)

    await start(app)
    assert await process.ask(signal.SIGTERM) == ["SIGTERM"]
    (task,) = app._drains
    with pytest.raises(RuntimeError, match="broken"):
        await task
