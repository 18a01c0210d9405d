"""A blueprint in Flask: the host's session and hooks, machine keys, and answers that stream through."""

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Blueprint, Flask, abort, g, request, session
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_user  # type: ignore[import-untyped]  # it has no types
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse
from werkzeug.utils import redirect

from llmproxy_asgi import ConfigError, MisuseError, Principal
from llmproxy_asgi import LLMProxy as GatewayApp
from llmproxy_flask import LLMProxy
from llmproxy_flask.extension import State
from support.hosts.spying import CHAT, KEY, NOWHERE, WITH_KEY, Script, Spy, echo

ASK = {"model": "missing/model", "messages": [{"role": "user", "content": "?"}]}
HOSTS: list[Flask] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """End the bridges of a test's applications with it."""
    yield
    while HOSTS:
        for state in HOSTS.pop().extensions.values():
            if isinstance(state, State):
                state.bridge.close()


def flask_app() -> Flask:
    app = Flask("host")
    app.secret_key = "a key of this test"
    HOSTS.append(app)
    return app


def hosting(config: Any = NOWHERE, **options: Any) -> Flask:
    app = flask_app()
    LLMProxy(app, config, **options)
    return app


def get(app: Flask, path: str = "/llm/v1/models", **headers: str) -> TestResponse:
    return app.test_client().get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def named(connection: HTTPConnection) -> str | None:
    """Whom the header names."""
    return connection.headers.get("x-test-user")


# Who is calling


def test_identify_runs_inside_the_request_context() -> None:
    """The hook has Flask's `request`, `session` and `g`, and what `before_request` left there."""
    app = flask_app()

    @app.before_request
    def prepare() -> None:
        g.prepared = True

    @app.post("/login")
    def login() -> str:
        session["user"] = "ada"
        return "in"

    def identify(_: HTTPConnection) -> str | None:
        assert g.prepared
        assert request.path.startswith("/llm/")
        user: str | None = session.get("user")
        return user

    LLMProxy(app, NOWHERE, identify=identify)
    client = app.test_client()
    assert client.get("/llm/v1/models").status_code == 401
    client.post("/login")
    assert client.get("/llm/v1/models").status_code == 200


def test_connection_is_as_in_other_frameworks() -> None:
    """One hook serves all frameworks: headers, cookies, session, query and addresses are on the connection."""
    seen: dict[str, Any] = {}

    def identify(connection: HTTPConnection) -> str:
        seen.update(
            header=connection.headers["x-one"],
            cookie=connection.cookies["flavour"],
            session=connection.session.get("user"),
            query=connection.query_params["key"],
            path=connection.url.path,
            root=connection.scope["root_path"],
            client=connection.client.host if connection.client else None,
        )
        return "ada"

    client = hosting(identify=identify).test_client()
    client.set_cookie("flavour", "oat")
    with client.session_transaction() as opened:
        opened["user"] = "ada"
    answered = client.get(
        "/llm/v1/models?key=value", headers={"x-one": "1"}, environ_overrides={"SCRIPT_NAME": "/outer"}
    )
    assert answered.status_code == 200
    assert seen == {
        "header": "1",
        "cookie": "oat",
        "session": "ada",
        "query": "value",
        "path": "/outer/llm/v1/models",
        "root": "/outer",
        "client": "127.0.0.1",
    }


def test_nobody_is_refused_in_the_clients_protocol() -> None:
    """A hook that returns no user leaves the refusal to the gateway."""
    client = hosting(identify=named).test_client()
    chat, messages = client.post("/llm" + CHAT, json=ASK), client.post("/llm/v1/messages", json=ASK)
    assert (chat.status_code, messages.status_code) == (401, 401)
    assert set(chat.get_json()) == {"error"}
    assert messages.get_json()["type"] == "error"


def test_without_any_login_every_call_is_refused() -> None:
    """Without a hook, Flask-Login and keys every request is refused."""
    assert get(hosting()).status_code == 401


@pytest.mark.parametrize(("code", "status"), [(401, 401), (403, 403), (302, 401)])
def test_abort_in_the_hook_is_a_refusal_in_the_protocols_words(code: int, status: int) -> None:
    """`abort()` means no, said so that the client's SDK can read it."""

    def identify(_: HTTPConnection) -> None:
        if code == 302:
            raise HTTPException(response=redirect("/login"))
        abort(code)

    refusal = hosting(identify=identify).test_client().post("/llm/v1/messages", json=ASK)
    assert refusal.status_code == status
    assert refusal.get_json()["type"] == "error"


@pytest.mark.parametrize("error", [ValueError("told: secret"), None], ids=["raises", "aborts"])
def test_failing_hook_is_a_500_that_tells_nothing(error: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    """A hook's failure is logged, and the client reads only that there was one."""

    def identify(_: HTTPConnection) -> None:
        if error is None:
            abort(503, "told: secret")
        raise error

    refusal = get(hosting(identify=identify))
    assert refusal.status_code == 500
    assert "secret" not in refusal.text
    assert "secret" in caplog.text


def test_machine_key_does_not_depend_on_the_hook() -> None:
    """A key of the table is judged by the table, though the hook would refuse or fail; a wrong one falls nowhere."""

    def identify(_: HTTPConnection) -> None:
        abort(401)

    app = hosting(WITH_KEY, identify=identify)
    assert get(app, authorization=f"Bearer {KEY}").status_code == 200
    assert get(hosting(WITH_KEY, identify=lambda _: "ada"), authorization="Bearer llmp_wrong").status_code == 401


@pytest.mark.parametrize("found", [True, object(), SimpleNamespace(id="ada")])
def test_hook_that_returns_no_identity_is_an_error(found: object) -> None:
    """A return value that is no principal and no name is a failure of the hook, and the request is refused."""
    assert get(hosting(identify=lambda _: found)).status_code == 500


@pytest.mark.parametrize("found", [7, "ada", Principal("ada")])
def test_hook_may_return_numbers_names_and_principals(found: object) -> None:
    """As the contract says."""
    assert get(hosting(identify=lambda _: found)).status_code == 200


class AsyncHook:
    async def __call__(self, _: HTTPConnection) -> str:
        return "ada"


async def async_hook(_: HTTPConnection) -> str:
    return "ada"


@pytest.mark.parametrize("hook", [async_hook, AsyncHook()], ids=["function", "object"])
@pytest.mark.parametrize("name", ["identify", "principal"])
def test_asynchronous_hook_is_refused_at_start(hook: Any, name: str) -> None:
    """There is nothing to await it in a worker thread, and the refusal says so."""
    with pytest.raises(MisuseError, match="plain function"):
        LLMProxy(Flask("host"), NOWHERE, **{name: hook})


def test_hook_that_turns_out_asynchronous_lets_nobody_in() -> None:
    """A coroutine is no user name."""
    assert get(hosting(identify=lambda connection: async_hook(connection))).status_code == 500  # noqa: PLW0108  hides it


# Flask-Login


class User(UserMixin):  # type: ignore[misc]  # it has no types
    def __init__(self, name: str) -> None:
        self.id = name


def with_flask_login(app: Flask) -> FlaskClient:
    manager = LoginManager(app)
    manager.user_loader(User)

    @app.post("/login/<name>")
    def login(name: str) -> str:
        login_user(User(name))
        return "in"

    return app.test_client()


def test_user_of_flask_login_is_the_caller() -> None:
    """Without a hook the extension asks Flask-Login, where it is installed."""
    app = flask_app()
    proxy = Spy()
    LLMProxy(app, proxy=proxy)
    client = with_flask_login(app)
    assert client.get("/llm/v1/models").status_code == 401
    client.post("/login/ada")
    assert client.get("/llm/v1/models").status_code == 200
    assert proxy.caller == Principal("ada")


def test_host_says_how_to_read_its_users() -> None:
    """`principal=` makes the principal of Flask-Login's user."""
    app = flask_app()
    proxy = Spy()
    LLMProxy(app, proxy=proxy, principal=lambda user: Principal(user.id, tenant="analysis"))
    client = with_flask_login(app)
    client.post("/login/ada")
    assert client.get("/llm/v1/models").status_code == 200
    assert proxy.caller == Principal("ada", tenant="analysis")


def test_hook_comes_before_flask_login() -> None:
    """A session does not overrule a hook that returns no user."""
    app = hosting(identify=lambda _: None)
    client = with_flask_login(app)
    client.post("/login/ada")
    assert client.get("/llm/v1/models").status_code == 401


# Hooks and applications of the host


def test_before_request_refuses_first() -> None:
    """Hooks of the application and of the blueprint run, and what they answer is the answer."""
    app = flask_app()
    proxy = Spy()
    extension = LLMProxy(proxy=proxy, identify=named)
    extension.blueprint.before_request(lambda: ("not today", 418) if "x-late" in request.headers else None)
    extension.init_app(app)
    assert get(app, x_test_user="ada", x_late="1").status_code == 418
    assert proxy.scopes == []
    assert get(app, x_test_user="ada").status_code == 200


def test_one_extension_serves_several_applications() -> None:
    """Each application has its own gateway with its own configuration, and the extension keeps none of them."""
    extension = LLMProxy(identify=lambda _: "ada")
    apps = [flask_app(), flask_app()]
    for number, app in enumerate(apps):
        name = f"model-{number}"
        route = {"models": {name: {"targets": ["nowhere/m"]}}}
        extension.init_app(app, NOWHERE | route)
    listed = [[model["id"] for model in get(app).get_json()["data"]] for app in apps]
    assert ["model-0" in listed[0], "model-1" in listed[0]] == [True, False]
    assert ["model-0" in listed[1], "model-1" in listed[1]] == [False, True]
    states = [app.extensions["llmproxy"] for app in apps]
    assert states[0].proxy is not states[1].proxy


def test_two_gateways_in_one_application_have_names() -> None:
    """The second one needs a name of its own, and then both are found."""
    app = flask_app()
    LLMProxy(app, NOWHERE, identify=lambda _: "ada")
    with pytest.raises(MisuseError, match="name="):
        LLMProxy(app, NOWHERE, url_prefix="/other")
    LLMProxy(app, NOWHERE, url_prefix="/other", identify=lambda _: None, name="other")
    assert get(app).status_code == 200
    assert get(app, "/other/v1/models").status_code == 401


def test_configuration_comes_from_the_application() -> None:
    """`app.config["LLMPROXY_CONFIG"]` is taken where the extension has none, and none at all is an error."""
    app = flask_app()
    with pytest.raises(MisuseError, match="LLMPROXY_CONFIG"):
        LLMProxy(app)
    app.config["LLMPROXY_CONFIG"] = NOWHERE
    LLMProxy(app, identify=named)
    assert get(app, x_test_user="ada").status_code == 200


def test_configuration_is_checked_at_start() -> None:
    """An invalid setting raises when the application is made, and nothing of the extension remains."""
    app = flask_app()
    with pytest.raises(ConfigError):
        LLMProxy(app, {"providers": {"x": {"type": "no such type"}}})
    assert (app.extensions, app.blueprints) == ({}, {})


def test_gateway_made_already_has_its_configuration() -> None:
    """A second one beside it is a misunderstanding."""
    with pytest.raises(MisuseError, match="either"):
        LLMProxy(config=NOWHERE, proxy=Spy())
    with pytest.raises(MisuseError, match="already"):
        LLMProxy(proxy=Spy()).init_app(Flask("host"), NOWHERE)


def test_failing_hook_beside_a_gateway_made_already_is_the_hosts_failure() -> None:
    """Such a gateway has no way to report the hook's failure, so Flask does, and the request is refused."""
    app = flask_app()
    proxy = Spy()

    def identify(_: HTTPConnection) -> None:
        raise ValueError("no database")

    LLMProxy(app, proxy=proxy, identify=identify)
    assert get(app).status_code == 500
    assert proxy.scopes == []


@pytest.mark.parametrize(("said", "status"), [(401, 401), (403, 403)])
def test_hook_that_refuses_beside_a_gateway_made_already_refuses_in_its_words(said: int, status: int) -> None:
    """It is an answer in the client's protocol, and a machine key is the gateway's to judge all the same."""
    app = flask_app()
    LLMProxy(app, proxy=Spy(WITH_KEY), identify=lambda _: abort(said))
    refused = get(app)
    assert (refused.status_code, list(refused.get_json())) == (status, ["error"])
    assert get(app, authorization=f"Bearer {KEY}").status_code == 200


@pytest.mark.parametrize("prefix", ["llm", "", "/"])
def test_prefix_has_to_name_something(prefix: str) -> None:
    """A prefix that is none is refused at once."""
    with pytest.raises(ValueError, match="slash"):
        LLMProxy(url_prefix=prefix)


# Paths


@pytest.mark.parametrize("script_name", ["", "/outer"])
def test_place_is_told_to_the_gateway(script_name: str) -> None:
    """The gateway knows what is above it, and what is below."""
    app = flask_app()
    proxy = Spy()
    LLMProxy(app, proxy=proxy, identify=named, url_prefix="/deep/llm/")
    headers = {"x-test-user": "ada"}
    overrides = {"SCRIPT_NAME": script_name}
    answered = app.test_client().get("/deep/llm/v1/models", headers=headers, environ_overrides=overrides)
    assert answered.status_code == 200
    scope = proxy.scopes[0]
    assert (scope["root_path"], scope["path"]) == (f"{script_name}/deep/llm", f"{script_name}/deep/llm/v1/models")


@pytest.mark.parametrize("path", ["/llm/", "/llm/v1/nothing", "/llm/v1/mod%C3%A9ls", "/llm/v1/%FF"])
def test_what_is_no_endpoint_is_not_found(path: str) -> None:
    """For users, too."""
    assert get(hosting(identify=lambda _: "ada"), path).status_code == 404


@pytest.mark.parametrize("path", ["/llm//v1/models", "/llm/v1//models", "/llm/v1/models/", "/llm/models"])
def test_other_spellings_of_an_endpoint_are_that_endpoint(path: str) -> None:
    """No slash is tidied away by a redirect, which would lose a body, and identity is asked as ever."""
    assert get(hosting(identify=lambda _: "ada"), path).status_code == 200
    assert get(hosting(identify=lambda _: None), path).status_code == 401


def test_a_prefix_may_hold_variables() -> None:
    """They are left to the host's hooks, and the gateway is found below whatever they match."""
    app = flask_app()
    seen: list[object] = []

    def team(_connection: object) -> str:
        seen.append(request.view_args)
        return str((request.view_args or {})["team"])

    LLMProxy(app, {"providers": {"simulated": {}}}, url_prefix="/<team>/llm", identify=team)
    answered = get(app, "/red/llm/v1/models")
    assert answered.status_code == 200
    assert [value["team"] for value in seen if isinstance(value, dict)] == ["red"]


def test_a_blueprint_that_is_registered_by_hand_is_refused_at_once() -> None:
    """Without init_app there is no gateway for the application, which no request should have to find out."""
    llm = LLMProxy(None, {"providers": {"simulated": {}}}, identify=lambda _: "ada")
    parent = Blueprint("parent", __name__, url_prefix="/parent")
    parent.register_blueprint(llm.blueprint)
    with pytest.raises(MisuseError, match="init_app"):
        flask_app().register_blueprint(parent)


@pytest.mark.parametrize("method", ["DELETE", "HEAD", "OPTIONS", "PATCH", "PUT"])
def test_every_method_is_the_gateways(method: str) -> None:
    """Flask answers none of them by itself."""
    app = flask_app()
    proxy = Spy()
    LLMProxy(app, proxy=proxy, identify=named)
    answered = app.test_client().open("/llm" + CHAT, method=method)
    assert answered.status_code in {401, 405}
    assert proxy.scopes[0]["method"] == method


# What passes through


async def pieces(_: Scope, __: Receive, send: Send) -> None:
    """An answer in pieces, the first of which may not wait for the second."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(3):
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_answer_is_handed_over_piece_by_piece() -> None:
    """Flask passes the iterator through: no piece is joined to another, and no length is made up."""
    app = flask_app()
    LLMProxy(app, proxy=Script(pieces))
    answered = app.test_client().get("/llm/x", buffered=False)
    assert list(answered.iter_encoded()) == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
    assert answered.mimetype == "text/event-stream"
    assert answered.content_length is None


def test_closing_the_answer_ends_the_call() -> None:
    """When the server gives the answer up, the gateway's call is over."""
    over = threading.Event()

    async def endless(_: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            over.set()

    app = flask_app()
    LLMProxy(app, proxy=Script(endless))
    answered = app.test_client().get("/llm/x", buffered=False)
    assert next(iter(answered.response)) == b"x"
    answered.close()
    assert over.wait(30)


@pytest.mark.parametrize("reading", ["nothing", "data", "json", "form"])
def test_body_that_a_hook_has_read_is_still_there(reading: str) -> None:
    """A `before_request` hook may look at the body; the gateway gets it once more."""
    app = flask_app()
    looks: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "data": lambda: request.get_data(),  # noqa: PLW0108  there is no request yet
        "json": lambda: request.get_json(),  # noqa: PLW0108  likewise
        "form": lambda: request.form,
    }

    @app.before_request
    def look() -> None:
        looks[reading]()

    LLMProxy(app, proxy=Script(echo))
    assert app.test_client().post("/llm/echo", json={"user": "ada"}).get_json() == {"user": "ada"}


def test_body_over_the_limit_is_refused_by_the_gateway() -> None:
    """The gateway's own limit counts, and its refusal is in the client's protocol."""
    app = hosting(NOWHERE | {"limits": {"body": 1024}}, identify=lambda _: "ada")
    refusal = app.test_client().post("/llm/v1/messages", json={"model": "x" * 2000})
    assert refusal.status_code == 413
    assert refusal.get_json()["type"] == "error"


def test_chunked_body_over_the_limit_is_refused_as_well() -> None:
    """Without a declared length nothing is read beyond the limit."""
    app = hosting(NOWHERE | {"limits": {"body": 1024}}, identify=lambda _: "ada")
    body = io.BytesIO(b'{"model": "' + b"x" * 5000 + b'"}')
    overrides = {"wsgi.input": body, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    client = app.test_client()
    refusal = client.post("/llm/v1/messages", content_type="application/json", environ_overrides=overrides)
    assert refusal.status_code == 413
    assert body.tell() <= 1025


def test_limit_of_a_new_configuration_counts() -> None:
    """A reload lets larger bodies in, and the bridge reads them."""
    app = flask_app()
    proxy = GatewayApp(NOWHERE | {"limits": {"body": 1024}}, identify=lambda _: "ada")
    LLMProxy(app, proxy=proxy)
    large = {"model": "x" * 2000, "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]}
    assert app.test_client().post("/llm/v1/messages", json=large).status_code == 413
    asyncio.run(proxy.gateway.reload(NOWHERE | {"limits": {"body": 4096}}))
    assert app.test_client().post("/llm/v1/messages", json=large).status_code == 404


def test_path_that_is_no_text_is_not_found() -> None:
    """Bytes that are no UTF-8 are no path below the mount."""
    app = hosting(identify=lambda _: "ada")
    answered = app.test_client().get("/llm/", environ_overrides={"PATH_INFO": "/llm/v1/\xff"})
    assert answered.status_code == 404


# Other sites

FOREIGN = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}


def ask_from(app: Flask, headers: dict[str, str], **kwargs: Any) -> int:
    response = app.test_client().post("/llm" + CHAT, json=ASK, headers={"x-test-user": "ada", **headers}, **kwargs)
    return response.status_code


def test_csrf_is_asked_in_the_request_context_and_only_where_it_matters() -> None:
    """A right token of the host's stands in for the origin; requests that need none do not ask for it."""
    asked: list[str | None] = []

    def csrf(connection: HTTPConnection) -> bool:
        asked.append(request.headers.get("x-csrf-token"))
        return connection.headers.get("x-csrf-token") == "right"

    app = hosting(identify=named, csrf=csrf)
    assert ask_from(app, {**FOREIGN, "x-csrf-token": "right"}) == 404
    assert ask_from(app, {**FOREIGN, "x-csrf-token": "wrong"}) == 403
    assert asked == ["right", "wrong"]
    assert ask_from(app, {"sec-fetch-site": "same-origin"}) == 404
    assert ask_from(app, {**FOREIGN, "x-api-key": "of the host"}) == 404
    assert get(app, x_test_user="ada", sec_fetch_site="cross-site").status_code == 200
    assert len(asked) == 2


def test_csrf_of_an_extension_counts_for_a_gateway_that_was_made_before() -> None:
    """What the extension has checked is handed over, as the principal is."""
    app = flask_app()
    proxy = GatewayApp(NOWHERE)
    LLMProxy(app, proxy=proxy, identify=named, csrf=lambda _: request.headers.get("x-csrf-token") == "right")
    assert ask_from(app, {**FOREIGN, "x-csrf-token": "right"}) == 404
    assert ask_from(app, FOREIGN) == 403


def test_csrf_may_refuse_as_flask_wtf_does() -> None:
    """`abort(400)` inside it is a no, in the client's protocol."""

    def csrf(_: HTTPConnection) -> bool:
        abort(400)

    assert ask_from(hosting(identify=named, csrf=csrf), FOREIGN) == 403


def test_csrf_that_cannot_be_awaited_is_refused_at_the_start() -> None:
    """What an asynchronous one returns would always count as true."""

    async def csrf(_: HTTPConnection) -> bool:
        return False

    with pytest.raises(MisuseError, match="csrf="):
        hosting(identify=named, csrf=csrf)


def test_pages_of_named_origins_may_call() -> None:
    """`access.origins` counts in Flask as elsewhere."""
    app = hosting({**NOWHERE, "access": {"origins": ["https://app.example.com"]}}, identify=named)
    assert ask_from(app, {"sec-fetch-site": "same-site", "origin": "https://app.example.com"}) == 404
    assert ask_from(app, {"sec-fetch-site": "same-site", "origin": "https://app.example.org"}) == 403
