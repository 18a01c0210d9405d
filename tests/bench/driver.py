"""Stands in for the server: drives an app in this process, request by request, and checks what it answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from bench import traffic

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
async def lifespan(app: App) -> AsyncIterator[None]:
    """Start an app and shut it down, as a server does.

    Raises:
        WrongAnswer: It did not start.
    """
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
