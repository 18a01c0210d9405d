"""What stands between the command and the server: hosts, addresses, logs, and what workers are told."""

import logging
import os
import sys
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from llmproxy_asgi import Config, LLMProxy
from llmproxy_asgi.__main__ import main
from llmproxy_asgi.cli.local_hosts import LocalHosts
from llmproxy_asgi.cli.server import Address, resolve, uvicorn_config
from llmproxy_asgi.cli.worker import VARIABLE, from_environment, instruct, serving

CONFIG = Config.model_validate({"providers": {"simulated": None}, "access": {"mode": "open"}})


async def answer(app: Any, path: str, *hosts: bytes, kind: str = "http") -> list[Message]:
    """What an application sends for one GET request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": kind, "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"host", host) for host in hosts], "scheme": "http", "http_version": "1.1",
        "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 5000),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


async def yes(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host", [b"127.0.0.1", b"127.0.0.1:8000", b"localhost", b"LocalHost:8000", b"[::1]", b"[::1]:80"]
)
async def test_this_machine_is_let_in(host: bytes) -> None:
    """Requests that name this machine go through, whatever the port."""
    assert (await answer(LocalHosts(yes), "/", host))[0]["status"] == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    "hosts",
    [
        [b"evil.example"], [b"localhost.evil.example"], [b"evil.example:8000"], [b"127.0.0.1.evil.example"],
        [b"127.0.0.1@evil.example"], [b"localhost:8000/x"], [b"localhost\n"], [b"127.0.0.2"], [b"::1"], [b""], [],
        [b"localhost", b"evil.example"], [b"localhost", b"localhost"],
    ],
    ids=repr,
)  # fmt: skip
async def test_other_names_are_refused(hosts: list[bytes]) -> None:
    """A request that names anything else, or names its host twice, is a 403 and reaches nothing."""
    sent = await answer(LocalHosts(yes), "/", *hosts)
    assert sent[0]["status"] == 403
    assert sent[-1]["body"] != b"yes"
    assert [message["type"] for message in await answer(LocalHosts(yes), "/", *hosts, kind="websocket")] == [
        "websocket.close"
    ]


@pytest.mark.anyio
async def test_prefix() -> None:
    """Under a prefix the gateway is there and nothing else is."""
    app = below("/llm")
    assert (await answer(app, "/llm/health", b"x"))[0]["status"] == 200
    assert (await answer(app, "/health", b"x"))[0]["status"] == 404
    assert (await answer(below(""), "/health", b"x"))[0]["status"] == 200
    assert (await answer(below("/llm", local_hosts=True), "/llm/health", b"x"))[0]["status"] == 403


def below(prefix: str, *, local_hosts: bool = False) -> Any:
    return serving(LLMProxy(CONFIG), prefix=prefix, local_hosts=local_hosts, window=0)


@pytest.mark.anyio
async def test_workers_serve_what_they_are_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left in the environment makes the application that the parent process meant."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    file = tmp_path / "a.yaml"
    file.write_text("providers: {simulated: }\naccess: {mode: open}\n", encoding="utf-8")
    instruct([str(file)], prefix="/llm", local_hosts=True, window=0, may_open=True)
    assert VARIABLE in os.environ
    assert (await answer(from_environment(), "/llm/health", b"localhost"))[0]["status"] == 200


@pytest.mark.parametrize(
    ("host", "is_loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:8000"),
        ("127.0.0.9", True, "http://127.0.0.9:8000"),
        ("::1", True, "http://[::1]:8000"),
        ("0.0.0.0", False, "http://127.0.0.1:8000"),
        ("::", False, "http://[::1]:8000"),
        ("192.0.2.1", False, "http://192.0.2.1:8000"),
    ],
)
def test_addresses(host: str, is_loopback: bool, url: str) -> None:
    """An address knows whether others can reach it, and how this machine does."""
    address = resolve(host, 8000)
    assert isinstance(address, Address)
    assert (address.is_loopback, address.url) == (is_loopback, url)


def test_server_settings() -> None:
    """No access log unless asked for, our log beside the server's, no word about it in answers, time for last words."""
    before = {name: list(logging.getLogger(name).handlers) for name in ("llmproxy_asgi", "uvicorn", "uvicorn.access")}
    filters = list(logging.getLogger("uvicorn.access").filters)
    try:
        made = uvicorn_config(yes, log_level="warning", access_log=False, graceful=0.25)
        assert (made.access_log, made.server_header, made.timeout_graceful_shutdown) == (False, False, 6)
        assert logging.getLogger("llmproxy_asgi").level == logging.WARNING
    finally:
        for name, handlers in before.items():
            logging.getLogger(name).handlers[:] = handlers
            logging.getLogger(name).setLevel(logging.NOTSET)
            logging.getLogger(name).propagate = True
        logging.getLogger("uvicorn.access").filters[:] = filters


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the command is made of, the extra to install is named, and the process ends with 1."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert 'pip install "llmproxy-asgi[server]"' in str(ended.value)
    assert missing in str(ended.value)
