"""How a process that serves by itself ends, and how it takes up its files again: signals, and who hears of them.

It stands between any server and the gateway, in the one process that `serve` runs as well as in each of its workers,
and needs of the server only that its signal handlers are in place when it starts the lifespan. A host application's
signals are its own, so nothing here is for mounted gateways.
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


def hold_hang_up() -> None:
    """Keep SIGHUP waiting, here and in processes started from here, until it is handled: by itself it ends them."""
    if hasattr(signal, "SIGHUP"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def allow_hang_up() -> None:
    """Let SIGHUP through: what came meanwhile is handled now."""
    if hasattr(signal, "SIGHUP"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


class DrainsAtSignals:
    """An application whose gateway drains when the process is asked to end; the server hears of the signal after that.

    So it listens until then, and whoever asks reads a 503 instead of finding nobody. A second signal ends the window,
    a third is the server's at once.

    Args:
        app: What is served.
        drain: Refuses new calls, lets those that are open end within some seconds, and then ends them.
        window: Those seconds.
        reload: Takes up the configuration again at SIGHUP, and raises nothing; None: SIGHUP asks for the end, too.
    """

    def __init__(self, app: "ASGIApp", drain: Drain, *, window: float, reload: Reload | None = None) -> None:
        self._app = app
        self._drain = drain
        self._window = window
        self._servers: dict[int, Any] = {}
        self._asked: set[int] = set()
        self._ending: list[asyncio.Task[None]] = []
        self._told = False
        self._reload = reload
        self._reloading: asyncio.Task[None] | None = None
        self._hung_up = False

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve; take the signals from the server when it starts the lifespan."""
        if scope["type"] == "lifespan":
            loop = asyncio.get_running_loop()

            def asked(number: int, _frame: object) -> None:
                loop.call_soon_threadsafe(self._ask, number)

            self._servers = {number: signal.signal(number, asked) for number in _SIGNALS}
            if hasattr(signal, "SIGHUP"):
                signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self._hang_up))
                allow_hang_up()
        await self._app(scope, receive, send)

    def _ask(self, number: int) -> None:
        # Ctrl+C reaches a worker twice: from the terminal, and as a SIGTERM from the parent that got it as well.
        again = number in self._asked or (number == signal.SIGINT and bool(self._asked))
        self._asked.add(number)
        if not self._ending:
            self._ending.append(asyncio.create_task(self._end(number, self._window)))
        elif again and len(self._ending) == 1:
            self._ending.append(asyncio.create_task(self._end(number, 0)))
        elif again:
            self._tell_server(number)

    def _hang_up(self) -> None:
        if self._ending:
            return
        if self._reload is None:
            self._ask(signal.SIGTERM)
            return
        self._hung_up = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._take_up(self._reload))

    async def _take_up(self, reload: Reload) -> None:
        """Reload, and once more if another signal came while the files were being read."""
        while self._hung_up:
            self._hung_up = False
            await reload()

    async def _end(self, number: int, window: float) -> None:
        try:
            await self._drain(window)
        finally:
            if not self._told:  # twice would be a wish for an end without the lifespan's
                self._tell_server(number)

    def _tell_server(self, number: int) -> None:
        self._told = True
        server = self._servers[number]
        if callable(server):
            server(number, None)
