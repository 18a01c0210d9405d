"""The gateway as an ASGI application: mounted, as middleware, with and without a lifespan."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message

from llmproxy_asgi import ConfigError, LLMProxy, LLMProxyMiddleware, MisuseError

OPEN = {"providers": {"simulated": {}}, "access": {"mode": "open"}}
ASKED = {"model": "echo", "messages": [{"role": "user", "content": "hello there"}]}


def proxy(**more: Any) -> LLMProxy:
    return LLMProxy({**OPEN, **more})


def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"home {request.scope.get('root_path', '')}")


def host() -> Starlette:
    return Starlette(routes=[Route("/{rest:path}", home)])


@pytest.mark.parametrize("prefix", ["/llm", "/deep/down/llm"])
def test_it_serves_under_any_prefix_and_at_the_root(prefix: str) -> None:
    """The same object serves both."""
    app = Starlette()
    app.mount(prefix, proxy())
    for served, path in ((app, prefix), (proxy(), "")):
        with TestClient(served) as client:
            answer = client.post(f"{path}/v1/chat/completions", json=ASKED).json()
        assert answer["choices"][0]["message"]["content"].endswith("hello there")


def test_it_needs_no_lifespan() -> None:
    """Everything opens with the first call."""
    app = Starlette()
    app.mount("/llm", proxy())
    assert TestClient(app).post("/llm/v1/chat/completions", json=ASKED).status_code == 200


def test_gateways_in_one_process_are_separate() -> None:
    """Two gateways share neither models nor access."""
    app = Starlette()
    app.mount("/open", proxy())
    app.mount("/closed", LLMProxy({"providers": {"simulated": {}}}))
    client = TestClient(app)
    assert client.post("/open/v1/chat/completions", json=ASKED).status_code == 200
    assert client.post("/closed/v1/chat/completions", json=ASKED).status_code == 401


def test_as_middleware_it_serves_its_path_only() -> None:
    """Pass everything else to the application, also paths with the same beginning."""
    client = TestClient(LLMProxyMiddleware(host(), path="/llm/", proxy=proxy()))
    assert client.post("/llm/v1/chat/completions", json=ASKED).status_code == 200
    assert client.get("/llm/health").json() == {"status": "ok"}
    for path in ("/", "/llmx/health", "/other/llm/health"):
        assert client.get(path).text.startswith("home")


@pytest.mark.parametrize("holds_root", [True, False], ids=["path-with-root", "path-without-root"])
def test_as_middleware_it_is_mounted_below_a_servers_root(holds_root: bool) -> None:
    """Find the mount whether `path` contains `root_path` or not."""
    wrapped = LLMProxyMiddleware(host(), path="/llm", proxy=proxy())

    async def below(scope: Any, receive: Any, send: Any) -> None:
        path = f"/base{scope['path']}" if holds_root else scope["path"]
        await wrapped({**scope, "root_path": "/base", "path": path}, receive, send)

    client = TestClient(below)
    assert client.get("/llm/health").json() == {"status": "ok"}
    assert client.get("/llmx").text.startswith("home")


@pytest.mark.parametrize("path", ["llm", "/", ""])
def test_middleware_refuses_the_root_as_its_path(path: str) -> None:
    """The root belongs to the application."""
    with pytest.raises(ValueError, match="path must start with a slash"):
        LLMProxyMiddleware(host(), path=path, proxy=proxy())


@pytest.mark.anyio
async def test_a_websocket_is_closed_and_a_lifespan_answered() -> None:
    """Close a WebSocket properly, and confirm both ends of a lifespan."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def connect() -> Message:
        return {"type": "websocket.connect"}

    await proxy()({"type": "websocket", "path": "/"}, connect, send)
    assert sent.pop()["type"] == "websocket.close"
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(messages)

    await proxy()({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.anyio
async def test_a_failed_startup_is_reported() -> None:
    """Report the reason, so that the server stops instead of assuming that there is no lifespan."""
    block = {"type": "openai-compatible", "base_url": "https://upstream.invalid/v1"}
    nothing: Any = object()
    unusable = LLMProxy({"providers": {"up": block}}, transport=nothing)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(MisuseError):
        await unusable({"type": "lifespan"}, receive, send)
    (failed,) = sent
    assert failed["type"] == "lifespan.startup.failed"
    assert "transport" in failed["message"]


def test_an_invalid_configuration_is_refused_at_creation() -> None:
    """Report all findings before anything is served."""
    with pytest.raises(ConfigError) as wrong:
        LLMProxy({"providers": {"openai": {"timeuot": 1}, "x": {}}})
    assert len(wrong.value.findings) >= 2
    assert "did you mean 'timeout'" in str(wrong.value)
