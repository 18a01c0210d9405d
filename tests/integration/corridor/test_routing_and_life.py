"""What callers see of routing, of readiness, and of a gateway that drains or takes up another configuration."""

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import Gate, Hold, ThreadedUpstream, Upstream, error_answer, json_answer, sse_answer
from support.gateway import chat_answer, chat_body, chat_delta, chat_frames, messages_body, served

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


@pytest.fixture
def upstreams() -> Iterator[list[ThreadedUpstream]]:
    """Three, each saying its number."""
    with ExitStack() as stack:
        made = [stack.enter_context(Upstream.in_thread()) for _ in range(3)]
        for number, upstream in enumerate(made):
            upstream.default = json_answer(200, chat_answer(str(number)))
        yield made


def gateway(upstreams: list[ThreadedUpstream], **route: Any) -> LLMProxy:
    return LLMProxy(configuration(upstreams, **route))


def configuration(upstreams: list[ThreadedUpstream], **route: Any) -> dict[str, Any]:
    """One name over all upstreams."""
    block = {"type": "openai-compatible", "api_key": ["sk-1", "sk-2"], "retry": {"attempts": 1}, "cooldown": 0}
    providers = {f"up{n}": {**block, "base_url": one.base_url + "/v1"} for n, one in enumerate(upstreams)}
    targets = [f"up{n}/m{n}" for n in range(len(upstreams))]
    return {
        "providers": providers,
        "models": {"m": {"targets": targets, **route}},
        "access": {"mode": "open"},
        "endpoints": {"explain": True},
    }


class Life:
    """Runs a coroutine of the gateway's on the loop that serves it, as a host's own code would."""

    def __init__(self, proxy: LLMProxy) -> None:
        self._proxy = proxy
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._loop = asyncio.get_running_loop()
        await self._proxy(scope, receive, send)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Future[None]":
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)  # type: ignore[return-value]


def post(base: str, body: dict[str, Any], path: str = CHAT, **headers: str) -> httpx2.Response:
    with httpx2.Client(timeout=30, trust_env=False) as client:
        return client.post(base + path, json=body, headers=headers)


def said(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def steps(answer: httpx2.Response) -> list[tuple[str, str, str]]:
    told = json.loads(answer.headers["x-llmproxy-explain"])
    return [(step["target"], step["outcome"], step.get("why", "")) for step in told]


# ── where calls go ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_round_robin_spreads_calls_evenly(upstreams: list[ThreadedUpstream]) -> None:
    """New conversations go round."""
    with served(gateway(upstreams, strategy="round_robin")) as base:
        assert [said(post(base, chat_body())) for _ in range(6)] == ["0", "1", "2", "0", "1", "2"]


def test_a_conversation_stays_where_it_was_with_its_key(upstreams: list[ThreadedUpstream]) -> None:
    """Its prompt cache is there; other conversations go round all the same."""
    with served(gateway(upstreams, strategy="round_robin")) as base:
        talks: dict[str, list[dict[str, str]]] = {name: [] for name in ("a", "b", "c", "d")}
        served_by: dict[str, set[tuple[str, str]]] = {name: set() for name in talks}
        for _ in range(3):
            for name, messages in talks.items():
                messages.append({"role": "user", "content": f"I am {name}"})
                where = said(post(base, {"model": "m", "messages": messages}))
                key = upstreams[int(where)].requests[-1].header("authorization") or ""
                served_by[name].add((where, key))
                messages.append({"role": "assistant", "content": where})
    assert all(len(places) == 1 for places in served_by.values()), served_by
    assert len({place for places in served_by.values() for place, _ in places}) == 3


def test_a_conversation_moves_when_its_place_fails_and_stays_there(upstreams: list[ThreadedUpstream]) -> None:
    """Being served counts for more than a cache; afterwards the cache is elsewhere."""
    first, *_ = upstreams
    turn = {"role": "user", "content": "hi"}
    later = [turn, {"role": "assistant", "content": "0"}, turn]
    with served(gateway(upstreams)) as base:
        assert said(post(base, {"model": "m", "messages": [turn]})) == "0"
        first.enqueue(error_answer(500, {"error": {"message": "boom"}}))
        assert said(post(base, {"model": "m", "messages": later})) == "1"
        assert said(post(base, {"model": "m", "messages": later})) == "1"
        assert said(post(base, chat_body())) == "0"


def test_without_affinity_the_strategy_alone_decides(upstreams: list[ThreadedUpstream]) -> None:
    """For hosts that want just that."""
    turn = {"role": "user", "content": "hi"}
    later = {"model": "m", "messages": [turn, {"role": "assistant", "content": "0"}, turn]}
    with served(gateway(upstreams, strategy="round_robin", affinity=False)) as base:
        assert Counter(said(post(base, later)) for _ in range(6)) == {"0": 2, "1": 2, "2": 2}


def test_a_caller_may_name_its_conversation(upstreams: list[ThreadedUpstream]) -> None:
    """Then its words do not matter."""
    with served(gateway(upstreams, strategy="round_robin")) as base:
        places = {said(post(base, chat_body(user=str(n)), **{"x-session-id": "s"})) for n in range(5)}
    assert len(places) == 1


# ── what was tried ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_how_many_requests_went_out_is_told_always_and_why_where_asked(
    upstreams: list[ThreadedUpstream], stream: bool
) -> None:
    """The header names targets and kinds of failures, no upstream's words."""
    first, second, third = upstreams
    first.default = error_answer(529, {"error": {"message": "secret words"}})
    second.default = error_answer(429, {"error": {"message": "secret words"}})
    third.default = sse_answer(chat_frames("2")) if stream else json_answer(200, chat_answer("2"))
    with served(gateway(upstreams)) as base:
        plain = post(base, chat_body(stream=stream))
        asked = post(base, chat_body(stream=stream), **{"x-llmproxy-explain": "1"})
    assert plain.headers["x-llmproxy-attempts"] == "3"
    assert "x-llmproxy-explain" not in plain.headers
    assert steps(asked) == [
        ("up0/m0", "failed", "overloaded"),
        ("up1/m1", "failed", "rate_limit"),
        ("up2/m2", "served", ""),
    ]
    assert "secret" not in str(asked.headers)


def test_a_call_that_failed_tells_it_too(upstreams: list[ThreadedUpstream]) -> None:
    """That is when it is wanted most."""
    for upstream in upstreams:
        upstream.default = error_answer(500, {"error": {"message": "boom"}})
    with served(gateway(upstreams)) as base:
        answer = post(base, chat_body(), **{"x-llmproxy-explain": "1"})
    assert answer.status_code == 502
    assert answer.headers["x-llmproxy-attempts"] == "3"
    assert [step[1] for step in steps(answer)] == ["failed"] * 3


def test_explaining_is_off_unless_it_is_switched_on(upstreams: list[ThreadedUpstream]) -> None:
    """Names of targets are the operator's to show."""
    config = {**configuration(upstreams), "endpoints": {}}
    with served(LLMProxy(config)) as base:
        answer = post(base, chat_body(), **{"x-llmproxy-explain": "1"})
    assert "x-llmproxy-explain" not in answer.headers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_invalid_explain_header_is_refused(upstreams: list[ThreadedUpstream], stream: bool) -> None:
    """Respond with a 400 that names the header, and send nothing to an upstream."""
    with served(gateway(upstreams)) as base:
        answer = post(base, chat_body(stream=stream), **{"x-llmproxy-explain": "yes"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-llmproxy-explain")
    assert answer.headers["x-llmproxy-attempts"] == "0"
    assert not any(upstream.requests for upstream in upstreams)


# ── ready ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def degraded_gateway(upstreams: list[ThreadedUpstream]) -> dict[str, Any]:
    """A configuration with an administrator and another caller."""
    keys = [{"name": "root", "key": ROOT, "groups": ["ops"]}, {"name": "ci", "key": CI}]
    config = configuration(upstreams)
    return {**config, "access": {"keys": keys, "admins": ["group:ops"]}}


ROOT, CI = "sk-root-0123456789abcdef", "sk-ci-0123456789abcdefgh"


def test_upstreams_never_make_a_process_unready(upstreams: list[ThreadedUpstream]) -> None:
    """However many of them ask for a wait: `/ready` stays a 200, says `degraded`, and tells administrators of what."""
    waiting = error_answer(429, {"error": {"message": "slow down"}}, headers={"retry-after": "60"})
    with (
        served(LLMProxy(degraded_gateway(upstreams))) as base,
        httpx2.Client(base_url=base, trust_env=False) as client,
    ):
        key = {"authorization": f"Bearer {CI}"}
        assert client.get("/ready").json() == {"status": "ready"}
        for number, upstream in enumerate(upstreams):
            upstream.default = waiting
            # By both of its keys.
            client.post(CHAT, json=chat_body(), headers=key)
            client.post(CHAT, json=chat_body(), headers=key)
            answer = client.get("/ready")
            last = number == len(upstreams) - 1
            assert (answer.status_code, answer.json()) == (200, {"status": "degraded" if last else "ready"})
        assert client.get("/ready", headers=key).json() == {"status": "degraded"}
        assert client.get("/ready", headers={"authorization": "Bearer nobody"}).json() == {"status": "degraded"}
        told = client.get("/ready", headers={"authorization": f"Bearer {ROOT}"}).json()
        assert told == {"status": "degraded", "degraded": ["m"]}
        assert client.get("/health").status_code == 200


def test_without_a_connection_a_process_is_ready_too(upstreams: list[ThreadedUpstream]) -> None:
    """Refused connections are the same for every process."""
    config = configuration(upstreams[:1])
    config["providers"]["up0"] |= {"base_url": "http://127.0.0.1:1/v1", "cooldown": "30s", "models": None}
    with served(LLMProxy(config)) as base, httpx2.Client(base_url=base, trust_env=False) as client:
        for _ in range(5):
            assert client.post(CHAT, json=chat_body()).status_code == 502
        answer = client.get(
            "/ready", headers={"authorization": "Bearer x"}
        )  # mode: open makes everybody an administrator
        assert (answer.status_code, answer.json()) == (200, {"status": "degraded", "degraded": ["m", "up0/*"]})


def test_without_a_provider_a_process_is_not_ready() -> None:
    """It could serve nothing, and its neighbours may."""
    config = {"providers": {"simulated": {"enabled": False}}, "access": {"mode": "open"}}
    with served(LLMProxy(config)) as base, httpx2.Client(base_url=base, trust_env=False) as client:
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()) == (503, {"status": "no provider is enabled"})
        assert client.get("/health").status_code == 200


# ── one model's trouble ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fault(8)
@pytest.mark.parametrize(("path", "make"), [(CHAT, chat_body), (MESSAGES, messages_body)], ids=["chat", "messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_one_models_limit_is_not_its_neighbours(
    upstreams: list[ThreadedUpstream], path: str, make: Any, *, stream: bool
) -> None:
    """Two models by one key: the one that was limited isn't asked until its wait is over, the other one is served."""
    one = upstreams[0]
    block = {"type": "openai-compatible", "api_key": "sk-1", "base_url": one.base_url + "/v1"}
    config = {"providers": {"p": {**block, "models": ["big", "small"]}}, "access": {"mode": "open"}}
    with served(LLMProxy(config)) as base, httpx2.Client(base_url=base, trust_env=False, timeout=30) as client:
        one.default = error_answer(429, {"error": {"message": "slow down"}}, headers={"retry-after": "60"})
        assert client.post(path, json=make(model="big", stream=stream)).status_code == 429
        one.default = sse_answer(chat_frames("fine")) if stream else json_answer(200, chat_answer("fine"))
        assert "fine" in client.post(path, json=make(model="small", stream=stream)).text
        asked = len(one.requests)
        refused = client.post(path, json=make(model="big", stream=stream))
        assert (refused.status_code, len(one.requests)) == (429, asked)
        assert 50 <= int(refused.headers["retry-after"]) <= 60
        assert "fine" in client.post(path, json=make(model="small", stream=stream)).text


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("error", "headers"),
    [
        ({"message": "slow down", "code": "user_global_rate_limited:pro"}, {}),
        ({"message": "slow down", "type": "organization_rate_limit"}, {}),
        ({"message": "slow down"}, {"anthropic-ratelimit-unified-representative-claim": "five_hour"}),
    ],
    ids=["code", "type", "header"],
)
def test_an_accounts_limit_is_every_models(
    upstreams: list[ThreadedUpstream], error: dict[str, Any], headers: dict[str, str]
) -> None:
    """Where the vendor says that the account is limited, the key's other models are not asked either."""
    one = upstreams[0]
    one.default = error_answer(429, {"error": error}, headers={"retry-after": "60", **headers})
    block = {"type": "openai-compatible", "api_key": "sk-1", "base_url": one.base_url + "/v1"}
    with (
        served(LLMProxy({"providers": {"p": block}, "access": {"mode": "open"}})) as base,
        httpx2.Client(base_url=base, trust_env=False, timeout=30) as client,
    ):
        for model in ("p/big", "p/small"):
            assert client.post(CHAT, json=chat_body(model=model)).status_code == 429
        assert len(one.requests) == 1


@pytest.mark.fault(11)
def test_one_models_failures_are_not_its_neighbours(upstreams: list[ThreadedUpstream]) -> None:
    """Ten times a 500 by one model: the other one is asked all the same."""
    one = upstreams[0]
    block = {"type": "openai-compatible", "api_key": "sk-1", "base_url": one.base_url + "/v1"}
    config = {
        "providers": {"p": {**block, "models": ["big", "small"], "retry": {"attempts": 1}}},
        "models": {"either": {"targets": ["p/big", "p/small"]}},
        "access": {"mode": "open"},
        "endpoints": {"explain": True},
    }
    with served(LLMProxy(config)) as base, httpx2.Client(base_url=base, trust_env=False, timeout=30) as client:
        one.default = error_answer(500, {"error": {"message": "broken"}})
        for _ in range(10):
            assert client.post(CHAT, json=chat_body(model="big")).status_code == 502
        one.default = json_answer(200, chat_answer("fine"))
        answer = client.post(CHAT, json=chat_body(model="either"), headers={"x-llmproxy-explain": "1"})
        steps = json.loads(answer.headers["x-llmproxy-explain"])
        assert [(step["target"], step["outcome"]) for step in steps] == [("p/big", "skipped"), ("p/small", "served")]


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_is_refused_for_every_model(upstreams: list[ThreadedUpstream], status: int) -> None:
    """The failure is about the key: the next model by it goes to the other key at once."""
    one = upstreams[0]
    block = {"type": "openai-compatible", "api_key": ["sk-bad", "sk-good"], "base_url": one.base_url + "/v1"}
    config = {"providers": {"p": {**block, "retry": {"attempts": 2}}}, "access": {"mode": "open"}}
    refused, fine = error_answer(status, {"error": {"message": "no"}}), json_answer(200, chat_answer("fine"))
    with served(LLMProxy(config)) as base, httpx2.Client(base_url=base, trust_env=False, timeout=30) as client:
        one.enqueue(refused, fine)
        assert client.post(CHAT, json=chat_body(model="p/a")).status_code == 200
        asked = len(one.requests)
        one.default = fine
        for model in ("p/b", "p/c", "p/d"):
            assert client.post(CHAT, json=chat_body(model=model)).status_code == 200
        assert len(one.requests) == asked + 3
        bad = one.requests[0].header("authorization")
        assert all(request.header("authorization") != bad for request in one.requests[1:])


# ── draining ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_drain_lets_calls_end_refuses_new_ones_and_interrupts_what_is_left(
    upstreams: list[ThreadedUpstream],
) -> None:
    """One stream of each protocol ends inside the window; another outlasts it and reads its protocol's error."""
    one, two, _ = upstreams
    asks = ((CHAT, chat_body(stream=True)), (MESSAGES, messages_body(stream=True)))
    gate = Gate()
    head = [chat_delta({"role": "assistant", "content": "x"})]
    one.default = sse_answer([*head, Hold(gate), *chat_frames("end")[1:]])
    two.default = sse_answer([*head, Hold(Gate())])
    proxy = gateway([one, two], strategy="round_robin")
    life = Life(proxy)
    with served(life) as base, httpx2.Client(timeout=30, trust_env=False) as client, ExitStack() as stack:
        streams = [
            stack.enter_context(client.stream("POST", base + path, json=body)).iter_text()
            for path, body in asks
            for _ in range(2)  # the strategy takes one upstream after the other
        ]
        assert all(next(stream) for stream in streams)
        drained = life.run(proxy.drain(3))
        while client.get(base + "/ready").status_code == 200:
            pass
        for path, body in asks:
            refused = client.post(base + path, json=body)
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert refused.headers["retry-after"] == "1"
        gate.set()
        assert all("error" not in "".join(ending) for ending in streams[::2])
        assert all("shutting down" in "".join(lasting) for lasting in streams[1::2])
        drained.result(20)  # type: ignore[call-arg]
    assert two.wait_closed(0)
    assert two.wait_closed(1)


# ── another configuration ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reload_changes_new_calls_and_leaves_old_ones_alone(upstreams: list[ThreadedUpstream]) -> None:
    """A stream ends where it began, although its provider was removed; cooldowns stay in force."""
    one, two, three = upstreams
    gate = Gate()
    one.default = sse_answer([chat_delta({"role": "assistant", "content": "x"}), Hold(gate), *chat_frames("old")[1:]])
    proxy = gateway([one, two])
    life = Life(proxy)
    with served(life) as base, httpx2.Client(timeout=30, trust_env=False) as client:
        with client.stream("POST", base + CHAT, json=chat_body(stream=True)) as old:
            pieces = old.iter_text()
            assert next(pieces)
            changed = configuration([two, three])
            life.run(proxy.reload(changed)).result(10)  # type: ignore[call-arg]
            assert said(client.post(base + CHAT, json=chat_body())) == "1"
            gate.set()
            assert "old" in "".join(pieces)
        with pytest.raises(Exception, match="not usable"):
            life.run(proxy.reload({"providers": {"x": {"type": "nonsense"}}})).result(10)  # type: ignore[call-arg]
        assert said(client.post(base + CHAT, json=chat_body())) == "1"


def test_a_provider_of_another_type_under_the_same_name_is_another_provider(upstreams: list[ThreadedUpstream]) -> None:
    """An embedded one brings its own transport, that a real one must not be asked through, and the other way round."""
    embedded = {"providers": {"a": {"type": "simulated", "protocol": "openai-chat"}}, "access": {"mode": "open"}}
    block = {"type": "openai-compatible", "base_url": upstreams[0].base_url + "/v1"}
    real = {"providers": {"a": block}, "access": {"mode": "open"}}
    proxy = LLMProxy(embedded)
    life = Life(proxy)
    body = chat_body(model="a/echo")
    with served(life) as base, httpx2.Client(timeout=30, trust_env=False) as client:
        first = said(client.post(base + CHAT, json=body))
        life.run(proxy.reload(real)).result(10)  # type: ignore[call-arg]
        assert said(client.post(base + CHAT, json=body)) != first
        life.run(proxy.reload(embedded)).result(10)  # type: ignore[call-arg]
        assert said(client.post(base + CHAT, json=body)) == first
    assert len(upstreams[0].requests) == 1
