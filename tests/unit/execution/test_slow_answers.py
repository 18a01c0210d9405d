"""Unless configured, timeouts are as long as the vendors' own SDKs wait, and no call is paid for twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import Gateway
from llmproxy_asgi.conversation import StreamEvent
from llmproxy_asgi.errors import UpstreamTimeout, UpstreamTooSlow
from llmproxy_asgi.settings import Timeouts
from support.clock import FakeTimeLoop
from support.gateway import chat_answer, chat_frames

MINUTE = 60.0
HELLO = [{"role": "user", "content": "hi"}]

Answering = Callable[[httpx2.Request], Coroutine[Any, Any, httpx2.Response]]


def in_fake_time(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        runner.run(coroutine)


def whole_after(seconds: float, asked: list[str]) -> Answering:
    """An upstream with slow whole responses that records the requested hosts."""

    async def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        if request.url.host == "slow.example":
            await asyncio.sleep(seconds)
        return httpx2.Response(200, json=chat_answer(request.url.host))

    return answer


def gateway(answer: Answering, *names: str, **block: Any) -> Gateway:
    """A gateway with only its upstreams configured, tried in this order."""
    providers = {
        name: {"type": "openai-compatible", "base_url": f"https://{name}.example/v1", "api_key": "k", **block}
        for name in names
    }
    models = {"m": {"targets": [f"{name}/m" for name in names]}}
    return Gateway({"providers": providers, "models": models}, transport=httpx2.MockTransport(answer))


async def drained(opened: Gateway) -> list[StreamEvent]:
    return [event async for event in opened.stream(model="m", messages=HELLO)]


def test_the_defaults_are_those_of_the_contract() -> None:
    """Connect 5 s, first byte 10 min, idle 5 min, total 1 h."""
    assert Timeouts().model_dump() == {"connect": 5.0, "first_byte": 600.0, "idle": 300.0, "total": 3600.0}


def test_a_whole_answer_of_nine_minutes_is_served() -> None:
    """Ask for it once, and let no timeout end it."""
    asked: list[str] = []

    async def run() -> None:
        async with gateway(whole_after(9 * MINUTE, asked), "slow") as opened:
            assert (await opened.complete(model="m", messages=HELLO)).text == "slow.example"
        assert asyncio.get_running_loop().time() >= 9 * MINUTE

    in_fake_time(run())
    assert asked == ["slow.example"]


def test_a_stream_with_long_pauses_is_served() -> None:
    """The first event after nine minutes, and pauses of four and a half, up to the hour."""

    async def frames() -> AsyncIterator[bytes]:
        first, *rest = chat_frames(*"abcdefgh")
        await asyncio.sleep(9 * MINUTE)
        yield first
        for frame in rest:
            await asyncio.sleep(4.5 * MINUTE)
            yield frame

    async def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=frames())

    async def run() -> None:
        async with gateway(answer, "slow") as opened:
            events = await drained(opened)
        assert type(events[-1]).__name__ == "Ended"

    in_fake_time(run())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_first_byte_timeout_is_not_tried_again_on_the_same_target(stream: bool) -> None:
    """The upstream may bill the first request; with retries left the second is not sent."""
    asked: list[str] = []

    async def run() -> None:
        async with gateway(whole_after(11 * MINUTE, asked), "slow", retry={"attempts": 5}) as opened:
            with pytest.raises(UpstreamTooSlow) as caught:
                await (drained(opened) if stream else opened.complete(model="m", messages=HELLO))
        assert (caught.value.status, caught.value.code) == (504, "upstream_first_byte_timeout")

    in_fake_time(run())
    assert asked == ["slow.example"]


def test_a_first_byte_timeout_fails_over() -> None:
    """A shorter `first_byte` makes room for the next target, once."""
    asked: list[str] = []

    async def run() -> None:
        answer = whole_after(11 * MINUTE, asked)
        async with gateway(answer, "slow", "quick", timeout={"first_byte": "30s"}) as opened:
            assert (await opened.complete(model="m", messages=HELLO)).text == "quick.example"
        assert asyncio.get_running_loop().time() < MINUTE

    in_fake_time(run())
    assert asked == ["slow.example", "quick.example"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_first_byte_clock_holds_no_time_for_connecting(stream: bool) -> None:
    """It runs from when the request was sent, which took a while here; `connect` adds nothing to it."""
    sent = SimpleNamespace(method=b"POST")

    async def answer(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(20)
        for event in ("http11.send_request_headers.started", "http11.send_request_body.complete"):
            await request.extensions["trace"](event, {"request": sent})
        await asyncio.sleep(MINUTE)
        return httpx2.Response(200)

    async def run() -> None:
        async with gateway(answer, "slow", timeout={"connect": "10m", "first_byte": "15s"}) as opened:
            with pytest.raises(UpstreamTooSlow) as caught:
                await (drained(opened) if stream else opened.complete(model="m", messages=HELLO))
        assert caught.value.code == "upstream_first_byte_timeout"
        assert 35 <= asyncio.get_running_loop().time() < 36

    in_fake_time(run())


def test_an_answer_that_stops_before_its_first_event_is_not_tried_again() -> None:
    """Headers, a comment, then silence: the idle timeout ends it, and it was under way just as much."""
    asked: list[str] = []

    async def silence() -> AsyncIterator[bytes]:
        yield b": working\n\n"
        await asyncio.sleep(60 * MINUTE)

    async def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=silence())

    async def run() -> None:
        async with gateway(answer, "slow") as opened:
            with pytest.raises(UpstreamTooSlow) as caught:
                await drained(opened)
        assert caught.value.code == "upstream_idle_timeout"

    in_fake_time(run())
    assert asked == ["slow.example"]


def test_no_connection_in_time_is_tried_again() -> None:
    """Nothing was sent, so nothing can be paid for twice."""
    asked: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        raise httpx2.ConnectTimeout("late", request=request)

    async def run() -> None:
        async with gateway(answer, "slow", retry={"attempts": 2, "backoff": 0}) as opened:
            with pytest.raises(UpstreamTimeout):
                await opened.complete(model="m", messages=HELLO)

    in_fake_time(run())
    assert asked == ["slow.example"] * 2


def test_a_counter_that_hangs_is_not_waited_for_as_long_as_an_answer() -> None:
    """Counting generates nothing: it ends after a minute."""

    async def answer(_: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(60 * MINUTE)
        return httpx2.Response(200, content=json.dumps({"input_tokens": 3}))

    async def run() -> None:
        config = {"providers": {"anthropic": {"api_key": "k"}}}
        async with Gateway(config, transport=httpx2.MockTransport(answer)) as opened:
            with pytest.raises(UpstreamTooSlow):
                await opened.count_tokens(model="anthropic/m", messages=HELLO)
        assert asyncio.get_running_loop().time() < 2 * MINUTE

    in_fake_time(run())


def test_a_health_check_that_hangs_is_not_waited_for_as_long_as_an_answer() -> None:
    """A check is over within the interval in which it is made, more or less."""

    async def answer(_: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(60 * MINUTE)
        return httpx2.Response(200)

    async def run() -> None:
        async with gateway(answer, "slow") as opened:
            found = await opened.health()
        assert not found["slow"].healthy
        assert asyncio.get_running_loop().time() < MINUTE

    in_fake_time(run())
