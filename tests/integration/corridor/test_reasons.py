"""Why an upstream failed: told to operators with the request's id, to administrators who ask, to no other caller."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from typing_extensions import override

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.errors import ConfigError
from llmproxy_asgi.facts import AttemptFailed, CallFinished
from llmproxy_asgi.providers.openai_compatible import OpenAICompatible
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream, error_answer, json_answer
from support.gateway import chat_answer, chat_body, messages_body, served
from support.telemetry import RecordingObserver

CHAT = "/v1/chat/completions"
OPS, USER = "the-key-of-an-administrator-0123", "the-key-of-somebody-else-0123456"
WORDS = {"error": {"message": "No capacity in eu-west", "code": "no_capacity"}}


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def gateway(
    upstream: ThreadedUpstream, *observers: RecordingObserver, keys: Any = "sk-one-0123456789", **more: Any
) -> LLMProxy:
    """One provider, whose failures an administrator may ask about."""
    block = {
        "type": "openai-compatible",
        "base_url": upstream.base_url + "/v1",
        "api_key": keys,
        "retry": {"attempts": 2, "backoff": "1ms"},
        **more,
    }
    access = {
        "mode": "keys",
        "keys": [{"name": "ops", "key": OPS}, {"name": "somebody", "key": USER}],
        "admins": ["key:ops"],
    }
    config = {"providers": {"p": block}, "access": access, "endpoints": {"explain": True}}
    return LLMProxy(config, observers=observers)


def post(base: str, key: str = OPS, path: str = CHAT, **body: Any) -> httpx2.Response:
    """A call that asks what was tried."""
    sent = body or chat_body(model="p/m")
    headers = {"x-api-key": key, "x-llmproxy-explain": "1", "x-request-id": "the-request"}
    return httpx2.post(base + path, json=sent, headers=headers, timeout=30, trust_env=False)


def test_a_failure_is_told_with_its_reason_and_request(
    upstream: ThreadedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt's and the call's records and facts say why, and carry the id that the caller reads."""
    upstream.default = error_answer(503, WORDS)
    observer = RecordingObserver()
    with caplog.at_level(logging.INFO, logger="llmproxy_asgi"), served(gateway(upstream, observer)) as base:
        answer = post(base)
    reason = "503 no_capacity: No capacity in eu-west"
    failed = [each for each in observer.facts if isinstance(each, AttemptFailed)]
    finished = [each for each in observer.facts if isinstance(each, CallFinished)]
    assert [(each.reason, each.request_id) for each in failed] == [(reason, "the-request")] * 2
    assert [(each.reason, each.request_id) for each in finished] == [(reason, "the-request")]
    records = [vars(record) for record in caplog.records if record.name == "llmproxy_asgi.upstreams"]
    told = [(each["request_id"], each["provider"], each["attempt"], each["reason"]) for each in records[:2]]
    assert told == [("the-request", "p", 1, reason), ("the-request", "p", 2, reason)]
    assert all(reason in record.getMessage() for record in caplog.records if record.name.endswith("calls"))
    assert "no_capacity" not in answer.text, "a failure's code is the vendor's own affair"
    assert "eu-west" not in answer.text


def test_only_administrators_read_reasons(upstream: ThreadedUpstream) -> None:
    """Others who ask what was tried are told so without an address or a word of the upstream's."""
    upstream.default = error_answer(503, WORDS)
    with served(gateway(upstream)) as base:
        ours, theirs = (json.loads(post(base, key).headers["x-llmproxy-explain"]) for key in (OPS, USER))
    assert ours[0]["reason"] == "503 no_capacity: No capacity in eu-west"
    assert all("reason" not in step for step in theirs)
    assert theirs[0]["why"] == "overloaded"


class Starved(httpx2.AsyncBaseTransport):
    """A process that has no descriptor left, for a while."""

    def __init__(self) -> None:
        self.is_starved = True

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.is_starved:
            raise httpx2.ConnectError("All connection attempts failed") from OSError(24, "Too many open files")
        return httpx2.Response(200, json=chat_answer("fine"))


def test_a_process_without_descriptors_blames_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """However often that happens nothing cools down: as soon as there is a socket the next call is served."""
    starved = Starved()
    providers = {"p": {"type": "openai-compatible", "base_url": "http://127.0.0.1:9/v1", "retry": {"attempts": 1}}}
    proxy = LLMProxy({"providers": providers, "access": {"mode": "open"}}, transport=starved)
    with caplog.at_level(logging.INFO, logger="llmproxy_asgi"), served(proxy) as base:
        assert [post(base).status_code for _ in range(8)] == [503] * 8
        starved.is_starved = False
        assert post(base).status_code == 200
    assert "EMFILE Too many open files" in caplog.text
    assert "cool" not in caplog.text


@pytest.mark.parametrize(
    "refusal",
    [
        {"error": {"message": "no", "code": "invalid_api_key"}},
        {"error": {"message": "no", "type": "authentication_error"}},
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: sk***ad."},
    ],
    ids=["code", "type", "quoted"],
)
def test_a_refused_key_with_another_status_cools_down(upstream: ThreadedUpstream, refusal: dict[str, Any]) -> None:
    """A 400 about the key is not the caller's: the next key serves, and the bad one is asked once."""

    def is_bad(received: Received) -> bool:
        return "sk-bad-bad" in str(received.headers)

    def answer(received: Received) -> Scenario:
        return error_answer(400, refusal) if is_bad(received) else json_answer(200, chat_answer("fine"))

    upstream.default = answer
    with served(gateway(upstream, keys=["sk-bad-bad", "sk-good-0123456789"])) as base:
        assert {post(base).status_code for _ in range(4)} == {200}
    assert sum(map(is_bad, upstream.requests)) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "No access to model m", "code": "model_not_found"}, 403),
        ({"message": "Flagged", "code": 403, "metadata": {"reasons": ["violence"]}}, 403),
        ({"message": "Not for you", "type": "invalid_request_error", "param": "tools"}, 403),
        ({"message": "You do not have permission", "type": "permission_error"}, 502),
        ({"message": "no", "code": "invalid_api_key", "param": "tools"}, 502),
    ],
    ids=["model", "moderation", "field", "permission", "key"],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_a_403_stays_what_it_is_about(
    upstream: ThreadedUpstream, error: dict[str, Any], status: int, path: str
) -> None:
    """About the model or the request it is the caller's, with its reason; else it is about the gateway's key."""
    upstream.default = error_answer(403, {"error": error})
    body = chat_body(model="p/m") if path == CHAT else messages_body(model="p/m")
    with served(gateway(upstream)) as base:
        answer = post(base, path=path, **body)
    assert answer.status_code == status
    assert (error["message"] in answer.text) is (status == 403)


def test_a_proxys_password_is_in_no_finding() -> None:
    """A proxy that cannot be used is refused by the field, or by the variable, and never shown."""
    block = {"type": "openai-compatible", "base_url": "http://localhost/v1"}
    for proxy, environment in (("socks5://u:s3cretpw@p", {}), ("environment", {"HTTPS_PROXY": "ftp://u:s3cretpw@p"})):
        with pytest.raises(ConfigError) as wrong:
            load_config({"providers": {"p": {**block, "proxy": proxy}}}, environment=environment)
        assert "providers.p.proxy" in str(wrong.value)
        assert "s3cretpw" not in str(wrong.value)
        assert ("HTTPS_PROXY" in str(wrong.value)) is (proxy == "environment")


def test_the_environments_proxy_is_read_with_the_configuration() -> None:
    """`environment` takes the variables that the loader was given; without it none is used, whatever they say."""
    variables = {"HTTP_PROXY": "http://u:s3cretpw@one:3128", "HTTPS_PROXY": "two:3128", "NO_PROXY": "a, .b"}
    block = {"type": "openai-compatible", "base_url": "http://localhost/v1"}
    providers = {"p": {**block, "proxy": "environment"}, "q": block}
    config = load_config({"providers": providers}, environment=variables)
    found = config.providers["p"].proxy
    assert found is not None
    assert found.http is not None
    assert found.http.reveal() == "http://u:s3cretpw@one:3128"
    assert found.https is not None
    assert found.https.reveal() == "http://two:3128"
    assert found.exempt == ("a", ".b")
    assert "s3cretpw" not in repr(config)
    assert config.providers["q"].proxy is None
    assert load_config({"providers": providers}, environment={}).providers["p"].proxy is None


def test_another_proxy_makes_other_connections() -> None:
    """A reload keeps a provider's connections unless they lead through another proxy, or another password."""

    def connections(proxy: str | None) -> tuple[object, ...]:
        block = {"type": "openai-compatible", "base_url": "http://localhost/v1", "proxy": proxy}
        config = load_config({"providers": {"p": block}})
        return OpenAICompatible("p", config.providers["p"]).connection_key

    found = [
        connections(each) for each in (None, "http://one:1", "http://two:1", "http://u:p@one:1", "http://u:q@one:1")
    ]
    assert len(set(found)) == 5
    assert connections("http://u:p@one:1") == found[3]
