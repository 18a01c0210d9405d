import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llmproxy_asgi.inprocess import ASGITransport, anthropic_client, openai_client

pytestmark = pytest.mark.anyio

HANG = 20.0  # seconds after which a wait is a failure; nothing here depends on how long it takes
URL = "http://app.test/v1/things?q=1"


@asynccontextmanager
async def client_of(app: ASGIApp, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client over the application; once it is closed, no task of the application may be left."""
    before = asyncio.all_tasks()
    async with (
        asyncio.timeout(HANG),
        httpx2.AsyncClient(transport=ASGITransport(app, **options), trust_env=False) as client,
    ):
        yield client
    assert asyncio.all_tasks() - before == set()


async def start(send: Send, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers or []})


async def body(send: Send, chunk: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": more})


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)


async def scope_of(request: Callable[[httpx2.AsyncClient], Awaitable[object]], **options: Any) -> Scope:
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope)
        await start(send)
        await body(send)

    async with client_of(app, **options) as client:
        await request(client)
    return seen[0]


# Streaming.


async def test_response_and_pieces_come_while_the_application_is_held() -> None:
    """The head is there before any body, and each piece before the next one exists."""
    gate = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 201, [(b"x-mine", b"\xe9")])
        await gate.wait()
        gate.clear()
        await body(send, b"first", more=True)
        await gate.wait()
        await body(send, b"second")

    async with client_of(app) as client, client.stream("GET", URL) as response:
        assert (response.status_code, response.headers["x-mine"]) == (201, "é")
        pieces = response.aiter_raw()
        gate.set()
        assert await anext(pieces) == b"first"
        gate.set()
        assert [piece async for piece in pieces] == [b"second"]


async def test_application_waits_until_the_piece_before_is_taken() -> None:
    """It is at most one piece ahead of its reader, however fast it is."""
    sent: list[int] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        for number in range(5):
            await body(send, b"%d" % number, more=True)
            sent.append(number)
        await body(send)

    async with client_of(app) as client, client.stream("GET", URL) as response:
        await settle()
        assert sent == [0]
        pieces = response.aiter_raw()
        for number in range(5):
            assert await anext(pieces) == b"%d" % number
            await settle()
            assert len(sent) <= number + 2
        assert [piece async for piece in pieces] == []
    assert sent == [0, 1, 2, 3, 4]


async def test_request_body_is_streamed_into_the_application() -> None:
    """An upload is read piece by piece, when the application asks for it."""
    asked: list[bytes] = []

    async def upload() -> AsyncIterator[bytes]:
        for piece in (b"one", b"two"):
            asked.append(piece)
            yield piece

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await settle()
        assert asked == []
        first = await receive()
        assert (first["body"], first["more_body"], asked) == (b"one", True, [b"one"])
        rest = await Request(scope, receive).body()
        await PlainTextResponse(first["body"] + rest)(scope, receive, send)

    async with client_of(app) as client:
        assert (await client.post(URL, content=upload())).text == "onetwo"


@pytest.mark.parametrize(("method", "status"), [("GET", 204), ("GET", 304), ("HEAD", 200)])
async def test_answer_that_has_no_body_has_none(method: str, status: int) -> None:
    """The application's bytes are dropped where HTTP has no place for them."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, status)
        await body(send, b"drop", more=True)
        await body(send)

    async with client_of(app) as client:
        response = await client.request(method, URL)
        assert (response.status_code, response.content) == (status, b"")


@pytest.mark.parametrize("content", [None, b"", b"all of it"])
async def test_body_that_is_known_comes_in_one_message(content: bytes | None) -> None:
    """After it an application may wait for the client's leaving."""
    seen: list[dict[str, Any]] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(await receive()))
        await start(send)
        await body(send)

    async with client_of(app) as client:
        await client.post(URL, content=content)
    assert seen == [{"type": "http.request", "body": content or b"", "more_body": False}]


# The scope.


async def test_scope_says_what_the_request_says() -> None:
    """Method, path, query and headers are the request's; there is no peer."""
    scope = await scope_of(lambda client: client.put("http://app.test:81/a%2Fb%20c?q=%C3%A9", headers={"X-Mine": "1"}))
    assert (scope["type"], scope["method"], scope["scheme"], scope["http_version"]) == ("http", "PUT", "http", "1.1")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a/b c", b"/a%2Fb%20c", b"q=%C3%A9")
    assert (scope["root_path"], scope["client"], scope["server"]) == ("", None, ("app.test", 81))
    assert (b"x-mine", b"1") in scope["headers"]


@pytest.mark.parametrize("root_path", ["/é", "/é/"])
async def test_mount_is_part_of_the_path(root_path: str) -> None:
    """`path` includes `root_path`, as under a server."""
    scope = await scope_of(lambda client: client.get(URL), root_path=root_path)
    assert (scope["root_path"], scope["path"]) == ("/é", "/é/v1/things")
    assert scope["raw_path"] == b"/%C3%A9/v1/things"


async def test_principal_is_handed_over_in_the_scope() -> None:
    """`scope_extra` is the very object, not a copy or a header."""
    principal = object()
    scope = await scope_of(lambda client: client.get(URL), scope_extra={"who": principal})
    assert scope["who"] is principal


async def test_application_runs_in_the_context_of_its_caller() -> None:
    """Context variables of the caller, a trace for one, are seen by the application."""
    trace: ContextVar[str] = ContextVar("trace", default="none")
    trace.set("caller")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(trace.get())(scope, receive, send)

    async with client_of(app) as client:
        assert (await client.get(URL)).text == "caller"


# The client's leaving.


async def test_closing_the_response_ends_the_application() -> None:
    """It reads http.disconnect, has an OSError from send, is cancelled if it stays, and is over when aclose returns."""
    seen: list[str] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await start(send)
        await body(send, b"first", more=True)
        seen.append((await receive())["type"])
        with pytest.raises(OSError, match="closed"):
            await body(send, b"second", more=True)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async with client_of(app) as client:
        async with client.stream("GET", URL) as response:
            assert await anext(response.aiter_raw()) == b"first"
            assert seen == []
        assert seen == ["http.disconnect", "cancelled"]


async def test_application_that_waits_for_its_reader_is_released_by_closing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A send that waits raises when the reader has gone; a framework's wrapping of that is no failure."""

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"piece"

    async with client_of(StreamingResponse(pieces())) as client, client.stream("GET", URL) as response:
        assert await anext(response.aiter_raw()) == b"piece"
        await settle()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_caller_cancelled_before_the_head_ends_the_application() -> None:
    """A request that is given up leaves nothing running."""
    running, ended = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with client_of(app) as client:
        request = asyncio.create_task(client.get(URL))
        await running.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert ended.is_set()


async def test_caller_cancelled_in_the_middle_ends_the_application() -> None:
    """Cancelling the reader of a stream reaches the application."""
    ended = asyncio.Event()
    reading = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"first", more=True)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def read(client: httpx2.AsyncClient) -> None:
        async with client.stream("GET", URL) as response:
            async for _ in response.aiter_raw():
                reading.set()

    async with client_of(app) as client:
        request = asyncio.create_task(read(client))
        await reading.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert ended.is_set()


async def test_closing_the_client_ends_work_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then it continues undisturbed; afterwards nothing runs."""
    monkeypatch.setattr("llmproxy_asgi.inprocess._ENDING", 0.05)
    seen: list[str] = []
    running = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("all")(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    transport = ASGITransport(app)
    async with asyncio.timeout(HANG):
        async with httpx2.AsyncClient(transport=transport) as client:
            assert (await client.post(URL, content=b"x")).text == "all"
            await running.wait()
            await settle()
            assert seen == []
        assert seen == ["ended"]


async def test_application_that_will_not_end_does_not_hold_up_the_close(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that swallows its cancellation is given up with a warning."""
    monkeypatch.setattr("llmproxy_asgi.inprocess._GRACE", 0.0)
    monkeypatch.setattr("llmproxy_asgi.inprocess._ENDING", 0.05)
    gate = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await gate.wait()

    async with client_of(app) as client:
        async with client.stream("GET", URL):
            pass
        assert "did not end when it was cancelled" in caplog.text
        gate.set()
        await settle()


# Failures.


async def test_failure_before_the_head_is_the_callers() -> None:
    """The application's own exception comes out of the request."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeyError("mine")

    async with client_of(app) as client:
        with pytest.raises(KeyError, match="mine"):
            await client.get(URL)


async def test_failure_after_the_head_breaks_the_stream() -> None:
    """What was sent is delivered, and then the stream is a broken one, with the cause attached."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"half", more=True)
        raise KeyError("mine")

    async with client_of(app) as client, client.stream("GET", URL) as response:
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"half"
        with pytest.raises(httpx2.RemoteProtocolError, match="did not finish") as caught:
            await anext(pieces)
        assert isinstance(caught.value.__cause__, KeyError)


async def test_failure_after_the_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """There is no caller to report it to, so it is logged."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("all")(scope, receive, send)
        raise KeyError("after the fact")

    async with client_of(app) as client:
        assert (await client.get(URL)).text == "all"
        await settle()
    assert [record.levelno for record in caplog.records if record.name.startswith("llmproxy")] == [logging.ERROR]
    assert "after the fact" in caplog.text


async def test_failure_that_nobody_read_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A response closed after its application failed doesn't take the failure with it."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        raise KeyError("unread")

    async with client_of(app) as client:
        async with client.stream("GET", URL):
            await settle()
        assert "unread" in caplog.text


async def _silent(_scope: Scope, _receive: Receive, _send: Send) -> None:
    return


async def _cancels_itself(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise asyncio.CancelledError


async def _no_end(_scope: Scope, _receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"x", more=True)


async def _body_first(_scope: Scope, _receive: Receive, send: Send) -> None:
    await body(send, b"x")


async def _two_heads(_scope: Scope, _receive: Receive, send: Send) -> None:
    await start(send)
    await start(send)


async def _foreign(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.send"})


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        pytest.param(_silent, httpx2.RemoteProtocolError, id="no answer"),
        pytest.param(_cancels_itself, httpx2.RemoteProtocolError, id="cancels itself"),
        pytest.param(_no_end, httpx2.RemoteProtocolError, id="no end"),
        pytest.param(_two_heads, httpx2.RemoteProtocolError, id="two heads"),
        pytest.param(_body_first, RuntimeError, id="body before the head"),
        pytest.param(_foreign, RuntimeError, id="foreign message"),
    ],
)
async def test_application_that_breaks_asgi_fails_loudly(app: ASGIApp, expected: type[Exception]) -> None:
    """An answer that is missing, doubled or unfinished is an error of the request."""
    async with client_of(app) as client:
        with pytest.raises(expected):
            await client.get(URL)


@pytest.mark.parametrize("headed", [False, True], ids=["before the head", "in the middle"])
async def test_read_timeout_holds(headed: bool) -> None:
    """An application that is silent for longer than the caller would wait is ended."""
    ended = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        if headed:
            await start(send)
            await body(send, b"first", more=True)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with client_of(app) as client:
        with pytest.raises(httpx2.ReadTimeout, match=r"0\.01 seconds"):
            await client.get(URL, timeout=0.01)
        assert ended.is_set()


# The SDK clients.


async def list_models(make: Callable[..., Any], **options: Any) -> tuple[str, set[bytes]]:
    """The path that the SDK asked for, and the credentials it sent."""
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope)
        await start(send, headers=[(b"content-type", b"application/json")])
        await body(send, b'{"object": "list", "data": []}')

    async with make(app, **options) as client:
        assert [model async for model in client.models.list()] == []
    # Which of the two headers an SDK takes is its own affair, and has changed between releases.
    credentials = {value for name, value in seen[0]["headers"] if name in {b"authorization", b"x-api-key"}}
    return seen[0]["path"], {value.removeprefix(b"Bearer ") for value in credentials}


@pytest.mark.parametrize("make", [openai_client, anthropic_client])
async def test_client_needs_no_key_and_sends_none(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in that the SDK asks for stays outside, and so do keys and addresses of the environment."""
    for vendor in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{vendor}_API_KEY", "from the environment")
        monkeypatch.setenv(f"{vendor}_BASE_URL", "http://elsewhere.invalid")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "from the environment")
    assert await list_models(make, root_path="/llm") == ("/llm/v1/models", set())


@pytest.mark.parametrize(
    ("make", "option"),
    [(openai_client, "api_key"), (anthropic_client, "api_key"), (anthropic_client, "auth_token")],
)
async def test_client_sends_the_credential_it_is_given(make: Callable[..., Any], option: str) -> None:
    """A credential of the caller's own is the caller's wish, and no stand-in is put beside it."""
    assert await list_models(make, **{option: "mine"}) == ("/v1/models", {b"mine"})


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_stand_in_is_taken_off_whichever_header_holds_it(name: str) -> None:
    """What the SDKs send in place of a key never looks like one."""
    value = "Bearer in-process" if name == "authorization" else "in-process"
    scope = await scope_of(lambda client: client.get(URL, headers={name: value}))
    assert name.encode() not in [header for header, _ in scope["headers"]]


@pytest.mark.parametrize("make", [openai_client, anthropic_client])
async def test_client_keeps_the_patience_of_its_sdk(make: Callable[..., Any]) -> None:
    """A model may think for minutes; the HTTP client's own five seconds don't apply, nor does a retry unless asked."""
    async with make(_silent) as client:
        assert (client.timeout.read, client.max_retries) == (600, 0)
    async with make(_silent, timeout=7, max_retries=3) as client:
        assert (client.timeout, client.max_retries) == (7, 3)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_missing_sdk_is_named_with_its_remedy(sdk: str) -> None:
    """The error says what to install, and the module itself imports without either SDK."""
    script = (
        f"import sys; sys.modules['{sdk}'] = None\n"
        "from llmproxy_asgi import inprocess\n"
        f"assert not {{'openai', 'anthropic'}} & set(n for n, m in sys.modules.items() if m)\n"
        f"try: inprocess.{sdk}_client(None)\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=60)
    assert done.stdout.strip().endswith(f"pip install {sdk}")
