"""The tool runners of the vendors' own SDKs finish their loop, whichever upstream answers."""

from typing import Any

import pytest
from anthropic import beta_async_tool, beta_tool
from anthropic.types import ThreadUnsupportedRequestError

from support.pairs import PairHarness, ProtocolPair
from support.pairs.callers import MessagesCaller
from support.pairs.parameters import all_pairs
from support.pairs.replies import Reply
from support.pairs.wires import MESSAGES, Call

ANSWERS = (
    Reply(calls=(Call(id="call_1", name="get_weather", arguments='{"city":"Oslo"}'),)),
    Reply(texts=("Snow", " in Oslo.")),
)
RUN: dict[str, Any] = {"max_tokens": 2000, "messages": [{"role": "user", "content": "Weather in Oslo?"}]}


@beta_tool
def get_weather(city: str) -> str:
    """Look up the weather.

    Args:
        city: Where.
    """
    return f"{city}: snow"


@beta_async_tool(name="get_weather")
async def get_weather_async(city: str) -> str:
    """Look up the weather.

    Args:
        city: Where.
    """
    return f"{city}: snow"


def run(caller: MessagesCaller, pair: ProtocolPair, model: str) -> Any:
    """Run the loop of Anthropic's SDK to its end and return the last message."""
    if pair.mode == "async":
        return caller.portal.call(run_async, caller, pair, model)
    runner: Any = caller.client.beta.messages.tool_runner(model=model, tools=[get_weather], stream=pair.stream, **RUN)
    last = None
    for turn in runner:
        last = turn.get_final_message() if pair.stream else turn
    return last


async def run_async(caller: MessagesCaller, pair: ProtocolPair, model: str) -> Any:
    """Do the same on the portal's event loop."""
    made: Any = caller.aclient.beta.messages
    last = None
    async for turn in made.tool_runner(model=model, tools=[get_weather_async], stream=pair.stream, **RUN):
        last = await turn.get_final_message() if pair.stream else turn
    return last


@pytest.mark.fidelity(110)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES))
def test_anthropics_tool_runner_finishes(harness: PairHarness, pair: ProtocolPair) -> None:
    """The runner asks for a thread, is refused in the vendor's words, and runs its loop without one."""
    harness.play(*(answer.scenario(pair.upstream, stream=pair.stream) for answer in ANSWERS))
    caller = harness.callers[MESSAGES]
    assert isinstance(caller, MessagesCaller)
    last = run(caller, pair, harness.model(pair))
    assert [block.text for block in last.content if block.type == "text"] == ["Snow in Oslo."]
    assert [b"Oslo: snow" in request.body for request in harness.upstream.requests] == [False, True]
    assert all(b'"thread"' not in request.body for request in harness.upstream.requests)


@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, modes=("sync",), streams=(False,)))
@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
def test_a_thread_is_refused_in_the_words_that_the_sdk_knows(
    harness: PairHarness, pair: ProtocolPair, thread: dict[str, str]
) -> None:
    """A request that begins or continues a thread raises the SDK's own class, and no upstream is asked."""
    caller = harness.callers[MESSAGES]
    assert isinstance(caller, MessagesCaller)
    with pytest.raises(ThreadUnsupportedRequestError) as caught:
        caller.client.beta.messages.create(model=harness.model(pair), thread=thread, **RUN)  # type: ignore[call-overload]
    assert caught.value.status_code == 400
    assert caught.value.details.unsupported == ["gateway"]
    assert harness.upstream.requests == []
