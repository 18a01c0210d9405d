"""OpenAI's text completions over each upstream: a prompt is a user message, and the answer's text is its completion."""

from typing import Any

import openai
import pytest

from llmproxy_asgi.testing import Received, Scenario
from support.pairs import CHAT, ChatCaller, PairHarness, ProtocolPair, Reply
from support.pairs.owners import streams
from support.pairs.parameters import all_pairs, pairs


def prompts_of(received: Received) -> list[str]:
    """What the upstream was asked to complete, in whichever of the protocols."""
    return [prompt for prompt in ("Say one.", "Say two.") if prompt in received.body.decode()]


def completed(pair: ProtocolPair, received: Received) -> Scenario:
    """The word that was asked for."""
    assert streams(received) == pair.stream
    [prompt] = prompts_of(received)
    texts = ("One ", "雪.") if "one" in prompt else ("Two ", "雨.")
    return Reply(texts=texts).scenario(pair.upstream, stream=pair.stream)


def ask(
    harness: PairHarness, pair: ProtocolPair, **request: Any
) -> tuple[dict[int, str], dict[int, str | None], list[Any]]:
    """By OpenAI's SDK: the texts and the ends of all choices by their index, and its objects."""
    caller = harness.callers[CHAT]
    assert isinstance(caller, ChatCaller)
    request = {"model": harness.model(pair), "stream": pair.stream, **request}
    if pair.stream:
        request["stream_options"] = {"include_usage": True}

    async def asynchronous() -> list[Any]:
        found: Any = await caller.aclient.completions.create(**request)
        return [each async for each in found] if pair.stream else [found]

    if pair.mode == "async":
        objects = caller.portal.call(asynchronous)
    else:
        answer: Any = caller.client.completions.create(**request)
        objects = list(answer) if pair.stream else [answer]
    texts: dict[int, str] = {}
    ends: dict[int, str | None] = {}
    for choice in (choice for each in objects for choice in each.choices):
        texts[choice.index] = texts.get(choice.index, "") + choice.text
        ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    return texts, ends, objects


@pytest.mark.fidelity(102)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT))
def test_a_prompt_is_completed(harness: PairHarness, pair: ProtocolPair) -> None:
    """Text, end, usage and the model as it was asked for; the upstream sees the prompt as one turn, and the limit."""
    harness.play(lambda received: completed(pair, received))
    texts, ends, objects = ask(harness, pair, prompt="Say one.", max_tokens=50)
    assert (texts, ends) == ({0: "One 雪."}, {0: "stop"})
    assert {(each.object, each.model) for each in objects} == {("text_completion", harness.model(pair))}
    assert {each.id for each in objects} == {objects[0].id}
    usage = objects[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (30, 12, 42)
    assert len(harness.upstream.requests) == 1
    assert b"50" in harness.received.body
    if pair.stream:
        assert len([each for each in objects if each.choices and each.choices[0].text]) > 1


@pytest.mark.fidelity(102)
@pytest.mark.parametrize("pair", pairs(client=CHAT))
def test_two_prompts_are_two_choices(harness: PairHarness, pair: ProtocolPair) -> None:
    """Each is asked for by itself, its completion comes under its own index, and usage is the sum."""
    harness.play(lambda received: completed(pair, received))
    texts, ends, objects = ask(harness, pair, prompt=["Say one.", "Say two."])
    assert texts == {0: "One 雪.", 1: "Two 雨."}
    assert ends == {0: "stop", 1: "stop"}
    assert objects[-1].usage.total_tokens == 84
    assert sorted(map(prompts_of, harness.upstream.requests)) == [["Say one."], ["Say two."]]


@pytest.mark.fidelity(102)
@pytest.mark.parametrize("pair", pairs(client=CHAT))
def test_nobody_echoes_a_prompt(harness: PairHarness, pair: ProtocolPair) -> None:
    """What no conversation can do is a 400 that names the field, before anybody is asked."""
    with pytest.raises(openai.BadRequestError) as refused:
        ask(harness, pair, prompt="Say one.", echo=True)
    assert refused.value.param == "echo"
    assert harness.upstream.requests == []
