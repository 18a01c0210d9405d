"""Mount a gateway in a Starlette application, with the application's lifespan and users.

`app.mount(path, proxy)` serves as well. In addition, `mount` closes the gateway's connections with the application, and
passes the user of `AuthenticationMiddleware` on as the caller. Only the gateway decides which calls are allowed.
"""

import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Router
from starlette.types import Lifespan, Receive, Scope, Send

from llmproxy_asgi import LLMProxy, MisuseError
from llmproxy_asgi.principal import SCOPE_KEY
from llmproxy_starlette.identity import PrincipalOf, caller_of


def mount(
    app: Starlette | Router,
    path: str,
    proxy: LLMProxy,
    *,
    principal: PrincipalOf | None = None,
    name: str | None = None,
) -> None:
    """Serve the gateway below `path`. Routes that were added before take precedence.

    If the gateway has no `identify` of its own, the caller is `request.user`, where `AuthenticationMiddleware` is
    installed. One gateway may be mounted several times. Call it before the application starts.

    Args:
        app: The application, or one of its routers.
        path: The path of the mount, like `/llm`.
        proxy: The gateway. The application's lifespan closes its connections.
        principal: Converts a signed-in user to a principal; by default `principal_of`.
        name: The route's name.

    Raises:
        ValueError: The path does not begin with a slash, or is empty.
        MisuseError: `principal` is asynchronous.
    """
    if not path.startswith("/") or path.rstrip("/") == "":
        raise ValueError("path must start with a slash and name something, like /llm")
    if inspect.iscoroutinefunction(principal):
        raise MisuseError("principal= must not be asynchronous; look things up in your authentication backend.")
    router = app.router if isinstance(app, Starlette) else app
    router.mount(path.rstrip("/"), _PrincipalFromUser(proxy, principal), name=name)
    _share_lifespan(router, proxy)


class _PrincipalFromUser:
    """Pass the framework's user on to the gateway as its principal."""

    def __init__(self, proxy: LLMProxy, principal: PrincipalOf | None) -> None:
        self._proxy = proxy
        self._principal = principal
        # An identify hook is explicit, so it takes precedence over the framework's user.
        self._uses_user = not proxy.gateway.has_identify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._uses_user and "user" in scope:
            scope = {**scope, SCOPE_KEY: caller_of(scope["user"], self._principal)}
        await self._proxy(scope, receive, send)


class _CombinedLifespan:
    """A host's lifespan within the lifespans of gateways; it yields the state of the host's lifespan."""

    def __init__(self, host: Lifespan[Any]) -> None:
        self._host = host
        self.proxies: list[LLMProxy] = []

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            for proxy in self.proxies:
                await stack.enter_async_context(proxy.lifespan(app))
            yield await stack.enter_async_context(self._host(app))


def _share_lifespan(router: Router, proxy: LLMProxy) -> None:
    lifespan = router.lifespan_context
    if not isinstance(lifespan, _CombinedLifespan):
        lifespan = router.lifespan_context = _CombinedLifespan(lifespan)
    if proxy not in lifespan.proxies:
        lifespan.proxies.append(proxy)
