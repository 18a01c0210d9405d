"""The scripted upstream, seen from the other end of the wire: bytes, order, and who left when."""

import asyncio
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import httpx2
import pytest

from llmproxy_asgi.testing import (
    Close,
    Drip,
    Gate,
    HalfClose,
    Hold,
    Received,
    Reset,
    Scenario,
    Send,
    ThreadedUpstream,
    Upstream,
    Wait,
    error_answer,
    json_answer,
    raw_answer,
    sse_answer,
)
from llmproxy_asgi.testing.fixtures import llm_upstream  # noqa: F401  a fixture is used by its name
from llmproxy_asgi.wire.sse import Decoder

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Client:
    """A peer that speaks bytes. No read waits for ever: a hang is a failure."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, upstream: Upstream) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", int(upstream.base_url.rpartition(":")[2])))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.readexactly(size)

    async def read_rest(self) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.read()

    async def expect(self, data: bytes) -> None:
        assert await self.read(len(data)) == data

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def connected(upstream: Upstream, *, request: bytes = GET) -> AsyncIterator[Client]:
    client = await Client.connect(upstream)
    client.send(request)
    try:
        yield client
    finally:
        client.close()


async def answer_to(scenario: Scenario, *, request: bytes = GET) -> bytes:
    """All bytes until the upstream ends the connection."""
    async with Upstream(default=scenario) as upstream, connected(upstream, request=request) as client:
        return await client.read_rest()


async def tasks_besides() -> set[asyncio.Task[object]]:
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current and not task.done()}


# What is answered


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        (
            json_answer(200, {"a": [1, None]}),
            b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"a":[1,null]}',
        ),
        (
            json_answer(200, b"{ }", {"Content-Type": "text/x", "a": "b"}),
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nContent-Type: text/x\r\na: b\r\n\r\n{ }",
        ),
        (
            error_answer(529, {}, [("retry-after", "1"), ("retry-after", "2")]),
            (
                b"HTTP/1.1 529 \r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
                b"retry-after: 1\r\nretry-after: 2\r\n\r\n{}"
            ),
        ),
        (raw_answer(b"\x00no http", close=False), b"\x00no http"),
        (
            sse_answer([b"data: a\n\n", b"", Drip(b"data: b\n\n", 4, 0), Send(b"zz")]),
            STREAM_HEAD + b"9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\nzz0\r\n\r\n",
        ),
        (sse_answer([b"data: a\n\n"], end=False), STREAM_HEAD + b"9\r\ndata: a\n\n\r\n"),
        (
            sse_answer([b"data: a\n\n"], status=201, headers={"x-a": "b"}),
            STREAM_HEAD.replace(b"200 OK", b"201 Created")[:-2] + b"x-a: b\r\n\r\n9\r\ndata: a\n\n\r\n0\r\n\r\n",
        ),
    ],
    ids=["json", "bytes and headers", "error", "raw", "stream", "stream without end", "stream with headers"],
)
async def test_builders_write(scenario: Scenario, expected: bytes) -> None:
    """Each builder's answer is these very bytes, and leaves the connection open."""
    async with Upstream(default=scenario) as upstream, connected(upstream) as client:
        await client.expect(expected)
        assert upstream.open_connections == 1
        client.writer.write_eof()
        assert await client.read_rest() == b""  # nothing was written beyond


async def test_stream_without_chunks_ends_with_the_connection() -> None:
    """Without transfer coding the frames stand bare, and the end of the body is the end of the connection."""
    answer = await answer_to(sse_answer([b"data: a\n\n", Drip(b"data: b\n\n", 5, 0)], chunked=False))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"transfer-encoding" not in head
    assert body == b"data: a\n\ndata: b\n\n"


async def test_raw_answer_closes() -> None:
    """Bytes by hand are followed by the end of the connection."""
    assert await answer_to(raw_answer(b"nonsense")) == b"nonsense"


async def test_error_has_a_body_and_an_error_status() -> None:
    """A refusal needs nothing but a status, and that status must be one of an error."""
    answer = await answer_to(error_answer(404).then(Close()))
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b'{"error":{' in answer
    with pytest.raises(ValueError, match="399"):
        error_answer(399)


async def test_real_client_reads_the_stream() -> None:
    """Send whole frames to an independent HTTP client."""
    frames = [b"data: %d\n\n" % number for number in range(20)]
    async with Upstream(default=sse_answer(frames)) as upstream, httpx2.AsyncClient() as client:
        answer = await client.post(upstream.base_url + "/v1/x", json={"stream": True})
    assert [frame.raw for frame in Decoder().feed(answer.content)] == frames
    assert upstream.requests[0].json() == {"stream": True}


# What is noted


async def test_request_is_noted_as_it_came() -> None:
    """Method, path, query, headers in order and body are what the peer sent."""
    request = (
        b"POST /v1/a%2Fb?x=1&y=%20?z HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:2 \r\n"
        b'Content-Length: 7\r\nconnection: close\r\n\r\n{"a":1}'
    )
    before = time.monotonic()
    async with Upstream(default=json_answer(200, {})) as upstream:
        async with connected(upstream, request=request) as client:
            await client.read_rest()
        (received,) = upstream.requests
    assert (received.method, received.path, received.query) == ("POST", "/v1/a%2Fb", "x=1&y=%20?z")
    assert received.headers == [
        ("Host", "x"),
        ("X-A", "1"),
        ("x-a", "2"),
        ("Content-Length", "7"),
        ("connection", "close"),
    ]
    assert received.header("x-A") == "1"
    assert received.header("y") is None
    assert received.body == b'{"a":1}'
    assert received.json() == {"a": 1}
    assert received.connection == 0
    assert before <= received.at <= time.monotonic()


async def test_chunked_request_is_put_together() -> None:
    """A body in chunks, with extensions and trailers, is noted whole, and the next request is found."""
    request = (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\ntrailer: 1\r\n\r\n"
    )
    async with (
        Upstream(default=raw_answer(b".", close=False)) as upstream,
        connected(upstream, request=request + GET) as client,
    ):
        await client.expect(b"..")
    assert [received.body for received in upstream.requests] == [b"abc0123456789", b""]


async def test_expectation_is_met() -> None:
    """Answer `100 Continue` to a peer that expects it."""
    request = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    async with (
        Upstream(default=raw_answer(b".")) as upstream,
        connected(upstream, request=request) as client,
    ):
        await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert upstream.requests == []
        client.send(b"ab")
        await client.expect(b".")
    assert upstream.requests[0].body == b"ab"


async def test_connection_is_kept() -> None:
    """Several requests come through one connection, and each gets the next answer."""
    async with Upstream() as upstream:
        upstream.enqueue(raw_answer(b"1", close=False), raw_answer(b"2", close=False))
        async with connected(upstream) as client:
            await client.expect(b"1")
            client.send(GET)
            await client.expect(b"2")
            assert (upstream.connections, upstream.open_connections) == (1, 1)
            async with connected(upstream):
                upstream.enqueue(raw_answer(b"3"))
                await upstream.wait_for_requests(3)
                assert upstream.connections == 2
    assert [received.connection for received in upstream.requests] == [0, 0, 1]


async def test_answers_are_chosen_by_rule_then_queue_then_default() -> None:
    """A rule that fits comes first, then the queue, then the default; a path fits only whole."""

    def seen(received: Received) -> Scenario:
        return raw_answer(received.path.encode(), close=False)

    async with Upstream(default=raw_answer(b"default", close=False)) as upstream:
        upstream.on("/path", raw_answer(b"path", close=False))
        upstream.on(lambda received: received.method == "PUT", seen)
        upstream.enqueue(raw_answer(b"queue", close=False))
        async with connected(upstream, request=b"") as client:
            for request, expected in [
                (b"GET /path?a", b"path"),
                (b"PUT /path/", b"/path/"),
                (b"PUT /path", b"path"),
                (b"GET /path/", b"queue"),
                (b"GET /path/", b"default"),
            ]:
                client.send(request + b" HTTP/1.1\r\n\r\n")
                await client.expect(expected)


# Steps


async def test_hold_holds_between_frames() -> None:
    """The peer has the frame before the gate while the gate is shut, and the rest once it opens."""
    answer = sse_answer([b"data: a\n\n", Hold(), b"data: b\n\n"])
    async with Upstream(default=answer) as upstream, connected(upstream) as client:
        await client.expect(STREAM_HEAD + b"9\r\ndata: a\n\n\r\n")
        assert not answer.gate.is_set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await client.reader.readexactly(1)
        answer.gate.set()
        await client.expect(b"9\r\ndata: b\n\n\r\n0\r\n\r\n")


async def test_gates_open_one_by_one_from_any_thread() -> None:
    """Each hold may have a gate of its own; an opened gate stays open and a second opening changes nothing."""
    first, second = Gate(), Gate()
    answer = Scenario(Hold(first), Send(b"1"), Hold(second), Send(b"2"), Hold(first), Send(b"3"))
    async with Upstream(default=answer) as upstream:
        async with connected(upstream) as client:
            await upstream.wait_for_requests(1)
            await asyncio.to_thread(first.set)
            await client.expect(b"1")
            await asyncio.to_thread(second.set)
            await client.expect(b"23")
            second.set()
        async with connected(upstream) as client:
            await client.expect(b"123")


async def test_waits_and_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Wait` sleeps as long as it says; `Drip` writes its pieces and sleeps after each."""
    slept: list[float] = []
    sleep, here = asyncio.sleep, asyncio.get_running_loop()

    async def noted(seconds: float) -> None:
        if asyncio.get_running_loop() is not here:  # servers of other tests live on loops of their own
            await sleep(seconds)
            return
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    answer = await answer_to(Scenario(Wait(3), Drip(b"abcde", 2, 0.5), Wait(4), Send(b"f"), Drip(b"gh"), Close()))
    assert answer == b"abcdefgh"
    assert slept == [3, 0.5, 0.5, 0.5, 4, 0.01, 0.01]


async def test_drip_is_seen_piece_by_piece() -> None:
    """A dripped piece reaches the peer before the next is written."""
    gate = Gate()
    answer = Scenario(Drip(b"ab", 1, 0.0), Hold(gate), Drip(b"cd", 2, 0.0))
    async with Upstream(default=answer) as upstream, connected(upstream) as client:
        await client.expect(b"ab")
        gate.set()
        await client.expect(b"cd")


async def test_reset_is_a_reset() -> None:
    """The peer gets what was sent before, and then a reset, not an end."""
    async with Upstream(default=Scenario(Send(b"abc"), Hold(), Reset(), Send(b"d"))) as upstream:
        scenario = upstream.default
        assert isinstance(scenario, Scenario)
        async with connected(upstream) as client:
            await client.expect(b"abc")
            scenario.gate.set()
            with pytest.raises(ConnectionResetError):
                await client.read_rest()
            assert upstream.open_connections == 0


async def test_close_ends_the_scenario() -> None:
    """What stands behind `Close` is not played."""
    assert await answer_to(Scenario(Send(b"abc"), Close(), Send(b"d"))) == b"abc"


async def test_half_close_still_listens() -> None:
    """After `HalfClose` the peer meets the end, and its own leaving is still noted."""
    async with Upstream(default=Scenario(Send(b"abc"), HalfClose())) as upstream:
        async with connected(upstream) as client:
            assert await client.read_rest() == b"abc"
            assert upstream.open_connections == 1
            assert upstream.closed_at == {}
        await upstream.wait_closed(0)
    assert upstream.open_connections == 0


async def test_peer_may_ask_for_the_end() -> None:
    """An answer to a request with `connection: close` is the connection's last."""
    request = GET[:-2] + b"Connection: Close\r\n\r\n"
    assert await answer_to(raw_answer(b".", close=False), request=request) == b"."


# Who left, and when


@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["close", "reset"])
@pytest.mark.parametrize(
    "scenario",
    [
        lambda: Scenario(Hold()),
        lambda: Scenario(Wait(3600)),
        lambda: Scenario(Drip(b"x" * 1000, 1, 60)),
        lambda: sse_answer([b"data: a\n\n"], end=False),
        lambda: Scenario(Send(b"x" * 64 * 1024 * 1024)),
    ],
    ids=["holding", "waiting", "dripping", "stalled", "sending to a peer that does not read"],
)
async def test_peers_leaving_is_noted(leave: Callable[[Client], None], scenario: Callable[[], Scenario]) -> None:
    """Whatever the upstream is doing, it notes at once that the peer left, and stops."""
    async with Upstream(default=scenario()) as upstream, asyncio.timeout(20):
        client = await Client.connect(upstream)
        client.send(GET)
        await upstream.wait_for_requests(1)
        assert upstream.closed_at == {}
        before = time.monotonic()
        leave(client)
        moment = await upstream.wait_closed(0)
        assert before <= moment <= time.monotonic()
        assert upstream.closed_at == {0: moment}
        assert upstream.open_connections == 0


async def test_wait_closed_waits_for_its_own_request() -> None:
    """The moment is that of the connection that brought the request, also if another left before."""
    async with Upstream(default=Scenario(Hold())) as upstream, asyncio.timeout(20):
        waiter = asyncio.create_task(upstream.wait_closed(1))
        async with connected(upstream):
            await upstream.wait_for_requests(1)
            async with connected(upstream):
                await upstream.wait_for_requests(2)
        assert await waiter == upstream.closed_at[upstream.requests[1].connection]


async def test_wait_closed_tells_our_own_close() -> None:
    """Where the script ended the connection there is no moment of the peer's, and the wait says so."""
    async with Upstream(default=raw_answer(b".")) as upstream, connected(upstream) as client:
        await client.read_rest()
        with pytest.raises(RuntimeError, match="request 0"):
            await upstream.wait_closed(0)
    assert upstream.closed_at == {}


async def test_peer_that_leaves_within_a_request_is_no_error() -> None:
    """Half a request is no request."""
    async with Upstream() as upstream, asyncio.timeout(20):
        for part in (b"", GET[:5], b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nabc"):
            async with connected(upstream, request=part):
                pass
        await upstream._server._wait_until(lambda: len(upstream.closed_at) == 3)
    assert upstream.requests == []


async def test_peer_that_leaves_at_once_is_still_noted() -> None:
    """A request whose peer did not wait for the answer is noted all the same."""
    async with Upstream(default=Scenario(Hold())) as upstream, asyncio.timeout(20):
        async with connected(upstream):
            pass
        await upstream.wait_closed(0)


# Errors of the script


async def test_unexpected_request_fails_the_test() -> None:
    """A request without an answer gets a 500, and leaving the upstream raises."""
    with pytest.raises(LookupError, match="GET /"):
        async with Upstream() as upstream, connected(upstream) as client:
            assert (await client.read_rest()).startswith(b"HTTP/1.1 500 ")


async def test_failed_checks_fail_the_test() -> None:
    """What a callable answer raises is raised where the upstream is left, all of it."""

    def checked(received: Received) -> Scenario:
        assert received.path == "/right", "wrong path"
        return raw_answer(b"ok")

    async def ask() -> None:
        async with Upstream(default=checked) as upstream:
            for target, expected in [(b"/wrong", b"wrong path"), (b"/right", b"ok"), (b"/left", b"wrong path")]:
                request = GET.replace(b" / ", b" %b " % target)
                async with connected(upstream, request=request) as client:
                    assert expected in await client.read_rest()

    with pytest.raises(ExceptionGroup) as caught:
        await ask()
    assert [type(error) for error in caught.value.exceptions] == [AssertionError, AssertionError]


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\na : b\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: b\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
    ],
    ids=["greeting", "version", "no colon", "space before colon", "folded", "length"],
)
async def test_bad_request_fails_the_test(request_: bytes) -> None:
    """Bytes that are no request end the connection and are raised where the upstream is left."""
    with pytest.raises(ValueError, match=r"not a|invalid literal"):
        async with Upstream() as upstream, connected(upstream, request=request_) as client:
            assert await client.read_rest() == b""


async def test_own_error_is_not_hidden() -> None:
    """An error of the test itself goes first."""

    async def fail() -> None:
        async with Upstream() as upstream, connected(upstream) as client:
            await client.read_rest()
            raise KeyError("the test's own")

    with pytest.raises(KeyError, match="own"):
        await fail()


# What is left behind


async def test_nothing_is_left_behind() -> None:
    """With connections idle, held, sending and half read, leaving ends every task and every socket."""
    before = await tasks_besides()
    clients: list[Client] = []
    async with Upstream() as upstream:
        upstream.on("/idle", json_answer(200, {}))
        upstream.on("/held", sse_answer([b"data: a\n\n", Hold()]))
        upstream.on("/sending", Scenario(Send(b"x" * 64 * 1024 * 1024)))
        for request in (b"GET /idle ", b"GET /held ", b"GET /sending "):
            clients.append(await Client.connect(upstream))
            clients[-1].send(request + b"HTTP/1.1\r\n\r\n")
        clients += [await Client.connect(upstream), await Client.connect(upstream)]
        clients[-1].send(b"GET /half HT")
        await upstream.wait_for_requests(3)
    assert await tasks_besides() == before
    assert upstream.open_connections == 0
    assert upstream.closed_at == {}  # these ends were ours
    for client in clients:
        client.reset()
    with pytest.raises(OSError, match=r"refused|failed"):
        await Client.connect(upstream)


@pytest.mark.parametrize("turns", range(6))
async def test_a_peer_that_comes_too_late_is_turned_away(turns: int) -> None:
    """Leaving while a connection is being accepted, whichever turn of the loop that is, leaves nothing."""
    before = await tasks_besides()
    async with Upstream(default=Scenario(Hold())) as upstream:
        peer = socket.create_connection(("127.0.0.1", int(upstream.base_url.rpartition(":")[2])), timeout=20)
        peer.sendall(GET)
        for _ in range(turns):
            await asyncio.sleep(0)
    for _ in range(6):
        await asyncio.sleep(0)
    assert await tasks_besides() == before
    assert upstream.open_connections == 0
    try:
        assert await asyncio.to_thread(peer.recv, 1) == b""
    except ConnectionResetError:
        pass  # the other way to be turned away
    finally:
        peer.close()


# For tests that are not asynchronous


def get(upstream: ThreadedUpstream, path: str = "/") -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(upstream.base_url.removeprefix("http://"), timeout=20)
    connection.request("GET", path)
    return connection


def test_thread_serves_blocking_tests() -> None:
    """The same upstream on its own thread: held, released from here, its peer's leaving noted, thread gone."""
    threads = set(threading.enumerate())
    with Upstream.in_thread() as upstream:
        answer = sse_answer([b"data: a\n\n", Hold(), b"data: b\n\n"])
        upstream.enqueue(answer)
        connection = get(upstream, "/x?y")
        upstream.wait_for_requests(1)
        response = connection.getresponse()
        assert response.read(9) == b"data: a\n\n"
        answer.gate.set()
        assert response.read() == b"data: b\n\n"
        assert upstream.open_connections == 1
        before = time.monotonic()
        connection.close()
        assert upstream.wait_closed(0) >= before
        assert upstream.requests[0].query == "y"
    assert set(threading.enumerate()) == threads


def test_thread_waits_are_bounded() -> None:
    """A wait for what does not happen ends, with the peer still connected."""
    with Upstream.in_thread(default=Scenario(Hold())) as upstream:
        with pytest.raises(TimeoutError):
            upstream.wait_for_requests(1, timeout=0.01)
        connection = get(upstream)
        upstream.wait_for_requests(1)
        with pytest.raises(TimeoutError):
            upstream.wait_closed(0, timeout=0.01)
        connection.close()


def test_thread_raises_errors_of_the_script() -> None:
    """A request without an answer fails a blocking test, too, unless that failed by itself."""
    threads = set(threading.enumerate())

    def ask(own: Exception | None = None) -> None:
        with Upstream.in_thread() as upstream:
            connection = get(upstream)
            assert connection.getresponse().status == 500
            connection.close()
            if own is not None:
                raise own

    with pytest.raises(LookupError, match="no answer"):
        ask()
    with pytest.raises(ZeroDivisionError):
        ask(ZeroDivisionError())
    assert set(threading.enumerate()) == threads


def test_fixture_serves(llm_upstream: ThreadedUpstream) -> None:  # noqa: F811  the fixture
    """The fixture gives a running upstream."""
    llm_upstream.default = json_answer(200, {"ok": True})
    connection = get(llm_upstream)
    assert connection.getresponse().read() == b'{"ok":true}'
    connection.close()


def test_needs_no_test_framework() -> None:
    """Authors may use it with any test runner: importing it brings none along."""
    code = "import sys, llmproxy_asgi.testing; print(sorted({'pytest', 'httpx2', 'starlette'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
