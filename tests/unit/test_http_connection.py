"""Callers that disconnect: none is answered twice, no failure is logged, and their resources are released."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from starlette.types import Message, Scope

from llmproxy_asgi import LLMProxy
from llmproxy_asgi import http_connection as connections
from llmproxy_asgi.disconnect import ClientDisconnected
from llmproxy_asgi.errors import BodyTimeout
from llmproxy_asgi.execution.bodies import Bodies
from llmproxy_asgi.facts import CallFinished
from llmproxy_asgi.http_connection import DisconnectWatch, HTTPConnection, KeepAlive
from support.telemetry import RecordingObserver

pytestmark = pytest.mark.anyio

HANG = 20.0  # seconds after which a wait is a failure; nothing here depends on how long it takes
CHAT = {"model": "story", "messages": [{"role": "user", "content": "hi"}]}
OPEN: dict[str, Any] = {"access": {"mode": "open"}}


class Caller:
    """A client of an ASGI application, message by message.

    Args:
        method: The method of its request.
        path: The path of its request.
        body: The body of its request.
        leaves_at: The number of the first message that fails to reach it; None: all reach it.
        stalls_at: The number of a message that it does not accept.
    """

    def __init__(
        self,
        method: str = "GET",
        path: str = "/health",
        body: Any = None,
        *,
        leaves_at: int | None = None,
        stalls_at: int | None = None,
    ) -> None:
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self._body: bytes | None = b"" if body is None else json.dumps(body).encode()
        self._leaves_at = leaves_at
        self._stalls_at = stalls_at

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        number = len(self.sent)
        self.sent.append(message)
        if self._leaves_at is not None and number >= self._leaves_at:
            raise OSError("the caller has left")
        if number == self._stalls_at:
            await asyncio.Event().wait()

    async def asks(self, app: LLMProxy) -> None:
        async with asyncio.timeout(HANG):
            await app(self.scope, self.receive, self.send)

    @property
    def heads(self) -> int:
        return sum(message["type"] == "http.response.start" for message in self.sent)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("leaves_at", [0, 1, 2])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/chat/completions", {"model": "nobody-has-it", "messages": []}),
        ("HEAD", "/health", None),
        ("GET", "/v1/models", None),
        ("GET", "/nowhere", None),
    ],
    ids=["stream", "whole", "refused", "head", "list", "nowhere"],
)
async def test_an_oserror_while_sending_is_a_disconnect(
    method: str, path: str, body: Any, leaves_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Treat an `OSError` of `send` as a disconnect, not as an error, and send nothing after the last message."""
    observer = RecordingObserver()
    proxy = LLMProxy({"providers": {"simulated": {}}, **OPEN}, observers=[observer])
    caller = Caller(method, path, body, leaves_at=leaves_at)
    await caller.asks(proxy)
    await proxy.gateway.aclose()
    assert errors(caplog) == []
    assert caller.heads == 1
    assert len(caller.sent) <= leaves_at + 1
    for fact in observer.facts:
        if isinstance(fact, CallFinished) and fact.stream:
            assert fact.outcome == "cancelled"


@pytest.mark.parametrize("body", [{**CHAT, "model": "slow"}, {**CHAT, "model": "slow", "stream": True}, None])
async def test_a_disconnect_before_the_first_byte_completes_the_request(body: Any) -> None:
    """Respond with a 499 and no body, so that middlewares see a complete response."""
    proxy = LLMProxy({"providers": {"simulated": {}}, **OPEN})
    caller = Caller("POST", "/v1/chat/completions", body)
    if body is None:
        caller._body = None
    asyncio.get_running_loop().call_later(0.05, caller.left.set)
    await caller.asks(proxy)
    await proxy.gateway.aclose()
    assert [(message["type"], message.get("status"), message.get("body")) for message in caller.sent] == [
        ("http.response.start", 499, None),
        ("http.response.body", None, b""),
    ]


class HostLimitError(Exception):
    """Raised by a host's own `receive` or `send`."""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/messages/count_tokens"])
async def test_an_exception_of_the_hosts_receive_reaches_the_host(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Raise the exception of a host that limits bodies in `receive`; send and log nothing."""
    caller = Caller("POST", path, CHAT)

    async def limited() -> Message:
        raise HostLimitError

    caller.receive = limited  # type: ignore[method-assign]
    proxy = LLMProxy({"providers": {"simulated": {}}, **OPEN})
    with pytest.raises(HostLimitError):
        await caller.asks(proxy)
    await proxy.gateway.aclose()
    assert caller.sent == []
    assert errors(caplog) == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fails_at", [0, 1])
async def test_an_exception_of_the_hosts_send_reaches_the_host(
    fails_at: int, caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    """Start no second response, and log no failure of the gateway."""
    caller = Caller("POST", "/v1/chat/completions", {**CHAT, "stream": stream})

    async def broken(message: Message) -> None:
        caller.sent.append(message)
        if len(caller.sent) > fails_at:
            raise HostLimitError

    caller.send = broken  # type: ignore[method-assign]
    proxy = LLMProxy({"providers": {"simulated": {}}, **OPEN})
    with pytest.raises(HostLimitError):
        await caller.asks(proxy)
    await proxy.gateway.aclose()
    assert len(caller.sent) == fails_at + 1
    assert errors(caplog) == []


async def test_a_receive_that_fails_during_the_call_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stop the disconnect watch with a warning, and respond to the call."""
    monkeypatch.setattr(connections, "_WATCH_DELAY", 0.0)
    caller = Caller("POST", "/v1/chat/completions", CHAT)
    receive, failed = caller.receive, asyncio.Event()

    async def broken_afterwards() -> Message:
        if caller._body is None:
            failed.set()
            raise HostLimitError
        return await receive()

    async def answer(_request: httpx2.Request) -> httpx2.Response:
        await failed.wait()
        return httpx2.Response(404, json={"error": {"message": "no such model"}})

    caller.receive = broken_afterwards  # type: ignore[method-assign]
    config = {"providers": {"p": {"type": "openai-compatible", "base_url": "http://127.0.0.1:9/v1"}}, **OPEN}
    proxy = LLMProxy(config, transport=httpx2.MockTransport(answer))
    await caller.asks(proxy)
    await proxy.gateway.aclose()
    assert caller.sent[0]["status"] == 404
    assert [record.levelname for record in caplog.records if record.name == "llmproxy_asgi.calls"] == ["WARNING"]


async def test_a_large_response_that_is_not_read_times_out(caplog: pytest.LogCaptureFixture) -> None:
    """End it by the write timeout, log no failure, and start no second response."""
    models = [f"model-{number:04}-{'x' * 180}" for number in range(500)]
    config = {"providers": {"simulated": {"models": models}}, "limits": {"write_timeout": "1ms"}, **OPEN}
    caller = Caller("GET", "/v1/models", stalls_at=1)
    proxy = LLMProxy(config)
    await caller.asks(proxy)
    assert [message["type"] for message in caller.sent] == ["http.response.start", "http.response.body"]
    assert errors(caplog) == []


async def test_the_end_of_a_stream_has_a_write_timeout() -> None:
    """A client that accepts everything but the end does not block the request for ever."""
    connection, caller = connection_of(write_timeout=0.001)
    written = asyncio.Event()

    async def stalling(message: Message) -> None:
        if not message.get("more_body", True):
            written.set()
            await asyncio.Event().wait()

    connection.send = stalling

    async def stream() -> None:
        async with DisconnectWatch(connection):
            keepalive = KeepAlive(connection, b":\n\n", every=0.001, media_type=b"text/event-stream")
            try:
                await connection.begin_stream((), media_type=b"text/event-stream")
                await keepalive.end()
            finally:
                keepalive.cancel()

    await within(stream())
    assert written.is_set()
    assert connection.disconnected
    assert not caller.left.is_set()


async def test_a_keep_alive_that_cannot_be_written_ends_the_call() -> None:
    """Notice a disconnect while the upstream is silent, also where `receive` reports nothing, and lose no exception."""
    connection, caller = connection_of(leaves_at=0)
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, told: unheard.append(told))

    async def silent() -> None:
        async with DisconnectWatch(connection):
            keepalive = KeepAlive(connection, b":\n\n", every=0.001, media_type=b"text/event-stream")
            try:
                await asyncio.Event().wait()
            finally:
                keepalive.cancel()

    await within(silent())
    assert connection.disconnected
    assert len(caller.sent) == 1
    assert unheard == []


async def test_a_request_is_cancelled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not interrupt the cleanup of the first cancellation by a second one, and end the request quietly."""
    monkeypatch.setattr(connections, "_WATCH_DELAY", 0.0)
    connection, caller = connection_of()
    cleared = False

    async def call() -> None:
        nonlocal cleared
        task = asyncio.current_task()
        assert task is not None
        async with DisconnectWatch(connection):
            for _ in range(10):
                await asyncio.sleep(0)
            connection.cancel(task)
            try:
                await asyncio.Event().wait()
            finally:
                caller.left.set()
                for _ in range(10):
                    await asyncio.sleep(0)
                cleared = True

    await within(call())
    assert cleared


class Posting:
    """A client whose body arrives when `body` is set, and that disconnects when `left` is set."""

    def __init__(self) -> None:
        self.body, self.left = asyncio.Event(), asyncio.Event()
        self._sent = False

    async def receive(self) -> Message:
        if not self._sent:
            await self.body.wait()
            self._sent = True
            return {"type": "http.request", "body": b"{}", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}


async def posted(caller: Posting, *, seconds: float) -> None:
    """Read this client's body under a watch, and wait for ever."""
    connection, _ = connection_of()
    connection.receive = caller.receive
    async with DisconnectWatch(connection) as watch:
        assert await watch.json_body(limit=100, seconds=seconds, held=Bodies().hold("", 10**9)) == b"{}"
        assert watch._handle.cancelled()  # the body's clock: what its caller waits for may take longer
        await asyncio.Event().wait()


async def test_a_body_that_does_not_arrive_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the timeout of the body, and leave the task uncancelled."""
    monkeypatch.setattr(connections, "_WATCH_DELAY", 0.0)

    async def call() -> None:
        with pytest.raises(BodyTimeout):
            await posted(Posting(), seconds=0.001)
        await asyncio.sleep(0)

    await within(call())


@pytest.mark.parametrize(
    ("arrived", "late"), [(connections._MIN_PROGRESS, False), (connections._MIN_PROGRESS - 1, True)]
)
async def test_the_body_timeout_counts_pauses(arrived: int, *, late: bool) -> None:
    """A steady upload may take many times `limits.body_timeout`; a nearly stalled one may not."""
    connection, _ = connection_of()
    connection.receive = Posting().receive

    async def upload() -> None:
        async with DisconnectWatch(connection) as watch:
            reading = asyncio.ensure_future(
                watch.json_body(limit=2**40, seconds=10 * HANG, held=Bodies().hold("", 10**9))
            )
            await asyncio.sleep(0)
            for _ in range(5):
                connection.received += arrived
                watch._check_progress()  # the clock has run out once
                await asyncio.sleep(0)
            reading.cancel()

    if late:
        with pytest.raises(BodyTimeout):
            await within(upload())
    else:
        await within(upload())


async def test_a_disconnect_after_a_late_body_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep watching for a disconnect after the body's timeout was stopped, and end the request quietly."""
    monkeypatch.setattr(connections, "_WATCH_DELAY", 0.0)
    loop, caller = asyncio.get_running_loop(), Posting()
    loop.call_later(0.01, caller.body.set)
    loop.call_later(0.05, caller.left.set)
    await within(posted(caller, seconds=10 * HANG))


async def test_a_disconnect_is_distinguished_from_an_earlier_cancellation() -> None:
    """End the request quietly in a task that has survived a cancellation before."""
    connection, _ = connection_of()

    async def call() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        async with DisconnectWatch(connection):
            connection.cancel(task)
            await asyncio.Event().wait()

    await within(call())


@pytest.mark.parametrize(
    "writing",
    [
        lambda connection: connection.answer(200, (), b"x"),
        lambda connection: connection.begin_stream((), media_type=b"text/event-stream"),
        lambda connection: connection.write(b"x"),
        lambda connection: connection.end(),
        lambda connection: KeepAlive(connection, b":", every=60.0, media_type=b"x").write(b"x"),
    ],
    ids=["answer", "begin", "write", "end", "event"],
)
async def test_every_write_raises_the_same_error(writing: Callable[[HTTPConnection], Awaitable[None]]) -> None:
    """Raise one error for a disconnect, whatever the server raises."""
    connection, _ = connection_of(leaves_at=0)
    with pytest.raises(ClientDisconnected):
        await writing(connection)


def connection_of(*, write_timeout: float = 60.0, leaves_at: int | None = None) -> tuple[HTTPConnection, Caller]:
    caller = Caller(leaves_at=leaves_at)
    caller._body = None
    return HTTPConnection(caller.scope, caller.receive, caller.send, write_timeout=write_timeout), caller


async def within(work: Awaitable[None]) -> None:
    async with asyncio.timeout(HANG):
        await asyncio.ensure_future(work)
