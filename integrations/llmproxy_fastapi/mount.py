"""Hang a gateway into a FastAPI application, behind the application's own dependencies.

A plain `app.mount()` would skip every dependency. Here the gateway hangs behind an ordinary route that takes every
path below it: FastAPI solves the dependencies, a refusal of theirs is answered as the application answers it, and
only then the route returns a `Delegate`, a response that lets the gateway answer. So nothing of the answer passes
through FastAPI: it streams, and the gateway sees its caller leave. Dependencies with `yield` are left once the answer
is out.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import Enum
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.params import Depends as Dependency
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from llmproxy_asgi import LLMProxy, MisuseError
from llmproxy_asgi.principal import SCOPE_KEY
from llmproxy_fastapi.identity import PrincipalOf, UserDependency, caller_of, dependency_of

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

_REST = "llm_path"


def include_llm(
    app: FastAPI | APIRouter,
    path: str,
    proxy: LLMProxy,
    *,
    user: UserDependency | None = None,
    dependencies: Sequence[Dependency] = (),
    principal: PrincipalOf | None = None,
    tags: Sequence[str | Enum] = (),
) -> None:
    """Serve the gateway below `path`, after the host's dependencies. It is left out of the OpenAPI document.

    Where `user` yields None, nobody is signed in: the gateway looks for a machine key, and refuses in the client's
    protocol if there is none. A dependency that refuses by itself refuses machine keys, too.

    Args:
        app: The application, or a router that it includes; routes added before it come first.
        path: Where it hangs, like `/llm`.
        proxy: The gateway. The application's lifespan closes its connections.
        user: The dependency that yields who is calling: a `Principal`, a str, or any object with an `id`.
        dependencies: Further ones, that only refuse.
        principal: Makes a principal of what `user` yields; by default `principal_of`.
        tags: Of the route, for the host's own code that reads them.

    Raises:
        ValueError: The path does not begin with a slash, or names nothing.
        MisuseError: `user` is no dependency, or `principal` is asynchronous.
    """
    if not path.startswith("/") or path.rstrip("/") == "":
        raise ValueError("path must start with a slash and name something, like /llm")
    if inspect.iscoroutinefunction(principal):
        raise MisuseError("principal= must not be asynchronous; make it a dependency, and pass that as user=.")
    if principal is not None and user is None:
        raise MisuseError("principal= says what to make of user=, which is missing.")
    router = APIRouter(lifespan=proxy.lifespan)
    router.add_api_route(
        f"{path.rstrip('/')}/{{{_REST}:path}}",
        _endpoint(proxy, None if user is None else dependency_of(user), principal),
        methods=list(METHODS),
        dependencies=list(dependencies),
        tags=list(tags),
        include_in_schema=False,
        response_model=None,
        name="llm",
    )
    app.include_router(router)


class Delegate(Response):
    """A response that an ASGI application gives.

    Args:
        app: The application.
        scope: What it finds changed in the connection's scope.
        receive: Where it reads the request, if not where the server hands it out.
    """

    def __init__(self, app: LLMProxy, scope: Mapping[str, Any], receive: Receive | None = None) -> None:
        super().__init__()
        self._app = app
        self._scope = scope
        self._receive = receive

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, **self._scope}, self._receive or receive, send)
        if self.background is not None:
            await self.background()


def _endpoint(
    proxy: LLMProxy, user: Dependency | None, principal: PrincipalOf | None
) -> Callable[..., Coroutine[Any, Any, Response]]:
    async def anybody(request: Request) -> Response:
        return Delegate(proxy, _place(request.scope), _unread(request))

    async def somebody(request: Request, llm_user: Any = user) -> Response:
        # None is handed over as well: the host was asked, and nobody is signed in.
        scope = {**_place(request.scope), SCOPE_KEY: caller_of(llm_user, principal)}
        return Delegate(proxy, scope, _unread(request))

    return anybody if user is None else somebody


def _place(scope: Scope) -> dict[str, str]:
    """`root_path` and `path` as a mount would set them, whether or not the server's path holds the root."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and not (path == root or path.startswith(root + "/")):
        path = root + path
    rest: str = scope["path_params"][_REST]
    return {"root_path": path[: len(path) - len(rest) - 1], "path": path}


def _unread(request: Request) -> Receive | None:
    """The request's body once more, if a dependency has read it.

    Raises:
        MisuseError: It was read as a stream, and nobody has kept it.
    """
    kept: bytes | None = getattr(request, "_body", None)
    if kept is None:
        if getattr(request, "_stream_consumed", False):
            raise MisuseError("A dependency has read the request's body as a stream; use request.body() there.")
        return None
    pending: list[Message] = [{"type": "http.request", "body": kept, "more_body": False}]

    async def receive() -> Message:
        return pending.pop() if pending else await request.receive()

    return receive
