"""Every route, asked with every kind of credential, on every host: nothing is served to whom it is not due."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias

import httpx2
import pytest
from fastapi import Depends, FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from typing_extensions import override

from llmproxy_asgi import LLMProxy, LLMProxyMiddleware
from llmproxy_asgi.inprocess import ASGITransport
from llmproxy_fastapi import include_llm
from llmproxy_flask import LLMProxy as FlaskProxy
from llmproxy_flask.extension import State
from llmproxy_starlette import mount

pytestmark = pytest.mark.anyio

KEY, OTHER_KEY, WRONG = "llmp_abcdefghijklmnop", "llmp_ponmlkjihgfedcba", "llmp_abcdefghijklmnoq"
PLAIN_KEY = "a-key-without-our-prefix"
JWT = "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl"
ALICE, BOB = "token-of-alice", "token-of-bob"
SESSION = "session=of-alice"
PROTOCOLS = ("openai-chat", "openai-responses", "anthropic-messages", "gemini")
CONFIG: dict[str, Any] = {
    "providers": {
        "simulated": {"models": ["echo", "embed"]},
        **{f"as-{name}": {"type": "simulated", "protocol": name, "models": ["mine"]} for name in PROTOCOLS},
    },
    "access": {
        "keys": [
            {"name": "ci", "key": KEY, "groups": ["ops"]},
            {"name": "plain", "key": PLAIN_KEY, "groups": ["ops"]},
            {"name": "other", "key": OTHER_KEY, "models": ["as-gemini/mine"]},
        ],
        "admins": ["group:ops", "user:alice"],
        "failed_attempts_per_minute": None,
    },
    "endpoints": {"metrics": True, "ui": True, "explain": True},
}

Headers: TypeAlias = Mapping[str, str]
Ask: TypeAlias = Callable[[str, str, bytes | None, Headers], Awaitable[tuple[int, bytes]]]


class Route(NamedTuple):
    method: str
    path: str
    body: dict[str, Any] | None = None
    gemini: bool = False
    served: int = 200
    """The status for whom it is due."""


NO_VECTORS = 400
"""Simulated models have no embeddings; an authorized caller gets that answer."""
SAY = [{"role": "user", "content": "hello"}]
CONTENTS: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
EMBED = {"content": {"parts": [{"text": "hello"}]}}
GEMINI_CALLS: dict[str, dict[str, Any]] = {
    "echo:generateContent": CONTENTS,
    "echo:streamGenerateContent": CONTENTS,
    "echo:countTokens": CONTENTS,
    "embed:embedContent": EMBED,
    "embed:batchEmbedContents": {"requests": [{"model": "models/embed", **EMBED}]},
}
PROTECTED = [
    Route("POST", "/v1/chat/completions", {"model": "echo", "messages": SAY}),
    Route("POST", "/v1/chat/completions", {"model": "echo", "messages": SAY, "stream": True}),
    Route("POST", "/v1/responses", {"model": "echo", "input": "hello"}),
    Route("POST", "/v1/responses", {"model": "echo", "input": "hello", "background": True}),
    Route("POST", "/v1/messages", {"model": "echo", "messages": SAY, "max_tokens": 50}),
    Route("POST", "/v1/completions", {"model": "echo", "prompt": "hello"}),
    Route("POST", "/v1/embeddings", {"model": "embed", "input": "hello"}, served=NO_VECTORS),
    Route("POST", "/v1/messages/count_tokens", {"model": "echo", "messages": SAY}),
    Route("POST", "/v1/responses/input_tokens", {"model": "echo", "input": "hello"}),
    *(
        Route(
            "POST",
            f"/{version}/models/{call}",
            body,
            gemini=True,
            served=NO_VECTORS if call.startswith("embed") else 200,
        )
        for version in ("v1beta", "v1")
        for call, body in GEMINI_CALLS.items()
    ),
    Route("GET", "/v1/models"),
    Route("GET", "/v1/models/echo"),
    Route("GET", "/v1beta/models", gemini=True),
    Route("GET", "/v1beta/models/echo", gemini=True),
    Route("GET", "/metrics"),
    Route("GET", "/ui/"),
    Route("GET", "/ui/page.js"),
]
"""All that takes a credential, but for what is kept under an id."""
STORED = [("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")]
PUBLIC = [Route("GET", "/health"), Route("GET", "/ready")]
STRANGERS: dict[str, Headers] = {
    "nothing": {},
    "an empty bearer": {"authorization": "Bearer "},
    "a bare scheme": {"authorization": "Bearer"},
    "a blank key": {"x-api-key": "  "},
    "a wrong key of our form": {"authorization": f"Bearer {WRONG}"},
    "our prefix alone": {"x-api-key": "llmp_"},
    "a wrong key of no form": {"x-goog-api-key": "nothing-that-anybody-knows"},
    "a key in other letters": {"x-api-key": KEY.upper()},
    "a key and more": {"x-api-key": KEY + "x"},
    "a vendor's token": {"authorization": "Bearer sk-ant-oat01-stranger"},
    "a cloud's token": {"authorization": f"Bearer {JWT}"},
    "Basic of nobody": {"authorization": "Basic bm9ib2R5Om5vdGhpbmc="},
    "our key as Basic": {"authorization": f"Basic {KEY}"},
    "our key without a scheme": {"authorization": KEY},
    "a key that is too long": {"x-api-key": "x" * 20_000},
    "a wrong key beside a vendor's": {"x-api-key": WRONG, "authorization": "Bearer sk-ant-oat01-stranger"},
    "two right keys": {"x-api-key": KEY, "authorization": f"Bearer {OTHER_KEY}"},
    "a name in a header": {"x-user": "alice", "x-forwarded-user": "alice", "remote-user": "alice"},
    "a scope in a header": {"llmproxy.principal": "alice", "llmproxy.csrf": "true"},
    "a cookie of nobody": {"cookie": "session=forged; user=alice"},
    "another method": {"x-http-method-override": "GET", "x-original-url": "/health"},
}
KNOWN: dict[str, Headers] = {
    "a key": {"x-api-key": KEY},
    "a key as bearer": {"authorization": f"Bearer {KEY}"},
    "a key without prefix": {"x-goog-api-key": PLAIN_KEY},
    "a key beside a vendor's token": {"x-api-key": KEY, "authorization": "Bearer sk-ant-oat01-stranger"},
    "the host's own token": {"authorization": f"Bearer {ALICE}"},
}
OTHERS: dict[str, Headers] = {
    "another key": {"x-api-key": OTHER_KEY},
    "another user": {"authorization": f"Bearer {BOB}"},
}


def named(connection: HTTPConnection) -> str | None:
    """The host's own reading of its tokens and its cookie."""
    if connection.headers.get("cookie") == SESSION:
        return "alice"
    token = connection.headers.get("authorization", "").removeprefix("Bearer ")
    return {ALICE: "alice", BOB: "bob"}.get(token)


class Tokens(AuthenticationBackend):
    @override
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = named(conn)
        return None if name is None else (AuthCredentials(), SimpleUser(name))


async def current_user(connection: HTTPConnection) -> str | None:
    return named(connection)


def bare() -> tuple[Any, str]:
    return LLMProxy(CONFIG, identify=named), ""


def starlette() -> tuple[Any, str]:
    app = Starlette(middleware=[Middleware(AuthenticationMiddleware, backend=Tokens())])
    mount(app, "/llm", LLMProxy(CONFIG))
    return app, "/llm"


def fastapi() -> tuple[Any, str]:
    app = FastAPI()
    include_llm(app, "/llm", LLMProxy(CONFIG), user=Depends(current_user))
    return app, "/llm"


def middleware() -> tuple[Any, str]:
    return LLMProxyMiddleware(Starlette(), path="/llm", proxy=LLMProxy(CONFIG, identify=named)), "/llm"


def flask() -> tuple[Any, str]:
    app = Flask("host")
    FlaskProxy(app, CONFIG, identify=named)
    return app, "/llm"


HOSTS: dict[str, Callable[[], tuple[Any, str]]] = {
    made.__name__: made for made in (bare, starlette, fastapi, middleware, flask)
}


@asynccontextmanager
async def hosting(name: str) -> AsyncIterator[Ask]:
    """A way to ask one host, below the gateway's mount."""
    app, below = HOSTS[name]()
    if isinstance(app, Flask):
        client = app.test_client(use_cookies=False)

        async def ask_flask(method: str, path: str, body: bytes | None, headers: Headers) -> tuple[int, bytes]:
            answer = client.open(below + path, method=method, data=body, headers=dict(headers))
            return answer.status_code, answer.data

        yield ask_flask
        for state in app.extensions.values():
            assert isinstance(state, State)
            state.bridge.close()
        return
    async with httpx2.AsyncClient(transport=ASGITransport(app), base_url="http://gateway.invalid") as http:

        async def ask(method: str, path: str, body: bytes | None, headers: Headers) -> tuple[int, bytes]:
            answer = await http.request(method, below + path, content=body, headers=headers)
            return answer.status_code, answer.content

        yield ask


async def send(ask: Ask, route: Route, headers: Headers, *, query: str = "") -> int:
    body = None if route.body is None else json.dumps(route.body).encode()
    typed = {} if body is None else {"content-type": "application/json"}
    status, _ = await ask(route.method, route.path + query, body, {**typed, **headers})
    return status


async def kept(ask: Ask, headers: Headers) -> str:
    """The id of a response that this caller has stored."""
    body = json.dumps({"model": "echo", "input": "a secret"}).encode()
    status, answer = await ask("POST", "/v1/responses", body, {"content-type": "application/json", **headers})
    assert status == 200
    found: str = json.loads(answer)["id"]
    return found


@pytest.mark.parametrize("host", HOSTS)
async def test_strangers_get_nothing(host: str) -> None:
    """Without a credential, or with a malformed, wrong or foreign one, every route is a 401."""
    async with hosting(host) as ask:
        response_id = await kept(ask, KNOWN["a key"])
        stored = [Route(method, f"/v1/responses/{response_id}{rest}") for method, rest in STORED]
        for stranger, headers in STRANGERS.items():
            for route in (*PROTECTED, *stored):
                found = await send(ask, route, headers)
                assert found == 401, f"{stranger}: {route.method} {route.path} is {found}"
        for route in PUBLIC:
            assert await send(ask, route, {}) == 200
        assert await send(ask, stored[0], KNOWN["a key"]) == 200  # still there


@pytest.mark.parametrize("host", HOSTS)
async def test_a_key_in_the_query_opens_geminis_paths_alone(host: str) -> None:
    """A right one counts there and nowhere else; a wrong one counts nowhere."""
    async with hosting(host) as ask:
        for route in PROTECTED:
            assert await send(ask, route, {}, query=f"?key={WRONG}") == 401, route.path
            assert await send(ask, route, {}, query=f"?key={KEY}") == (route.served if route.gemini else 401), (
                route.path
            )


@pytest.mark.parametrize("host", HOSTS)
async def test_known_callers_are_served_on_every_route(host: str) -> None:
    """Each way to be known opens each route, so that the refusals above prove something."""
    async with hosting(host) as ask:
        for caller, headers in KNOWN.items():
            for route in PROTECTED:
                found = await send(ask, route, headers)
                assert found == route.served, f"{caller}: {route.method} {route.path} is {found}"


@pytest.mark.parametrize("host", HOSTS)
async def test_others_get_what_is_theirs(host: str) -> None:
    """Another principal finds no stored response but its own, no model that it is not granted, and no metrics."""
    async with hosting(host) as ask:
        ids = [await kept(ask, KNOWN[name]) for name in ("a key", "the host's own token")]
        for other, headers in OTHERS.items():
            for response_id in ids:
                for method, rest in STORED:
                    found = await send(ask, Route(method, f"/v1/responses/{response_id}{rest}"), headers)
                    assert found == 404, f"{other}: {method} {rest} is {found}"
                further = {"model": "as-gemini/mine", "input": "go on", "previous_response_id": response_id}
                assert await send(ask, Route("POST", "/v1/responses", further), headers) == 404
            assert await send(ask, Route("GET", "/metrics"), headers) == 403
        granted = OTHERS["another key"]
        for route in PROTECTED:
            if route.body is not None:
                assert await send(ask, route, granted) == 404, route.path
        assert await send(ask, Route("GET", "/v1/models/echo"), granted) == 404
        assert await send(ask, Route("GET", "/v1/models/as-gemini/mine"), granted) == 200


@pytest.mark.parametrize("host", HOSTS)
async def test_a_foreign_page_gets_nothing_done(host: str) -> None:
    """What changes something is refused to a browser on a page of another site; its reads change nothing."""
    own = {"cookie": SESSION, "sec-fetch-site": "same-origin"}
    foreign = {"cookie": SESSION, "sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    async with hosting(host) as ask:
        response_id = await kept(ask, own)
        stored = [Route(method, f"/v1/responses/{response_id}{rest}") for method, rest in STORED]
        for route in (*PROTECTED, *stored):
            reads = route.method == "GET"
            assert await send(ask, route, foreign) == (route.served if reads else 403), route.path
            assert await send(ask, route, {**foreign, **KNOWN["a key"]}) != 403, route.path
        for route in PROTECTED:
            assert await send(ask, route, own) == route.served, route.path
        assert await send(ask, stored[0], own) == 200


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "GET", "POST", "HEAD"])
async def test_no_other_method_opens_a_route(host: str, method: str) -> None:
    """A method that a route does not support is refused for every credential."""
    taken: dict[str, set[str]] = {}
    for route in PROTECTED:
        taken.setdefault(route.path, {"HEAD"} if route.method == "GET" else set()).add(route.method)
    async with hosting(host) as ask:
        for path, methods in taken.items():
            if method not in methods:
                for headers in ({}, KNOWN["a key"]):
                    assert await send(ask, Route(method, path), headers) in {401, 404, 405}, path
