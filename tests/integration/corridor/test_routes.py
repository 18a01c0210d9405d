"""Who may open which path: every route against every kind of caller."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import LLMProxy
from support.gateway import chat_body, messages_body, served

KEY = "llmp_abcdefghijklmnopqrstuvwxyz"
ROUTES = [
    ("POST", "/v1/chat/completions", chat_body(model="echo")),
    ("POST", "/v1/messages", messages_body(model="echo")),
    ("POST", "/v1/responses", {"model": "echo", "input": "hi"}),
    ("POST", "/v1/completions", {"model": "echo", "prompt": "hi"}),
    ("POST", "/v1/models/echo:generateContent", {"contents": [{"parts": [{"text": "hi"}]}]}),
    ("POST", "/v1beta/models/simulated/echo:streamGenerateContent", {"contents": [{"parts": [{"text": "hi"}]}]}),
    ("GET", "/v1beta/models", None),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/echo", None),
    ("GET", "/v1/models/simulated/echo", None),
    ("GET", "/ui/", None),
    ("GET", "/ui/page.js", None),
]
PUBLIC = [("GET", "/health"), ("GET", "/ready")]
STRANGERS: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer llmp_wrong-wrong-wrong"},
    {"x-api-key": "sk-unknown"},
    {"cookie": "session=forged"},
    {"x-user": "root", "x-forwarded-user": "root", "x-original-url": "/health", "x-http-method-override": "GET"},
    {"host": "127.0.0.1/health#@"},
]


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    config = {
        "providers": {"simulated": {}},
        "access": {"keys": [{"name": "ci", "key": KEY}]},
        "endpoints": {"ui": True},
    }
    with served(LLMProxy(config, identify=lambda _: None)) as address:
        yield address


def ask(base: str, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx2.Response:
    with httpx2.Client(timeout=30, trust_env=False) as client:
        return client.request(method, base + path, json=body, headers=headers)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=[path for _, path, _ in ROUTES])
def test_strangers_open_nothing(base: str, method: str, path: str, body: Any) -> None:
    """No key, a wrong key, a forged cookie and headers that name a user are all a 401."""
    for headers in STRANGERS:
        answer = ask(base, method, path, body, headers)
        assert answer.status_code in (400, 401), (headers, answer.text)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=[path for _, path, _ in ROUTES])
def test_a_key_opens_what_is_switched_on(base: str, method: str, path: str, body: Any) -> None:
    """And no answer may be kept by anybody in between."""
    answer = ask(base, method, path, body, {"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200, answer.text
    # A compressing intermediary would hold a stream back.
    assert answer.headers["cache-control"] == ("no-store, no-transform" if ":stream" in path else "no-store")


@pytest.mark.parametrize(("path", "body"), [(path, body) for _, path, body in ROUTES[:4]])
def test_no_stream_may_be_kept_or_changed_on_its_way(base: str, path: str, body: Any) -> None:
    """An intermediary that compressed a stream would hold it back, in every protocol."""
    answer = ask(base, "POST", path, {**body, "stream": True}, {"authorization": f"Bearer {KEY}"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store, no-transform"
    assert answer.headers["vary"] == "Authorization, Cookie"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(("method", "path"), PUBLIC)
def test_anybody_may_ask_whether_it_lives(base: str, method: str, path: str) -> None:
    """The two status paths say nothing else."""
    answer = ask(base, method, path, None, {})
    assert answer.status_code == 200
    assert list(answer.json()) == ["status"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/",
        "/models",
        "/v1//models",
        "/v1/../health",
        "/v1/%2e%2e/health",
        "/health;x",
        "/HEALTH",
        "/v1/models%00",
    ],
)
def test_other_spellings_open_nothing(base: str, path: str) -> None:
    """Dot segments, doubled slashes, parameters, other cases and NUL reach nothing that needs a key."""
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert connection.recv(64).split(b" ")[1] in (b"404", b"401", b"400")


@pytest.mark.parametrize(
    ("path", "headers", "hint"),
    [
        ("/v1/chat", {}, "/v1."),
        ("/v2/messages", {"anthropic-version": "2023-06-01"}, "Anthropic SDK"),
        ("/v1beta/tunedModels", {}, "Google's SDK"),
        ("/v1/models/", {}, None),
        ("/models", {}, None),
    ],
)
def test_a_path_that_is_none_names_the_base_url(
    base: str, path: str, headers: dict[str, str], hint: str | None
) -> None:
    """In the words of the SDK that asks; a base URL that means one endpoint all the same is served."""
    answer = ask(base, "GET", path, None, {**headers, "authorization": f"Bearer {KEY}"})
    assert answer.status_code == (200 if hint is None else 404)
    assert hint is None or hint in answer.json()["error"]["message"]


def test_without_any_rule_every_route_refuses_with_what_to_set() -> None:
    """A gateway without an access decision refuses every caller."""
    with served(LLMProxy({"providers": {"simulated": {}}, "endpoints": {"ui": True}})) as address:
        for method, path, body in ROUTES:
            answer = ask(address, method, path, body, {"authorization": "Bearer anything"})
            assert answer.status_code == 401
            assert "access.mode: open" in answer.text


def test_with_keys_alone_the_page_loads_and_its_calls_need_a_key() -> None:
    """The page's files are public then; what it shows is not."""
    config = {
        "providers": {"simulated": {}},
        "access": {"mode": "keys", "keys": [{"name": "ci", "key": KEY}]},
        "endpoints": {"ui": True},
    }
    with served(LLMProxy(config)) as address:
        assert ask(address, "GET", "/ui/", None, {}).status_code == 200
        assert ask(address, "GET", "/v1/models", None, {}).status_code == 401


def test_geminis_paths_of_models_take_the_key_in_the_query(base: str) -> None:
    """As its other paths do; on those that other vendors share it is none."""
    for path, status in (("/v1beta/models", 200), ("/v1beta/models/echo", 200), ("/v1/models", 401)):
        assert ask(base, "GET", f"{path}?key={KEY}", None, {}).status_code == status, path


def test_models_are_listed_in_the_callers_own_shape(base: str) -> None:
    """Anthropic's clients say which they are by their version header."""
    key = {"authorization": f"Bearer {KEY}"}
    openai = ask(base, "GET", "/v1/models", None, key).json()
    anthropic = ask(base, "GET", "/v1/models", None, {**key, "anthropic-version": "2023-06-01"}).json()
    assert openai["object"] == "list"
    assert {model["id"] for model in openai["data"]} == {model["id"] for model in anthropic["data"]}
    assert anthropic["has_more"] is False
