"""What is decided on a request's head, and how much of all bodies is held at once."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from llmproxy_asgi import LLMProxy
from support.gateway import served

KIB = 1024
MIB = 1024 * KIB
KEYS = {name: f"llmp_{name}_0123456789abcdef" for name in ("one", "two")}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "echo", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"model": "echo", "input": "hi"},
    "/v1/messages": {"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "/v1beta/models/echo:generateContent": {"contents": [{"parts": [{"text": "hi"}]}]},
}
CHAT = "/v1/chat/completions"


@contextmanager
def gateway(limits: dict[str, Any], **of_keys: Any) -> Iterator[tuple[LLMProxy, str]]:
    keys = [{"name": name, "key": key, **of_keys} for name, key in KEYS.items()]
    config = {"providers": {"simulated": {}}, "access": {"mode": "keys", "keys": keys}, "limits": limits}
    proxy = LLMProxy(config)
    with served(proxy) as base:
        yield proxy, base


@contextmanager
def upload(base: str, path: str, *, key: str, length: int, sent: bytes = b"") -> Iterator[socket.socket]:
    """A request whose body does not end."""
    address = urlsplit(base)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {KEYS[key]}"]
        lines += ["content-type: application/json", f"content-length: {length}", "", ""]
        connection.sendall("\r\n".join(lines).encode() + sent)
        yield connection


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and all that came, up to the end of the body."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65536)
    head, _, rest = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(rest) < length:
        rest += connection.recv(65536)
    return int(head.split()[1]), head.lower() + b"\r\n\r\n" + rest


def ask(base: str, path: str, *, key: str) -> tuple[int, bytes]:
    body = json.dumps(PATHS[path]).encode()
    with upload(base, path, key=key, length=len(body), sent=body) as connection:
        return answer(connection)


def until_held(proxy: LLMProxy, size: int) -> None:
    """Wait until so many bytes of bodies are held."""
    bodies = proxy.gateway._shared.bodies
    for _ in range(2_000):
        if bodies.total == size:
            return
        time.sleep(0.01)
    raise AssertionError(f"{bodies.total} bytes are held, not {size}")


@pytest.mark.parametrize("path", PATHS)
def test_who_is_over_a_limit_is_refused_before_the_body_is_read(path: str) -> None:
    """The answer is there although not one byte of the body was sent."""
    with gateway({}, requests_per_minute=1) as (_, base):
        assert ask(base, path, key="one")[0] == 200
        with upload(base, path, key="one", length=MIB) as connection:
            status, text = answer(connection)
        assert status == 429, text
        assert b"retry-after:" in text


def test_an_unfinished_upload_is_a_call_under_way() -> None:
    """It has its place from its head on, and gives it back when its caller leaves."""
    with gateway({}, max_concurrency=1) as (proxy, base):
        with upload(base, CHAT, key="one", length=MIB, sent=b"{") as _:
            until_held(proxy, 1)
            assert ask(base, CHAT, key="one")[0] == 429
            assert ask(base, CHAT, key="two")[0] == 200
        until_held(proxy, 0)
        assert ask(base, CHAT, key="one")[0] == 200


def test_tokens_are_taken_when_they_are_known() -> None:
    """A request that was let in by its head pays what it turns out to be, and waits or is refused for that."""
    with gateway({}, tokens_per_minute=1_500) as (_, base):
        assert ask(base, CHAT, key="one")[0] == 200  # an answer without a limit sets 1024 aside, and gives most back
        assert ask(base, CHAT, key="one")[0] == 200
        long = json.dumps({**PATHS[CHAT], "max_tokens": 1_490}).encode()
        with upload(base, CHAT, key="one", length=len(long), sent=long) as connection:
            assert answer(connection)[0] == 429
        assert ask(base, CHAT, key="two")[0] == 200


def test_all_bodies_together_are_bounded() -> None:
    """Uploads beyond the bound are a 503 with a wait; another caller is served, and everything is given back."""
    size = 64 * KIB
    with gateway({"body": "128KiB", "bodies": "512KiB"}) as (proxy, base), ExitStack() as uploads:
        for _ in range(6):  # three quarters
            uploads.enter_context(upload(base, CHAT, key="one", length=size + 1, sent=b" " * size))
        until_held(proxy, 6 * size)
        with upload(base, CHAT, key="one", length=size + 1, sent=b" " * size) as connection:
            status, text = answer(connection)
        assert status == 503, text
        assert b"retry-after: 1" in text
        assert b"limits.bodies" in text
        for path in PATHS:
            assert ask(base, path, key="two")[0] == 200
        until_held(proxy, 6 * size)
        uploads.close()
        until_held(proxy, 0)
        assert ask(base, CHAT, key="one")[0] == 200


def test_what_goes_on_in_the_background_holds_its_body_until_it_ends() -> None:
    """Its caller may leave; nothing is left when it is over."""
    with gateway({}) as (proxy, base):
        body = json.dumps({"model": "echo", "input": "hi", "background": True}).encode()
        with upload(base, "/v1/responses", key="one", length=len(body), sent=body) as connection:
            assert answer(connection)[0] == 200
        until_held(proxy, 0)


@pytest.mark.parametrize("spoiled", [b"{", b'{"model":"nobody","messages":[]}', b"[]"])
def test_a_refused_body_is_given_back(spoiled: bytes) -> None:
    """Whatever is wrong with it."""
    with gateway({}, max_concurrency=1) as (proxy, base):
        for _ in range(3):
            with upload(base, CHAT, key="one", length=len(spoiled), sent=spoiled) as connection:
                assert answer(connection)[0] in (400, 404)
        until_held(proxy, 0)
        assert ask(base, CHAT, key="one")[0] == 200
