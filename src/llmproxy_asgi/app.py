"""The HTTP face: an ASGI application that mounts anywhere, and the same as middleware.

It needs no lifespan: everything opens on first use. A server or a parent that runs one is welcome to: at its beginning
is brought in what the first call would wait for, at its end open calls get their window, and idle connections are
closed. Nothing is global: no signal handler, no logging set-up, no patching.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from llmproxy_asgi.access.identify import Csrf, Identify
from llmproxy_asgi.facts import Observer
from llmproxy_asgi.gateway import ConfigSource, Gateway, Transports


class LLMProxy:
    """A gateway as an ASGI application: `app.mount("/llm", LLMProxy("llmproxy.yaml", identify=who_is_calling))`.

    Args:
        config: A path, a dict, a `Config`, several of these (later over earlier), or a `Gateway` made already.
        identify: Says who is calling: `(HTTPConnection) -> Principal | str | None`, sync or async. None: nobody, 401.
        csrf: The host's own check of a CSRF token, for browsers that cannot show where a request comes from.
        transport: The host's own httpx2 client or transport, for all providers or by provider name.
        observers: Told what happens (`llmproxy_asgi.facts`): the host's own code, or `Tracing`.

    Raises:
        ConfigError: The configuration is wrong; all findings at once.
    """

    def __init__(
        self,
        config: ConfigSource,
        *,
        identify: Identify | None = None,
        csrf: Csrf | None = None,
        transport: "Transports | None" = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.gateway = Gateway(config, identify=identify, csrf=csrf, transport=transport, observers=observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        kind = scope["type"]
        if kind == "http":
            await self.gateway.endpoints(scope, receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            await _refuse(receive, send)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """For a parent that has a lifespan: `FastAPI(lifespan=proxy.lifespan)`. At its end calls are drained."""
        self._begin()
        try:
            yield
        finally:
            await self._end()

    async def reload(self, config: ConfigSource) -> None:
        """Take up another configuration; see `Gateway.reload`."""
        await self.gateway.reload(config)

    async def drain(self, window: float | None = None) -> None:
        """Refuse new calls and let those under way end; see `Gateway.drain`."""
        await self.gateway.drain(window)

    def _begin(self) -> None:
        self.gateway.reopen()
        self.gateway.prepare()

    async def _end(self) -> None:
        try:
            await self.gateway.drain()
        finally:
            await self.gateway.aclose()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    self._begin()
                except Exception as error:
                    # Raised without this word, servers would take it that there is no lifespan, and go on.
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._end()
                await send({"type": "lifespan.shutdown.complete"})
                return


class LLMProxyMiddleware:
    """The same as pure ASGI middleware, for hosts that are configured by a list of middlewares.

    Args:
        app: What serves every other path.
        path: Where the gateway hangs, like `/llm`.
        proxy: The gateway.
    """

    def __init__(self, app: ASGIApp, *, path: str = "/llm", proxy: LLMProxy) -> None:
        if not path.startswith("/") or path.rstrip("/") == "":
            raise ValueError("path must start with a slash and name something, like /llm")
        self._app = app
        self._path = path.rstrip("/")
        self._proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer below the path; hand everything else on."""
        if scope["type"] == "http" and self._is_ours(scope):
            root = scope.get("root_path", "").rstrip("/")
            inner = {**scope, "root_path": root + self._path}
            if not _holds(scope["path"], root):
                # A server that leaves root_path out of path: below us both hold it, as ASGI now asks.
                inner["path"] = root + scope["path"]
            await self._proxy(inner, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        path: str = scope["path"]
        root = scope.get("root_path", "").rstrip("/")
        below = path[len(root) :] if _holds(path, root) else path
        return below == self._path or below.startswith(self._path + "/")


def _holds(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/") if root else True


async def _refuse(receive: Receive, send: Send) -> None:
    """A WebSocket: there is none here."""
    await receive()
    await send({"type": "websocket.close", "code": 1000})
