"""Mounted in Starlette: who is calling, where it hangs, and how long it lives."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message
from typing_extensions import override

from llmproxy_asgi import MisuseError, Principal
from llmproxy_starlette import mount
from support.hosts.spying import KEY, NOWHERE, WITH_KEY, Spy


class HeaderLogin(AuthenticationBackend):
    """Whom the header `x-test-user` names is signed in."""

    @override
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        name = conn.headers.get("x-test-user")
        return (AuthCredentials([]), SimpleUser(name)) if name else None


def signing_in(**options: Any) -> Starlette:
    return Starlette(middleware=[Middleware(AuthenticationMiddleware, backend=HeaderLogin())], **options)


def client(app: ASGIApp, **options: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, **options)
    return httpx2.AsyncClient(transport=transport, base_url="http://host.test")


async def models(app: ASGIApp, *, path: str = "/llm/v1/models", **headers: str) -> int:
    async with client(app) as asking:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await asking.get(path, headers=named)).status_code


# Who is calling


@pytest.mark.anyio
async def test_signed_in_user_is_the_caller() -> None:
    """What AuthenticationMiddleware found is handed over as a principal."""
    app, proxy = signing_in(), Spy()
    mount(app, "/llm", proxy)
    assert await models(app, x_test_user="ada") == 200
    assert proxy.caller == Principal("ada", display_name="ada")


@pytest.mark.anyio
async def test_nobody_signed_in_is_refused() -> None:
    """An unauthenticated user is no user."""
    app, proxy = signing_in(), Spy()
    mount(app, "/llm", proxy)
    assert await models(app) == 401


@pytest.mark.anyio
async def test_without_authentication_the_gateway_refuses() -> None:
    """An application that tells nothing about its users gets the gateway's own refusal."""
    app, proxy = Starlette(), Spy()
    mount(app, "/llm", proxy)
    assert await models(app, x_test_user="ada") == 401


@pytest.mark.anyio
async def test_identify_of_the_gateway_comes_first() -> None:
    """A gateway with a hook of its own is left to ask it, and sees the host's user there."""
    app = signing_in()

    def identify(connection: HTTPConnection) -> str | None:
        return "by-hook" if connection.user.is_authenticated else None

    proxy = Spy(identify=identify)
    mount(app, "/llm", proxy)
    assert await models(app, x_test_user="ada") == 200
    assert proxy.caller is None
    assert await models(app) == 401


@pytest.mark.anyio
async def test_host_says_how_to_read_its_users() -> None:
    """`principal=` makes the principal, of signed-in users alone."""
    app, proxy = signing_in(), Spy()
    asked: list[str] = []

    def principal(user: SimpleUser) -> Principal | None:
        asked.append(user.username)
        return Principal(user.username, tenant="analysis") if user.username != "guest" else None

    mount(app, "/llm", proxy, principal=principal)
    assert await models(app) == 401
    assert await models(app, x_test_user="guest") == 401
    assert await models(app, x_test_user="ada") == 200
    assert proxy.caller == Principal("ada", tenant="analysis")
    assert asked == ["guest", "ada"]


@pytest.mark.anyio
async def test_machine_key_works_beside_users() -> None:
    """A configured key is decided by the table, with or without a signed-in user."""
    app, proxy = signing_in(), Spy(WITH_KEY)
    mount(app, "/llm", proxy)
    assert await models(app, authorization=f"Bearer {KEY}") == 200
    assert await models(app, authorization="Bearer llmp_wrong", x_test_user="ada") == 401


# Where it hangs


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("root_path", "path"),
    [
        pytest.param("", "/llm/v1/models", id="none"),
        pytest.param("/outer", "/outer/llm/v1/models", id="in-path"),
        pytest.param("/outer", "/llm/v1/models", id="left-out"),
        pytest.param("/outer/", "/llm/v1/models", id="left-out-with-slash"),
    ],
)
async def test_found_below_any_root(root_path: str, path: str) -> None:
    """Whether or not the server's path holds `root_path`, the gateway finds its own."""
    app, proxy = signing_in(), Spy()
    mount(app, "/llm/", proxy)
    async with client(app, root_path=root_path) as asking:
        answered = await asking.get(path, headers={"x-test-user": "ada"})
    assert answered.status_code == 200


@pytest.mark.anyio
async def test_nested_and_several_mounts() -> None:
    """A router inside a router may hold it, and one application several, each with its own callers."""
    first, second = Spy(), Spy(identify=lambda _: "by-hook")
    inner = Router()
    mount(inner, "/llm", first)
    app = signing_in(routes=[Mount("/teams/{team}", inner)])
    mount(app, "/other/llm", second)
    assert await models(app, path="/teams/blue/llm/v1/models", x_test_user="ada") == 200
    assert first.caller == Principal("ada", display_name="ada")
    assert await models(app, path="/other/llm/v1/models") == 200


@pytest.mark.anyio
async def test_earlier_routes_come_first() -> None:
    """The host's own routes below the same path go on working."""

    def own(_: Request) -> Response:
        return JSONResponse({"own": True}, status_code=203)

    app, proxy = signing_in(routes=[Route("/llm/about", own)]), Spy()
    mount(app, "/llm", proxy)
    assert await models(app, path="/llm/about") == 203
    assert proxy.scopes == []


@pytest.mark.anyio
async def test_web_socket_is_refused() -> None:
    """There is no WebSocket below the mount."""
    app, proxy = signing_in(), Spy()
    mount(app, "/llm", proxy)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/llm/v1/responses", "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("path", ["llm", "", "/", "//"])
def test_path_has_to_name_something(path: str) -> None:
    """A path that is none is refused at once."""
    with pytest.raises(ValueError, match="slash"):
        mount(Starlette(), path, Spy())


def test_asynchronous_reader_of_users_is_refused() -> None:
    """A `principal=` that would have to be awaited is refused at once."""

    async def principal(_: Any) -> None:
        raise AssertionError

    with pytest.raises(MisuseError, match="asynchronous"):
        mount(Starlette(), "/llm", Spy(), principal=principal)  # type: ignore[arg-type]


def test_route_has_its_name() -> None:
    """The host can build the gateway's address from the route's name."""
    app = Starlette()
    mount(app, "/llm", Spy(), name="gateway")
    assert app.url_path_for("gateway", path="/v1/models") == "/llm/v1/models"


# How long it lives


async def live(app: ASGIApp, during: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Run the application's lifespan from start to end; the state that it left for requests."""
    state: dict[str, Any] = {}
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        message = next(messages)
        if message["type"] == "lifespan.shutdown":
            during()
        return message

    async def send(message: Message) -> None:
        assert message["type"].endswith(".complete"), message

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}, receive, send)
    return state


@pytest.mark.anyio
async def test_gateway_closes_with_the_application() -> None:
    """Its connections are closed at the application's end, once, however often it is mounted."""
    app, proxy = Starlette(), Spy()
    mount(app, "/one", proxy)
    mount(app, "/two", proxy)
    while_serving: list[int] = []
    await live(app, during=lambda: while_serving.append(proxy.closed))
    assert (while_serving, proxy.closed) == ([0], 1)


@pytest.mark.anyio
async def test_hosts_lifespan_is_kept() -> None:
    """The host's lifespan runs with its state, and ends before the gateway is closed."""
    proxy, other = Spy(), Spy()
    seen: list[object] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"pool": "the host's"}
        seen.append((proxy.closed, other.closed))

    app = Starlette(lifespan=lifespan)
    mount(app, "/llm", proxy)
    mount(app, "/other", other)
    assert await live(app, during=lambda: seen.append("served")) == {"pool": "the host's"}
    assert seen == ["served", (0, 0)]
    assert (proxy.closed, other.closed) == (1, 1)


@pytest.mark.anyio
async def test_needs_no_lifespan() -> None:
    """An application that is never started serves all the same."""
    app, proxy = signing_in(), Spy(NOWHERE)
    mount(app, "/llm", proxy)
    assert await models(app, path="/llm/health") == 200
