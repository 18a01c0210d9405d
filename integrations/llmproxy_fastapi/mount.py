"""Mount a gateway in a FastAPI application, behind the application's own dependencies.

A plain `app.mount()` would skip all dependencies. Here an ordinary route matches every path below the mount: FastAPI
solves the dependencies, the application answers their refusals, and only then the route returns a `Delegate`, a
response that calls the gateway. So FastAPI does not touch the response: it streams, and the gateway notices when its
client disconnects. Dependencies with `yield` are exited after the response was sent.
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
    """Serve the gateway below `path`, after the host's dependencies. It is not part of the OpenAPI document.

    If `user` returns None, no user is signed in: the gateway requires a machine key, and refuses in the client's
    protocol if there is none. A dependency that refuses requests itself refuses those with machine keys, too.

    Args:
        app: The application, or a router that it includes; routes added before take precedence.
        path: The path of the mount, like `/llm`.
        proxy: The gateway. The application's lifespan closes its connections.
        user: The dependency that returns the caller: a `Principal`, a str, or any object with an `id`.
        dependencies: Further dependencies, which can only refuse.
        principal: Converts the value of `user` to a principal; by default `principal_of`.
        tags: The tags of the route, for the host's own code.

    Raises:
        ValueError: The path does not begin with a slash, or is empty.
        MisuseError: `user` is not a dependency, or `principal` is asynchronous.
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
    """A response that an ASGI application sends.

    Args:
        app: The application.
        scope: Keys that replace those of the connection's scope.
        receive: Replaces the server's `receive`; None: the server's.
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
    async def serve_anyone(request: Request) -> Response:
        return Delegate(proxy, _mounted_paths(request.scope), _unread(request))

    async def serve_user(request: Request, llm_user: Any = user) -> Response:
        # None is passed on as well: it means that no user is signed in.
        scope = {**_mounted_paths(request.scope), SCOPE_KEY: caller_of(llm_user, principal)}
        return Delegate(proxy, scope, _unread(request))

    return serve_anyone if user is None else serve_user


def _mounted_paths(scope: Scope) -> dict[str, str]:
    """Return `root_path` and `path` as a mount would set them, whether or not the server's path contains the root."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and not (path == root or path.startswith(root + "/")):
        path = root + path
    rest: str = scope["path_params"][_REST]
    return {"root_path": path[: len(path) - len(rest) - 1], "path": path}


def _unread(request: Request) -> Receive | None:
    """Return a `receive` that repeats the request's body if a dependency has read it; None if none has.

    Raises:
        MisuseError: It was read as a stream and not kept.
    """
    body: bytes | None = getattr(request, "_body", None)
    if body is None:
        if getattr(request, "_stream_consumed", False):
            raise MisuseError("A dependency has read the request's body as a stream; use request.body() there.")
        return None
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return pending.pop() if pending else await request.receive()

    return receive
