"""Stored data can be deleted by principal, or not stored at all (`store: never`)."""

import asyncio
from typing import Any

import httpx2
import openai
import pytest

from llmproxy_asgi import ConfigError, Forgotten, Gateway, LLMProxy, MisuseError, Principal
from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.inprocess import ASGITransport
from llmproxy_asgi.principal import Owner
from support.telemetry import RecordingObserver

pytestmark = pytest.mark.anyio

KEY = "llmp_abcdefghijklmnop"
ROUTE = {"models": {"two": {"targets": ["one/echo", "other/echo"]}}}
LIMITED: dict[str, Any] = {
    "providers": {"one": {"type": "simulated"}, "other": {"type": "simulated", "protocol": "anthropic-messages"}},
    **ROUTE,
    "access": {"mode": "open", "default": {"requests_per_minute": 100}, "keys": [{"name": "ada", "key": KEY}]},
}
NEVER: dict[str, Any] = {**LIMITED, "store": "never"}
MODELS = ("one/echo", "other/echo")
"""An upstream that speaks Chat, and one that speaks Messages."""


async def leave_traces(gateway: Gateway, principal: Principal | None) -> list[str]:
    """Create one record of every kind; return the ids of two responses."""
    async with gateway.openai(principal=principal) as client:
        first = await client.responses.create(model="two", input="hello")
        second = await client.responses.create(model="two", input="and?", previous_response_id=first.id)
    owner = Owner.of(principal) if principal else Owner("local", "", "local")
    await gateway._shared.stores("memory").reasoning.put(owner, "call_1", b"{}", ttl=60)
    return [first.id, second.id]


# ── deleted by principal ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_everything_of_one_principal_is_deleted_and_counted() -> None:
    """Delete one principal's responses, reasoning, remembered targets and limits, and keep those of others."""
    ada, namesake, bob = Principal("ada"), Principal("ada", tenant="acme"), Principal("bob")
    async with Gateway(LIMITED) as gateway:
        kept = {principal: await leave_traces(gateway, principal) for principal in (ada, namesake, bob)}
        assert await gateway.forget("ada") == Forgotten(
            responses=2, background=0, reasoning=1, conversations=1, limits=1
        )
        assert await gateway.forget(ada) == Forgotten(responses=0, background=0, reasoning=0, conversations=0, limits=0)
        for principal, ids in kept.items():
            async with gateway.openai(principal=principal) as client:
                for response_id in ids:
                    if principal is ada:
                        with pytest.raises(openai.NotFoundError):
                            await client.responses.retrieve(response_id)
                    else:
                        assert (await client.responses.retrieve(response_id)).id == response_id
        assert (await gateway.forget(namesake)).responses == 2


async def test_a_key_is_forgotten_by_its_kind() -> None:
    """`forget("ada")` deletes records of the user, not of the machine key, anonymous or local callers."""
    proxy = LLMProxy(LIMITED)
    async with httpx2.AsyncClient(transport=ASGITransport(proxy), base_url="http://gateway.invalid") as client:
        for headers in ({"x-api-key": KEY}, {}):
            stored = await client.post("/v1/responses", json={"model": "one/echo", "input": "hi"}, headers=headers)
            assert stored.status_code == 200
    await leave_traces(proxy.gateway, None)
    assert (await proxy.gateway.forget("ada")).responses == 0
    assert (await proxy.gateway.forget("ada", kind="key")).responses == 1
    assert (await proxy.gateway.forget("anonymous", kind="open")).responses == 1
    assert (await proxy.gateway.forget("local", kind="local")).responses == 2
    await proxy.gateway.aclose()


async def test_a_limit_is_reset() -> None:
    """Delete a principal's counts, too."""
    config = {**LIMITED, "access": {"default": {"requests_per_minute": 1}}}
    ask: dict[str, Any] = {"model": "one/echo", "messages": [{"role": "user", "content": "hi"}], "principal": "ada"}
    async with Gateway(config) as gateway:
        await gateway.complete(**ask)
        with pytest.raises(Exception, match="limit of 1 request per minute"):
            await gateway.complete(**ask)
        await gateway.forget("ada")
        await gateway.complete(**ask)


async def test_background_responses_are_cancelled_and_deleted() -> None:
    """Close the upstream of a run in progress, and store nothing of it afterwards."""
    observer = RecordingObserver()
    config: dict[str, Any] = {"providers": {"slow": {"type": "simulated", "delay": "60s"}}}
    async with Gateway(config, observers=[observer]) as gateway, gateway.openai(principal="ada") as client:
        run = await client.responses.create(model="slow/story", input="?", background=True)
        forgotten = await gateway.forget("ada")
        assert (forgotten.background, forgotten.responses) == (1, 1)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(run.id)
        assert [end.outcome for end in observer.finished()] in ([], ["cancelled"])
        assert (await gateway.forget("ada")).responses == 0


async def test_background_responses_on_another_event_loop_are_cancelled() -> None:
    """Cancel runs on the WSGI bridge's loop when `forget` is called on another one."""
    config: dict[str, Any] = {"providers": {"slow": {"type": "simulated", "delay": "60s"}}}
    gateway = Gateway(config)
    async with gateway.openai(principal="ada") as client:
        run = await client.responses.create(model="slow/story", input="?", background=True)
        forgotten = await asyncio.to_thread(lambda: asyncio.run(gateway.forget("ada")))
        assert forgotten.background == 1
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(run.id)
    await gateway.aclose()


async def test_only_a_principal_can_be_forgotten() -> None:
    """Anything else is a mistake in the host's code."""
    async with Gateway(LIMITED) as gateway:
        for wrong in (7.5, True, "", "a\nb"):
            with pytest.raises(MisuseError):
                await gateway.forget(wrong)  # type: ignore[arg-type]


# ── store: never ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", MODELS)
async def test_store_never_stores_nothing(model: str) -> None:
    """The response says `store: false`, a request for storage gets a warning, and nothing can be retrieved."""
    async with Gateway(NEVER) as gateway, gateway.openai(principal="ada") as client:
        for store, warned in ((openai.omit, False), (True, True), (False, False)):
            raw = await client.responses.with_raw_response.create(model=model, input="hi", store=store)
            answer = raw.parse()
            assert answer.output_text == "hi"
            assert answer.model_dump()["store"] is False
            assert ("dropped:store" in raw.headers.get("x-llmproxy-warnings", "")) is warned
            for ask in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
                with pytest.raises(openai.NotFoundError):
                    await ask(answer.id)
        with pytest.raises(openai.BadRequestError, match="store"):
            await client.responses.create(model=model, input="hi", store=True, extra_headers={"x-llmproxy-strict": "1"})
        events = [event async for event in await client.responses.create(model=model, input="hi", stream=True)]
        assert events[-1].type == "response.completed"
        assert events[-1].response.model_dump()["store"] is False
        assert gateway._shared._stores == {}


@pytest.mark.parametrize("model", MODELS)
async def test_requests_that_need_storage_are_refused_by_name(model: str) -> None:
    """Refuse continuations and background responses with a 400 that says what to do instead."""
    async with Gateway(NEVER) as gateway, gateway.openai() as client:
        for param, more in (("previous_response_id", "resp_1"), ("background", True)):
            asked: dict[str, Any] = {"model": model, "input": "hi", param: more}
            with pytest.raises(openai.BadRequestError, match="store: never") as refused:
                await client.responses.create(**asked)
            assert refused.value.param == param
        with pytest.raises(openai.BadRequestError, match="store: never"):
            await client.responses.input_tokens.count(model=model, input="hi", previous_response_id="resp_1")
        assert (await client.responses.input_tokens.count(model=model, input="hi")).input_tokens > 0


async def test_reasoning_state_is_not_stored() -> None:
    """A tool call's reasoning, which is cached otherwise, is not stored."""
    config: dict[str, Any] = {"providers": {"one": {"type": "simulated", "protocol": "anthropic-messages"}}}
    ask: dict[str, Any] = {
        "model": "one/reasoning",
        "messages": [{"role": "user", "content": "What is 6 times 7?"}],
        "reasoning_effort": "high",
    }
    for store in ("allowed", "never"):
        async with Gateway({**config, "store": store}) as gateway:
            await gateway.complete(**ask)
            stores = gateway._shared._stores
            assert (stores == {}) is (store == "never")


async def test_a_reload_to_never_deletes_stored_data() -> None:
    """Delete stored data when the configuration no longer allows it."""
    async with Gateway(LIMITED) as gateway:
        first, _ = await leave_traces(gateway, Principal("ada"))
        await gateway.reload(NEVER)
        await gateway.reload(LIMITED)
        async with gateway.openai(principal="ada") as client:
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(first)


def test_store_never_excludes_allow_stored() -> None:
    """Refuse `allow_stored`, which would let clients store responses at the vendor."""
    block = {"type": "openai", "api_key": "sk-0123456789abcdef", "allow_stored": True}
    with pytest.raises(ConfigError, match=r"providers\.openai\.allow_stored.*store: never"):
        load_config({"providers": {"openai": block}, "store": "never"})
    assert load_config({"providers": {"openai": {**block, "enabled": False}}, "store": "never"})
