"""Our gateway in hosts under every server that people run, each server in processes of its own, asked by bare sockets.

The host (`asgi_host`, `wsgi_host`) is the same everywhere and tells what is alive in it; the upstream is the scripted
one, in the test's own process, so that the moments of both ends are read from one clock.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from support.ports import free_port

TESTS = Path(__file__).parents[2]
HANG = 60.0
"""Seconds after which a wait is a failure; nothing else depends on them."""
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"

ASGI = ("uvicorn", "hypercorn", "granian", "gunicorn", "gunicorn-uvicorn")
WSGI = ("gthread", "sync", "gevent", "waitress")
THREADS = 8
"""Requests that a server with threads takes at once in these tests."""


class Site:
    """A running server.

    Args:
        server: Its name, one of `ASGI` or `WSGI`.
        port: Where it listens.
        process: Its first process; workers are its children.
        log: What it wrote.
    """

    def __init__(self, server: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.server = server
        self.port = port
        self.process = process
        self.log = log

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, receive_buffer: int = 0) -> "Caller":
        """Send one request on its own connection, below the mount; leave the client to the caller's context."""
        return Caller(self.port, receive_buffer=receive_buffer).ask("/llm" + path, body)

    @contextlib.contextmanager
    def each(self, bodies: Iterable[Mapping[str, Any]], path: str = CHAT) -> "Iterator[list[Caller]]":
        """Send all of these at once, each on a connection of its own, and leave in the end."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.ask(path, body)) for body in bodies]

    def state(self) -> dict[str, Any]:
        """What the host reports of itself."""
        with Caller(self.port) as caller:
            answer: dict[str, Any] = json.loads(caller.ask("/state").whole()[1])
        return answer

    def until(self, settled: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look at the host's state until it is as it should be.

        Raises:
            TimeoutError: It does not become so.
        """
        last: list[dict[str, Any]] = [{}]

        def looked() -> bool:
            last[0] = self.state()
            return settled(last[0])

        try:
            until(looked)
        except TimeoutError:
            raise TimeoutError(f"the host is still at {last[0]}\n{self.log.read_text()[-2000:]}") from None
        return last[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask its process to end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(HANG)


class Caller:
    """One connection to a server, and the answer on it, byte by byte."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(HANG)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.data = b""
        """All that came so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Self:
        """Send a request, a POST if there is a body; the connection may take another after its answer."""
        self.data = b""
        self.socket.sendall(request(path, body, headers=headers))
        return self

    def read_until(self, mark: bytes) -> bytes:
        """Read until something was read; all that came so far."""
        while mark not in self.data:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError(f"the connection ended without {mark!r}: {self.data[-2000:]!r}")
            self.data += piece
        return self.data

    def rest(self) -> bytes:
        """Read until the end of the stream, or of the connection; all that came."""
        with contextlib.suppress(ConnectionError):
            while not self.data.endswith(b"\r\n0\r\n\r\n") and (piece := self.socket.recv(65536)):
                self.data += piece
        return self.data

    def whole(self) -> tuple[int, bytes]:
        """The status and the body of an answer that says its length, or is chunked."""
        head, _, _ = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        body = self.data[len(head) + 4 :]
        if b"content-length" in fields:
            while len(body) < int(fields[b"content-length"]):
                piece = self.socket.recv(65536)
                assert piece, self.data
                self.data += piece
                body += piece
        else:
            body = unchunked(self.rest()[len(head) + 4 :])
        return int(head.split(b" ", 2)[1]), body

    @property
    def status(self) -> int:
        """Of the answer whose head has come."""
        return int(self.data.split(b" ", 2)[1])

    @property
    def has_ended(self) -> bool:
        """Whether the stream came to its end in good order."""
        return self.data.endswith(b"\r\n0\r\n\r\n")

    def leave(self, *, reset: bool = False) -> float:
        """Close the connection; the monotonic second at which that was done."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        return time.monotonic()


def request(path: str, body: Mapping[str, Any] | None = None, *, headers: Mapping[str, str] | None = None) -> bytes:
    """A request, a POST if there is a body."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: localhost\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    if body is not None:
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


def unchunked(data: bytes) -> bytes:
    """A chunked body without its chunks' lengths."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body += data[:length]
        data = data[length + 2 :]
    return body


def chat(*, stream: bool = True, model: str = "up/m", **fields: Any) -> dict[str, Any]:
    """A small Chat request."""
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}], **fields}


def configuration(base_url: str, **more: Any) -> dict[str, Any]:
    """One upstream, named `up`; what else is given is laid over the configuration, `up` over its provider."""
    up = {
        "type": "openai-compatible",
        "base_url": base_url + "/v1",
        "api_key": "sk-test",
        "retry": {"attempts": 1},
        "cooldown": 0,
        **more.pop("up", {}),
    }
    return {"providers": {"up": up}, "access": {"mode": "open"}, "keepalive": "1s", **more}


@contextlib.contextmanager
def serving(
    server: str,
    config: Mapping[str, Any],
    folder: Path,
    *,
    options: tuple[str, ...] = (),
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """Start a server with the host and a gateway of this configuration; end it, if it has not ended.

    Args:
        server: One of `ASGI` or `WSGI`.
        config: The gateway's.
        folder: For its log.
        options: Further words of the server's command line.
        workers: Its processes.
        environment: Further variables.
    """
    port = free_port()
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("LLMPROXY_", "OPENAI_"))}
    log = folder / f"{server}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_command(server, port, workers), *options],
            cwd=folder,
            env={**surroundings, "PYTHONPATH": str(TESTS), "SERVED_CONFIG": json.dumps(config), **(environment or {})},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    site = Site(server, port, process, log)
    try:
        until(lambda: _listens(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield site
    except BaseException as error:
        error.add_note(log.read_text()[-4000:])
        raise
    finally:
        _finish(process)


def _command(server: str, port: int, workers: int) -> list[str]:
    python, bind = sys.executable, f"127.0.0.1:{port}"
    number = str(workers)
    gunicorn = [python, "-m", "gunicorn", "--no-control-socket", "--log-level", "warning", "--bind", bind, "-w", number]
    asgi, wsgi = "support.servers.asgi_host:app", "support.servers.wsgi_host:app"
    hypercorn = [python, "-m", "hypercorn", asgi, "--bind", bind, "--workers", number, "--log-level", "warning"]
    granian = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "--workers", number]
    commands = {
        "uvicorn": [
            *(python, "-m", "uvicorn", asgi, "--port", str(port), "--log-level", "warning"),
            *(("--workers", number) if workers > 1 else ()),
        ],
        "hypercorn": hypercorn,
        "granian": [python, "-m", "granian", *granian, "--log-level", "warning", "--no-ws", asgi],
        "gunicorn": [*gunicorn, "-k", "asgi", asgi],
        "gunicorn-uvicorn": [*gunicorn, "-k", "uvicorn_worker.UvicornWorker", asgi],
        "gthread": [*gunicorn, "-k", "gthread", "--threads", str(THREADS), wsgi],
        "sync": [*gunicorn, "-k", "sync", wsgi],
        "gevent": [*gunicorn, "-k", "gevent", wsgi],
        "waitress": [python, "-m", "waitress", "--listen", bind, "--threads", str(THREADS), wsgi],
    }
    return commands[server]


def _listens(port: int) -> bool:
    try:
        with Caller(port) as caller:
            return caller.ask("/state").whole()[0] == 200
    except (OSError, EOFError):
        return False


def _finish(process: subprocess.Popen[bytes]) -> None:
    """End it and its workers, gently at first."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(true: Callable[[], bool]) -> None:
    """Wait for something to become true.

    Raises:
        TimeoutError: It does not.
    """
    deadline = time.monotonic() + HANG
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int) -> int:
    """Bytes of a process's memory that are in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """Processor seconds of all threads of a process."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Do something as often as asked, all at once, each in a thread; the first failure is raised."""
    failures: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001  raised again below
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
