"""Uvicorn's supervisor of several workers, which passes SIGHUP on to them instead of replacing them.

Replacing a worker ends its streams; reloading its configuration does not.
"""

import inspect
import os
import signal
import socket
from typing import Any, Self

import uvicorn
from typing_extensions import override
from uvicorn.supervisors import Multiprocess

from llmproxy_asgi.cli.signals import block_sighup, unblock_sighup


class Supervisor(Multiprocess):
    """Start workers, restart those that died, and end them all."""

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

    @override
    def keep_subprocess_alive(self) -> None:
        block_sighup()
        super().keep_subprocess_alive()
        unblock_sighup()

    @override
    def handle_ttin(self) -> None:
        block_sighup()
        super().handle_ttin()
        unblock_sighup()

    @override
    def handle_hup(self) -> None:
        for process in self.processes:
            if process.process.is_alive() and process.process.pid is not None:
                os.kill(process.process.pid, signal.SIGHUP)
