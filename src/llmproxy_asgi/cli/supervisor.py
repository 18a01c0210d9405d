"""Uvicorn's supervisor of several workers, which passes SIGHUP on to them instead of replacing them.

Replacing a worker ends its streams; reloading its configuration does not. A worker that died is replaced once another
one can serve: while the configuration is invalid, or new workers die early, the others continue alone.
"""

import inspect
import logging
import os
import signal
import socket
import time
from typing import Any, Self

import uvicorn
from typing_extensions import override
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from llmproxy_asgi.cli.signals import block_sighup, unblock_sighup
from llmproxy_asgi.cli.worker import worker_config
from llmproxy_asgi.errors import ConfigError

FIRST_WAIT = 1.0
"""Seconds before a worker is started again after one that could not serve; doubled each time."""
LONGEST_WAIT = 30.0
EARLY_EXIT = 30.0
"""Seconds; a worker that dies sooner counts as one that could not serve."""
_STARTUP_FAILURE = 3
"""The exit code of uvicorn if the application fails to start."""

_log = logging.getLogger("llmproxy_asgi.serve")


class Supervisor(Multiprocess):
    """Start workers, restart those that died, and end them all."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._started_at: dict[int, float] = {}
        self._due_at: dict[int, float] = {}
        """The monotonic seconds at which dead workers are replaced, by their index among the processes."""
        self._wait = FIRST_WAIT
        self._last_reason = ""

    @classmethod
    def over(cls, config: uvicorn.Config, listener: socket.socket) -> Self:
        """Return the supervisor of a configuration's workers, with either of uvicorn's two constructors."""
        arguments: dict[str, Any] = {"sockets": [listener]}
        if "target" in inspect.signature(Multiprocess.__init__).parameters:
            arguments["target"] = uvicorn.Server(config).run
        return cls(config, **arguments)

    @override
    def init_processes(self) -> None:
        block_sighup()  # a worker has a handler once it serves; before, the signal would kill it
        super().init_processes()
        unblock_sighup()
        now = time.monotonic()
        self._started_at = dict.fromkeys(range(len(self.processes)), now)

    @override
    def keep_subprocess_alive(self) -> None:
        patience = getattr(self.config, "timeout_worker_healthcheck", 5)
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if index in self._due_at:
                if time.monotonic() >= self._due_at[index]:
                    self._replace(index)
            elif not process.is_alive(timeout=patience):
                self._end_worker(index)

    def _end_worker(self, index: int) -> None:
        """End a worker that died or hangs, and schedule its replacement."""
        process = self.processes[index]
        process.kill()
        process.join()
        ended = process.process.exitcode
        alone = len(self._due_at) + 1 == len(self.processes)
        if ended == _STARTUP_FAILURE and alone:
            _log.error("The worker %s could not start, and no other one serves: ending", process.pid)
            self.should_exit.set()
            return
        now = time.monotonic()
        lifetime = now - self._started_at.get(index, now)
        if lifetime >= EARLY_EXIT:
            self._wait = FIRST_WAIT
            self._due_at[index] = now
        else:
            self._back_off(index)
        _log.warning(
            "The worker %s ended with %s after %.0f s; another one is started in %.0f s",
            process.pid, ended, lifetime, self._due_at[index] - now,
        )  # fmt: skip

    def _back_off(self, index: int) -> None:
        self._due_at[index] = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def _replace(self, index: int) -> None:
        """Replace a dead worker, unless the configuration is invalid."""
        try:
            worker_config()
        except ConfigError as error:
            self._back_off(index)
            reason = "; ".join(error.findings)
            if reason != self._last_reason:
                _log.error("No worker is started while the configuration is wrong: %s", reason)
            self._last_reason = reason
            return
        self._last_reason = ""
        arguments: list[Any] = [self.config, self.sockets]
        if hasattr(self, "target"):
            arguments.insert(1, self.target)
        process = Process(*arguments)
        block_sighup()
        process.start()
        unblock_sighup()
        self.processes[index] = process
        self._started_at[index] = time.monotonic()
        del self._due_at[index]

    @override
    def handle_ttin(self) -> None:
        block_sighup()
        super().handle_ttin()
        unblock_sighup()
        self._started_at[len(self.processes) - 1] = time.monotonic()

    @override
    def handle_ttou(self) -> None:
        super().handle_ttou()
        for index in [each for each in self._due_at if each >= len(self.processes)]:
            del self._due_at[index]

    @override
    def handle_hup(self) -> None:
        # The files may have changed, so an invalid configuration may be valid now.
        self._wait = FIRST_WAIT
        self._due_at = dict.fromkeys(self._due_at, 0.0)
        for process in self.processes:
            if process.process.is_alive() and process.process.pid is not None:
                os.kill(process.process.pid, signal.SIGHUP)
