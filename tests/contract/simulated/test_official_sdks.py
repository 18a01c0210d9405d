"""The simulated models through the official clients, each over an upstream of its own and of the other protocol."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel

from llmproxy_asgi import Gateway

pytestmark = pytest.mark.anyio

QUESTION: Any = [{"role": "user", "content": "weather in Paris?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["city", "days"],
}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
MESSAGES_TOOL: Any = {"name": "get_weather", "input_schema": SCHEMA}


class Step(BaseModel):
    explanation: str
    output: float


class Solution(BaseModel):
    steps: list[Step]
    verdict: Literal["right", "wrong"]


@asynccontextmanager
async def gateway(wire: str) -> AsyncIterator[Gateway]:
    provider = {"type": "simulated", "protocol": wire, "retry": {"attempts": 1}}
    async with Gateway({"providers": {"simulated": provider}}) as opened:
        yield opened


@pytest.fixture(params=["openai-chat", "anthropic-messages"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def chat(wire: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with gateway(wire) as opened, opened.openai() as client:
        yield client


@pytest.fixture
async def messages(wire: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with gateway(wire) as opened, opened.anthropic() as client:
        yield client


async def _exhaust(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


# ── AsyncOpenAI ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_openai_words(chat: openai.AsyncOpenAI) -> None:
    """Words come whole and as deltas, usage last where it is asked for."""
    whole = await chat.chat.completions.create(model="echo", messages=QUESTION)
    assert whole.choices[0].message.content == "weather in Paris?"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 3
    stream = await chat.chat.completions.create(
        model="echo", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [text for text in said if text] == ["weather", " in", " Paris?"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_openai_tools_loop(chat: openai.AsyncOpenAI) -> None:
    """Call, result, answer: streamed through the accumulator of the client, then not."""
    async with chat.chat.completions.stream(model="tools", messages=QUESTION, tools=[CHAT_TOOL]) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert json.loads(call.function.arguments) == {"city": "some city", "days": 1}
    asked = {"id": call.id, "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    history = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"},
    ]
    answer = await chat.chat.completions.create(model="tools", messages=history, tools=[CHAT_TOOL])
    assert answer.choices[0].message.content == "get_weather answered: 17 degrees"


async def test_openai_parallel_calls(chat: openai.AsyncOpenAI) -> None:
    """Two calls stay two in the client's accumulator."""
    async with chat.chat.completions.stream(model="parallel", messages=QUESTION, tools=[CHAT_TOOL]) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "some city", "days": 1}] * 2
    assert calls[0].id != calls[1].id


async def test_openai_parse(chat: openai.AsyncOpenAI) -> None:
    """`.parse()` gives an object of the class that was asked for."""
    parsed = await chat.chat.completions.parse(model="json", messages=QUESTION, response_format=Solution)
    solution = parsed.choices[0].message.parsed
    assert solution is not None
    assert solution.verdict == "right"
    assert len(solution.steps) == 1


async def test_openai_reasoning_round_trip(chat: openai.AsyncOpenAI) -> None:
    """Reasoning is readable, and its state, sent back as it came, is recognised."""
    first = await chat.chat.completions.create(model="reasoning", messages=QUESTION)
    message = first.choices[0].message.model_dump(exclude_none=True)
    assert message["reasoning_content"].startswith("The user wrote 3 words.")
    more: Any = [*QUESTION, message, {"role": "user", "content": "go on"}]
    second = await chat.chat.completions.create(model="reasoning", messages=more)
    assert "1 seal is whole" in (second.choices[0].message.content or "")


async def test_openai_refusal_and_length(chat: openai.AsyncOpenAI, wire: str) -> None:
    """A refusal shows as Chat shows it; running out of tokens, too."""
    refused = await chat.chat.completions.create(model="refuse", messages=QUESTION)
    choice = refused.choices[0]
    if wire == "openai-chat":
        assert (choice.message.refusal or "").startswith("I will not")
        assert choice.finish_reason == "stop"
    else:
        assert choice.finish_reason == "content_filter"
    cut = await chat.chat.completions.create(model="length", messages=QUESTION)
    assert cut.choices[0].finish_reason == "length"


async def test_openai_errors(chat: openai.AsyncOpenAI) -> None:
    """Errors are the client's own classes, with what the upstream said of the request."""
    with pytest.raises(openai.BadRequestError, match="status 400"):
        await chat.chat.completions.create(model="error-400", messages=QUESTION)
    with pytest.raises(openai.NotFoundError, match="There are: echo"):
        await chat.chat.completions.create(model="nothing", messages=QUESTION)
    with pytest.raises(openai.InternalServerError) as caught:
        await chat.chat.completions.create(model="error-401", messages=QUESTION)
    assert caught.value.status_code == 502
    with pytest.raises(openai.RateLimitError) as limited:
        await chat.chat.completions.create(model="error-429", messages=QUESTION)
    assert limited.value.response.headers["retry-after"] == "1"


async def test_openai_cut_stream_is_an_error(chat: openai.AsyncOpenAI) -> None:
    """A stream that dies midway raises after its first words."""
    stream = await chat.chat.completions.create(model="cut", messages=QUESTION, stream=True)
    chunks = aiter(stream)
    said = ""
    while "cut" not in said:
        said += (await anext(chunks)).choices[0].delta.content or ""
    with pytest.raises(openai.APIError):
        await _exhaust(chunks)


# ── AsyncAnthropic ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_anthropic_words(messages: anthropic.AsyncAnthropic) -> None:
    """Words come whole and as deltas, with their count."""
    whole = await messages.messages.create(model="echo", max_tokens=100, messages=QUESTION)
    assert [block.to_dict() for block in whole.content] == [{"type": "text", "text": "weather in Paris?"}]
    assert (whole.stop_reason, whole.usage.output_tokens) == ("end_turn", 3)
    assert (whole._request_id or "").startswith("req_")
    async with messages.messages.stream(model="echo", max_tokens=100, messages=QUESTION) as stream:
        said = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
        assert (stream.request_id or "").startswith("req_")
    assert said == ["weather", " in", " Paris?"]
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 3, 3)


@pytest.mark.parametrize("streamed", [False, True])
async def test_anthropic_tools_loop(messages: anthropic.AsyncAnthropic, streamed: bool) -> None:
    """Call, result, answer."""
    asked: dict[str, Any] = {"model": "tools", "max_tokens": 100, "tools": [MESSAGES_TOOL]}
    if streamed:
        async with messages.messages.stream(**asked, messages=QUESTION) as stream:
            first = await stream.get_final_message()
    else:
        first = await messages.messages.create(**asked, messages=QUESTION)
    assert first.stop_reason == "tool_use"
    (call,) = first.content
    assert isinstance(call, anthropic.types.ToolUseBlock)
    assert call.input == {"city": "some city", "days": 1}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"}
    history: Any = [
        *QUESTION,
        {"role": "assistant", "content": [call.to_dict()]},
        {"role": "user", "content": [result, {"type": "text", "text": "well?"}]},
    ]
    second = await messages.messages.create(**asked, messages=history)
    assert second.stop_reason == "end_turn"
    (block,) = second.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text == "get_weather answered: 17 degrees"


async def test_anthropic_parallel_calls(messages: anthropic.AsyncAnthropic) -> None:
    """Two calls are two blocks."""
    async with messages.messages.stream(
        model="parallel", max_tokens=100, tools=[MESSAGES_TOOL], messages=QUESTION
    ) as stream:
        final = await stream.get_final_message()
    calls = [block for block in final.content if isinstance(block, anthropic.types.ToolUseBlock)]
    assert [call.input for call in calls] == [{"city": "some city", "days": 1}] * 2
    assert calls[0].id != calls[1].id


async def test_anthropic_parse(messages: anthropic.AsyncAnthropic) -> None:
    """`.parse()` gives an object of the class that was asked for."""
    parsed = await messages.messages.parse(model="json", max_tokens=500, messages=QUESTION, output_format=Solution)
    solution = parsed.parsed_output
    assert solution is not None
    assert solution.verdict == "right"


@pytest.mark.parametrize("streamed", [False, True])
async def test_anthropic_reasoning_round_trip(messages: anthropic.AsyncAnthropic, streamed: bool) -> None:
    """Thinking is readable and signed, and when it is sent back as it came the signature is recognised."""
    asked: dict[str, Any] = {"model": "reasoning", "max_tokens": 100}
    if streamed:
        async with messages.messages.stream(**asked, messages=QUESTION) as stream:
            first = await stream.get_final_message()
    else:
        first = await messages.messages.create(**asked, messages=QUESTION)
    thinking = first.content[0]
    assert isinstance(thinking, anthropic.types.ThinkingBlock)
    assert thinking.thinking.startswith("The user wrote 3 words.")
    content = [block.to_dict() for block in first.content]
    more: Any = [*QUESTION, {"role": "assistant", "content": content}, {"role": "user", "content": "go on"}]
    second = await messages.messages.create(**asked, messages=more)
    said = second.content[-1]
    assert isinstance(said, anthropic.types.TextBlock)
    assert "1 seal is whole" in said.text


async def test_anthropic_thinking_that_was_changed_is_left_out() -> None:
    """Thinking whose text was edited is refused for its signature, so the gateway asks once more without it."""
    async with gateway("anthropic-messages") as opened, opened.anthropic() as client:
        first = await client.messages.create(model="reasoning", max_tokens=100, messages=QUESTION)
        thinking, said = (block.to_dict() for block in first.content)
        answer = {"role": "assistant", "content": [{**thinking, "thinking": "other"}, said]}
        more: Any = [*QUESTION, answer, {"role": "user", "content": "go on"}]
        second = await client.messages.create(model="reasoning", max_tokens=100, messages=more)
    block = second.content[-1]
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text == "Having thought about your 2 words, I agree with you."


async def test_anthropic_refusal_and_length(messages: anthropic.AsyncAnthropic) -> None:
    """A refusal and the end of tokens are stop reasons."""
    refused = await messages.messages.create(model="refuse", max_tokens=100, messages=QUESTION)
    assert refused.stop_reason == "refusal"
    cut = await messages.messages.create(model="length", max_tokens=100, messages=QUESTION)
    assert cut.stop_reason == "max_tokens"


async def test_anthropic_errors(messages: anthropic.AsyncAnthropic) -> None:
    """Errors are the client's own classes."""
    with pytest.raises(anthropic.BadRequestError, match="status 400"):
        await messages.messages.create(model="error-400", max_tokens=100, messages=QUESTION)
    with pytest.raises(anthropic.NotFoundError, match="There are: echo"):
        await messages.messages.create(model="nothing", max_tokens=100, messages=QUESTION)
    with pytest.raises(anthropic.RateLimitError) as limited:
        await messages.messages.create(model="error-429", max_tokens=100, messages=QUESTION)
    assert limited.value.response.headers["retry-after"] == "1"


async def test_anthropic_cut_stream_is_an_error(messages: anthropic.AsyncAnthropic) -> None:
    """A stream that dies midway raises; the client would not notice by itself."""
    async with messages.messages.stream(model="cut", max_tokens=100, messages=QUESTION) as stream:
        assert await anext(aiter(stream.text_stream)) == "This"
        with pytest.raises(anthropic.APIError):
            await _exhaust(stream.text_stream)
