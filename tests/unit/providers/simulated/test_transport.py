"""What the simulated upstream answers on the wire, asked directly; its clock is turned by hand."""

import asyncio
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest

from llmproxy_asgi.conversation import (
    FinishReason,
    Message,
    Reasoning,
    ReasoningOptions,
    Request,
    Seal,
    Text,
    Tool,
    ToolCall,
)
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.providers.simulated import Simulated, SimulatedConfig, SimulatedTransport, names
from llmproxy_asgi.providers.simulated.behaviours import (
    BEHAVIOURS,
    ERRORS,
    LONG_WAIT,
    SLOW_PACE,
    Prompt,
    Script,
    pieces,
    script_for,
    words,
)
from llmproxy_asgi.providers.simulated.canned_text import TEXT
from llmproxy_asgi.translators.registry import TRANSLATORS
from llmproxy_asgi.transport import Pool, UpstreamResponse, address
from support.clock import FakeClock

pytestmark = pytest.mark.anyio
# Those whose body names the model; Gemini names it in the path, and is asked through its own SDK elsewhere.
PROTOCOLS = tuple(protocol for protocol in TRANSLATORS if protocol != "gemini")
HANG = 20.0  # seconds after which a wait is a failure


def body(model: str, *, stream: bool = False, text: str = "hello there", **fields: Any) -> bytes:
    said = [{"role": "user", "content": text}]  # each protocol reads it under its own name
    asked = {"model": model, "stream": stream, "messages": said, "input": said, "max_tokens": 999}
    return json.dumps({**asked, **fields}).encode()


async def post(
    protocol: str, sent: bytes, *, clock: FakeClock | None = None, delay: float = 0.0
) -> tuple[UpstreamResponse, list[bytes]]:
    """The answer's head, and its body read by read; through the pool, as a host's transport."""
    transport = SimulatedTransport(delay=delay, clock=clock or FakeClock())
    pool = Pool(transport=transport)
    answer = await pool.open("POST", address(f"https://simulated.invalid/{protocol}"), (), sent, connect=HANG)
    async with answer:
        reads = [piece async for piece in answer]
    await pool.aclose()
    return answer, reads


def shown(reads: list[bytes]) -> str:
    return b"".join(reads).decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["echo", "story", "tools", "json", "reasoning", "refuse", "length"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_same_request_gives_the_same_bytes(
    protocol: str, model: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is random and no clock is read: two answers to one request are equal, id and dates included."""
    ticking = SimpleNamespace(time=itertools.count(4e9).__next__)
    monkeypatch.setattr("llmproxy_asgi.translators.openai_responses.response_encoder.time", ticking)
    first, second = [await post(protocol, body(model, stream=stream)) for _ in range(2)]
    assert first[1] == second[1]
    assert first[0].headers == second[0].headers
    other = await post(protocol, body(model, stream=stream, text="hello you"))
    assert other[0].header("x-request-id") != first[0].header("x-request-id")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_stream_comes_word_by_word_at_the_given_pace(protocol: str) -> None:
    """Every piece is a read of its own, and the delay lies between two of them."""
    clock = FakeClock()
    answer, reads = await post(protocol, body("echo", stream=True, text="one two three"), clock=clock, delay=0.5)
    assert answer.header("content-type") == "text/event-stream"
    first = [next(n for n, read in enumerate(reads) if word in shown([read])) for word in ("one", "two", "three")]
    assert first == sorted(set(first))
    assert clock.slept == [0.5] * (len(reads) - 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_slow_waits_before_its_first_word_and_between_words(protocol: str) -> None:
    """`slow` waits two seconds, streamed or not; its words drip."""
    clock = FakeClock()
    await post(protocol, body("slow", stream=True), clock=clock)
    assert clock.slept[0] == LONG_WAIT
    assert set(clock.slept[1:]) == {SLOW_PACE}
    clock = FakeClock()
    await post(protocol, body("slow"), clock=clock)
    assert clock.slept == [LONG_WAIT]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("status", ERRORS)
async def test_errors_have_their_status_and_the_protocols_body(protocol: str, status: int) -> None:
    """`error-N` answers with status N and an error object, streamed or not; only 429 names a wait."""
    for stream in (False, True):
        answer, reads = await post(protocol, body(f"error-{status}", stream=stream))
        assert answer.status == status
        told = json.loads(shown(reads))["error"]
        assert str(status) in told["message"]
        assert told["type"]
        assert answer.header("retry-after") == ("1" if status == 429 else None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["gpt-5", "error-418", "error-", "Echo", ""])
async def test_an_unknown_model_is_a_404_that_lists_the_known_ones(protocol: str, model: str) -> None:
    """Whoever asks for what is not there reads what there is."""
    answer, reads = await post(protocol, body(model))
    assert answer.status == 404
    assert all(name in shown(reads) for name in names())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("sent", [b"{", b"[]", b'{"model":"echo","max_tokens":5,"messages":[{"role":"x"}]}'])
async def test_a_request_that_breaks_its_protocol_is_a_400(protocol: str, sent: bytes) -> None:
    """The request is read as strictly as the translator reads any caller's."""
    answer, reads = await post(protocol, sent)
    assert answer.status == 400
    assert "error" in json.loads(shown(reads))


async def test_several_answers_take_turns() -> None:
    """Chat's `n` gives several answers, told apart and interleaved; an absurd number is refused."""
    _, reads = await post("openai-chat", body("echo", n=3))
    choices = json.loads(shown(reads))["choices"]
    assert [choice["message"]["content"] for choice in choices] == [
        "hello there",
        "hello there (answer 2)",
        "hello there (answer 3)",
    ]
    _, reads = await post("openai-chat", body("echo", stream=True, n=2))
    indexes = [
        choice["index"]
        for line in shown(reads).splitlines()
        if line.startswith("data: {")
        for choice in json.loads(line.removeprefix("data: "))["choices"]
        if choice["delta"].get("content")
    ]
    assert indexes[:4] == [0, 1, 0, 1]
    answer, _ = await post("openai-chat", body("echo", n=129))
    assert answer.status == 400


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_cut_ends_in_the_middle(protocol: str) -> None:
    """A stream that is cut has begun and lacks its end sign; a whole answer that is cut is no JSON."""
    _, reads = await post(protocol, body("cut", stream=True))
    assert "answer" in shown(reads)
    assert "[DONE]" not in shown(reads)
    assert "message_stop" not in shown(reads)
    answer, reads = await post(protocol, body("cut"))
    assert answer.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown(reads))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_rubbish_is_neither_json_nor_events(protocol: str, stream: bool) -> None:
    """`rubbish` has the status and the type of an answer, and nothing else of it."""
    answer, reads = await post(protocol, body("rubbish", stream=stream))
    assert answer.status == 200
    assert answer.header("content-type") == ("text/event-stream" if stream else "application/json")
    assert b"data:" not in b"".join(reads)
    with pytest.raises(ValueError, match=r".+"):
        json.loads(b"".join(reads))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_stall_stops_after_three_pieces_until_it_is_cancelled(protocol: str) -> None:
    """Three reads come, the fourth never does; cancelling the reader and closing the answer leaves no task."""
    before = asyncio.all_tasks()
    pool = Pool(transport=SimulatedTransport(clock=FakeClock()))
    url = address(f"https://simulated.invalid/{protocol}")
    answer = await pool.open("POST", url, (), body("stall", stream=True), connect=HANG)
    assert all([await answer.chunk() for _ in range(3)])
    waiting = asyncio.ensure_future(answer.chunk())
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]
    waiting.cancel()
    await asyncio.wait([waiting], timeout=HANG)
    assert waiting.cancelled()
    await answer.aclose()
    assert asyncio.all_tasks() == before

    opening = asyncio.ensure_future(pool.open("POST", url, (), body("stall"), connect=HANG))
    assert not (await asyncio.wait([opening], timeout=0.05))[0]
    opening.cancel()
    await asyncio.wait([opening], timeout=HANG)
    assert opening.cancelled()
    await pool.aclose()
    assert asyncio.all_tasks() == before


async def test_a_stream_that_nobody_reads_can_be_closed() -> None:
    """Closing at once, or after one read, ends the stream quietly."""
    pool = Pool(transport=SimulatedTransport())
    for reads in (0, 1):
        answer = await pool.open(
            "POST", address("https://simulated.invalid/openai-chat"), (), body("story", stream=True), connect=HANG
        )
        for _ in range(reads):
            assert await answer.chunk()
        await answer.aclose()
    await pool.aclose()


async def test_usage_counts_words() -> None:
    """Tokens are words: of all messages in, of the answer out."""
    _, reads = await post("openai-chat", body("echo", text="one two three four"))
    usage = json.loads(shown(reads))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (4, 4)
    _, reads = await post("anthropic-messages", body("reasoning"))
    usage = json.loads(shown(reads))["usage"]
    assert usage["output_tokens_details"]["thinking_tokens"] > 10
    assert usage["output_tokens"] > usage["output_tokens_details"]["thinking_tokens"]


def ask(model: str, *messages: Message, **fields: Any) -> Script:
    request = Request(protocol="openai-chat", model=model, messages=messages, **fields)
    return script_for(Prompt(request, "0" * 32, "openai"))


def test_every_name_is_a_behaviour_or_an_error() -> None:
    """What is offered is what is answered; the story is long."""
    assert set(names()) == {*BEHAVIOURS, *(f"error-{status}" for status in ERRORS)}
    for name in BEHAVIOURS:
        assert isinstance(ask(name), Script)
    for status in ERRORS:
        with pytest.raises(GatewayError) as caught:
            ask(f"error-{status}")
        assert caught.value.status == status
    assert words(ask("story").parts) >= 400


def test_a_limit_ends_the_story_early() -> None:
    """`story` obeys the caller's limit and says so; `length` always stops for it."""
    assert (words(ask("story", max_output_tokens=5).parts), ask("story", max_output_tokens=5).finish) == (
        5,
        FinishReason.LENGTH,
    )
    assert ask("story", max_output_tokens=10_000).finish is FinishReason.STOP
    assert ask("length").finish is FinishReason.LENGTH


def test_reasoning_shows_what_the_caller_wants_to_see() -> None:
    """Hidden thoughts leave their seal alone; without any effort there are none."""
    thought, _ = ask("reasoning").parts
    hidden, _ = ask("reasoning", reasoning=ReasoningOptions(visible="hidden")).parts
    assert isinstance(thought, Reasoning)
    assert isinstance(hidden, Reasoning)
    assert (bool(thought.text), hidden.text, hidden.seals) == (True, "", thought.seals)
    assert [type(part) for part in ask("reasoning", reasoning=ReasoningOptions(effort="none")).parts] == [Text]


def test_seals_are_checked_against_their_words() -> None:
    """A seal that comes back without its words is believed, one with other words or of another maker is not."""
    thought, _ = ask("reasoning").parts
    for sent_back in (thought, Reasoning(seals=thought.seals)):
        said = ask("reasoning", Message(role="assistant", parts=(sent_back,))).parts[-1]
        assert isinstance(said, Text)
        assert "1 seal is whole" in said.text
    foreign = Seal(issuer="openai", kind="signature", data="foreign")
    for wrong in (Reasoning(text="other", seals=thought.seals), Reasoning(text="words", seals=(foreign,))):
        with pytest.raises(GatewayError) as caught:
            ask("reasoning", Message(role="assistant", parts=(wrong,)))
        assert caught.value.status == 400


def test_free_text_tools_are_called_with_text() -> None:
    """A custom tool gets words, a tool without parameters an empty object, an upstream's own tool no call."""
    tools = (Tool(name="web_search", kind="server"), Tool(name="patch", kind="custom"), Tool(name="ping"))
    calls = [part for part in ask("parallel", tools=tools).parts if isinstance(part, ToolCall)]
    assert [(call.name, call.kind, call.arguments) for call in calls] == [
        ("patch", "custom", "some patch"),
        ("ping", "function", "{}"),
    ]


@pytest.mark.parametrize("text", ["", " ", "a", " a  b\n\nc \n", TEXT, "x" * 200_000, "a " * 200_000])
def test_pieces_are_the_text(text: str) -> None:
    """Joined, the pieces are what was cut, and there are never too many of them."""
    cut = pieces(text)
    assert "".join(cut) == text
    assert len(cut) < 30_000


def test_its_address_names_the_protocol_and_nothing_else_is_needed() -> None:
    """It speaks every protocol there is, wants no key, and refuses an address, because it has none."""
    config = SimulatedConfig.model_validate({"type": "simulated", "delay": "20ms"})
    upstream = Simulated("sim", config)
    assert upstream.enabled_protocols == tuple(TRANSLATORS)
    assert str(upstream.address("openai-chat", "echo", stream=True)) == "https://simulated.invalid/openai-chat"
    assert Simulated.check(config) == []
    assert upstream.known_models() == names()
    with_address = SimulatedConfig.model_validate({"type": "simulated", "base_url": "https://example.com"})
    assert Simulated.check(with_address) == ["base_url: this type answers within the process and has no address"]
