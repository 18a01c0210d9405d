"""Where the time goes: requests through the app in this process, with a stand-in for the server, under cProfile.

    .venv/bin/python tests/bench/profile.py [--wire messages] [--model full-256] [--requests N] [--top N]

The upstream is a process of its own, so all that is listed is the app's, its HTTP client's and the event loop's.
A profiler makes small functions look dearer than they are: take the list for the order of things and the first line,
measured without the profiler, for their size.
"""

import argparse
import asyncio
import contextlib
import importlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path, PurePath
from typing import Any

# Run as a script, our own folder is the first place of all imports, and this file would hide the standard `profile`.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cProfile

import uvloop

from bench import processes, traffic

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class WrongAnswer(RuntimeError):
    """The app did not answer as it should, so its profile would be of no use."""


class Exchange:
    """What a server does for one request: hands the body over, takes the answer, notes its end."""

    def __init__(self, body: bytes) -> None:
        self._message: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._over = asyncio.Event()
        self._status = 0
        self._received = bytearray()

    async def receive(self) -> Message:
        """The body at first, afterwards the news that the client has gone, once it has."""
        if self._message is not None:
            message, self._message = self._message, None
            return message
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take one message of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            return
        self._received += message.get("body", b"")
        if not message.get("more_body", False):
            self._over.set()

    def check(self, chunks: int) -> None:
        """Refuse an answer that is not a whole one.

        Raises:
            WrongAnswer: another status than 200, or another number of chunks.
        """
        marks = len(traffic.INDEX.findall(self._received))
        if self._status != 200 or marks != chunks or not self._over.is_set():
            raise WrongAnswer(f"status {self._status}, {marks} of {chunks} chunks: {bytes(self._received[:600])!r}")


class Driver:
    """Plays requests through an app, several at once."""

    def __init__(self, app: App, *, wire: traffic.Wire, model: str, prefix: str, key: str) -> None:
        self._app = app
        self._chunks = int(model.partition("-")[2])
        head, _, self._body = traffic.request(wire, model, prefix=prefix, key=key).partition(b"\r\n\r\n")
        self._path = prefix + traffic.PATHS[wire]
        lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
        self._headers = [(name, value) for name, _, value in lines]

    def _scope(self) -> Message:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": list(self._headers),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }

    async def play(self, requests: int, at_once: int) -> None:
        """Play this many requests."""
        await asyncio.gather(*(self._some(requests // at_once) for _ in range(at_once)))

    async def _some(self, requests: int) -> None:
        for _ in range(requests):
            exchange = Exchange(self._body)
            await self._app(self._scope(), exchange.receive, exchange.send)
            exchange.check(self._chunks)


@contextlib.asynccontextmanager
async def _lifespan(app: App) -> AsyncIterator[None]:
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    outgoing: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    running = asyncio.ensure_future(app(scope, incoming.get, outgoing.put))
    await incoming.put({"type": "lifespan.startup"})
    started = await outgoing.get()
    if started["type"] != "lifespan.startup.complete":
        raise WrongAnswer(f"the app did not start: {started}")
    yield
    await incoming.put({"type": "lifespan.shutdown"})
    await running


async def _profile(app: App, options: argparse.Namespace, profiler: cProfile.Profile) -> float:
    key = traffic.KEY if options.key else ""
    driver = Driver(app, wire=options.wire, model=options.model, prefix=options.prefix, key=key)
    async with _lifespan(app):
        await driver.play(10 * options.at_once, options.at_once)
        before = time.process_time()
        await driver.play(options.requests, options.at_once)
        seconds = time.process_time() - before
        profiler.enable()
        await driver.play(options.requests, options.at_once)
        profiler.disable()
    return seconds


def _show(profiler: cProfile.Profile, requests: int, top: int, order: str) -> None:
    profiler.create_stats()
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = vars(profiler)["stats"]
    rows = sorted(stats.items(), key=lambda row: row[1][2] if order == "tottime" else row[1][3], reverse=True)
    print(f"{'own us':>9} {'with callees us':>16} {'calls':>8}   per request")
    for (file, line, function), (_, calls, own, whole, _) in rows[:top]:
        where = f"{'/'.join(PurePath(file).parts[-3:])}:{line} " if line else ""
        print(f"{own / requests * 1e6:9.2f} {whole / requests * 1e6:16.2f} {calls / requests:8.2f}   {where}{function}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", default="bench.ours:app", help="bench.bare:app for the bare relay")
    parser.add_argument("--wire", choices=sorted(traffic.PATHS), default="chat", help="what the client speaks")
    parser.add_argument("--model", default="plain-1", help="plain-1, or full-256 for a stream of 256 chunks")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16, help="requests in flight")
    parser.add_argument("--key", action="store_true", help="ask callers for a key")
    parser.add_argument("--top", type=int, default=45, help="lines to show")
    parser.add_argument("--sort", choices=("tottime", "cumtime"), default="tottime")
    options = parser.parse_args()
    options.prefix = "" if options.app == "bench.bare:app" else "/llm"
    options.requests -= options.requests % options.at_once
    return options


def main() -> None:
    """Measure without the profiler, then with it, and list the functions."""
    options = _options()
    cores = processes.cores()
    profiler = cProfile.Profile()
    with processes.server("bench.upstream", core=cores.rest) as upstream:
        processes.first_answer(upstream, traffic.request("chat", "plain-1"))
        os.sched_setaffinity(0, {cores.gateway})
        os.environ["BENCH_UPSTREAM"] = f"http://127.0.0.1:{upstream.port}"
        os.environ["BENCH_ACCESS"] = "keys" if options.key else "open"
        module, _, name = options.app.partition(":")
        try:
            app: App = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise SystemExit(f"{options.app} can't be imported: {error}") from None
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            seconds = runner.run(_profile(app, options, profiler))
    print(f"{options.app}, {options.wire}, {options.model}, {options.requests} requests, {options.at_once} at once")
    print(f"without the profiler: {seconds / options.requests * 1e6:.1f} us of CPU per request\n")
    _show(profiler, options.requests, options.top, options.sort)


if __name__ == "__main__":
    main()
