"""Drain at SIGTERM and SIGINT and reload at SIGHUP, in a process that serves the gateway alone.

This wraps the application in the single process of `serve` and in each of its workers. It requires of the server only
that its signal handlers are installed when it starts the lifespan. A mounted gateway leaves signals to its host.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

Drain: TypeAlias = Callable[[float], Coroutine[Any, Any, None]]
Reload: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def block_sighup() -> None:
    """Block SIGHUP, in this process and its children, until it has a handler: its default action ends the process."""
    if hasattr(signal, "SIGHUP"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def unblock_sighup() -> None:
    """Unblock SIGHUP; a pending one is delivered now."""
    if hasattr(signal, "SIGHUP"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


class DrainOnSignal:
    """Drain the gateway at the first signal, and pass the signal on to the server after that.

    So the server listens while the gateway drains, and clients get a 503 instead of a refused connection. A second
    signal ends the drain timeout, a third goes to the server at once.

    Args:
        app: The application to serve.
        drain: Refuses new calls, waits the given seconds for open ones, then ends them.
        window: The drain timeout, in seconds.
        reload: Reloads the configuration at SIGHUP and raises nothing; None: SIGHUP acts like SIGTERM.
    """

    def __init__(self, app: "ASGIApp", drain: Drain, *, window: float, reload: Reload | None = None) -> None:
        self._app = app
        self._drain = drain
        self._window = window
        self._server_handlers: dict[int, Any] = {}
        self._received: set[int] = set()
        self._drains: list[asyncio.Task[None]] = []
        self._passed_on = False
        self._reload = reload
        self._reloading: asyncio.Task[None] | None = None
        self._reload_requested = False

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve; replace the server's signal handlers when it starts the lifespan."""
        if scope["type"] == "lifespan":
            loop = asyncio.get_running_loop()

            def received(number: int, _frame: object) -> None:
                loop.call_soon_threadsafe(self._shut_down, number)

            self._server_handlers = {number: signal.signal(number, received) for number in _SIGNALS}
            if hasattr(signal, "SIGHUP"):
                signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self._handle_sighup))
                unblock_sighup()
        await self._app(scope, receive, send)

    def _shut_down(self, number: int) -> None:
        # Ctrl+C reaches a worker twice: from the terminal, and as a SIGTERM from its parent.
        again = number in self._received or (number == signal.SIGINT and bool(self._received))
        self._received.add(number)
        if not self._drains:
            self._drains.append(asyncio.create_task(self._drain_then_exit(number, self._window)))
        elif again and len(self._drains) == 1:
            self._drains.append(asyncio.create_task(self._drain_then_exit(number, 0)))
        elif again:
            self._pass_on(number)

    def _handle_sighup(self) -> None:
        if self._drains:
            return
        if self._reload is None:
            self._shut_down(signal.SIGTERM)
            return
        self._reload_requested = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._run_reload(self._reload))

    async def _run_reload(self, reload: Reload) -> None:
        """Reload, and again if another signal came in the meantime."""
        while self._reload_requested:
            self._reload_requested = False
            await reload()

    async def _drain_then_exit(self, number: int, window: float) -> None:
        try:
            await self._drain(window)
        finally:
            if not self._passed_on:  # a second time would make the server skip the lifespan's shutdown
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        self._passed_on = True
        handler = self._server_handlers[number]
        if callable(handler):
            handler(number, None)
