"""The issuer that a conversation is pinned to."""

import pytest

from llmproxy_asgi.conversation import Message, Part, Reasoning, Request, Role, Seal, Text, ToolCall
from llmproxy_asgi.conversation_state.affinity import IssuerPin, distance, pin
from llmproxy_asgi.conversation_state.reasoning import CachedReasoning
from llmproxy_asgi.translators.base import Upstream


def thought(issuer: str, model: str | None = None) -> Reasoning:
    return Reasoning(seals=(Seal(issuer=issuer, kind="signature", data="AAAA", model=model),))


def said(*turns: tuple[Role, Part]) -> Request:
    return Request(protocol="p", model="m", messages=tuple(Message(role=role, parts=(part,)) for role, part in turns))


USER: tuple[Role, Part] = ("user", Text(text="hi"))
CALL = ToolCall(call_id="call_1", name="f")


def test_without_state_there_is_no_pin() -> None:
    """A conversation of text and calls only has no pin."""
    assert pin(said(USER, ("assistant", Reasoning(text="a")), ("assistant", CALL), USER)) is None


def test_the_newest_state_decides() -> None:
    """A conversation that moved to another issuer is pinned to that one."""
    request = said(USER, ("assistant", thought("openai")), USER, ("assistant", thought("anthropic", "opus")), USER)
    assert pin(request) == IssuerPin("anthropic", "opus")


def test_state_on_calls_counts() -> None:
    """The state of a call counts like that of reasoning."""
    sealed = ToolCall(call_id="c", name="f", seals=thought("gemini").seals)
    assert pin(said(USER, ("assistant", sealed))) == IssuerPin("gemini")


def test_two_issuers_are_no_pin() -> None:
    """No target can open the state of both."""
    parts = (thought("openai"), thought("gemini"))
    request = Request(protocol="p", model="m", messages=(Message(role="assistant", parts=parts),))
    assert pin(request) is None


def test_two_models_of_one_issuer_pin_the_issuer() -> None:
    """The model is left open."""
    parts = (thought("openai", "a"), thought("openai", "b"))
    request = Request(protocol="p", model="m", messages=(Message(role="assistant", parts=parts),))
    assert pin(request) == IssuerPin("openai")


def test_cached_state_counts_as_sent() -> None:
    """A conversation whose client strips its state keeps its issuer."""
    request = said(USER, ("assistant", CALL))
    thoughts = {"call_1": CachedReasoning(call="x", first=(thought("anthropic", "opus"),))}
    assert pin(request) is None
    assert pin(request, thoughts) == IssuerPin("anthropic", "opus")
    assert pin(request, {"call_2": thoughts["call_1"]}) is None


@pytest.mark.parametrize(
    ("issuer", "model", "expected"),
    [("anthropic", "opus", 0), ("anthropic", "haiku", 1), ("openai", "opus", 2)],
)
def test_distance_of_a_target(issuer: str, model: str, expected: int) -> None:
    """Order targets: the same model, the same issuer, any other."""
    upstream = Upstream(provider="x", model=model, client_model="m", issuer=issuer)
    assert distance(IssuerPin("anthropic", "opus"), upstream) == expected
    assert distance(IssuerPin("anthropic"), upstream) == (2 if expected == 2 else 0)
    assert distance(None, upstream) == 0
