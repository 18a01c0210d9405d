"""Each simulated model through a whole gateway, in both protocols it can speak, streamed and not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llmproxy_asgi import Gateway
from llmproxy_asgi.conversation import FinishReason, Response
from llmproxy_asgi.errors import (
    GatewayError,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from llmproxy_asgi.providers.simulated import names
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.stream_validator import StreamValidator

pytestmark = pytest.mark.anyio
HANG = 30.0  # seconds after which a wait is a failure

WIRES = ["openai-chat", "anthropic-messages"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["celsius", "kelvin"]},
                "days": {"type": "integer", "minimum": 2},
            },
            "required": ["city", "unit", "days"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


@asynccontextmanager
async def gateway(wire: str, **settings: Any) -> AsyncIterator[Gateway]:
    """One simulated upstream that speaks `wire`; nothing is tried twice."""
    provider = {"type": "simulated", "protocol": wire, "retry": {"attempts": 1}, **settings}
    async with Gateway({"providers": {"simulated": provider}}) as made:
        yield made


async def ask(opened: Gateway, model: str, *, stream: bool, text: str = "hello there", **options: Any) -> Response:
    """A whole answer, asked for at once or folded from a stream that obeys the grammar."""
    messages = options.pop("messages", None) or [{"role": "user", "content": text}]
    async with asyncio.timeout(HANG):
        if not stream:
            return await opened.complete(model=model, messages=messages, **options)
        events = [event async for event in opened.stream(model=model, messages=messages, **options)]
    validator = StreamValidator()
    for event in events:
        validator.check(event)
    assert validator.complete
    return fold(events)


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_echo_repeats_what_was_said(wire: str, stream: bool) -> None:
    """The last words of the user come back, by either of the model's names, with their count."""
    async with gateway(wire) as opened:
        for model in ("echo", "simulated/echo"):
            answer = await ask(opened, model, stream=stream, text="Grüße, 世界 \N{WAVING HAND SIGN}\n\nand more")
            assert answer.text == "Grüße, 世界 \N{WAVING HAND SIGN}\n\nand more"
            assert answer.finish_reason is FinishReason.STOP
            assert (answer.usage.input, answer.usage.output) == (5, 5)


async def test_echo_says_what_it_sees(wire: str, stream: bool) -> None:
    """Pictures arrive with their type and size."""
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAE="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    async with gateway(wire) as opened:
        answer = await ask(opened, "echo", stream=stream, messages=[{"role": "user", "content": parts}])
    assert answer.text == "look\n\nI see an image (image/png, 20 bytes) and an image (at https://example.com/a.png)."


async def test_story_is_long(wire: str, stream: bool) -> None:
    """At least four hundred words; fewer where the caller sets a limit."""
    async with gateway(wire) as opened:
        answer = await ask(opened, "story", stream=stream)
        assert len(answer.text.split()) >= 400
        assert answer.finish_reason is FinishReason.STOP
        cut = await ask(opened, "story", stream=stream, max_tokens=20)
        assert cut.finish_reason is FinishReason.LENGTH
        assert len(cut.text.split()) == 20


async def test_length_stops_early(wire: str, stream: bool) -> None:
    """`length` always ends for want of tokens."""
    async with gateway(wire) as opened:
        answer = await ask(opened, "length", stream=stream)
    assert answer.finish_reason is FinishReason.LENGTH
    assert 0 < len(answer.text.split()) <= 12


async def test_tools_calls_once_and_quotes_the_result(wire: str, stream: bool) -> None:
    """The first tool is called with arguments that fit its schema; its result is quoted; a new question calls again."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "weather?"}]
    async with gateway(wire) as opened:
        answer = await ask(opened, "tools", stream=stream, messages=messages, tools=[WEATHER, CLOCK])
        assert answer.finish_reason is FinishReason.TOOL_CALLS
        (call,) = answer.tool_calls
        assert call.name == "get_weather"
        assert json.loads(call.arguments) == {"city": "some city", "unit": "celsius", "days": 2}
        called = {"name": call.name, "arguments": call.arguments}
        messages += [
            {"role": "assistant", "tool_calls": [{"id": call.call_id, "type": "function", "function": called}]},
            {"role": "tool", "tool_call_id": call.call_id, "content": "17 degrees"},
        ]
        answer = await ask(opened, "tools", stream=stream, messages=messages, tools=[WEATHER, CLOCK])
        assert answer.text == "get_weather answered: 17 degrees"
        assert not answer.tool_calls
        messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "and now?"}]
        answer = await ask(opened, "tools", stream=stream, messages=messages, tools=[WEATHER, CLOCK])
        assert answer.tool_calls[0].call_id != call.call_id


async def test_tools_obeys_the_callers_choice(wire: str, stream: bool) -> None:
    """A named tool is the one that is called; `none`, or no tool at all, gives words."""
    async with gateway(wire) as opened:
        named = {"type": "function", "function": {"name": "get_time"}}
        answer = await ask(opened, "tools", stream=stream, tools=[WEATHER, CLOCK], tool_choice=named)
        assert [(call.name, call.arguments) for call in answer.tool_calls] == [("get_time", "{}")]
        answer = await ask(opened, "tools", stream=stream, tools=[WEATHER], tool_choice="none")
        assert answer.text == "There is no tool that I may call."
        answer = await ask(opened, "tools", stream=stream)
        assert answer.text == "There is no tool that I may call."


@pytest.mark.parametrize(
    ("tools", "options", "expected"),
    [
        ([WEATHER, CLOCK], {}, ["get_weather", "get_time"]),
        ([CLOCK], {}, ["get_time", "get_time"]),
        ([WEATHER, CLOCK], {"parallel_tool_calls": False}, ["get_weather"]),
    ],
)
async def test_parallel_calls_two(
    wire: str, stream: bool, tools: list[Any], options: dict[str, Any], expected: list[str]
) -> None:
    """The first two tools, or the only one twice, with ids of their own; one where the caller wants one at a time."""
    async with gateway(wire) as opened:
        answer = await ask(opened, "parallel", stream=stream, tools=tools, **options)
    assert [call.name for call in answer.tool_calls] == expected
    assert len({call.call_id for call in answer.tool_calls}) == len(expected)


async def test_json_fits_the_schema(wire: str, stream: bool) -> None:
    """A schema is answered with a value that fits it, plain JSON mode with an object."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
        "required": ["name", "tags"],
        "additionalProperties": False,
    }
    async with gateway(wire) as opened:
        wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
        answer = await ask(opened, "json", stream=stream, response_format=wanted)
        assert json.loads(answer.text) == {"name": "some name", "tags": ["a"]}
        answer = await ask(opened, "json", stream=stream, response_format={"type": "json_object"})
        assert json.loads(answer.text) == {"answer": "hello there"}


async def test_reasoning_is_readable_and_sealed(wire: str, stream: bool) -> None:
    """Thoughts come before words and bring their seal."""
    async with gateway(wire) as opened:
        answer = await ask(opened, "reasoning", stream=stream)
    assert answer.reasoning.startswith("The user wrote 2 words.")
    assert answer.text == "Having thought about your 2 words, I agree with you."
    (seal,) = answer.candidates[0].parts[0].seals
    assert seal.issuer == "provider:simulated"
    assert answer.usage.reasoning == len(answer.reasoning.split())


async def test_refuse_declines_in_the_protocols_own_words(wire: str, stream: bool) -> None:
    """A refusal is a refusal in every protocol."""
    async with gateway(wire) as opened:
        answer = await ask(opened, "refuse", stream=stream)
    # Chat says it in a field of its own and ends with `stop`; Messages ends with `refusal`.
    said = {type(part).__name__: getattr(part, "text", "") for part in answer.candidates[0].parts}
    assert any(text.startswith("I will not do that.") for text in said.values())
    assert "Refusal" in said or answer.finish_reason is FinishReason.REFUSAL


@pytest.mark.parametrize(
    ("status", "expected", "seen"),
    [
        (400, UpstreamRefused, 400),
        (401, UpstreamAuthFailed, 502),
        (403, UpstreamAuthFailed, 502),
        (404, UpstreamRefused, 404),
        (408, UpstreamTimeout, 504),
        (429, UpstreamRateLimited, 429),
        (500, UpstreamFailed, 502),
        (503, UpstreamOverloaded, None),
        (529, UpstreamOverloaded, None),
    ],
)
async def test_errors_mean_what_their_status_says(
    wire: str, stream: bool, status: int, expected: type[UpstreamError], seen: int | None
) -> None:
    """`error-N` is read as an upstream's status N is."""
    async with gateway(wire) as opened:
        with pytest.raises(UpstreamError) as caught:
            await ask(opened, f"error-{status}", stream=stream)
    assert isinstance(caught.value, expected)
    assert caught.value.upstream_status == status
    assert seen is None or caught.value.status == seen
    assert caught.value.retry_after == (1.0 if status == 429 else None)


@pytest.mark.parametrize("model", ["cut", "rubbish"])
async def test_broken_answers_are_the_upstreams_fault(wire: str, stream: bool, model: str) -> None:
    """What breaks its protocol, at once or midway, is never taken for an answer."""
    async with gateway(wire) as opened:
        with pytest.raises(UpstreamProtocolError):
            await ask(opened, model, stream=stream)


async def test_stall_runs_into_the_clocks(wire: str, stream: bool) -> None:
    """An upstream that falls silent is given up when its time is over."""
    async with gateway(wire, timeout={"connect": "50ms", "first_byte": "50ms", "idle": "50ms"}) as opened:
        with pytest.raises(UpstreamTimeout):
            await ask(opened, "stall", stream=stream)


@pytest.mark.parametrize("model", ["slow", "stall", "story"])
async def test_leaving_early_leaves_no_task(wire: str, stream: bool, model: str) -> None:
    """A caller that is cancelled while the upstream waits, silent or in the middle, takes everything with it."""
    before = asyncio.all_tasks()
    async with gateway(wire, delay="20ms") as opened:
        asking = asyncio.ensure_future(ask(opened, model, stream=stream))
        done, _ = await asyncio.wait([asking], timeout=0.1)
        if not done:
            asking.cancel()
            await asyncio.wait([asking], timeout=HANG)
            assert asking.cancelled()
    assert asyncio.all_tasks() == before


async def test_an_unknown_model_is_not_found(wire: str, stream: bool) -> None:
    """A name that no behaviour has is a 404 that lists those that do."""
    async with gateway(wire) as opened:
        with pytest.raises(GatewayError) as caught:
            await ask(opened, "simulated/gpt-5", stream=stream)
    assert caught.value.status == 404
    assert "reasoning" in caught.value.message


async def test_its_models_are_listed() -> None:
    """Every behaviour can be found by listing the models."""
    async with gateway("openai-chat") as opened:
        assert opened.models() == [f"simulated/{name}" for name in names()]
