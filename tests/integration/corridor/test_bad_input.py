"""Bad input gets a clear error in the caller's own protocol, naming the field, and harms nothing."""

import gzip
import json
import socket
import sys
import zlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import ThreadedUpstream, Upstream, json_answer
from support.gateway import chat_answer, chat_body, messages_body, served

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
KEY = "llmp_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=json_answer(200, chat_answer("fine"))) as made:
        yield made


@pytest.fixture(scope="module")
def base(upstream: ThreadedUpstream) -> Iterator[str]:
    proxy = LLMProxy(
        {
            "providers": {"up": {"type": "openai-compatible", "base_url": upstream.base_url + "/v1", "models": ["m"]}},
            "access": {"mode": "keys", "keys": [{"name": "ci", "key": KEY}]},
            "limits": {"body": "64KiB", "body_timeout": "500ms"},
        }
    )
    with served(proxy) as address:
        yield address


def post(base: str, path: str, body: bytes | dict[str, Any], **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", "authorization": f"Bearer {KEY}", **headers}
    with httpx2.Client(timeout=30, trust_env=False) as client:
        return client.post(base + path, content=content, headers=sent)


def message_of(path: str, answer: httpx2.Response) -> dict[str, Any]:
    """The error object, having checked that the body is of the path's protocol."""
    body = answer.json()
    if path == MESSAGES:
        assert body["type"] == "error"
        assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    else:
        assert {"message", "type", "param", "code"} <= set(body["error"])
    error: dict[str, Any] = body["error"]
    return error


BODIES: list[Any] = [
    pytest.param(b"", "", id="empty"),
    pytest.param(b"{", "JSON", id="truncated"),
    pytest.param(b"[]", "object", id="array"),
    pytest.param(b'"text"', "object", id="string"),
    pytest.param(b'{"model": "m", "messages": NaN}', "JSON", id="nan"),
    pytest.param(b'{"model": "m", "x": "\xff"}', "UTF-8", id="not-utf8"),
    pytest.param(b'{"model": "m", "x": "\\ud800"}', "JSON", id="lone-surrogate"),
    pytest.param(b'{"model":"m","messages":' + b"[" * 70 + b"]" * 70 + b"}", "64", id="deep"),
    pytest.param(b'{"model":"m","messages":' + b"[" * 20000 + b"]" * 20000 + b"}", "64", id="very-deep"),
    pytest.param(b'{"model":"m","messages":' + b"[" * 20000, "", id="very-deep-unclosed"),
]


@pytest.mark.fault(32)
@pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["chat", "messages"])
@pytest.mark.parametrize(("body", "word"), BODIES)
def test_a_body_that_is_no_json_object_is_a_400(base: str, path: str, body: bytes, word: str) -> None:
    """Whatever cannot be read is refused with the reason, in the caller's protocol."""
    answer = post(base, path, body)
    assert answer.status_code == 400, answer.text
    error = message_of(path, answer)
    assert error["type"] == "invalid_request_error"
    assert word in error["message"]


WRONG: list[Any] = [
    pytest.param({"model": 5}, "model", id="model-number"),
    pytest.param({"messages": "hi"}, "messages", id="messages-text"),
    pytest.param({"messages": None}, "messages", id="messages-null"),
    pytest.param({"stream": "yes"}, "stream", id="stream-text"),
    pytest.param({"messages": [5]}, "messages[0]", id="message-number"),
    pytest.param({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", id="unknown-role"),
    pytest.param({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", id="content-number"),
    pytest.param({"tools": {}}, "tools", id="tools-object"),
    pytest.param({"max_tokens": "many"}, "max_tokens", id="max-tokens-text"),
    pytest.param({"max_tokens": -1}, "max_tokens", id="max-tokens-negative"),
    pytest.param({"temperature": "hot"}, "temperature", id="temperature-text"),
    pytest.param({"tool_choice": "perhaps"}, "tool_choice", id="tool-choice"),
]


@pytest.mark.parametrize(("change", "field"), WRONG)
def test_a_wrong_field_is_named_where_the_request_is_translated(base: str, change: dict[str, Any], field: str) -> None:
    """A Messages request towards a Chat upstream is read whole, and what is wrong is named by its path."""
    answer = post(base, MESSAGES, messages_body() | change)
    assert answer.status_code == 400, answer.text
    assert field in message_of(MESSAGES, answer)["message"]


@pytest.mark.parametrize(("change", "field"), WRONG[:4])
def test_a_wrong_field_is_named_where_the_request_is_passed_through(
    base: str, change: dict[str, Any], field: str
) -> None:
    """What routing needs is checked even if the rest is only passed on."""
    answer = post(base, CHAT, chat_body() | change)
    assert answer.status_code == 400, answer.text
    assert message_of(CHAT, answer)["param"] == field


@pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["chat", "messages"])
def test_an_unknown_model_is_a_404_in_the_protocols_words(base: str, path: str) -> None:
    """The error class of each vendor's SDK comes from status and type."""
    body = chat_body(model="nope") if path == CHAT else messages_body(model="nope")
    answer = post(base, path, body)
    assert answer.status_code == 404
    error = message_of(path, answer)
    assert error["type"] == ("invalid_request_error" if path == CHAT else "not_found_error")
    if path == CHAT:
        assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["chat", "messages"])
def test_a_hostile_model_name_is_only_unknown(base: str, path: str) -> None:
    """A name with control characters or of absurd length is a 404 and reaches no header and no log line whole."""
    for name in ("a\r\nset-cookie: x=1", "m" * 100_000 if path == CHAT else "m" * 20_000, "\u0000", "up/\n"):
        body = chat_body(model=name) if path == CHAT else messages_body(model=name)
        answer = post(base, path, body)
        assert answer.status_code in (404, 413), answer.text
        assert "set-cookie" not in answer.headers
        assert len(answer.text) < 2000


@pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["chat", "messages"])
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": "Bearer llmp_wrong-wrong-wrong"},
        {"authorization": "Bearer sk-something-else"},
        {"authorization": "", "x-api-key": "wrong"},
        {"x-api-key": "llmp_another-wrong-key"},
    ],
    ids=["none", "wrong-ours", "wrong-other", "wrong-x-api-key", "two-different"],
)
def test_no_valid_key_is_a_401(base: str, path: str, headers: dict[str, str]) -> None:
    """No key, another owner's key and two different valid keys are all refused, and the key is not repeated."""
    answer = post(base, path, chat_body() if path == CHAT else messages_body(), **headers)
    assert answer.status_code == 401
    assert message_of(path, answer)["type"] == "authentication_error"
    assert "wrong" not in answer.text


@pytest.mark.fault(31)
def test_an_oversize_body_is_refused_before_it_is_read(base: str) -> None:
    """A declared length over the limit is a 413 at once; the body is never sent."""
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            "content-type: application/json\r\ncontent-length: 104857600\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.fault(31)
def test_an_oversize_chunked_body_is_refused_at_the_limit(base: str) -> None:
    """Without a declared length the body is read up to the limit and no further."""

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * 4096

    with httpx2.Client(timeout=30, trust_env=False) as client:
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        answer = client.post(base + MESSAGES, content=endless(), headers=headers)
    assert answer.status_code == 413
    assert message_of(MESSAGES, answer)["type"] == "request_too_large"


@pytest.mark.fault(30)
def test_a_body_that_never_comes_is_a_408(base: str) -> None:
    """A caller that stops in the middle of its body gets an error, and its slot is free again."""
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            'content-type: application/json\r\ncontent-length: 100\r\n\r\n{"model"'.encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


ZSTD: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
COMPRESS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "zstd": ZSTD.compress}


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1beta/models/m:generateContent"])
def test_what_is_not_json_is_a_415(base: str, path: str) -> None:
    """In any protocol, before it is read."""
    assert post(base, path, chat_body(), **{"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1beta/models/m:generateContent"])
@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "x-unknown"])
def test_an_unknown_compression_is_a_415_that_names_the_known_ones(base: str, path: str, encoding: str) -> None:
    """In `accept-encoding`, as RFC 9110 has it, whatever protocol asks."""
    answer = post(base, path, chat_body(), **{"content-encoding": encoding})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_compressed_body_is_read(base: str, upstream: ThreadedUpstream, encoding: str) -> None:
    """And is sent on uncompressed."""
    upstream.requests.clear()
    body = COMPRESS[encoding](json.dumps(chat_body()).encode())
    assert post(base, CHAT, body, **{"content-encoding": encoding}).status_code == 200
    assert "content-encoding" not in dict(upstream.requests[0].headers)
    assert upstream.requests[0].json()["messages"] == chat_body()["messages"]


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize(("size", "status"), [(64 * 1024, 400), (64 * 1024 + 1, 413), (100 * 2**20, 413)])
def test_a_compressed_body_is_bounded_by_what_it_becomes(base: str, encoding: str, size: int, status: int) -> None:
    """`limits.body` counts decompressed bytes; up to it, what is no JSON is a 400."""
    body = COMPRESS[encoding](b" " * size)
    assert post(base, CHAT, body, **{"content-encoding": encoding}).status_code == status


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_body_that_is_not_compressed_as_it_says_is_a_400(base: str, encoding: str) -> None:
    """Plain, cut in the middle, or with something behind its end."""
    whole = COMPRESS[encoding](json.dumps(chat_body()).encode())
    for body in (json.dumps(chat_body()).encode(), whole[:-3], whole + b"more"):
        answer = post(base, CHAT, body, **{"content-encoding": encoding})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_byte_order_mark_is_read_past(base: str, upstream: ThreadedUpstream, path: str) -> None:
    """Editors and some Windows clients put one before their JSON; upstreams do not see it."""
    body = chat_body() if path == CHAT else messages_body()
    upstream.requests.clear()
    assert post(base, path, b"\xef\xbb\xbf" + json.dumps(body).encode()).status_code == 200
    assert upstream.requests[0].body.startswith(b"{")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("DELETE", MESSAGES, 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("POST", "/V1/chat/completions", 404),
        ("GET", "/admin/keys", 404),
        ("GET", "/metrics", 404),
        ("GET", "/ui/", 404),
    ],
)
def test_paths_and_methods_are_taken_by_the_letter(base: str, method: str, path: str, status: int) -> None:
    """Nothing that was not asked for is served, and near misses are other paths."""
    with httpx2.Client(timeout=30, trust_env=False) as client:
        answer = client.request(method, base + path, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == status
    assert (status == 405) == ("allow" in answer.headers)


@pytest.mark.fault(32)
def test_the_process_still_serves_after_all_that(base: str) -> None:
    """Bad input leaves nothing behind."""
    assert post(base, CHAT, chat_body()).json()["choices"][0]["message"]["content"] == "fine"
    assert post(base, MESSAGES, messages_body()).json()["content"][0]["text"] == "fine"


def test_the_configured_depth_is_the_depth(upstream: ThreadedUpstream) -> None:
    """`limits.json_depth` is what counts, in both directions of the default."""
    nested = b'{"model":"m","messages":[{"role":"user","content":"x"}],"x":' + b"[" * 100 + b"]" * 100 + b"}"
    block = {"type": "openai-compatible", "base_url": upstream.base_url + "/v1"}
    for depth, status in ((8, 400), (128, 200)):
        config = {"providers": {"up": block}, "access": {"mode": "open"}, "limits": {"json_depth": depth}}
        with served(LLMProxy(config)) as address:
            assert post(address, CHAT, nested, authorization="").status_code == status
