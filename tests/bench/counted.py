"""What `instructions` counts: calls through the app in one process, to an upstream that is prepared bytes and no more.

Run as `python -m bench.counted` below valgrind. The app, its HTTP client and the event loop are the real ones; sockets,
servers and clocks are left away, because what they cost depends on what else the machine does.
"""

import asyncio
import gc
import os
import sys
from typing import Any

import uvloop
from aiohttp import TCPConnector
from aiohttp.client_proto import ResponseHandler
from typing_extensions import override

from bench import driver, instructions, traffic, upstream

_WARM_UP = 30


class Socket(asyncio.Transport):
    """A connection to an upstream that answers each request at once, a stream with one chunk per turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.Protocol
        self._closed = False

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        found = traffic.MODEL.search(data)
        assert found is not None, "a request is written at once"
        usage = b'"include_usage"' in bytes(data)
        pieces = upstream.answer(found[1].decode(), int(found[2]), usage=usage)
        self._loop.call_soon(self._tell, pieces, 0)

    def _tell(self, pieces: tuple[bytes, ...], index: int) -> None:
        if self._closed:
            return
        self._protocol.data_received(pieces[index])
        if index + 1 < len(pieces):  # behind the reader, who has been woken
            self._loop.call_soon(self._tell, pieces, index + 1)

    @override
    def get_write_buffer_size(self) -> int:
        return 0

    @override
    def is_closing(self) -> bool:
        return self._closed

    @override
    def is_reading(self) -> bool:
        return True

    @override
    def pause_reading(self) -> None:
        raise AssertionError("a reader has fallen behind: more is counted than one chunk per read")

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close


async def _connect(self: TCPConnector, *_: Any) -> ResponseHandler:
    """Stand in for `TCPConnector._create_connection`."""
    protocol = self._factory()
    transport = Socket()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return protocol


def _without_clocks() -> None:
    """Keep the timer from firing that is for calls which take longer than a moment: below valgrind all of them do."""
    # The checkout may be an older one, in which the constant had another name and place.
    found = [
        (module, name)
        for path, module in sys.modules.items()
        for name in ("_WATCH_DELAY", "_WATCH_AFTER")
        if path.startswith("llmproxy_asgi.") and hasattr(module, name)
    ]
    assert found, "no module has the delay after which a call is watched"
    for module, name in found:
        setattr(module, name, 3600.0)


async def _count(app: driver.App) -> None:
    async with driver.lifespan(app):
        for case in instructions.CASES:
            player = driver.Driver(app, wire=case.wire, model=case.model, prefix="/llm", key="")
            await player.play(_WARM_UP if case.model.startswith("plain") else 2, 1)
            gc.collect()
            gc.freeze()
            instructions.mark()
            await player.play(case.calls, 1)
            instructions.mark()


def main() -> None:
    """Play all cases, with a mark before and after each."""
    os.environ["BENCH_UPSTREAM"] = "http://127.0.0.1:9"
    TCPConnector._create_connection = _connect  # type: ignore[assignment]
    from bench import ours  # makes the gateway, from the environment

    _without_clocks()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_count(ours.app))


if __name__ == "__main__":
    main()
