"""Uvicorn's parent of several workers, which hands SIGHUP on to them in place of replacing them.

A worker that is replaced ends its streams; one that takes up its files again cuts none.
"""

import inspect
import os
import signal
import socket
from typing import Any, Self

import uvicorn
from typing_extensions import override
from uvicorn.supervisors import Multiprocess

from llmproxy_asgi.cli.ending import allow_hang_up, hold_hang_up


class Supervisor(Multiprocess):
    """Starts workers, starts anew those that died, and ends them all."""

    @classmethod
    def over(cls, plan: uvicorn.Config, listener: socket.socket) -> Self:
        """The parent of a plan's workers, whichever of uvicorn's two constructors there is."""
        arguments: dict[str, Any] = {"sockets": [listener]}
        if "target" in inspect.signature(Multiprocess.__init__).parameters:
            arguments["target"] = uvicorn.Server(plan).run
        return cls(plan, **arguments)

    @override
    def init_processes(self) -> None:
        hold_hang_up()  # a worker handles the signal once it serves, and would die of it before
        super().init_processes()
        allow_hang_up()

    @override
    def keep_subprocess_alive(self) -> None:
        hold_hang_up()
        super().keep_subprocess_alive()
        allow_hang_up()

    @override
    def handle_ttin(self) -> None:
        hold_hang_up()
        super().handle_ttin()
        allow_hang_up()

    @override
    def handle_hup(self) -> None:
        for process in self.processes:
            if process.process.is_alive() and process.process.pid is not None:
                os.kill(process.process.pid, signal.SIGHUP)
