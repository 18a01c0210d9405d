"""What `llmproxy doctor` finds out about upstreams that fail in every way, and about those that are well."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.execution.diagnosis import Diagnosis, diagnose
from llmproxy_asgi.runtime import Runtime, SharedState
from llmproxy_asgi.testing import (
    Received,
    Reset,
    Scenario,
    ThreadedUpstream,
    Upstream,
    error_answer,
    json_answer,
    raw_answer,
)

KEY = "sk-upstream-secret-0123456789"
LISTING = json_answer(200, {"object": "list", "data": []})
REFUSALS: dict[str, Any] = {
    "openai-compatible": {"error": {"message": "you must provide a model parameter", "type": "invalid_request_error"}},
    "openai": {"error": {"message": "Missing required parameter: 'model'.", "type": "invalid_request_error"}},
    "anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": "model: Field required"}},
    "gemini": {"error": {"code": 400, "message": "contents is not specified", "status": "INVALID_ARGUMENT"}},
}
PATHS = {
    "openai-compatible": "/v1/chat/completions",
    "openai": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-flash:generateContent",
}


MOVED = b"HTTP/1.1 308 Moved\r\nlocation: https://llm.example.com/v1/x?key=s3cret\r\ncontent-length: 0\r\n\r\n"


def page(status: int, title: bytes) -> Scenario:
    """A page of a firewall's, or of some other server."""
    body = b"<html><title>%b</title></html>" % title
    head = b"HTTP/1.1 %d X\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return raw_answer(head + body)


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def ask(base_url: str | None, kind: str = "openai-compatible", **more: Any) -> Diagnosis:
    """What is found out about one provider."""
    block = {"type": kind, **({"api_key": KEY, "base_url": base_url} if base_url else {}), **more}

    async def asked() -> Diagnosis:
        shared = SharedState()
        try:
            provider = Runtime.build(load_config({"providers": {"p": block}}), shared).providers["p"]
            return await diagnose(shared.pool(provider), provider, provider.credentials[0])
        finally:
            await shared.aclose()

    found = asyncio.run(asked())
    assert KEY not in repr(found)
    return found


def calls(answer: Scenario, listing: Scenario = LISTING) -> Any:
    """An upstream that lists its models and answers calls in this way."""
    return lambda received: listing if received.method == "GET" else answer


@pytest.mark.parametrize("kind", PATHS)
def test_an_upstream_that_refuses_an_empty_request_is_well(upstream: ThreadedUpstream, kind: str) -> None:
    """Its path and key are right: it read an empty request and said, in its own words, that it is one."""
    upstream.default = calls(json_answer(400, REFUSALS[kind]))
    base = upstream.base_url + ("/v1" if kind.startswith("openai") else "")
    found = ask(base, kind)
    assert (found.ok, found.state) == (True, "ok")
    asked = upstream.requests[-1]
    assert (asked.method, asked.path, asked.body) == ("POST", PATHS[kind], b"{}")


def test_simulated_is_well() -> None:
    """A provider that answers within the process needs no question."""
    assert ask(None, "simulated").ok


def test_a_server_without_a_listing_is_well(upstream: ThreadedUpstream) -> None:
    """Not every server lists its models; the path of calls counts."""
    answer = json_answer(400, REFUSALS["openai"])
    upstream.default = calls(answer, error_answer(404, {"error": {"message": "no"}}))
    assert ask(upstream.base_url + "/v1").ok


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (error_answer(404, {"detail": "Not Found"}), "nothing at this address", "404 Not Found"),
        (error_answer(405, {"detail": "Method Not Allowed"}), "nothing at this address", "405"),
        (
            raw_answer(MOVED),
            "redirects",
            "308 redirects to https://llm.example.com/v1/x",
        ),
        (
            error_answer(401, {"error": {"code": "invalid_api_key", "message": f"Incorrect API key provided: {KEY}"}}),
            "the credential is refused",
            "401 invalid_api_key: Incorrect API key provided: ***",
        ),
        (
            error_answer(400, {"error": {"code": "invalid_api_key", "message": "no"}}),
            "the credential is refused",
            "400 invalid_api_key: no",
        ),
        (error_answer(400, {"error": "Incorrect API key: sk***89"}), "the credential is refused", "400 "),
        (error_answer(429, {"error": {"message": "slow"}}), "rate limited", "429 slow"),
        (error_answer(402, {"error": {"message": "pay"}}), "the quota is exceeded", "402 pay"),
        (error_answer(503, {"error": {"message": "busy"}}), "is overloaded", "503 busy"),
        (error_answer(500, {"error": {"message": "boom"}}), "fails", "500 boom"),
        (json_answer(200, {"hello": "world"}), "does not use its protocol", "200 with application/json"),
        (
            page(403, b"Attention Required!"),
            "the credential is refused",
            "403 with text/html: Attention Required!",
        ),
        (
            page(400, b"Nope"),
            "refuses",
            "400 with text/html: Nope",
        ),
        (Scenario(Reset()), "closes the connection", "ECONNRESET"),
    ],
)  # fmt: skip
def test_what_came_back_is_said(upstream: ThreadedUpstream, answer: Scenario, state: str, reason: str) -> None:
    """Whatever comes back at the path of calls, though the listing is fine: what it is, and what to change."""
    upstream.default = calls(answer)
    found = ask(upstream.base_url + "/v1")
    assert (found.ok, found.state) == (False, state)
    assert found.reason.startswith(reason)
    assert "s3cret" not in found.reason
    assert found.advice


def test_a_redirect_says_where_to(upstream: ThreadedUpstream) -> None:
    """The address in the reason has an endpoint's path; a base_url has none."""
    upstream.default = calls(raw_answer(MOVED))
    assert ask(upstream.base_url + "/v1").advice.endswith("where the redirect leads, without the path of an endpoint.")


def test_a_key_that_the_listing_refuses(upstream: ThreadedUpstream) -> None:
    """A server that looks at bodies before keys is seen through by its listing."""
    refused = error_answer(401, {"error": {"message": "who are you"}})
    upstream.default = calls(json_answer(422, {"detail": [{"msg": "Field required"}]}), refused)
    assert ask(upstream.base_url + "/v1").state == "the credential is refused"


def test_a_wrong_base_url(upstream: ThreadedUpstream) -> None:
    """Where nothing is found at either path the base_url is named."""

    def answer(received: Received) -> Scenario:
        right = received.path in ("/v1/models", "/v1/chat/completions")
        return json_answer(400, REFUSALS["openai"]) if right else error_answer(404, {"detail": "Not Found"})

    upstream.default = answer
    found = ask(upstream.base_url + "/wrong")
    assert (found.ok, found.state) == (False, "nothing at this address")
    assert f"base_url is {upstream.base_url}/wrong" in found.advice


def test_nobody_there() -> None:
    """A refused connection, and a name without an address."""
    with Upstream.in_thread() as gone:
        base = gone.base_url
    found = ask(base + "/v1")
    assert (found.state, found.reason) == ("cannot be reached", f"ECONNREFUSED {base.removeprefix('http://')}")
    assert f"base_url is {base}/v1; check its scheme, host and port" in found.advice
    assert "/v1)" not in found.advice, "a path has nothing to do with a connection"
    unknown = ask("http://llm.corp.invalid/v1", allow_insecure=True)
    assert unknown.state == "cannot be reached"
    assert unknown.reason.startswith("gaierror EAI_")


def test_a_proxy_that_is_not_there(upstream: ThreadedUpstream) -> None:
    """The reason names the proxy, and the advice its setting."""
    with Upstream.in_thread() as gone:
        proxy = gone.base_url
    found = ask(upstream.base_url + "/v1", proxy=proxy)
    assert found.reason.endswith(f"through the proxy {proxy.removeprefix('http://')}")
    assert found.advice == "Check `proxy`."


def test_json_of_a_diagnosis() -> None:
    """What `--json` prints can be read by scripts."""
    from llmproxy_asgi.cli.doctor import _entry
    from llmproxy_asgi.providers.base import Credential

    entry = _entry(Credential.of("p"), Diagnosis(ok=True, state="ok"))
    assert json.loads(json.dumps(entry)) == {
        "provider": "p", "credential": Credential.of("p").fingerprint.partition(":")[2],
        "ok": True, "state": "ok", "reason": "", "advice": "", "seconds": 0.0,
    }  # fmt: skip
