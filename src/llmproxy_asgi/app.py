"""The gateway as an ASGI application for any mount, and as middleware.

It needs no lifespan, because everything opens on first use. With a lifespan, startup loads what the first call would
wait for, and shutdown drains open calls and closes idle connections. Nothing is global: no signal handler, no logging
configuration, no patching.
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
        config: A path, a dict, a `Config`, or several of these, later over earlier.
        identify: Returns the principal: `(HTTPConnection) -> Principal | str | None`, sync or async. None: 401.
        csrf: The host's own check of a CSRF token, for browsers that don't send the origin of a request.
        transport: The host's own httpx2 client or transport, for all providers or by provider name.
        observers: Receive facts (`llmproxy_asgi.facts`): the host's own code, or `Tracing`.

    Raises:
        ConfigError: The configuration is invalid; the error lists all findings.
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
        """Serve one connection."""
        kind = scope["type"]
        if kind == "http":
            await self.gateway.endpoints(scope, receive, send)
        elif kind == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            await _refuse(receive, send)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """Run with a parent application: `FastAPI(lifespan=proxy.lifespan)`. Its shutdown drains calls."""
        self._start_up()
        try:
            yield
        finally:
            await self._shut_down()

    async def reload(self, config: ConfigSource) -> None:
        """Replace the configuration; see `Gateway.reload`."""
        await self.gateway.reload(config)

    async def drain(self, window: float | None = None) -> None:
        """Refuse new calls and wait for open ones; see `Gateway.drain`."""
        await self.gateway.drain(window)

    def _start_up(self) -> None:
        self.gateway.reopen()
        self.gateway.prepare()

    async def _shut_down(self) -> None:
        try:
            await self.gateway.drain()
        finally:
            await self.gateway.aclose()

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    self._start_up()
                except Exception as error:
                    # Without this message, servers would assume that there is no lifespan, and start.
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._shut_down()
                await send({"type": "lifespan.shutdown.complete"})
                return


class LLMProxyMiddleware:
    """The gateway as pure ASGI middleware, for hosts that are configured by a list of middlewares.

    Args:
        app: The application of all other paths.
        path: The mount of the gateway, like `/llm`.
        proxy: The gateway.
    """

    def __init__(self, app: ASGIApp, *, path: str = "/llm", proxy: LLMProxy) -> None:
        if not path.startswith("/") or path.rstrip("/") == "":
            raise ValueError("path must start with a slash and name something, like /llm")
        self._app = app
        self._path = path.rstrip("/")
        self._proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the paths below the mount; pass everything else on."""
        if scope["type"] == "http" and self._is_below_mount(scope):
            root = scope.get("root_path", "").rstrip("/")
            inner = {**scope, "root_path": root + self._path}
            if not _contains(scope["path"], root):
                # This server leaves root_path out of path; below the mount both contain it, as ASGI requires.
                inner["path"] = root + scope["path"]
            await self._proxy(inner, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_below_mount(self, scope: Scope) -> bool:
        path: str = scope["path"]
        root = scope.get("root_path", "").rstrip("/")
        below = path[len(root) :] if _contains(path, root) else path
        return below == self._path or below.startswith(self._path + "/")


def _contains(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/") if root else True


async def _refuse(receive: Receive, send: Send) -> None:
    """Close a WebSocket, which is not supported."""
    await receive()
    await send({"type": "websocket.close", "code": 1000})
