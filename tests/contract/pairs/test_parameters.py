"""Limits, sampling, formats, cache marks and identity: carried over, clamped or dropped, and never silently."""

import json
from typing import Any

import openai
import pydantic
import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, PairHarness, ProtocolPair, Reply, pair_harness
from support.pairs.asks import QUESTION, TURNS, conversation
from support.pairs.parameters import all_pairs, pairs

FINE = Reply(texts=("Fine.",))


@pytest.mark.fidelity(71)
@pytest.mark.parametrize(
    ("model", "limit"),
    [("claude-3-5-haiku-latest", 8192), ("claude-sonnet-4-5", 64_000), ("claude-sonnet-5", 32_000)],
    ids=["8k", "64k", "unknown-ceiling"],
)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_no_limit_is_the_models_own(harness: PairHarness, pair: ProtocolPair, model: str, limit: int) -> None:
    """Anthropic demands a limit: without one from the caller it is the model's ceiling, and nothing small."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    harness.ask(pair, model=model, **QUESTION[CHAT])
    assert harness.asked["max_tokens"] == limit


@pytest.mark.fidelity(71)
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_limit_beyond_the_models_own_is_clamped(harness: PairHarness, pair: ProtocolPair, field: str) -> None:
    """Either of Chat's two fields is the limit; what the model cannot give is cut, and told."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    limit: Any = {field: 100_000}
    answer = harness.ask(pair, model="claude-sonnet-4-5", **QUESTION[CHAT], **limit)
    assert harness.asked["max_tokens"] == 64_000
    assert "clamped:max_tokens" in answer.warnings


@pytest.mark.fidelity(71)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_the_limit_has_openais_newer_name(harness: PairHarness, pair: ProtocolPair) -> None:
    """`max_tokens` of Messages is `max_completion_tokens` of Chat."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    harness.ask(pair, **QUESTION[MESSAGES], max_tokens=77)
    assert harness.asked["max_completion_tokens"] == 77
    assert "max_tokens" not in harness.asked


@pytest.mark.fidelity(71)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_the_limit_has_its_older_name_where_that_is_known(pair: ProtocolPair) -> None:
    """A server that knows the older name only is sent that, where the configuration says so."""
    model = {"name": "house-1", "capabilities": {"max_tokens_field": "max_tokens"}}
    with pair_harness(models=[model]) as harness:
        harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
        harness.ask(pair, **QUESTION[MESSAGES], max_tokens=77)
        assert harness.asked["max_tokens"] == 77
        assert "max_completion_tokens" not in harness.asked


@pytest.mark.fidelity(72)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_temperature_beyond_claudes_range(harness: PairHarness, pair: ProtocolPair) -> None:
    """An old model gets the nearest it takes, in the version of the protocol that still knows the field."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, model="claude-sonnet-4-5", **QUESTION[CHAT], temperature=1.5)
    assert harness.asked["temperature"] == 1
    assert harness.received.header("anthropic-version") == "2023-06-01"
    assert "clamped:temperature" in answer.warnings


@pytest.mark.fidelity(72)
@pytest.mark.parametrize("model", ["claude-sonnet-5", "claude-opus-5-5"])
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_sampling_is_left_out_where_the_model_takes_none(harness: PairHarness, pair: ProtocolPair, model: str) -> None:
    """New models refuse sampling values, whichever they are; the newest version of the protocol is spoken."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, model=model, **QUESTION[CHAT], temperature=1.5, top_p=0.5)
    assert not {"temperature", "top_p", "top_k"} & harness.asked.keys()
    assert harness.received.header("anthropic-version") == "2026-10-21"
    assert {"dropped:temperature", "dropped:top_p"} <= set(answer.warnings)


SAMPLED: dict[str, Any] = {"temperature": 0, "top_p": 0.5}


@pytest.mark.parametrize("pair", pairs(client=MESSAGES))
def test_sampling_values_reach_who_takes_them_whatever_the_version(harness: PairHarness, pair: ProtocolPair) -> None:
    """The SDK's own version, in which Claude takes no temperature, forbids none of another vendor's model."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream), allow=("sampling", "unknown-keyword"))
    answer = harness.ask(pair, **QUESTION[MESSAGES], extra_body=SAMPLED)
    found = harness.asked["generationConfig"] if pair.upstream == GEMINI else harness.asked
    assert found["temperature"] == 0
    assert found.get("top_p", found.get("topP")) == 0.5
    assert not [word for word in answer.warnings if word.startswith("dropped:t")]
    if pair.upstream == MESSAGES:
        assert harness.received.header("anthropic-version") == "2026-10-21"


@pytest.mark.fidelity(73)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
@pytest.mark.parametrize("stop", ["END", ["END", "STOP"]], ids=["text", "list"])
def test_stops_for_messages(harness: PairHarness, pair: ProtocolPair, stop: Any) -> None:
    """Stop sequences are carried over."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    harness.ask(pair, **QUESTION[CHAT], stop=stop)
    assert harness.asked["stop_sequences"] == ([stop] if isinstance(stop, str) else stop)


@pytest.mark.fidelity(73)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_stops_for_chat(harness: PairHarness, pair: ProtocolPair) -> None:
    """Chat accepts four: the first four are sent, the text is cut at the others, with a warning."""
    reply = Reply(texts=("Grey, ", "ST", "OP", " and cold."))
    harness.play(reply.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[MESSAGES], stop_sequences=[*"ABCD", "STOP"])
    assert harness.asked["stop"] == list("ABCD")
    assert answer.warnings == ["emulated:stop"]
    assert (answer.text, answer.finish, answer.whole.stop_sequence) == ("Grey, ", "stop_sequence", "STOP")


@pytest.mark.fidelity(74)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_two_answers_cannot_be_had_of_messages(harness: PairHarness, pair: ProtocolPair) -> None:
    """`n: 2` would be answered once: a 400 that names the field."""
    with pytest.raises(openai.BadRequestError) as refused:
        harness.ask(pair, **QUESTION[CHAT], n=2)
    assert refused.value.param == "n"
    assert harness.upstream.requests == []


class Forecast(pydantic.BaseModel):
    sky: str
    degrees: int


SAID = Reply(texts=('{"sky":"grey",', '"degrees":-3}'))


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT))
def test_openais_parse(harness: PairHarness, pair: ProtocolPair) -> None:
    """The SDK's helper returns a model instance for every upstream, streamed or not."""
    harness.play(SAID.scenario(pair.upstream, stream=pair.stream))
    caller: Any = harness.callers[CHAT]
    asked: Any = {"model": harness.model(pair), "response_format": Forecast, **QUESTION[CHAT]}

    async def parse() -> Any:
        if not pair.stream:
            return await caller.aclient.chat.completions.parse(**asked)
        async with caller.aclient.chat.completions.stream(**asked) as read:
            return await read.get_final_completion()

    if pair.mode == "async":
        found = caller.portal.call(parse)
    elif pair.stream:
        with caller.client.chat.completions.stream(**asked) as read:
            found = read.get_final_completion()
    else:
        found = caller.client.chat.completions.parse(**asked)
    assert found.choices[0].message.parsed == Forecast(sky="grey", degrees=-3)


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES))
def test_anthropics_parse(harness: PairHarness, pair: ProtocolPair) -> None:
    """The same for Anthropic's helper."""
    harness.play(SAID.scenario(pair.upstream, stream=pair.stream))
    caller: Any = harness.callers[MESSAGES]
    asked: Any = {"model": harness.model(pair), "output_format": Forecast, "max_tokens": 99, **QUESTION[MESSAGES]}

    async def parse() -> Any:
        if not pair.stream:
            return await caller.aclient.messages.parse(**asked)
        async with caller.aclient.messages.stream(**asked) as read:
            return await read.get_final_message()

    if pair.mode == "async":
        found = caller.portal.call(parse)
    elif pair.stream:
        with caller.client.messages.stream(**asked) as read:
            found = read.get_final_message()
    else:
        found = caller.client.messages.parse(**asked)
    assert found.parsed_output == Forecast(sky="grey", degrees=-3)


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_json_mode_is_asked_for_in_words(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic has no JSON mode: one more line of instructions asks for it, with a warning."""
    harness.play(SAID.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[CHAT], response_format={"type": "json_object"})
    assert "JSON" in harness.asked["system"][-1]["text"]
    assert "output_config" not in harness.asked
    assert "emulated:response_format" in answer.warnings


def marked(number: int, **ttl: str) -> dict[str, Any]:
    return {"type": "text", "text": f"Part {number}.", "cache_control": {"type": "ephemeral", **ttl}}


@pytest.mark.fidelity(76)
@pytest.mark.parametrize("pair", [pair for to in (CHAT, RESPONSES) for pair in pairs(client=MESSAGES, upstream=to)])
def test_cache_marks_in_openais_terms(harness: PairHarness, pair: ProtocolPair) -> None:
    """Each mark stays on its part, its lifetime as OpenAI has it."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    parts: Any = [marked(1), marked(2, ttl="5m"), marked(3, ttl="1h")]
    answer = harness.ask(pair, messages=[{"role": "user", "content": parts}])
    sent = harness.asked[TURNS[pair.upstream]][0]["content"]
    assert [part["text"] for part in sent] == ["Part 1.", "Part 2.", "Part 3."]
    assert [part["prompt_cache_breakpoint"] for part in sent] == [
        {"mode": "explicit"},
        {"mode": "explicit", "ttl": "30m"},
        {"mode": "explicit", "ttl": "12h"},
    ]
    assert answer.warnings == []


TRANSLATED = [pair for pair in pairs(among=(CHAT, RESPONSES, MESSAGES)) if not pair.values[0].passthrough]


@pytest.mark.fidelity(76)
@pytest.mark.parametrize("pair", TRANSLATED)
def test_only_four_cache_marks_are_kept(harness: PairHarness, pair: ProtocolPair) -> None:
    """Of six marks the last four stay, because they cover the longest prefixes, with a warning."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    key = "cache_control" if pair.client == MESSAGES else "prompt_cache_breakpoint"
    mark = {"type": "ephemeral"} if pair.client == MESSAGES else {"mode": "explicit"}
    kind = "input_text" if pair.client == RESPONSES else "text"
    parts: Any = [{"type": kind, "text": f"Part {number}.", key: mark} for number in range(6)]
    answer = harness.ask(pair, **conversation(pair.client, [{"role": "user", "content": parts}]))
    there = "cache_control" if pair.upstream == MESSAGES else "prompt_cache_breakpoint"
    assert [there in part for part in harness.asked[TURNS[pair.upstream]][0]["content"]] == [False] * 2 + [True] * 4
    assert "clamped:cache_breakpoints" in answer.warnings


@pytest.mark.fidelity(77)
@pytest.mark.parametrize("field", ["user", "safety_identifier"])
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_the_end_user_in_anthropics_terms(harness: PairHarness, pair: ProtocolPair, field: str) -> None:
    """Either of Chat's names for the end user is `metadata.user_id`; the metadata map itself is not Anthropic's."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    named: Any = {field: "user-7"}
    harness.ask(pair, **QUESTION[CHAT], **named, metadata={"team": "blue"})
    assert harness.asked["metadata"] == {"user_id": "user-7"}


@pytest.mark.fidelity(77)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_the_end_user_in_openais_terms(harness: PairHarness, pair: ProtocolPair) -> None:
    """And back: `metadata.user_id` is the safety identifier."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    harness.ask(pair, **QUESTION[MESSAGES], metadata={"user_id": "user-7"})
    assert harness.asked["safety_identifier"] == "user-7"
    assert "metadata" not in harness.asked


@pytest.mark.fidelity(78)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_knobs_that_anthropic_lacks_are_told(harness: PairHarness, pair: ProtocolPair) -> None:
    """Seed, penalties, biases and probabilities are left out with a warning each, never refused."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    knobs: Any = {
        "seed": 7,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "logit_bias": {"42": 5},
        "logprobs": True,
        "top_logprobs": 2,
    }
    answer = harness.ask(pair, **QUESTION[CHAT], **knobs)
    assert {f"dropped:{name}" for name in knobs if name != "top_logprobs"} <= set(answer.warnings)


@pytest.mark.fidelity(78)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_knobs_that_openai_lacks_are_told(harness: PairHarness, pair: ProtocolPair) -> None:
    """The same the other way round: `top_k` is dropped with a warning; temperature and top_p are carried over."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    knobs: Any = {"temperature": 0.5, "top_p": 0.25, "top_k": 40}
    old = {"anthropic-version": "2023-06-01"}
    answer = harness.ask(pair, **QUESTION[MESSAGES], extra_body=knobs, extra_headers=old)
    assert (harness.asked["temperature"], harness.asked["top_p"]) == (0.5, 0.25)
    assert answer.warnings == ["dropped:top_k"]
    assert json.loads(harness.received.body).keys().isdisjoint({"top_k"})
