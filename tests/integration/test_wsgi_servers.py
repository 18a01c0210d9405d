import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmproxy_asgi import wsgi

HANG = 30.0  # seconds after which a wait is a failure; nothing here depends on how long it takes
SOURCES = Path(wsgi.__file__).parents[1]

# The application is a client of the test: it relays what the test's socket sends, line by line, and its end
# is seen there as the end of the connection. The bridge is used before any worker is forked.
TARGET = """
import asyncio
import json
import os
from wsgiref.util import setup_testing_defaults

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.wsgi import WSGIBridge

gateway = LLMProxy({
    "providers": {"simulated": {}},
    "access": {"mode": "keys", "keys": [
        {"name": "ci", "key": "llmp_0123456789abcdef"},
        {"name": "once", "key": "llmp_once_0123456789", "requests_per_minute": 1},
    ]},
    "limits": json.loads(os.environ["TARGET_LIMITS"]),
})


async def app(scope, receive, send):
    if scope["path"].startswith("/v1/"):
        await gateway(scope, receive, send)
        return
    if scope["path"] == "/warm":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        return
    if scope["path"] == "/held":
        held = b"%d" % gateway.gateway._shared.bodies.total
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(held))]})
        await send({"type": "http.response.body", "body": held})
        return
    if scope["path"] == "/refuse":
        raise ValueError("before the head")
    if scope["path"] == "/echo":
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<" + message["body"] + b">"})
        return
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["TARGET_PORT"]))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        while line := await reader.readline():
            if line == b"fail\\n":
                raise ValueError("in the middle")
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body"})
    finally:
        writer.close()


async def on_close():
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["TARGET_PORT"]))
    writer.write(b"closed")
    await writer.drain()
    writer.close()


bridge = WSGIBridge(app, on_close=on_close)
environ = {"PATH_INFO": "/warm"}
setup_testing_defaults(environ)
assert b"".join(bridge(environ, lambda *_: None)) == b""
"""

LIMITS = {"body_timeout": "500ms", "messages": 100, "values": 2000}

WERKZEUG = """
import sys
from werkzeug.serving import WSGIRequestHandler, make_server
from target import bridge

WSGIRequestHandler.protocol_version = "HTTP/1.1"
make_server("127.0.0.1", 0, bridge, threaded=True, fd=int(sys.argv[1])).serve_forever()
"""


def gunicorn(worker: str, fd: int) -> list[str]:
    options = ["--worker-class", worker, "--preload", "--graceful-timeout", "10"]
    if worker == "gthread":
        options += ["--threads", "4"]  # with them gunicorn would also turn a sync worker into this one
    return [sys.executable, "-m", "gunicorn", "--no-control-socket", *options, "--bind", f"fd://{fd}", "target:bridge"]


@dataclass(frozen=True)
class Site:
    """A running server, and the socket its application calls."""

    port: int
    upstream: socket.socket
    process: subprocess.Popen[bytes]

    def ask(self, request: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=HANG)
        client.sendall(request)
        return client

    def get(self, path: str = "/relay") -> socket.socket:
        return self.ask(b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n" % path.encode())

    def accept(self) -> socket.socket:
        connection, _ = self.upstream.accept()
        connection.settimeout(HANG)
        return connection


def listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(HANG)
    return listener


@pytest.fixture(params=["gthread", "sync", "werkzeug"], scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from serve(str(request.param), tmp_path_factory.mktemp("site"))


def serve(server: str, folder: Path, limits: Mapping[str, object] = LIMITS) -> Generator[Site, None, None]:
    (folder / "target.py").write_text(TARGET)
    (folder / "serve.py").write_text(WERKZEUG)
    with listen() as listener, listen() as upstream, (folder / "log").open("wb") as log:
        fd = listener.fileno()
        command = [sys.executable, "serve.py", str(fd)] if server == "werkzeug" else gunicorn(server, fd)
        paths = os.pathsep.join([str(SOURCES), str(folder)])
        environ = os.environ | {"TARGET_PORT": str(upstream.getsockname()[1]), "PYTHONPATH": paths}
        environ["TARGET_LIMITS"] = json.dumps(limits)
        process = subprocess.Popen(command, cwd=folder, env=environ, pass_fds=[fd], stdout=log, stderr=log)
        try:
            yield Site(port=listener.getsockname()[1], upstream=upstream, process=process)
        finally:
            process.terminate()
            try:
                process.wait(HANG)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = client.recv(4096)
        assert piece, data
        data += piece
    return data


def read_all(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(4096):
        data += piece
    return data


def leave(client: socket.socket) -> None:
    """Close so that the server's next write fails, and not only the one after it."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_pieces_arrive_while_the_application_is_held(site: Site) -> None:
    """Each piece is on the wire when the application has sent it, and the end is the protocol's own."""
    with closing(site.get()) as client, closing(site.accept()) as upstream:
        upstream.sendall(b"first\n")
        head = read_until(client, b"first\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        upstream.sendall(b"second\n")
        assert b"first" not in read_until(client, b"second\n")
        upstream.shutdown(socket.SHUT_WR)
        read_until(client, b"0\r\n\r\n")


def test_client_that_leaves_ends_the_application_with_the_next_write(site: Site) -> None:
    """One write after the client has gone, the application has let go of its own connection."""
    with closing(site.get()) as client, closing(site.accept()) as upstream:
        upstream.sendall(b"first\n")
        read_until(client, b"first\n")
        assert select.select([upstream], [], [], 0) == ([], [], [])
        leave(client)
        upstream.sendall(b"second\n")
        assert upstream.recv(1) == b""


def test_failure_in_the_middle_is_no_end(site: Site) -> None:
    """The connection breaks off without the last chunk, so no client takes the answer for complete."""
    with closing(site.get()) as client, closing(site.accept()) as upstream:
        upstream.sendall(b"first\n")
        read_until(client, b"first\n")
        upstream.sendall(b"fail\n")
        assert b"0\r\n\r\n" not in read_all(client)


def test_failure_before_the_head_is_a_500(site: Site) -> None:
    """The server answers for an application that could not."""
    with closing(site.ask(b"GET /refuse HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")) as client:
        assert read_all(client).split()[1] == b"500"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"Content-Length: 5\r\n\r\nhello", id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", id="chunked"),
    ],
)
def test_body_of_a_request_arrives(site: Site, message: bytes) -> None:
    """Declared or chunked, the application has the body and the worker isn't left waiting for more."""
    with closing(site.ask(b"POST /echo HTTP/1.1\r\nHost: test\r\nConnection: close\r\n" + message)) as client:
        assert b"<hello>" in read_all(client)


def test_bridge_closes_with_its_worker(tmp_path: Path) -> None:
    """A worker that is asked to end ends its calls, runs `on_close` on the loop, and exits cleanly."""
    with contextmanager(serve)("gthread", tmp_path) as site:
        with closing(site.ask(b"POST /echo HTTP/1.0\r\nContent-Length: 0\r\n\r\n")) as client:
            assert b"<>" in read_all(client)
        site.process.send_signal(signal.SIGTERM)
        # Two processes close: the worker, and the one that was loaded before the fork.
        for _ in range(2):
            with closing(site.accept()) as goodbye:
                assert read_all(goodbye) == b"closed"
        assert site.process.wait(HANG) == 0


# Bodies that their clients do not finish.

DRIPPERS = 8
"""More than any of the servers has threads."""
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
RIGHT = b"x-api-key: llmp_0123456789abcdef\r\n"
BODY = b'{"model":"simulated/echo","messages":[{"role":"user","content":"hello"}]}'


def answered(site: Site, request: bytes) -> bytes:
    """The answer to a request that its client finishes, on a connection of its own."""
    with closing(site.ask(request.replace(b"Host: test\r\n", b"Host: test\r\nConnection: close\r\n"))) as client:
        return read_all(client)


def whole(body: bytes = BODY, headers: bytes = RIGHT) -> bytes:
    return CHAT + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_strangers_who_do_not_finish_their_bodies_take_no_thread(site: Site, framing: bytes) -> None:
    """Who is refused by the head alone is answered before the body has come, and a known caller is served meanwhile."""
    strangers = [site.ask(CHAT + b"x-api-key: llmp_wrong\r\n" + framing) for _ in range(DRIPPERS)]
    try:
        for stranger in strangers:
            assert read_until(stranger, b"\r\n\r\n").startswith(b"HTTP/1.1 401 ")
        assert answered(site, whole()).startswith(b"HTTP/1.1 200 ")
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_known_callers_body_that_stops_is_given_up(site: Site) -> None:
    """The gateway's own clock ends the wait of the thread, and its client reads why."""
    callers = [site.ask(CHAT + RIGHT + b"Content-Length: 1000\r\n\r\n{") for _ in range(DRIPPERS)]
    try:
        for caller in callers:
            assert read_until(caller, b"\r\n\r\n").startswith(b"HTTP/1.1 408 ")
        assert answered(site, whole()).startswith(b"HTTP/1.1 200 ")
    finally:
        for caller in callers:
            caller.close()


def test_large_bodies_arrive_whole(site: Site) -> None:
    """Piece by piece, however they are framed."""
    body = BODY.replace(b"hello", b"x" * 1_000_000)
    assert b"x" * 1_000_000 in answered(site, whole(body))
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:70_000], body[70_000:])) + b"0\r\n\r\n"
    assert b"x" * 1_000_000 in answered(site, CHAT + RIGHT + b"Transfer-Encoding: chunked\r\n\r\n" + framed)


def test_a_refused_callers_connection_serves_its_next_request(tmp_path: Path) -> None:
    """What a refused request has sent is read off, so that it is not taken for the next one."""
    serving = serve("gthread", tmp_path)
    site = next(serving)
    try:
        with closing(site.ask(whole(headers=b"x-api-key: llmp_wrong\r\n"))) as client:
            head = read_until(client, b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 401 ")
            assert b"connection: keep-alive" in head.lower()
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = head.partition(b"\r\n\r\n")[2]
            while len(body) < length:
                body += client.recv(4096)
            client.sendall(whole())
            assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    finally:
        serving.close()


# Bounds on what bodies cost.


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        (json.dumps({"model": "simulated/echo", "messages": [{"role": "user", "content": "x"}] * 101}), "messages"),
        (json.dumps({"model": "simulated/echo", "messages": [], "x": [1] * 2001}), "values"),
    ],
)
def test_bodies_of_too_many_parts_are_refused(site: Site, body: str, bound: str) -> None:
    """Counts are bounded as under ASGI."""
    got = answered(site, whole(body.encode()))
    assert got.startswith(b"HTTP/1.1 400 ")
    assert f"limits.{bound}".encode() in got


def test_a_caller_over_a_limit_is_refused_before_the_body(site: Site) -> None:
    """Not one byte of the second body is sent, and its answer is there."""
    key = b"x-api-key: llmp_once_0123456789\r\n"
    assert answered(site, whole(headers=key)).startswith(b"HTTP/1.1 200 ")
    with closing(site.ask(CHAT + key + b"Content-Length: 1000\r\n\r\n")) as client:
        head = read_until(client, b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after:" in head.lower()


def test_bodies_of_all_threads_together_are_bounded(tmp_path: Path) -> None:
    """While one upload holds most of the bound, a large body is a 503 and a small one is served; then both are."""
    limits = {"body": "1MiB", "bodies": "1MiB", "body_timeout": "60s"}
    large = whole(BODY.replace(b"hello", b"x" * 400 * 1024))
    with contextmanager(serve)("gthread", tmp_path, limits) as site:
        with closing(site.ask(CHAT + RIGHT + b"Content-Length: 1048576\r\n\r\n" + b" " * 700 * 1024)):
            until_held(site, 500)
            refused = answered(site, large)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in refused.lower()
            assert b"limits.bodies" in refused
            assert answered(site, whole()).startswith(b"HTTP/1.1 200 ")
        until_held(site, 0, 0)
        assert answered(site, large).startswith(b"HTTP/1.1 200 ")


def until_held(site: Site, least: int, most: int = 1024) -> None:
    """Wait until so many KiB of bodies are held."""
    held = -1.0
    for _ in range(2_000):
        with closing(site.ask(b"GET /held HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")) as client:
            held = int(read_all(client).rpartition(b"\r\n\r\n")[2]) / 1024
        if least <= held <= most:
            return
        time.sleep(0.01)
    raise AssertionError(held)
