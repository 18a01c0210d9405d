"""Models that the configuration does not list: the upstreams are asked what they serve, once in minutes."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import Gateway, LLMProxy
from llmproxy_asgi.execution.listings import CACHE_TTL, FAILURE_TTL, MAX_MODELS
from llmproxy_asgi.testing import Gate, Hold, Scenario, ThreadedUpstream, Upstream, error_answer, json_answer
from llmproxy_asgi.testing.scenario import Received
from support.clock import FakeClock
from support.gateway import chat_answer, chat_body, served

OPENAI = {"object": "list", "data": [{"id": "gpt-5", "object": "model"}, {"id": "o3", "object": "model"}]}
KEY, NARROW = "sk-ci-0123456789abcdefgh", "sk-narrow-0123456789abcd"


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=json_answer(200, chat_answer("hi"))) as made:
        made.on("/v1/models", json_answer(200, OPENAI))
        yield made


def provider(upstream: ThreadedUpstream, type: str = "openai-compatible", **block: Any) -> dict[str, Any]:  # noqa: A002  as in the configuration
    version = "/v1" if type == "openai-compatible" else ""
    return {"type": type, "base_url": upstream.base_url + version, "api_key": "sk-up", **block}


def proxy(**providers: Any) -> LLMProxy:
    keys = [{"name": "ci", "key": KEY}, {"name": "narrow", "key": NARROW, "models": ["o*"]}]
    return LLMProxy({"providers": providers, "access": {"keys": keys}})


def listed(base: str, *, key: str = KEY, **headers: str) -> list[str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx2.get(base + "/v1/models", headers={"x-api-key": key, **named}, trust_env=False)
    assert answer.status_code == 200
    found = answer.json()
    return [entry.get("id") or entry["name"] for entry in found.get("data") or found.get("models") or []]


def asked(upstream: ThreadedUpstream) -> int:
    return sum(request.path == "/v1/models" for request in upstream.requests)


@pytest.mark.parametrize(
    ("block", "names"),
    [
        ({}, ["gpt-5", "o3"]),
        ({"models": ["o*"]}, ["o3"]),
        ({"models": ["mine", "o*"]}, ["mine", "o3"]),
        ({"models": ["*", {"name": "o3", "enabled": False}]}, ["gpt-5"]),
        ({"models": [{"name": "o*", "enabled": False}]}, []),
        ({"models": ["mine"]}, ["mine"]),
        ({"default_model": "own", "bypass_model": True}, ["own"]),
        ({"enabled": False}, []),
    ],
    ids=["none", "pattern", "both", "one off", "pattern off", "named", "bypass", "off"],
)
def test_what_is_listed(upstream: ThreadedUpstream, block: dict[str, Any], names: list[str]) -> None:
    """All that an open-ended provider's upstream serves, as far as its patterns go; others are not asked."""
    with served(proxy(p=provider(upstream, **block))) as base:
        assert listed(base) == names
    assert asked(upstream) == (0 if names in (["mine"], ["own"]) or block.get("enabled") is False or not names else 1)


def test_a_caller_sees_what_it_may_use(upstream: ThreadedUpstream) -> None:
    """The grant holds for the upstream's names as for those of the configuration."""
    with served(proxy(p=provider(upstream))) as base:
        assert listed(base, key=NARROW) == ["o3"]
        assert listed(base) == ["gpt-5", "o3"]
    assert asked(upstream) == 1


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ({}, ["gpt-5", "o3"]),
        ({"anthropic_version": "2023-06-01"}, ["gpt-5", "o3"]),
        ({"x_goog_api_client": "genai"}, ["models/gpt-5", "models/o3"]),
    ],
    ids=["openai", "anthropic", "gemini"],
)
def test_every_shape_of_listing(upstream: ThreadedUpstream, headers: dict[str, str], names: list[str]) -> None:
    """In the words of the caller's vendor; and each model by itself."""
    with served(proxy(p=provider(upstream))) as base:
        assert listed(base, **headers) == names
        sent = {"x-api-key": KEY, **{name.replace("_", "-"): value for name, value in headers.items()}}
        assert httpx2.get(base + "/v1/models/o3", headers=sent, trust_env=False).status_code == 200


SPELLINGS = [
    ("/v1/models/", {}),
    ("/v1/models/", {"anthropic-version": "2023-06-01"}),
    ("/v1/models/", {"x-goog-api-client": "genai"}),
    ("/v1beta/models/", {"x-goog-api-client": "genai"}),
    ("/v1beta/models/", {}),
]
"""How the vendors' SDKs look one model up."""


def looked_up(base: str, name: str, path: str = "/v1/models/", *, key: str = KEY, **headers: str) -> httpx2.Response:
    return httpx2.get(base + path + name, headers={"x-api-key": key, **headers}, trust_env=False)


@pytest.mark.parametrize(("path", "headers"), SPELLINGS)
def test_a_name_that_the_upstream_does_not_list_is_a_404(
    upstream: ThreadedUpstream, path: str, headers: dict[str, str]
) -> None:
    """What an open-ended provider would pass on is found if the upstream lists it, in the caller's protocol."""
    with served(proxy(p=provider(upstream))) as base:
        for name in ("o3", "p/o3"):
            assert looked_up(base, name, path, **headers).status_code == 200
        for name in ("no-such-model", "p/no-such-model", "o3/more"):
            missing = looked_up(base, name, path, **headers)
            assert missing.status_code == 404
            told = missing.json()
            if "anthropic-version" in headers:
                assert told["error"]["type"] == "not_found_error"
            elif "x-goog-api-client" in headers or path == "/v1beta/models/":
                assert told["error"]["status"] == "NOT_FOUND"
            else:
                assert told["error"]["code"] == "model_not_found"
    assert asked(upstream) == 1


@pytest.mark.parametrize(
    ("block", "found", "missing"),
    [
        ({"models": ["mine", "o*"]}, ["mine", "o3", "p/mine", "p/o3"], ["o9", "other"]),
        ({"models": [{"name": "x*", "upstream": "hidden"}]}, ["x1", "p/x1"], ["y1"]),
        ({"default_model": "own"}, ["own", "gpt-5"], ["o9"]),
        ({"default_model": "own", "bypass_model": True}, ["own", "whatever"], []),
    ],
    ids=["patterns", "one upstream", "default", "bypass"],
)
def test_what_the_configuration_names_is_found(
    upstream: ThreadedUpstream, block: dict[str, Any], found: list[str], missing: list[str]
) -> None:
    """Whatever the upstream lists; a pattern alone names nothing."""
    with served(proxy(p=provider(upstream, **block))) as base:
        assert {name: looked_up(base, name).status_code for name in found} == dict.fromkeys(found, 200)
        assert {name: looked_up(base, name).status_code for name in missing} == dict.fromkeys(missing, 404)


def test_a_name_of_several_targets_is_found(upstream: ThreadedUpstream) -> None:
    """A name under `models` stands in the configuration, whatever its targets are called upstream."""
    models = {"smart": {"targets": ["p/hidden"]}}
    made = LLMProxy({"providers": {"p": provider(upstream)}, "models": models, "access": {"mode": "open"}})
    with served(made) as base:
        assert looked_up(base, "smart").status_code == 200
    assert asked(upstream) == 0


def test_one_of_several_upstreams_is_enough(upstream: ThreadedUpstream) -> None:
    """A bare name may be served by the second provider; one whose list is unknown may serve anything."""
    with Upstream.in_thread(default=json_answer(200, {"data": [{"id": "llama"}]})) as second:
        with served(proxy(one=provider(upstream), two=provider(second))) as base:
            found = [looked_up(base, name).status_code for name in ("llama", "o3", "two/llama", "one/llama", "no")]
            assert found == [200, 200, 200, 404, 404]
        second.on("/v1/models", error_answer(500, {}))
        with served(proxy(one=provider(upstream), two=provider(second))) as base:
            assert looked_up(base, "no").status_code == 200
            assert looked_up(base, "one/no").status_code == 404


def test_a_grant_is_looked_at_before_the_upstream_is_asked(upstream: ThreadedUpstream) -> None:
    """Names that a caller may not use cost the upstream nothing, and are as unknown as others."""
    with served(proxy(p=provider(upstream))) as base:
        assert looked_up(base, "gpt-5", key=NARROW).status_code == 404
        assert asked(upstream) == 0
        assert looked_up(base, "o3", key=NARROW).status_code == 200
        assert looked_up(base, "o9", key=NARROW).status_code == 404


@pytest.mark.parametrize(
    "answer",
    [error_answer(500, {}), error_answer(404, {}), json_answer(200, {"data": {}})],
    ids=["500", "no list", "odd"],
)
def test_a_list_that_is_not_known_rules_nothing_out(answer: Scenario) -> None:
    """The call itself would be tried, so the name is found; the upstream is asked once for a while."""
    with Upstream.in_thread(default=answer) as upstream, served(proxy(p=provider(upstream))) as base:
        for name in ("any", "p/any", "models/any"):
            assert looked_up(base, name).status_code == 200
        assert asked(upstream) == 1


def test_a_list_with_more_names_than_are_kept_rules_nothing_out() -> None:
    """A name may be among those that were left out."""
    many = {"data": [{"id": f"m{number}"} for number in range(MAX_MODELS + 1)]}
    with Upstream.in_thread(default=json_answer(200, many)) as upstream, served(proxy(p=provider(upstream))) as base:
        assert looked_up(base, "other").status_code == 200


@pytest.mark.anyio
async def test_a_list_that_could_not_be_renewed_rules_nothing_out(
    upstream: ThreadedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of before are still listed, but a new one may have come since."""
    clock = FakeClock()
    gateway = Gateway({"providers": {"p": provider(upstream)}})
    monkeypatch.setattr(gateway._shared.listings, "_clock", clock)
    listings = gateway._shared.listings
    assert await gateway.list_models() == ["gpt-5", "o3"]
    (one,) = gateway._engine.runtime.catalog.open_ended()
    assert not listings.may_serve(one, "new")
    upstream._rules.clear()
    upstream.on("/v1/models", error_answer(500, {}))
    clock.at += CACHE_TTL
    assert await gateway.list_models() == ["gpt-5", "o3"]
    assert listings.may_serve(one, "new")
    await gateway.aclose()


def test_names_that_quote_the_credential_are_left_out() -> None:
    """What an upstream lists reaches callers, the key that it was asked with does not."""
    names = json_answer(200, {"object": "list", "data": [{"id": "m-sk-up"}, {"id": "o3"}]})
    with Upstream.in_thread(default=names) as upstream, served(proxy(p=provider(upstream))) as base:
        assert listed(base) == ["o3"]


def test_names_lead_to_the_upstream_that_listed_them(upstream: ThreadedUpstream) -> None:
    """Where a bare name goes to another provider first, it is listed with its provider's name, and is served there."""
    with Upstream.in_thread(default=json_answer(200, chat_answer("hi"))) as second:
        second.on("/v1/models", json_answer(200, {"data": [{"id": "o3"}, {"id": "llama"}]}))
        with served(proxy(one=provider(upstream), two=provider(second))) as base:
            names = listed(base)
            assert names == ["gpt-5", "o3", "two/o3", "two/llama"]
            for name in names:
                answer = httpx2.post(
                    base + "/v1/chat/completions",
                    json=chat_body(model=name),
                    headers={"x-api-key": KEY},
                    trust_env=False,
                )
                assert answer.status_code == 200
        models = [[request.json()["model"] for request in each.requests if request.body] for each in (upstream, second)]
        assert models == [["gpt-5", "o3"], ["o3", "llama"]]


@pytest.mark.parametrize("vendor", ["anthropic", "gemini"])
def test_pages_are_followed(vendor: str) -> None:
    """Anthropic's by `after_id`, Google's by `pageToken`; a page that leads to itself ends it."""

    def page(received: Received) -> Scenario:
        if vendor == "anthropic":
            found = {
                "limit=1000": {"data": [{"id": "a"}, {"id": "b"}], "has_more": True, "last_id": "b"},
                "limit=1000&after_id=b": {"data": [{"id": "c"}], "has_more": True, "last_id": "b"},
            }
        else:
            found = {
                "pageSize=1000": {"models": [{"name": "models/a"}, {"name": "models/b"}], "nextPageToken": "t/1"},
                "pageSize=1000&pageToken=t%2F1": {"models": [{"name": "models/c"}]},
            }
        return json_answer(200, found[received.query])

    with Upstream.in_thread(default=page) as upstream:
        with served(proxy(p=provider(upstream, vendor))) as base:
            assert listed(base) == ["a", "b", "c"]
        assert len(upstream.requests) == 2
        name, value = ("x-api-key", "sk-up") if vendor == "anthropic" else ("x-goog-api-key", "sk-up")
        assert all(request.header(name) == value for request in upstream.requests)


@pytest.mark.parametrize(
    "answer",
    [
        error_answer(500, {"error": {"message": "broken"}}),
        error_answer(404, {"error": {"message": "no such path"}}),
        error_answer(429, {"error": {"message": "slow down"}}, headers={"retry-after": "60"}),
        json_answer(200, {"data": {}}),
    ],
    ids=["500", "404", "429", "odd"],
)
def test_a_failure_breaks_no_listing_and_no_call(answer: Scenario) -> None:
    """What is known is listed, the failure is remembered for a while, and nothing cools down for it."""
    with Upstream.in_thread(default=json_answer(200, chat_answer("hi"))) as upstream:
        upstream.on("/v1/models", answer)
        with served(proxy(p=provider(upstream), q=provider(upstream, models=["mine"]))) as base:
            for _ in range(3):
                assert listed(base) == ["mine"]
            called = httpx2.post(
                base + "/v1/chat/completions",
                json=chat_body(model="p/any"),
                headers={"x-api-key": KEY},
                trust_env=False,
            )
            assert called.status_code == 200
        assert asked(upstream) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (error_answer(401, {"error": {"message": "bad key sk-up", "code": "invalid_api_key"}}), "401 invalid_api_key"),
        (json_answer(302, {}, headers={"location": "https://login.example/in?t=1"}), "302 redirects to https://login"),
        (json_answer(200, {"data": {}}), "list of models cannot be read"),
    ],
    ids=["refused", "redirect", "odd"],
)
def test_the_operator_reads_why_models_are_not_listed(
    caplog: pytest.LogCaptureFixture, answer: Scenario, reason: str
) -> None:
    """An empty list has its reason in the log, without the key."""
    caplog.set_level(logging.INFO, logger="llmproxy_asgi.upstreams")
    with Upstream.in_thread(default=answer) as upstream, served(proxy(p=provider(upstream))) as base:
        assert listed(base) == []
    (line,) = [record.getMessage() for record in caplog.records if record.name == "llmproxy_asgi.upstreams"]
    assert line.startswith("p does not list its models: ")
    assert reason in line
    assert "sk-up" not in line
    assert "t=1" not in line


def test_the_second_key_is_asked_where_the_first_one_is_refused() -> None:
    """A refused key lists nothing; another one may."""

    def by_key(received: Received) -> Scenario:
        good = received.header("authorization") == "Bearer sk-2"
        return json_answer(200, OPENAI) if good else error_answer(401, {"error": {"message": "no"}})

    with Upstream.in_thread(default=by_key) as upstream, ExitStack() as stack:
        base = stack.enter_context(served(proxy(p=provider(upstream, api_key=["sk-1", "sk-2"]))))
        assert listed(base) == ["gpt-5", "o3"]


def test_however_many_ask_on_whatever_loops_the_upstream_is_asked_once(upstream: ThreadedUpstream) -> None:
    """Callers in several threads share one question."""
    gateway = Gateway({"providers": {"p": provider(upstream)}})
    found: list[list[str]] = []

    async def ask() -> None:
        found.extend(await asyncio.gather(*(gateway.list_models() for _ in range(5))))

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [["gpt-5", "o3"]] * 20
    assert asked(upstream) == 1
    assert gateway.models() == ["gpt-5", "o3"]


@pytest.mark.anyio
async def test_a_list_is_kept_for_minutes_and_a_failure_for_less(
    upstream: ThreadedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a later request fails, the previous list stays in use."""
    clock = FakeClock()
    gateway = Gateway({"providers": {"p": provider(upstream)}})
    monkeypatch.setattr(gateway._shared.listings, "_clock", clock)
    assert gateway.models() == []
    assert await gateway.list_models() == ["gpt-5", "o3"]
    clock.at += CACHE_TTL - 1
    assert await gateway.list_models() == ["gpt-5", "o3"]
    assert asked(upstream) == 1
    upstream._rules.clear()
    upstream.on("/v1/models", error_answer(500, {}))
    clock.at += 1
    assert await gateway.list_models() == ["gpt-5", "o3"]
    clock.at += FAILURE_TTL - 1
    assert await gateway.list_models() == ["gpt-5", "o3"]
    assert asked(upstream) == 2
    upstream._rules.clear()
    upstream.on("/v1/models", json_answer(200, json.loads('{"data": [{"id": "new"}]}')))
    clock.at += 1
    assert await gateway.list_models() == ["new"]
    await gateway.aclose()


@pytest.mark.anyio
async def test_a_caller_who_leaves_breaks_nothing_off() -> None:
    """What one no longer waits for, another gets; the upstream was asked once."""
    gate = Gate()
    head, *rest = json_answer(200, OPENAI).steps
    with Upstream.in_thread(default=Scenario(Hold(gate), head, *rest)) as upstream:
        async with Gateway({"providers": {"p": provider(upstream)}}) as gateway:
            leaving, staying = (asyncio.create_task(gateway.list_models()) for _ in range(2))
            await asyncio.to_thread(upstream.wait_for_requests, 1)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            gate.set()
            assert await staying == ["gpt-5", "o3"]
        assert len(upstream.requests) == 1


def test_a_loop_that_is_closed_while_it_asks_keeps_nobody_waiting(upstream: ThreadedUpstream) -> None:
    """The next caller asks anew."""
    gateway = Gateway({"providers": {"p": provider(upstream)}})
    loop = asyncio.new_event_loop()
    stopped = loop.create_task(gateway.list_models())
    loop.run_until_complete(asyncio.sleep(0))
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
    assert stopped.cancelled()
    loop.close()
    assert asyncio.run(gateway.list_models()) in (["gpt-5", "o3"], [])
