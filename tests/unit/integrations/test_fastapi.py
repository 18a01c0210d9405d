"""Behind FastAPI's dependencies: they run, they refuse, and they live as long as the answer."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import anyio
import httpx2
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Request,
    Security,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmproxy_asgi import MisuseError, Principal
from llmproxy_fastapi import include_llm
from support.hosts.spying import CHAT, KEY, NOWHERE, WITH_KEY, Script, Spy, echo

ASK = {"model": "missing/model", "messages": [{"role": "user", "content": "?"}]}


def current_user(x_test_user: Annotated[str | None, Header()] = None) -> str | None:
    """The user in the header; None without it."""
    return x_test_user


def strict_user(x_test_user: Annotated[str | None, Header()] = None) -> str:
    """The same, by an application that refuses by itself."""
    if x_test_user is None:
        raise HTTPException(401, "sign in first", headers={"x-refused-by": "host"})
    return x_test_user


def client(app: ASGIApp, **options: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, **options)
    return httpx2.AsyncClient(transport=transport, base_url="http://host.test")


def hosting(proxy: Spy | Script, **options: Any) -> FastAPI:
    app = FastAPI()
    include_llm(app, "/llm", proxy, **options)
    return app


async def get(app: ASGIApp, path: str = "/llm/v1/models", **headers: str) -> httpx2.Response:
    async with client(app) as asking:
        return await asking.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


# The dependencies decide


@pytest.mark.anyio
async def test_refusal_of_a_dependency_is_the_hosts_own() -> None:
    """A dependency that raises is answered as for any other route, and the gateway is not reached."""
    proxy = Spy()
    refusal = await get(hosting(proxy, user=Depends(strict_user)))
    assert (refusal.status_code, refusal.json()) == (401, {"detail": "sign in first"})
    assert refusal.headers["x-refused-by"] == "host"
    assert proxy.scopes == []


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["app", "router", "mount"])
async def test_further_dependencies_refuse_as_well(where: str) -> None:
    """Those of the application, of a router and of the mount itself all run before the gateway."""

    def refuse() -> None:
        raise HTTPException(403, "not today")

    proxy = Spy()
    gate = [Depends(refuse)]
    app = FastAPI(dependencies=gate if where == "app" else [])
    router = APIRouter(dependencies=gate if where == "router" else [])
    include_llm(router, "/llm", proxy, user=Depends(current_user), dependencies=gate if where == "mount" else [])
    app.include_router(router)
    assert (await get(app, x_test_user="ada")).status_code == 403
    assert proxy.scopes == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("found", "caller"),
    [
        pytest.param("ada", Principal("ada"), id="text"),
        pytest.param(Principal("ada", tenant="t"), Principal("ada", tenant="t"), id="principal"),
        pytest.param(SimpleNamespace(id=7), Principal("7"), id="object"),
        pytest.param({"id": "ada"}, Principal("ada"), id="mapping"),
    ],
)
async def test_what_the_dependency_yields_is_the_caller(found: object, caller: Principal) -> None:
    """A principal, text, or any object with an id."""
    proxy = Spy()
    assert (await get(hosting(proxy, user=Depends(lambda: found)))).status_code == 200
    assert proxy.caller == caller


@pytest.mark.anyio
async def test_host_says_how_to_read_its_users() -> None:
    """`principal=` makes the principal of what the dependency yields."""
    proxy = Spy()
    app = hosting(proxy, user=Depends(current_user), principal=lambda name: Principal(name, tenant="t"))
    assert (await get(app, x_test_user="ada")).status_code == 200
    assert proxy.caller == Principal("ada", tenant="t")
    assert (await get(app)).status_code == 401


@pytest.mark.anyio
async def test_nobody_is_refused_in_the_clients_protocol() -> None:
    """A dependency that yields None leaves the refusal to the gateway, which has the protocol's words."""
    app = hosting(Spy(), user=Depends(current_user))
    async with client(app) as asking:
        chat = await asking.post("/llm" + CHAT, json=ASK)
        messages = await asking.post("/llm/v1/messages", json=ASK)
    assert (chat.status_code, messages.status_code) == (401, 401)
    assert set(chat.json()) == {"error"}
    assert messages.json()["type"] == "error"


@pytest.mark.anyio
async def test_machine_key_works_where_users_are_optional() -> None:
    """With a dependency that may yield None, keys of the table are taken on the same mount; wrong ones are not."""
    proxy = Spy(WITH_KEY)
    app = hosting(proxy, user=Depends(current_user))
    assert (await get(app, authorization=f"Bearer {KEY}")).status_code == 200
    assert (await get(app, authorization="Bearer llmp_wrong", x_test_user="ada")).status_code == 401


@pytest.mark.anyio
async def test_machine_key_does_not_pass_a_strict_dependency() -> None:
    """An application that refuses by itself refuses machines, too: its word comes first."""
    app = hosting(Spy(WITH_KEY), user=Depends(strict_user))
    assert (await get(app, authorization=f"Bearer {KEY}")).json() == {"detail": "sign in first"}


@pytest.mark.anyio
async def test_identify_of_the_gateway_is_asked_where_no_user_is_named() -> None:
    """Dependencies may do nothing but refuse; then the gateway's own hook says who is calling."""
    proxy = Spy(identify=lambda connection: connection.headers.get("x-test-user"))
    app = hosting(proxy, dependencies=[Depends(strict_user)])
    assert (await get(app)).status_code == 401
    assert (await get(app, x_test_user="ada")).status_code == 200
    assert proxy.caller is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    "user",
    [
        pytest.param(current_user, id="function"),
        pytest.param(Security(current_user, scopes=["llm"]), id="security"),
        pytest.param(Annotated[str | None, Depends(current_user)], id="alias"),
    ],
)
async def test_dependency_in_any_of_its_forms(user: Any) -> None:
    """`Depends(...)`, `Security(...)`, the bare function and the alias with `Annotated` mean the same."""
    proxy = Spy()
    assert (await get(hosting(proxy, user=user), x_test_user="ada")).status_code == 200
    assert proxy.caller == Principal("ada")


@pytest.mark.anyio
async def test_class_as_its_own_dependency() -> None:
    """`Annotated[User, Depends()]` is solved by the class itself."""

    class User:
        def __init__(self, x_test_user: Annotated[str, Header()]) -> None:
            self.id = x_test_user

    proxy = Spy()
    app = hosting(proxy, user=Annotated[User, Depends()])
    assert (await get(app, x_test_user="ada")).status_code == 200
    assert proxy.caller == Principal("ada")


@pytest.mark.anyio
async def test_override_of_a_dependency_holds() -> None:
    """A host's tests replace its dependency as for any other route."""
    proxy = Spy()
    app = hosting(proxy, user=Depends(strict_user))
    app.dependency_overrides[strict_user] = lambda: "test-user"
    assert (await get(app)).status_code == 200
    assert proxy.caller == Principal("test-user")


@pytest.mark.anyio
async def test_no_header_names_a_caller() -> None:
    """Nothing that a client sends reaches the place where the caller's principal stands."""
    proxy = Spy()
    app = hosting(proxy, user=Depends(current_user))
    assert (await get(app, llmproxy_principal="ada", x_principal="ada")).status_code == 401


# Where it hangs


@pytest.mark.anyio
async def test_prefixes_parameters_and_several_mounts() -> None:
    """Routers with prefixes and path parameters, and several gateways: each is found where it hangs."""

    def of_team(team: str) -> str:
        return f"team-{team}"

    first, second = Spy(), Spy()
    router = APIRouter(prefix="/teams/{team}")
    include_llm(router, "/llm", first, user=Depends(of_team))
    outer = APIRouter()
    outer.include_router(router, prefix="/api")
    app = FastAPI()
    app.include_router(outer)
    include_llm(app, "/llm", second, user=Depends(current_user))
    assert (await get(app, "/api/teams/blue/llm/v1/models")).status_code == 200
    assert first.caller == Principal("team-blue")
    assert (await get(app, x_test_user="ada")).status_code == 200
    assert second.caller == Principal("ada")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("root_path", "path"),
    [
        pytest.param("", "/llm/v1/models", id="none"),
        pytest.param("/outer", "/outer/llm/v1/models", id="in-path"),
        pytest.param("/outer", "/llm/v1/models", id="left-out"),
    ],
)
async def test_found_below_any_root(root_path: str, path: str) -> None:
    """Whether or not the server's path holds `root_path`, the gateway finds its own."""
    app = hosting(Spy(), user=Depends(current_user))
    async with client(app, root_path=root_path) as asking:
        assert (await asking.get(path, headers={"x-test-user": "ada"})).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/llm//v1/models", 200),
        ("/llm/v1/models/", 200),
        ("/llm/models", 200),
        ("/llm/", 404),
        ("/llm/v1/nothing", 404),
    ],
)
async def test_other_spellings_run_the_dependencies_too(path: str, status: int) -> None:
    """Whatever is below the mount is behind the dependencies, however it is spelled."""
    app = hosting(Spy(), user=Depends(strict_user))
    assert (await get(app, path)).status_code == 401
    assert (await get(app, path, x_test_user="ada")).status_code == status


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["DELETE", "HEAD", "OPTIONS", "PATCH", "PUT"])
async def test_every_method_is_behind_the_dependencies(method: str) -> None:
    """No method is let past them."""
    proxy = Spy()
    async with client(hosting(proxy, user=Depends(strict_user))) as asking:
        assert (await asking.request(method, "/llm/v1/models")).status_code == 401
    assert proxy.scopes == []


@pytest.mark.anyio
async def test_left_out_of_the_openapi_document() -> None:
    """The host's own document does not change."""
    assert (await get(hosting(Spy(), user=Depends(current_user)), "/openapi.json")).json()["paths"] == {}


@pytest.mark.parametrize("path", ["llm", "", "/"])
def test_path_has_to_name_something(path: str) -> None:
    """A path that is none is refused at once."""
    with pytest.raises(ValueError, match="slash"):
        include_llm(FastAPI(), path, Spy())


@pytest.mark.parametrize("user", ["ada", Annotated[str, "not a dependency"], 7])
def test_user_that_is_no_dependency_is_refused(user: Any) -> None:
    """A user's name where a dependency belongs is refused at once."""
    with pytest.raises(MisuseError, match="Depends"):
        include_llm(FastAPI(), "/llm", Spy(), user=user)


def test_reader_of_users_needs_users_and_no_waiting() -> None:
    """`principal=` without `user=`, or one that would have to be awaited, is refused at once."""

    async def principal(_: Any) -> None:
        raise AssertionError

    with pytest.raises(MisuseError, match="user="):
        include_llm(FastAPI(), "/llm", Spy(), principal=str)
    with pytest.raises(MisuseError, match="asynchronous"):
        include_llm(FastAPI(), "/llm", Spy(), user=Depends(current_user), principal=principal)  # type: ignore[arg-type]


# What passes through


class Line:
    """A connection in memory: what the server received, and messages when the test gives them."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._to_app, self._incoming = anyio.create_memory_object_stream[Message](10)
        self._upstream_request, self._from_app = anyio.create_memory_object_stream[Message](10)

    async def receive(self) -> Message:
        return await self._incoming.receive()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        await self._upstream_request.send(message)

    async def give(self, message: Message) -> None:
        await self._to_app.send(message)

    async def next(self) -> Message:
        with anyio.fail_after(30):
            return await self._from_app.receive()

    def close(self) -> None:
        for end in (self._to_app, self._incoming, self._upstream_request, self._from_app):
            end.close()


def post(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"host.test")],
    }


@pytest.mark.anyio
async def test_answer_streams_and_dependencies_live_until_its_end() -> None:
    """Each piece is out when the gateway sends it, and a dependency with `yield` is left after the last one."""
    told: list[str] = []

    async def session() -> AsyncIterator[str]:
        told.append("entered")
        yield "ada"
        told.append("left")

    line = Line()
    app = hosting(Script(echo), user=Depends(session))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, post("/llm/echo"), line.receive, line.send)
        assert (await line.next())["type"] == "http.response.start"
        for piece in (b"one", b"two"):
            await line.give({"type": "http.request", "body": piece, "more_body": True})
            assert (await line.next())["body"] == piece
            assert told == ["entered"]
        await line.give({"type": "http.request", "body": b"end"})
        assert (await line.next())["body"] == b"end"
    assert told == ["entered", "left"]
    line.close()


@pytest.mark.anyio
async def test_gateway_sees_its_caller_leave() -> None:
    """A disconnect reaches the gateway as the server tells it."""
    seen: list[str] = []

    async def watch(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append((await receive())["type"])

    line = Line()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hosting(Script(watch), user=Depends(lambda: "ada")), post("/llm/x"), line.receive, line.send)
        await line.next()
        await line.give({"type": "http.disconnect"})
    assert seen == ["http.disconnect"]
    line.close()


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["body", "json", "parameter"])
async def test_body_that_a_dependency_has_read_is_still_there(how: str) -> None:
    """A dependency may look at the body; the gateway gets it once more."""

    async def by_body(request: Request) -> str:
        return "ada" if b"ada" in await request.body() else "nobody"

    async def by_json(request: Request) -> str:
        return str((await request.json())["user"])

    def by_parameter(user: Annotated[str, Body(embed=True)]) -> str:
        return user

    ways: dict[str, Callable[..., Any]] = {"body": by_body, "json": by_json, "parameter": by_parameter}
    async with client(hosting(Script(echo), user=Depends(ways[how]))) as asking:
        answered = await asking.post("/llm/echo", json={"user": "ada"})
    assert answered.json() == {"user": "ada"}


@pytest.mark.anyio
async def test_after_a_read_body_the_disconnect_is_still_seen() -> None:
    """Behind the repeated body comes what the server says next."""
    seen: list[str] = []

    async def watch(_: Scope, receive: Receive, send: Send) -> None:
        seen.extend([(await receive())["type"] for _ in range(2)])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def reads(request: Request) -> str:
        return (await request.body()).decode()

    line = Line()
    await line.give({"type": "http.request", "body": b"ada"})
    await line.give({"type": "http.disconnect"})
    with anyio.fail_after(30):
        await hosting(Script(watch), user=Depends(reads))(post("/llm/x"), line.receive, line.send)
    assert seen == ["http.request", "http.disconnect"]
    line.close()


@pytest.mark.anyio
async def test_body_that_is_gone_is_an_error_and_no_hanging() -> None:
    """A dependency that consumed the body gets an error that says so."""

    async def streams(request: Request) -> str:
        return (b"".join([piece async for piece in request.stream()])).decode()

    async with client(hosting(Script(echo), user=Depends(streams))) as asking:
        with pytest.raises(MisuseError, match=r"request.body\(\)"):
            await asking.post("/llm/echo", content=b"ada")


@pytest.mark.anyio
async def test_background_tasks_of_dependencies_run_after_the_answer() -> None:
    """What a dependency puts off is done once the answer is out."""
    told: list[str] = []

    def counted(tasks: BackgroundTasks) -> str:
        tasks.add_task(told.append, "done")
        return "ada"

    assert (await get(hosting(Spy(), user=Depends(counted)))).status_code == 200
    assert told == ["done"]


# How long it lives


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["app", "router"])
async def test_gateway_closes_with_the_application(where: str) -> None:
    """Its connections are closed when the application ends, and the host's own lifespan still runs."""
    told: list[object] = []
    proxy = Spy(NOWHERE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"pool": "the host's"}
        told.append("host ended")

    app = FastAPI(lifespan=lifespan)
    if where == "app":
        include_llm(app, "/llm", proxy, user=Depends(current_user))
    else:
        router = APIRouter()
        include_llm(router, "/llm", proxy, user=Depends(current_user))
        app.include_router(router)

    async with app.router.lifespan_context(app) as state:
        assert state == {"pool": "the host's"}
        assert proxy.closed == 0
    assert told == ["host ended"]
    assert proxy.closed == 1
