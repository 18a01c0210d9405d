"""Who hears of a signal, and when: the gateway first, the server when nothing is open any more."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from llmproxy_asgi.cli.ending import DrainsAtSignals

pytestmark = pytest.mark.anyio
WINDOW = 30.0


class Process:
    """A server and a gateway that note what they are told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.over = {WINDOW: asyncio.Event(), 0: asyncio.Event()}

    def server(self, number: int, _frame: object) -> None:
        self.told.append(signal.Signals(number).name)

    async def drain(self, window: float) -> None:
        self.told.append(window)
        await self.over[window].wait()

    async def ask(self, *numbers: int) -> list[object]:
        for number in numbers:
            signal.raise_signal(number)
            await self.breathe()
        return self.told

    async def end(self, window: float) -> list[object]:
        self.over[window].set()
        await self.breathe()
        return self.told

    @staticmethod
    async def breathe() -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def alive(_scope: Scope, receive: Receive, _send: Send) -> None:
    await receive()


async def hang_up_of(made: Process, app: DrainsAtSignals, times: int) -> None:
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
    """One reload at a time, and one more behind it if the files may have changed since; nobody is told to end."""
    made, reads = Process(), asyncio.Semaphore(0)

    async def reload() -> None:
        made.told.append("reload")
        await reads.acquire()

    await hang_up_of(made, DrainsAtSignals(alive, made.drain, window=WINDOW, reload=reload), times=3)
    assert made.told == ["reload"]
    for _ in range(3):
        reads.release()
        await made.breathe()
    assert made.told == ["reload", "reload"]


async def test_hang_up_without_files_is_a_wish_for_the_end() -> None:
    """What has nothing to take up again drains, and then the server is told as by SIGTERM."""
    made = Process()
    await hang_up_of(made, DrainsAtSignals(alive, made.drain, window=WINDOW), times=1)
    assert made.told == [WINDOW]
    assert await made.end(WINDOW) == [WINDOW, "SIGTERM"]


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    """With a gateway that is served; the signals are given back to the process that runs the tests."""
    made = Process()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, made.server) for number in numbers}
    await start(DrainsAtSignals(alive, made.drain, window=WINDOW))
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


async def start(app: DrainsAtSignals) -> None:
    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(_message: Message) -> None:
        raise AssertionError("there is nothing to say")

    await app({"type": "lifespan"}, receive, send)


async def test_the_server_hears_of_the_signal_when_the_drain_is_over(process: Process) -> None:
    """Not before, and once."""
    assert await process.ask(signal.SIGTERM) == [WINDOW]
    assert await process.end(WINDOW) == [WINDOW, "SIGTERM"]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_window(process: Process, second: int) -> None:
    """What is open is ended now, and the server hears of one signal, whichever drain is over first."""
    assert await process.ask(signal.SIGTERM, second) == [WINDOW, 0]
    assert await process.end(0) == [WINDOW, 0, signal.Signals(second).name]
    assert await process.end(WINDOW) == [WINDOW, 0, signal.Signals(second).name]


async def test_a_third_signal_is_the_servers(process: Process) -> None:
    """Whatever the gateway is still waiting for."""
    told = await process.ask(signal.SIGINT, signal.SIGINT, signal.SIGINT)
    assert told == [WINDOW, 0, "SIGINT"]
    await process.end(0)
    await process.end(WINDOW)


async def test_what_a_parent_adds_to_an_interrupt_is_no_second_one(process: Process) -> None:
    """Ctrl+C reaches workers from the terminal and, as a SIGTERM, from their parent; pressed again, it counts."""
    assert await process.ask(signal.SIGINT, signal.SIGTERM) == [WINDOW]
    assert await process.ask(signal.SIGINT) == [WINDOW, 0]
    await process.end(0)
    await process.end(WINDOW)


async def test_a_drain_that_fails_does_not_keep_the_server(process: Process) -> None:
    """The server is told all the same, and the failure is not lost."""

    async def broken(_window: float) -> None:
        raise RuntimeError("broken")

    app = DrainsAtSignals(alive, broken, window=WINDOW)
    signal.signal(signal.SIGTERM, process.server)

    await start(app)
    assert await process.ask(signal.SIGTERM) == ["SIGTERM"]
    (task,) = app._ending
    with pytest.raises(RuntimeError, match="broken"):
        await task
