import asyncio
import contextlib
import io
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import flask
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from llmproxy_asgi import wsgi
from llmproxy_asgi.disconnect import UNWATCHED, ClientDisconnected
from llmproxy_asgi.wsgi import WSGIBridge

HANG = 20.0  # seconds after which a wait is a failure; nothing here depends on how long it takes


class Signal:
    """An event that the test's thread and the application's loop may both set and await."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.Lock()

    def set(self) -> None:
        with self._lock:
            self._event.set()
            for loop, waiter in self._waiters:
                loop.call_soon_threadsafe(waiter.set)

    async def wait(self) -> None:
        waiter = asyncio.Event()
        with self._lock:
            if self._event.is_set():
                return
            self._waiters.append((asyncio.get_running_loop(), waiter))
        await waiter.wait()

    def seen(self) -> bool:
        return self._event.wait(HANG)


class Answer:
    """What a WSGI server holds of one request."""

    def __init__(self, bridge: WSGIBridge, /, *, extra: Any = None, **environ: Any) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.body: Iterable[bytes] = bridge(make_environ(**environ), self._start, scope_extra=extra)
        self._iterator = iter(self.body)

    def _start(self, status: str, headers: list[tuple[str, str]], _info: object = None, /) -> Callable[..., object]:
        assert not self.status
        self.status, self.headers = status, headers
        return self._start

    def next(self) -> bytes:
        return next(self._iterator)

    def read(self) -> bytes:
        try:
            return b"".join(self._iterator)
        finally:
            self.close()

    def close(self) -> None:
        close = getattr(self.body, "close", None)
        if close is not None:
            close()


def make_environ(body: bytes | None = None, **changes: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {"SERVER_PROTOCOL": "HTTP/1.1", "QUERY_STRING": ""}
    if body is not None:
        environ |= {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    environ |= changes
    setup_testing_defaults(environ)
    return {name: value for name, value in environ.items() if value is not None}


@contextmanager
def bridging(app: ASGIApp, **options: Any) -> Iterator[WSGIBridge]:
    bridge = WSGIBridge(app, **options)
    try:
        yield bridge
    finally:
        bridge.close()


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llmproxy-wsgi"]


async def start(send: Send, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def body(send: Send, chunk: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": more})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    await PlainTextResponse(await request.body())(scope, receive, send)


def scope_of(*, extra: Any = None, **environ: Any) -> Scope:
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope)
        await start(send)
        await body(send)

    with bridging(app) as bridge:
        Answer(bridge, extra=extra, **environ).read()
    return seen[0]


# Streaming.


def test_first_chunk_is_out_while_the_application_is_held() -> None:
    """A piece is yielded when it is sent, not when the answer is complete."""
    gate = Signal()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"first", more=True)
        await gate.wait()
        await body(send, b"second")

    with bridging(app) as bridge:
        answer = Answer(bridge)
        assert answer.next() == b"first"
        gate.set()
        assert answer.read() == b"second"


def test_head_is_out_before_any_body() -> None:
    """`start_response` has been called when the call returns, and an empty piece lets the server send the head."""
    gate = Signal()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 202, [(b"x-one", b"\xe9"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
        await body(send, more=True)
        await gate.wait()
        await body(send, b"late")

    with bridging(app) as bridge:
        answer = Answer(bridge)
        assert answer.status == "202 Accepted"
        assert answer.headers == [("x-one", "é"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
        assert answer.next() == b""
        gate.set()
        assert answer.read() == b"late"


def test_many_pieces_keep_their_order_and_boundaries() -> None:
    """Nothing is joined, split, lost or reordered when the application is faster than the server."""
    pieces = [b"%d;" % number for number in range(2000)]

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        for piece in pieces:
            await body(send, piece, more=True)
        await body(send)

    with bridging(app, ahead=3) as bridge:
        answer = Answer(bridge)
        assert list(answer.body) == pieces
        answer.close()


@pytest.mark.parametrize(
    ("ahead", "size", "expected"),
    [
        pytest.param(4, 10, 4, id="pieces"),
        pytest.param(1, 10, 1, id="one piece"),
        pytest.param(1000, 25 * 1024, 3, id="bytes"),
    ],
)
def test_application_waits_when_the_server_does_not_read(ahead: int, size: int, expected: int) -> None:
    """`send` returns for as many pieces as may be unread, and for one more only after reading."""
    sent: list[int] = []
    idle = Signal()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        # The task below is done as often as the loop gets round to it, which it only does when send waits.
        watching = asyncio.create_task(watch())
        for number in range(20):
            await body(send, b"x" * size, more=True)
            sent.append(number)
        watching.cancel()
        await body(send)

    async def watch() -> None:
        idle.set()
        await asyncio.Event().wait()

    with bridging(app, ahead=ahead) as bridge:
        answer = Answer(bridge)
        assert idle.seen()
        assert len(sent) == expected
        assert len(answer.read()) == 20 * size
    assert len(sent) == 20


# What the application may rely on.


def test_body_headers_and_path_reach_the_application() -> None:
    """A Starlette application answers as it would under an ASGI server."""
    with bridging(echo) as bridge:
        answer = Answer(bridge, body=b"hello")
        assert (answer.status, answer.read()) == ("200 OK", b"hello")


@pytest.mark.parametrize(
    ("script", "info", "path", "root"),
    [
        pytest.param("", "/v1/models", "/v1/models", "", id="at the root"),
        pytest.param("/llm", "/v1/models", "/llm/v1/models", "/llm", id="mounted"),
        pytest.param("/llm", "", "/llm", "/llm", id="the mount itself"),
        pytest.param("/", "/v1", "/v1", "", id="a slash for no mount"),
        pytest.param("", "", "/", "", id="nothing"),
        pytest.param("/\xc3\xa9", "/\xe2\x82\xac", "/é/€", "/é", id="UTF-8 behind latin-1"),
        pytest.param("", "/\xff", "/\ufffd", "", id="not UTF-8"),
    ],
)
def test_path_is_the_whole_path_and_root_path_the_mount(script: str, info: str, path: str, root: str) -> None:
    """`path` includes `root_path`, and both are decoded from what PEP 3333 wraps in latin-1."""
    scope = scope_of(SCRIPT_NAME=script, PATH_INFO=info)
    assert (scope["path"], scope["root_path"]) == (path, root)


@pytest.mark.parametrize(
    ("target", "info", "raw"),
    [
        pytest.param("/v1/a%2Fb?x=1", "/v1/a/b", b"/v1/a%2Fb", id="as the client wrote it"),
        pytest.param("/elsewhere", "/v1/a b", b"/v1/a%20b", id="rewritten by the host"),
        pytest.param(None, "/v1/\xc3\xa9", b"/v1/%C3%A9", id="not told by the server"),
        pytest.param("http://[host/v1", "/v1", b"/v1", id="absolute form"),
    ],
)
def test_raw_path_never_says_more_than_the_path(target: str | None, info: str, raw: bytes) -> None:
    """The client's own spelling is handed on only where it decodes to the path that routing sees."""
    assert scope_of(RAW_URI=target, PATH_INFO=info, SCRIPT_NAME="")["raw_path"] == raw
    assert scope_of(REQUEST_URI=target, PATH_INFO=info, SCRIPT_NAME="")["raw_path"] == raw


def test_scope_holds_what_the_environ_says() -> None:
    """Method, scheme, peers, query and headers are translated; CGI's second spelling of two headers is dropped."""
    scope = scope_of(
        body=b"{}",
        CONTENT_TYPE="application/json",
        HTTP_CONTENT_LENGTH="9",
        HTTP_X_API_KEY="k\xe9",
        HTTP_HOST="here:80",
        QUERY_STRING="q=\xc3\xa9",
        REMOTE_ADDR="10.0.0.1",
        REMOTE_PORT="77",
        SERVER_NAME="here",
        SERVER_PORT="80",
        **{"wsgi.url_scheme": "https"},
    )
    assert (scope["type"], scope["method"], scope["scheme"], scope["http_version"]) == ("http", "POST", "https", "1.1")
    assert scope["query_string"] == b"q=\xc3\xa9"
    assert (scope["client"], scope["server"]) == (("10.0.0.1", 77), ("here", 80))
    assert sorted(scope["headers"]) == [
        (b"content-length", b"2"),
        (b"content-type", b"application/json"),
        (b"host", b"here:80"),
        (b"x-api-key", b"k\xe9"),
    ]


@pytest.mark.parametrize(("protocol", "version"), [("HTTP/1.0", "1.0"), ("HTTP/1.1", "1.1"), ("HTTP/2.0", "2")])
def test_http_version_is_spelled_as_asgi_does(protocol: str, version: str) -> None:
    """HTTP/2 is "2", HTTP/1.x keeps its minor number."""
    assert scope_of(SERVER_PROTOCOL=protocol)["http_version"] == version


def test_server_on_a_unix_socket_has_no_port_and_no_client() -> None:
    """Empty CGI variables become what ASGI says for them."""
    scope = scope_of(SERVER_NAME="/run/app.sock", SERVER_PORT="", REMOTE_ADDR="")
    assert (scope["client"], scope["server"]) == (None, ("/run/app.sock", None))


def test_adapter_hands_objects_over_in_the_scope() -> None:
    """`scope_extra` is the very object, not a copy or a header."""
    principal = object()
    assert scope_of(extra={"who": principal})["who"] is principal


def test_application_runs_in_the_context_of_the_request() -> None:
    """Context variables of the worker, a trace for one, are seen by the application; what it sets stays there."""
    trace: ContextVar[str] = ContextVar("trace", default="none")
    trace.set("worker")

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, trace.get().encode())
        trace.set("application")

    with bridging(app) as bridge:
        assert Answer(bridge).read() == b"worker"
    assert trace.get() == "worker"


# Request bodies.


class Unread(io.BytesIO):
    @override
    def read(self, size: int | None = -1, /) -> bytes:
        raise AssertionError("this input must not be read")


class Dribble(io.BytesIO):
    @override
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(3, size) if size and size > 0 else 3)


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"CONTENT_LENGTH": "10", "wsgi.input": Dribble(b"0123456789rest")}, id="declared"),
        pytest.param({"wsgi.input": Dribble(b"0123456789"), "wsgi.input_terminated": True}, id="terminated"),
    ],
)
def test_body_is_read_to_its_end_and_no_further(environ: Mapping[str, Any]) -> None:
    """A declared length is obeyed although the server gives less per read; without one the input's end counts."""
    with bridging(echo) as bridge:
        assert Answer(bridge, REQUEST_METHOD="POST", **environ).read() == b"0123456789"


@pytest.mark.parametrize("declared", [None, ""])
def test_input_without_length_and_end_is_not_touched(declared: str | None) -> None:
    """Reading it could block for ever, so such a request has no body."""
    with bridging(echo) as bridge:
        assert Answer(bridge, CONTENT_LENGTH=declared, **{"wsgi.input": Unread()}).read() == b""


@pytest.mark.parametrize("declared", ["-1", "ten", "1_0", "٣", "+5"])
def test_length_that_is_no_number_is_refused(declared: str) -> None:
    """The application isn't called for a request of unknown length."""
    with bridging(echo) as bridge:
        answer = Answer(bridge, REQUEST_METHOD="POST", CONTENT_LENGTH=declared, **{"wsgi.input": Unread()})
        assert answer.status == "400 Bad Request"
        assert answer.read() == b"Bad Request\n"


OVERSIZE = [
    pytest.param({"CONTENT_LENGTH": "11", "wsgi.input": Unread()}, [b""], id="declared"),
    pytest.param({"wsgi.input": io.BytesIO(b"x" * 50), "wsgi.input_terminated": True}, [b"x" * 11], id="undeclared"),
]


@pytest.mark.parametrize(("environ", "handed"), OVERSIZE)
def test_application_refuses_an_oversize_body_in_its_own_words(environ: Mapping[str, Any], handed: list[bytes]) -> None:
    """It sees the declared length or one byte over the limit, and never a body that looks whole."""
    seen: list[bytes] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        seen.append(message["body"])
        assert message["more_body"]
        await start(send, 413)
        await body(send, b"too big, says the application")

    with bridging(app, max_body=10) as bridge:
        answer = Answer(bridge, REQUEST_METHOD="POST", **environ)
        assert (answer.status[:3], answer.read()) == ("413", b"too big, says the application")
    assert seen == handed


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"CONTENT_LENGTH": "11", "wsgi.input": Unread()}, id="declared"),
        pytest.param({"wsgi.input": io.BytesIO(b"x" * 50), "wsgi.input_terminated": True}, id="undeclared"),
    ],
)
def test_oversize_body_is_refused_for_an_application_that_does_not(environ: Mapping[str, Any]) -> None:
    """An application that reads on gets a client disconnect, stops, and the answer is 413."""
    with bridging(echo, max_body=10) as bridge:
        answer = Answer(bridge, REQUEST_METHOD="POST", **environ)
        assert answer.status.startswith("413 ")
        answer.close()


def test_length_of_endless_digits_is_too_much() -> None:
    """A number that Python would not even read is over any limit."""
    with bridging(echo) as bridge:
        answer = Answer(bridge, REQUEST_METHOD="POST", CONTENT_LENGTH="9" * 5000, **{"wsgi.input": Unread()})
        assert answer.status.startswith("413 ")
        answer.close()


class Malformed(io.BytesIO):
    """What a server hands out for a chunked body that breaks off or breaks HTTP's rules."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    @override
    def read(self, _size: int | None = -1, /) -> bytes:
        raise self._error


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"CONTENT_LENGTH": "9", "wsgi.input": io.BytesIO(b"short")}, id="short"),
        pytest.param({"CONTENT_LENGTH": "9", "wsgi.input": Malformed(ConnectionResetError())}, id="reset"),
        pytest.param(
            {"wsgi.input": Malformed(ValueError("bad chunk")), "wsgi.input_terminated": True}, id="malformed chunk"
        ),
    ],
)
def test_upload_broken_off_never_looks_whole(environ: Mapping[str, Any]) -> None:
    """A body that ends before its end, or that the server can't read, ends with http.disconnect and is a 400."""
    with bridging(echo) as bridge:
        answer = Answer(bridge, REQUEST_METHOD="POST", **environ)
        assert answer.status == "400 Bad Request"
        answer.close()


def test_input_is_not_touched_for_an_application_that_answers_by_the_head() -> None:
    """A request that is refused before its body is read costs no thread."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 401)
        await body(send, b"who are you?")

    with bridging(app) as bridge:
        answer = Answer(bridge, REQUEST_METHOD="POST", CONTENT_LENGTH="10", **{"wsgi.input": Unread()})
        assert (answer.status[:3], answer.read()) == ("401", b"who are you?")


class Held(io.BytesIO):
    """Gives its second piece when the application has the first."""

    def __init__(self, handed: Signal) -> None:
        super().__init__()
        self._handed = handed
        self._pieces = [b"first", b"second"]

    @override
    def read(self, _size: int | None = -1, /) -> bytes:
        if len(self._pieces) == 1:
            assert self._handed.seen()
        return self._pieces.pop(0) if self._pieces else b""


def test_pieces_of_a_body_are_handed_on_as_they_come() -> None:
    """The application has the first while the client has not sent the second, so none of them fills up."""
    handed = Signal()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        got = []
        more = True
        while more:
            message = await receive()
            got.append(message["body"])
            more = message["more_body"]
            handed.set()
        await start(send)
        await body(send, b"|".join(got))

    with bridging(app) as bridge:
        answer = Answer(bridge, REQUEST_METHOD="POST", CONTENT_LENGTH="11", **{"wsgi.input": Held(handed)})
        assert answer.read() == b"first|second"


def test_a_piece_that_comes_after_its_reader_was_cancelled_is_not_lost() -> None:
    """The next request gets it."""
    handed = Signal()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await receive()
        handed.set()
        second = await receive()
        await start(send)
        await body(send, first["body"] + b"|" + second["body"])

    with bridging(app) as bridge:
        answer = Answer(bridge, REQUEST_METHOD="POST", CONTENT_LENGTH="11", **{"wsgi.input": Held(handed)})
        assert answer.read() == b"first|second"


# Answers without a body, and headers that are the server's.


@pytest.mark.parametrize(
    ("method", "status", "line"),
    [("GET", 204, "204 No Content"), ("GET", 304, "304 Not Modified"), ("HEAD", 200, "200 OK")],
)
def test_answer_that_has_no_body_yields_none(method: str, status: int, line: str) -> None:
    """The application's bytes are dropped where HTTP has no place for them."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, status, [(b"content-length", b"4"), (b"x-kept", b"1")])
        await body(send, b"drop", more=True)
        await body(send)

    with bridging(app) as bridge:
        answer = Answer(bridge, REQUEST_METHOD=method)
        assert answer.read() == b""
        assert answer.status == line
        length = [("content-length", "4")] if status != 204 else []
        assert answer.headers == [*length, ("x-kept", "1")]


def test_head_request_does_not_wait_for_an_endless_answer() -> None:
    """The head is all that was asked for; the application is ended as if the client had left."""
    ended = Signal()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        try:
            while True:
                await body(send, b"x", more=True)
        finally:
            ended.set()

    with bridging(app) as bridge:
        assert Answer(bridge, REQUEST_METHOD="HEAD").read() == b""
        assert ended.seen()


def test_hop_by_hop_headers_are_not_handed_on() -> None:
    """PEP 3333 forbids them, and some servers crash on them."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        names = (b"Connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"x-mine")
        await start(send, headers=[(name, b"1") for name in names])
        await body(send)

    with bridging(app) as bridge:
        answer = Answer(bridge)
        answer.read()
        assert answer.headers == [("x-mine", "1")]


def test_unknown_status_still_has_a_reason() -> None:
    """PEP 3333 asks for a reason phrase even where HTTP knows none."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 599)
        await body(send)

    with bridging(app) as bridge:
        assert Answer(bridge).status == "599 Unknown"


def test_bridge_passes_the_reference_validator() -> None:
    """The standard library's WSGI validator finds nothing to object to."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, headers=[(b"content-type", b"text/plain")])
        await body(send, b"one", more=True)
        await body(send, b"two")

    lines: list[str] = []

    def start_response(status: str, _headers: object, _info: object = None, /) -> Callable[[bytes], object]:
        lines.append(status)
        return lambda _data: None

    with bridging(app) as bridge:
        answer = validator(bridge)(make_environ(), start_response)
        assert list(answer) == [b"one", b"two"]
        answer.close()  # type: ignore[attr-defined]  # the validator's iterator has it
    assert lines == ["200 OK"]


# The client's leaving.


def test_closing_ends_the_application() -> None:
    """On close the application reads http.disconnect, has an OSError from send, and is cancelled if it stays."""
    seen: list[str] = []
    ended = Signal()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await start(send)
        await body(send, b"first", more=True)
        seen.append((await receive())["type"])
        try:
            await body(send, b"second", more=True)
        except OSError as error:
            seen.append(type(error).__name__)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            ended.set()

    with bridging(app) as bridge:
        answer = Answer(bridge)
        assert answer.next() == b"first"
        answer.close()
        answer.close()
        assert ended.seen()
    assert seen == ["http.disconnect", ClientDisconnected.__name__, "cancelled"]


def test_application_that_waits_for_room_is_released_by_closing() -> None:
    """A send that waits for the server to read raises when the server never will."""
    ended = Signal()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        try:
            while True:
                await body(send, b"x", more=True)
        except OSError:
            ended.set()

    with bridging(app, ahead=2) as bridge:
        answer = Answer(bridge)
        assert answer.next() == b"x"
        answer.close()
        assert ended.seen()


def test_iterator_dropped_without_close_ends_the_application() -> None:
    """A plain `break` out of the loop is a client that left."""
    ended = Signal()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        try:
            while True:
                await body(send, b"x", more=True)
        finally:
            ended.set()

    with bridging(app) as bridge:
        for chunk in bridge(make_environ(), lambda *_: lambda _data: None):
            assert chunk == b"x"
            break
        assert ended.seen()


def test_work_after_the_answer_is_not_cancelled() -> None:
    """Closing a complete answer leaves the application's own end alone."""
    gate, done = Signal(), Signal()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("all")(scope, receive, send)
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        await gate.wait()
        done.set()

    with bridging(app) as bridge:
        assert Answer(bridge).read() == b"all"
        gate.set()
        assert done.seen()


def test_server_that_refuses_the_head_ends_the_application() -> None:
    """If start_response raises, no server closes the iterator, so the call is ended at once."""
    ended = Signal()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def start_response(*_: object) -> Callable[[bytes], object]:
        raise ValueError("invalid header")

    with bridging(app) as bridge:
        with pytest.raises(ValueError, match="invalid header"):
            bridge(make_environ(), start_response)
        assert ended.seen()


# Failures.


def test_failure_before_the_head_is_raised_in_the_worker() -> None:
    """The server answers 500 and logs the application's own exception."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeyError("mine")

    with bridging(app) as bridge, pytest.raises(KeyError, match="mine"):
        Answer(bridge)


def test_failure_after_the_head_breaks_the_iterator() -> None:
    """What was sent is delivered, and then the iterator raises, so that nothing looks complete."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"half", more=True)
        raise KeyError("mine")

    with bridging(app) as bridge:
        answer = Answer(bridge)
        assert answer.next() == b"half"
        with pytest.raises(RuntimeError, match="did not finish") as caught:
            answer.next()
        assert isinstance(caught.value.__cause__, KeyError)
        answer.close()


async def _silent(_scope: Scope, _receive: Receive, _send: Send) -> None:
    return


async def _cancels_itself(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise asyncio.CancelledError


async def _exits(_scope: Scope, _receive: Receive, _send: Send) -> None:
    sys.exit(3)


async def _body_first(_scope: Scope, _receive: Receive, send: Send) -> None:
    await body(send, b"x")


async def _two_heads(_scope: Scope, _receive: Receive, send: Send) -> None:
    await start(send)
    await start(send)


async def _no_end(_scope: Scope, _receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"x", more=True)


async def _foreign(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.send"})


@pytest.mark.parametrize("app", [_silent, _cancels_itself, _exits, _body_first, _two_heads, _no_end, _foreign])
def test_application_that_breaks_asgi_fails_loudly(app: ASGIApp) -> None:
    """An answer that is missing, doubled or unfinished is an error in the worker, and the loop continues."""
    with bridging(app) as bridge:
        with pytest.raises(RuntimeError):
            Answer(bridge).read()
        with bridging(echo) as other:
            assert Answer(other, body=b"still here").read() == b"still here"


def test_task_that_exits_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A SystemExit in a task of the application's own is logged, and later requests are served."""
    failed: list[asyncio.Task[None]] = []

    async def leave() -> None:
        sys.exit(3)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(leave())
        failed.append(task)
        await asyncio.wait([task])
        task.exception()
        await PlainTextResponse("on")(scope, receive, send)

    with bridging(app) as bridge:
        assert Answer(bridge).read() == b"on"
        assert Answer(bridge).read() == b"on"
    assert "tried to end the event loop" in caplog.text


def test_failure_after_the_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """There is no caller to report it to, so it is logged."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("all")(scope, receive, send)
        raise KeyError("after the fact")

    with bridging(app) as bridge:
        assert Answer(bridge).read() == b"all"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "after the fact" in caplog.text


def test_leaving_when_told_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """An application that lets the OSError of send end it, wrapped or not, isn't reported as broken."""
    waiting = Signal()

    async def pieces() -> Any:
        yield b"first"
        waiting.set()
        while True:
            yield b"next"

    with bridging(StreamingResponse(pieces())) as bridge:
        answer = Answer(bridge)
        assert answer.next() == b"first"
        assert waiting.seen()
        answer.close()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


# A server that shows its socket.


class Connection:
    """As a server shows its client's connection; the kernel's word for how it stands."""

    def __init__(self) -> None:
        self.state = 1

    def getsockopt(self, _level: int, _option: int, _size: int) -> bytes:
        return bytes([self.state])


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    monkeypatch.setattr(wsgi, "_CHECK_INTERVAL", 0.001)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(socket, "TCP_INFO", 11, raising=False)
    return Connection()


async def silent(_scope: Scope, receive: Receive, send: Send) -> None:
    """Says one thing, and then nothing until its client leaves."""
    await receive()
    await start(send)
    await body(send, b"first", more=True)
    assert (await receive())["type"] == "http.disconnect"
    left.append(True)


left: list[bool] = []


def test_client_that_leaves_is_noticed_while_nothing_is_written(connection: Connection) -> None:
    """The application hears of it, and the worker is released with what a failed write would have raised."""
    left.clear()
    with bridging(silent) as bridge:
        answer = Answer(bridge, **{"gunicorn.socket": connection})
        assert answer.next() == b"first"
        connection.state = 8
        with pytest.raises(BrokenPipeError):
            answer.next()
        answer.close()
    assert left == [True]


def test_client_that_leaves_before_the_head_is_noticed(connection: Connection) -> None:
    """The worker is released from an answer that is not read, and nothing is reported as broken."""

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        connection.state = 8
        assert (await receive())["type"] == "http.disconnect"

    with bridging(app) as bridge:
        answer = Answer(bridge, **{"werkzeug.socket": connection})
        assert answer.status.startswith("499 ")
        assert answer.read() == b""


def test_calls_whose_connection_is_not_shown_say_so(connection: Connection) -> None:
    """The application then knows that it must write to find out."""
    assert UNWATCHED in scope_of()["extensions"]
    assert "extensions" not in scope_of(**{"gunicorn.socket": connection})


# One loop per process.


def test_bridges_share_one_thread_that_ends_with_the_last_of_them() -> None:
    """Two bridges run on one loop; closing both leaves no thread."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        loops.append(asyncio.get_running_loop())
        await PlainTextResponse("ok")(scope, receive, send)

    assert loop_threads() == []
    with bridging(app) as first:
        assert loop_threads() == []
        with bridging(app) as second:
            assert Answer(first).read() + Answer(second).read() == b"okok"
            assert len(loop_threads()) == 1
        assert Answer(first).read() == b"ok"
    assert loops[0] is loops[1] is loops[2]
    assert loops[0].is_closed()
    assert loop_threads() == []


def test_bridge_made_after_the_last_closed_has_a_new_loop() -> None:
    """Closing is final for a bridge and not for the process."""
    for _ in range(2):
        with bridging(echo) as bridge:
            assert Answer(bridge, body=b"again").read() == b"again"
        assert loop_threads() == []


def test_closed_bridge_refuses_requests() -> None:
    """A request after close is an error, not a wait for ever."""
    with bridging(echo) as bridge:
        Answer(bridge).read()
    with pytest.raises(RuntimeError, match="closed"):
        Answer(bridge)
    bridge.close()
    assert loop_threads() == []


def test_closing_ends_running_calls_and_releases_their_workers() -> None:
    """A worker in the middle of an answer has an error, the application ends, and then `on_close` runs on the loop."""
    order: list[str] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"first", more=True)
        try:
            await asyncio.Event().wait()
        finally:
            order.append("call ended")

    async def on_close() -> None:
        order.append("closed")

    bridge = WSGIBridge(app, on_close=on_close)
    answer = Answer(bridge)
    assert answer.next() == b"first"
    bridge.close()
    with pytest.raises(RuntimeError, match="closed"):
        answer.next()
    answer.close()
    assert order == ["call ended", "closed"]
    assert loop_threads() == []


def test_application_that_will_not_end_does_not_hold_up_the_close(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that swallows its cancellations is given up with a warning, and its worker has an error."""
    monkeypatch.setattr("llmproxy_asgi.wsgi._GRACE", 0.0)
    monkeypatch.setattr("llmproxy_asgi.wsgi._ENDING", 0.05)
    swallowed: list[int] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        for number in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed.append(number)
        await asyncio.Event().wait()

    with bridging(app) as bridge:
        answer = Answer(bridge)
        bridge.close()
        with pytest.raises(RuntimeError, match="closed"):
            answer.next()
    assert swallowed == [0, 1]
    assert "did not end when they were cancelled" in caplog.text
    assert loop_threads() == []


def test_timeout_of_the_owners_own_is_raised_like_anything_else() -> None:
    """It is not taken for calls that did not end in time."""

    async def on_close() -> None:
        raise TimeoutError("mine")

    bridge = WSGIBridge(echo, on_close=on_close)
    assert Answer(bridge).read() == b""
    with pytest.raises(TimeoutError, match="mine"):
        bridge.close()
    assert loop_threads() == []


def test_bridge_that_was_never_used_starts_nothing() -> None:
    """No thread, and no `on_close` without a loop it could run on."""

    async def on_close() -> None:
        raise AssertionError

    WSGIBridge(echo, on_close=on_close).close()
    assert loop_threads() == []


def test_ahead_of_nothing_is_refused() -> None:
    """A bridge through which nothing fits is a mistake of its maker."""
    with pytest.raises(ValueError, match="ahead"):
        WSGIBridge(echo, ahead=0)


def test_calls_in_parallel_do_not_mix() -> None:
    """Fifty workers each get the answer to their own request."""
    with bridging(echo) as bridge:
        results: dict[int, bytes] = {}

        def ask(number: int) -> None:
            results[number] = Answer(bridge, body=b"%d" % number).read()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
    assert results == {number: b"%d" % number for number in range(50)}


# Fork, and the end of the process.

SCRIPT_HEAD = """
import io, os, sys, threading, warnings
warnings.simplefilter("error")
from wsgiref.util import setup_testing_defaults
from llmproxy_asgi.wsgi import WSGIBridge

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    if scope["path"] == "/held":
        await receive()
        try:
            await receive()
        finally:
            print("held call ended in", "parent" if os.getpid() == parent else "child", flush=True)
        return
    await send({"type": "http.response.body", "body": b"two"})

def ask(path="/"):
    environ = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    return iter(bridge(environ, lambda *_: None))

async def on_close():
    print("closed in", "parent" if os.getpid() == parent else "child", flush=True)

parent = os.getpid()
bridge = WSGIBridge(app, on_close=on_close)
"""


def run_script(script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT_HEAD + textwrap.dedent(script)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("used", [False, True], ids=["before first use", "after first use"])
def test_child_of_a_fork_has_a_loop_of_its_own(used: bool) -> None:
    """Parent and child both answer after a fork, while a call of the parent is open."""
    lines = run_script(
        f"""
        used = {used}
        if used:
            held = ask("/held")
            assert next(held) == b"one"
        pid = os.fork()
        if pid == 0:
            if used:
                held.close()          # the child has a copy; the call is the parent's
            assert b"".join(ask()) == b"onetwo"
            assert len([t for t in threading.enumerate() if t.name == "llmproxy-wsgi"]) == 1
            print("child answered", flush=True)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert b"".join(ask()) == b"onetwo"
        print("parent answered", flush=True)
        if used:
            held.close()
        bridge.close()
        """,
    )
    held = ["held call ended in parent"] if used else []
    assert lines == ["child answered", "closed in child", "parent answered", *held, "closed in parent"]


def test_garbage_collector_may_close_a_forgotten_answer_at_any_moment() -> None:
    """Also while a thread holds a lock of the bridge's: it would wait for itself, and everybody after it."""
    lines = run_script(
        """
        import gc
        from llmproxy_asgi import wsgi

        class Cycle:
            def __init__(self):
                self.answer, self.me = ask("/held"), self

        gc.disable()
        assert next(Cycle().answer) == b"one"
        loop = wsgi._process._loop_thread._loop
        submit = loop.call_soon_threadsafe

        def collecting(*work, **context):
            gc.collect()
            return submit(*work, **context)

        loop.call_soon_threadsafe = collecting
        assert b"".join(ask()) == b"onetwo"
        bridge.close()
        """,
    )
    assert lines == ["held call ended in parent", "closed in parent"]


def test_process_that_forgets_to_close_ends_in_order() -> None:
    """At exit open calls are ended and `on_close` runs, without a warning and without hanging."""
    lines = run_script('held = ask("/held"); assert next(held) == b"one"')
    assert lines == ["held call ended in parent", "closed in parent"]


def test_bridge_that_fails_to_close_does_not_keep_others_from_it() -> None:
    """At exit each bridge has its turn, whatever the one before it raised."""
    lines = run_script(
        """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")

        async def fail():
            raise ValueError("mine")

        others = [WSGIBridge(app, on_close=each) for each in (fail, on_close, fail)]
        for bridge in others:
            assert b"".join(ask()) == b"onetwo"
        """,
    )
    assert lines.count("closed in parent") == 1
    assert lines.count("ValueError: mine") == 2


def test_import_starts_no_thread_and_installs_nothing() -> None:
    """Importing the module costs nothing but memory."""
    assert run_script("print(threading.active_count())") == ["1"]


# As a framework's response.


def test_flask_streams_and_cancels_through_it() -> None:
    """The iterator is the body of a Flask response, and Flask's closing reaches the application."""
    ended = Signal()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 201, [(b"x-mine", b"1")])
        try:
            while True:
                await body(send, b"piece", more=True)
        finally:
            ended.set()

    with bridging(app) as bridge:
        site = flask.Flask(__name__)

        @site.get("/llm")
        def llm() -> flask.Response:
            head: list[Any] = []

            def start_response(*given: Any) -> Callable[[bytes], object]:
                head.extend(given)
                return lambda _data: None

            pieces = bridge(flask.request.environ, start_response)
            return flask.Response(pieces, status=head[0], headers=head[1])

        with site.test_client() as client:
            response = client.get("/llm", buffered=False)
            pieces = response.iter_encoded()
            assert (response.status, response.headers["x-mine"], next(iter(pieces))) == ("201 Created", "1", b"piece")
            response.close()
            assert ended.seen()
