"""Which conversation a request belongs to, and where it was served."""

import json
from typing import Any

import pytest

from llmproxy_asgi.conversation import Message, Request, Text
from llmproxy_asgi.principal import Owner, Principal
from llmproxy_asgi.routing import affinity
from llmproxy_asgi.routing.affinity import (
    TTL,
    Affinities,
    Affinity,
    ConversationKey,
    conversation_in,
    conversation_of,
)
from llmproxy_asgi.translators.registry import translator
from support.clock import FakeClock

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
ANN, BOB = (Owner.of(Principal(name)) for name in ("ann", "bob"))
HERE = Affinity("a/m", "a:1")


def told(protocol: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> ConversationKey | None:
    """The conversation of a request that came as bytes."""
    path = {"model": "m", "method": "generateContent"} if protocol == "gemini" else {}
    inbound_request = translator(protocol).inbound.open(json.dumps(body).encode(), headers=headers or {}, path=path)
    return conversation_in(inbound_request, headers or {})


def chat(*messages: dict[str, Any], **more: Any) -> ConversationKey:
    found = told("openai-chat", {"model": "m", "messages": list(messages), **more})
    assert found is not None
    return found


def test_a_conversation_is_known_by_how_it_begins() -> None:
    """The next turns of one have its key; another beginning has another."""
    first = chat(USER)
    second = chat(USER, ASSISTANT, {"role": "user", "content": "and?"})
    assert (first.is_continued, second.is_continued) == (False, True)
    assert first.key == second.key
    assert chat({"role": "system", "content": "be brief"}, USER).key != first.key
    assert chat({"role": "user", "content": "ho"}).key != first.key


def test_marks_of_caches_do_not_change_it() -> None:
    """They move on from turn to turn."""
    marked = {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}
    bare = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    body = {"model": "m", "max_tokens": 5}
    first = told("anthropic-messages", {**body, "messages": [marked]})
    second = told("anthropic-messages", {**body, "messages": [bare, ASSISTANT, marked]})
    assert first is not None
    assert second is not None
    assert first.key == second.key


@pytest.mark.parametrize(
    ("protocol", "system", "said"),
    [
        ("openai-responses", "instructions", "input"),
        ("anthropic-messages", "system", "messages"),
        ("gemini", "systemInstruction", "contents"),
    ],
)
def test_every_protocol_has_its_beginning(protocol: str, system: str, said: str) -> None:
    """Identify a conversation by its system prompt and first user message, wherever they are."""
    words = {"role": "user", "parts": [{"text": "hi"}]} if protocol == "gemini" else USER
    base = {"model": "m", "max_tokens": 5} if protocol == "anthropic-messages" else {"model": "m"}
    prompt: Any = {"parts": [{"text": "x"}]} if protocol == "gemini" else "x"
    one = told(protocol, {**base, said: [words]})
    two = told(protocol, {**base, said: [words], system: prompt})
    again = told(protocol, {**base, said: [words, words], system: prompt})
    assert one is not None
    assert two is not None
    assert again is not None
    assert one.key != two.key == again.key
    assert again.is_continued


@pytest.mark.parametrize("said", ["text alone", [1], [{"role": "assistant"}], [{}]])
def test_what_tells_nothing_is_no_conversation_or_one_by_itself(said: Any) -> None:
    """Nothing here refuses a request."""
    found = told("openai-responses", {"model": "m", "input": said})
    assert found is None or not found.is_continued


@pytest.mark.parametrize("name", affinity.SESSION_HEADERS)
def test_a_callers_own_name_for_it_counts(name: str) -> None:
    """Use the caller's name from the first turn on, whatever the messages."""
    one = told("openai-chat", {"model": "m", "messages": [USER]}, {name: "s1"})
    two = told("openai-chat", {"model": "m", "messages": [ASSISTANT]}, {name: "s1"})
    other = told("openai-chat", {"model": "m", "messages": [USER]}, {name: "s2"})
    assert one == two != other
    assert one is not None
    assert one.is_continued
    assert chat(USER, prompt_cache_key="k").key == chat(ASSISTANT, prompt_cache_key="k").key


def test_requests_made_in_python_have_conversations_too() -> None:
    """By the same beginning."""
    hi, hello = Message(role="user", parts=(Text(text="hi"),)), Message(role="assistant", parts=(Text(text="ho"),))
    first = conversation_of(Request(protocol="openai-chat", model="m", messages=(hi,)))
    second = conversation_of(Request(protocol="openai-chat", model="m", messages=(hi, hello, hi)))
    assert first is not None
    assert second is not None
    assert first.key == second.key
    assert (first.is_continued, second.is_continued) == (False, True)
    assert conversation_of(Request(protocol="openai-chat", model="m", messages=(hello,))) is None


def test_a_place_is_its_owners_its_models_and_passes() -> None:
    """Another principal, another name and another hour find nothing; nor does a conversation that begins."""
    clock = FakeClock()
    affinities = Affinities(clock)
    talk = ConversationKey(b"k", is_continued=True)
    affinities.keep(ANN, "m", talk, HERE)
    assert affinities.find(ANN, "m", talk) == HERE
    assert affinities.find(ANN, "m", talk._replace(is_continued=False)) is None
    assert affinities.find(BOB, "m", talk) is None
    assert affinities.find(ANN, "n", talk) is None
    clock.at += TTL
    assert affinities.find(ANN, "m", talk) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was served longest ago goes first."""
    monkeypatch.setattr(affinity, "MAX_CONVERSATIONS", 3)
    affinities = Affinities(FakeClock())
    talks = [ConversationKey(bytes([number]), is_continued=True) for number in range(4)]
    for talk in talks[:3]:
        affinities.keep(ANN, "m", talk, HERE)
    affinities.keep(ANN, "m", talks[0], HERE)
    affinities.keep(ANN, "m", talks[3], HERE)
    assert [affinities.find(ANN, "m", talk) is not None for talk in talks] == [True, False, True, True]
