"""The Python API: `Gateway` and the short client, over simulated models."""

import asyncio
import os
import threading
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any

import httpx2
import openai
import pytest

from llmproxy_asgi import Config, Gateway, MisuseError, Principal, UpstreamError, create_llm_client
from llmproxy_asgi.client import LLMClient
from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.conversation import Ended, Message, Started, Text
from llmproxy_asgi.errors import BadRequest, ConfigError, GatewayError, ModelNotFound, RateLimited, UpstreamTimeout
from llmproxy_asgi.facts import CallFinished, CallRefused, QueueLeft
from support.telemetry import RecordingObserver

SIMULATED: dict[str, Any] = {"providers": {"simulated": {}}}
HANG = 20.0  # seconds after which a wait is a failure; nothing here depends on how long it takes
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.mark.anyio
async def test_a_response_has_text_calls_and_usage() -> None:
    """The most common values are attributes."""
    async with Gateway(SIMULATED) as gateway:
        reply = await gateway.complete(model="echo", messages=HELLO, principal="alice")
        assert reply.text.endswith("hello there")
        assert reply.usage.total > 0
        tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
        called = await gateway.complete(model="tools", messages=HELLO, tools=[tool], principal=Principal("bob"))
        assert [call.name for call in called.tool_calls] == ["weather"]
        assert "echo" in {name.rpartition("/")[2] for name in gateway.models()}


@pytest.mark.anyio
async def test_a_stream_is_events_from_started_to_ended() -> None:
    """Leaving early closes the upstream and leaves no task."""
    async with Gateway(SIMULATED) as gateway:
        events = [event async for event in gateway.stream(model="echo", messages=HELLO)]
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Ended)
        stream = gateway.stream(model="story", messages=HELLO)
        await anext(stream)
        await stream.aclose()


@pytest.mark.anyio
async def test_each_event_may_be_asked_for_by_another_task() -> None:
    """A silent upstream is detected for every kind of waiting, also with `asyncio.wait_for` around each event."""
    config = {"providers": {"simulated": {"timeout": {"idle": 0.05}}}}
    async with Gateway(config) as gateway, aclosing(gateway.stream(model="stall", messages=HELLO)) as stream:

        async def one_more() -> object:
            return await anext(stream)

        async def everything() -> None:
            while True:
                await asyncio.wait_for(asyncio.create_task(one_more()), HANG)

        with pytest.raises(UpstreamTimeout) as late:
            await everything()
    assert late.value.code == "upstream_idle_timeout"


@pytest.mark.anyio
async def test_messages_are_dicts_or_the_models_own_or_both() -> None:
    """Accept dicts and `Message` objects, mixed as well."""
    own = Message(role="user", parts=(Text(text="my own"),))
    async with Gateway(SIMULATED) as gateway:
        assert (await gateway.complete(model="echo", messages=[own])).text.endswith("my own")
        mixed: list[Any] = [{"role": "system", "content": "be brief"}, own]
        assert (await gateway.complete(model="echo", messages=mixed)).text.endswith("my own")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"model": "no-such-model-here/x", "messages": HELLO}, UpstreamError),
        ({"model": "echo", "messages": "hello"}, BadRequest),
        ({"model": "echo", "messages": [{"role": "wizard", "content": "x"}]}, BadRequest),
        ({"model": "echo", "messages": HELLO, "temperature": "hot"}, BadRequest),
        ({"model": "echo", "messages": HELLO, "tools": object()}, BadRequest),
        ({"model": "echo", "messages": HELLO, "stream": True}, BadRequest),
        ({"model": "echo", "messages": HELLO, "principal": True}, MisuseError),
        ({"model": "echo", "messages": HELLO, "principal": ""}, MisuseError),
        ({"model": "error-500", "messages": HELLO}, UpstreamError),
        ({"model": "a\nb", "messages": HELLO}, ModelNotFound),
    ],
)
async def test_errors_are_raised(asked: dict[str, Any], error: type[Exception]) -> None:
    """Raise the errors that HTTP clients receive as statuses."""
    async with Gateway({"providers": {"simulated": {"retry": {"attempts": 1}}}}) as gateway:
        with pytest.raises(error):
            await gateway.complete(**asked)


@pytest.mark.anyio
async def test_refusals_are_recorded() -> None:
    """A refused request is reported once, for every way of calling; a call is reported as a call alone."""
    observer = RecordingObserver()
    config = {**SIMULATED, "access": {"default": {"rate_limit": {"requests_per_second": 0.01, "burst": 1}}}}
    async with Gateway(config, observers=[observer]) as gateway:

        async def refused(asking: Awaitable[object], error: type[GatewayError]) -> CallRefused:
            observer.facts.clear()
            with pytest.raises(error):
                await asking
            (fact,) = (each for each in observer.facts if not isinstance(each, QueueLeft))
            assert isinstance(fact, CallRefused)
            assert fact.request_id
            return fact

        async def read() -> None:
            async for _ in gateway.stream(model="echo", messages=[{"role": "wizard"}]):
                pass

        assert (await refused(gateway.complete(model="a\nb", messages=HELLO), ModelNotFound)).status == 404
        assert (await refused(read(), BadRequest)).protocol == "openai-chat"
        assert (await refused(gateway.embed(model="a\nb", input="x"), ModelNotFound)).protocol == "openai-embeddings"
        assert (await refused(gateway.count_tokens(model="a\nb", messages=HELLO), ModelNotFound)).kind
        await gateway.complete(model="echo", messages=HELLO, principal="ada")
        told = await refused(gateway.complete(model="echo", messages=HELLO, principal="ada"), RateLimited)
        assert (told.status, told.kind, told.error) == (429, "rate_limit", "RateLimited")
        observer.facts.clear()
        with pytest.raises(UpstreamError):
            await gateway.complete(model="error-400", messages=HELLO)
        assert [type(fact) for fact in observer.facts if isinstance(fact, CallRefused | CallFinished)] == [CallFinished]


# ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_a_drained_gateway_refuses_until_it_is_reopened() -> None:
    """In-process clients get a 503, too; the default window is the configured one."""
    async with Gateway({**SIMULATED, "drain_timeout": 0.01}) as gateway, gateway.openai(max_retries=0) as client:
        asked: Any = {"model": "echo", "messages": HELLO}
        await gateway.drain()
        with pytest.raises(openai.InternalServerError) as refused:
            await client.chat.completions.create(**asked)
        assert (refused.value.status_code, refused.value.code) == (503, "shutting_down")
        gateway.reopen()
        assert (await client.chat.completions.create(**asked)).choices[0].message.content
        await gateway.drain(0)
        gateway.reopen()
        assert (await gateway.complete(model="echo", messages=HELLO)).text


@pytest.mark.anyio
async def test_a_drain_waits_for_a_stream_and_then_ends_it() -> None:
    """A stream that is open after the window gets an error; nothing remains open."""
    async with Gateway(SIMULATED) as gateway, gateway.openai(max_retries=0) as client:
        asked: Any = {"model": "stall", "messages": HELLO, "stream": True}
        stream: Any = await client.chat.completions.create(**asked)
        await anext(stream)
        draining = asyncio.create_task(gateway.drain(0.01))
        with pytest.raises(openai.APIError, match="shutting down"):
            async for _ in stream:
                pass
        await draining


@pytest.mark.anyio
async def test_a_reload_changes_later_calls_only() -> None:
    """An invalid configuration changes nothing."""
    async with Gateway(SIMULATED) as gateway:
        stream = gateway.stream(model="simulated/echo", messages=HELLO)
        assert isinstance(await anext(stream), Started)
        await gateway.reload({"providers": {"other": {"type": "simulated"}}})
        assert [*gateway.config.providers] == ["other"]
        assert isinstance([event async for event in stream][-1], Ended)
        with pytest.raises(ConfigError):
            await gateway.reload({"providers": {"other": {"type": "nobody"}}})
        assert (await gateway.complete(model="other/echo", messages=HELLO)).text


@pytest.mark.anyio
async def test_health_checks_all_providers_concurrently() -> None:
    """Return results by provider name; skip disabled providers."""
    gone = httpx2.MockTransport(lambda _: httpx2.Response(401))
    providers = {
        "simulated": {},
        "bad": {"type": "openai-compatible", "base_url": "https://upstream.invalid/v1", "api_key": "sk-x"},
        "off": {"type": "simulated", "enabled": False},
    }
    async with Gateway({"providers": providers}, transport={"bad": gone}) as gateway:
        found = await gateway.health()
    assert {name: (each.healthy, each.reason) for name, each in found.items()} == {
        "simulated": (True, ""),
        "bad": (False, "401 with no content type, an empty body (asked upstream.invalid:443/v1/models)"),
    }
    assert all(each.seconds >= 0 and each.checked_at.tzinfo for each in found.values())


# ── the short client ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_the_short_client_gives_text_in_four_ways() -> None:
    """Complete, collected with a callback, piece by piece, and several concurrently in order."""
    async with create_llm_client("Simulated", model="echo") as llm:
        whole = await llm.generate(HELLO)
        told: list[str] = []
        assert await llm.generate(HELLO, on_text=told.append) == whole == "".join(told)
        assert "".join([piece async for piece in llm.generate_stream(HELLO)]) == whole
        several = await llm.generate_multiple([[{"role": "user", "content": f"n{n}"}] for n in range(5)], concurrency=2)
        assert [text[-2:] for text in several] == ["n0", "n1", "n2", "n3", "n4"]


@pytest.mark.anyio
async def test_closing_a_stream_of_text_closes_the_upstream() -> None:
    """Close it when its reader closes it, or when a callback fails."""
    observer = RecordingObserver()
    async with LLMClient(Gateway(SIMULATED, observers=[observer]), model="story") as llm:

        def outcomes() -> list[str]:
            return [fact.outcome for fact in observer.facts if isinstance(fact, CallFinished)]

        pieces = llm.generate_stream(HELLO)
        await anext(pieces)
        await pieces.aclose()
        assert outcomes() == ["cancelled"]

        def failing(_piece: str) -> None:
            raise LookupError

        with pytest.raises(LookupError) as failed:
            await llm.generate(HELLO, on_text=failing)
        assert failed.value.__traceback__ is not None  # and it holds the frames of the reader
        assert outcomes() == ["cancelled", "cancelled"]


@pytest.mark.anyio
async def test_the_first_failure_of_several_is_raised() -> None:
    """Raise it without a group, and cancel the others."""
    async with create_llm_client("simulated", model="error-500") as llm:
        with pytest.raises(UpstreamError):
            await llm.generate_multiple([HELLO, HELLO])
        with pytest.raises(ValueError, match="concurrency"):
            await llm.generate_multiple([HELLO], concurrency=0)


def test_the_synchronous_method_refuses_to_run_in_a_loop() -> None:
    """It would block the event loop."""
    llm = create_llm_client("simulated", model="echo")
    assert llm.generate_sync(HELLO).endswith("hello there")

    async def inside() -> None:
        llm.generate_sync(HELLO)

    with pytest.raises(MisuseError, match="await generate"):
        asyncio.run(inside())


def test_providers_are_named_in_any_case_and_unknown_ones_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generic` is any compatible server; keys and addresses default to the environment."""
    with pytest.raises(ValueError, match=r"unknown provider 'nobody'; known: anthropic.*generic"):
        create_llm_client("nobody", model="x")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    monkeypatch.setenv("GENERIC_API_BASE_URL", "http://127.0.0.1:1/v1")
    block = create_llm_client("OpenAI", model="x", timeout="5m").gateway.config.providers["openai"]
    assert block.api_key is not None
    assert block.api_key[0].reveal() == "sk-from-the-environment"
    assert block.timeout.total == 300
    generic = create_llm_client("Generic", model="x").gateway.config.providers["generic"]
    assert (generic.type, generic.base_url) == ("openai-compatible", "http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("provider", "arguments", "finding"),
    [
        ("OpenAI", {}, "an API key is needed for openai (api_key): pass api_key=, or set OPENAI_API_KEY"),
        ("gemini", {}, "an API key is needed for gemini (api_key): pass api_key=, or set GEMINI_API_KEY"),
        ("generic", {}, "an address is needed for generic (base_url): pass base_url=, or set GENERIC_API_BASE_URL"),
        (
            "openai_compatible",
            {},
            "an address is needed for openai-compatible (base_url): pass base_url=, or set OPENAI_C",
        ),
        ("openai", {"api_key": "sk-1 "}, "api_key: must be printable ASCII without space around it"),
        ("generic", {"base_url": "https://h/v1/chat/completions"}, "base_url: ends in the path of an endpoint"),
        ("simulated", {"timeout": "soon"}, "timeout: a duration is like 250ms"),
    ],
)
def test_a_missing_value_names_argument_and_variable(
    provider: str, arguments: dict[str, str], finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name the argument, and the variable that would replace it."""
    for name in [name for name in os.environ if name.endswith(("_API_KEY", "_API_BASE_URL"))]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError) as refused:
        create_llm_client(provider, model="x", **arguments)  # type: ignore[arg-type]
    assert [line[: len(finding)] for line in dict.fromkeys(refused.value.findings)][:1] == [finding]


def test_an_invalid_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report a line break at the end of a variable with its name."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment\n")
    with pytest.raises(ConfigError) as refused:
        create_llm_client("openai", model="x")
    assert refused.value.findings == ("OPENAI_API_KEY: must be printable ASCII without space around it",)


@pytest.mark.anyio
async def test_a_reload_reads_beside_the_loop_and_the_last_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls continue while a file is read, and an earlier reload never undoes a later one."""
    reads, first_may_go_on, threads = threading.Event(), threading.Event(), []

    def slow(source: dict[str, object]) -> Config:
        threads.append(threading.current_thread())
        reads.set()
        if source["keepalive"] == 1:
            assert first_may_go_on.wait(timeout=60)
        return load_config(source)

    async with Gateway(SIMULATED) as gateway:
        monkeypatch.setattr("llmproxy_asgi.gateway.load_config", slow)
        first = asyncio.create_task(gateway.reload({**SIMULATED, "keepalive": 1}))
        assert await asyncio.to_thread(reads.wait, 60)
        assert (await gateway.complete(model="simulated/echo", messages=HELLO)).text.endswith("hello there")
        await gateway.reload({**SIMULATED, "keepalive": 2})
        first_may_go_on.set()
        await first
        assert gateway.config.keepalive == 2
    assert threading.main_thread() not in threads
