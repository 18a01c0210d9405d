"""Processes of the benchmark: started on one core each, measured from outside, ended with us.

Linux only: processor time is read from the process's own clock, memory from /proc.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

TESTS = Path(__file__).resolve().parent.parent
_PAGE = resource.getpagesize()


class Cores(NamedTuple):
    """Where the gateway runs, and where the upstream and the load do."""

    gateway: int
    rest: int


def cores() -> Cores:
    """Two cores that we may use; the same one twice if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(gateway=allowed[-1], rest=allowed[0])


def cpu_seconds(pid: int) -> float:
    """Processor seconds, user and system, that all threads of a process have used."""
    # The kernel numbers a process's clock by its id: see clock_getcpuclockid(3). /proc/PID/stat counts in 10 ms.
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def allow_many_files() -> None:
    """Raise our own limit of open files as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def settle_in(core: int) -> None:
    """Take our place: one core, many files, and an end when the parent closes our standard input."""
    os.sched_setaffinity(0, {core})
    allow_many_files()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def warm_bytecode() -> Iterator[None]:
    """Let what we start keep its bytecode, in a folder for this run.

    Else a module that was changed lately would be compiled at each start where the environment forbids to write.
    """
    names = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="bench-bytecode-") as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        try:
            yield
        finally:
            del os.environ["PYTHONPYCACHEPREFIX"]
            os.environ.update(before)


class Running(NamedTuple):
    """A server of the benchmark that accepts connections, or will once it has started."""

    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]
    spawned: float
    """Moment of the start, on the performance counter."""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def said(self) -> str:
        """The end of what it wrote to standard error."""
        self.log.flush()
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - 1500))
        return self.log.read().decode(errors="replace").strip()


@contextlib.contextmanager
def server(module: str, *arguments: str, core: int, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run `python -m module` with a listening socket of its own, and end it afterwards."""
    with tempfile.TemporaryFile() as log:
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            port = listener.getsockname()[1]
            command = [sys.executable, "-m", module, *arguments]
            command += ["--fd", str(listener.fileno()), "--core", str(core)]
            spawned = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=TESTS,
                env={**os.environ, **(env or {})},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
        # Our own copy of the socket is closed now: should the server die, a connection is refused, not left to wait.
        try:
            yield Running(process, port, log, spawned)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End one process that this module started, and wait for it."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class NotServing(RuntimeError):
    """A server did not answer its first request with 200."""


def first_answer(running: Running, request: bytes, *, patience: float = 20.0) -> float:
    """Seconds from the start of a server to its first 200.

    Raises:
        NotServing: it answered something else, or nothing within `patience` seconds.
    """
    received = b""
    try:
        with socket.create_connection(("127.0.0.1", running.port), timeout=patience) as connection:
            # After a refusal with `connection: close` a server sends no marks, so the driver does not wait for any.
            connection.sendall(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
            while b"~0@" not in received:
                data = connection.recv(65536)
                if not data:
                    break
                received += data
    except OSError as error:
        raise NotServing(f"{error!r}; it said: {running.said() or 'nothing'}") from error
    taken = time.perf_counter() - running.spawned
    if not received.startswith(b"HTTP/1.1 200") or b"~0@" not in received:
        raise NotServing(f"it answered {received[:600]!r}; it said: {running.said() or 'nothing'}")
    return taken
