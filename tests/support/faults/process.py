"""A gateway in a process of its own, whose memory and processor time are its alone and can be read."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.faults import HANG, GatewayHarness
from support.telemetry import RecordingObserver

_STATUS = Path("/proc/self/status")
MEASURES = _STATUS.exists()
"""Whether this system shows the memory and processor time of a process."""

_SERVE = """
import json, socket, sys
import uvicorn
from llmproxy_asgi import LLMProxy

config = uvicorn.Config(LLMProxy(json.loads(sys.argv[1])), log_level="error", lifespan="on")
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[2]))])
"""


class ProcessHarness(GatewayHarness):
    """A gateway that is being served elsewhere."""

    def __init__(self, base: str, pid: int) -> None:
        super().__init__(base, RecordingObserver())
        self._proc = Path("/proc") / str(pid)

    def forget_peak(self) -> int:
        """Begin to look for the largest size anew; the present one, in bytes."""
        (self._proc / "clear_refs").write_text("5")
        return self._memory("VmRSS")

    def peak(self) -> int:
        """The largest size of its memory since, in bytes."""
        return self._memory("VmHWM")

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _memory(self, name: str) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024


@contextmanager
def process(*blocks: dict[str, Any], **config: Any) -> Iterator[ProcessHarness]:
    """As `gateway`, in a process of its own; without observers."""
    providers = {f"up{number}": {"priority": -number, **each} for number, each in enumerate(blocks)}
    settings = {"providers": providers, "access": {"mode": "open"}, **config}
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        command = [sys.executable, "-c", _SERVE, json.dumps(settings), str(listener.fileno())]
        started = subprocess.Popen(command, pass_fds=[listener.fileno()])
        port = listener.getsockname()[1]
    try:
        harness = ProcessHarness(f"http://127.0.0.1:{port}", started.pid)
        with harness.raw() as connection:  # it listens already: this waits until it serves
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        yield harness
    finally:
        started.terminate()
        try:
            started.wait(HANG)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
            raise
