"""What OpenAI's models take, by their names."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from openai.types.shared import AllModels, ChatModel

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import Message, OutputFormat, ReasoningOptions, Request, Sampling, Text
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.openai.families import OPENAI_FAMILIES, known

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
LOW = ("low", "medium", "high")


def can(model: str) -> Capabilities:
    return known(model).capabilities


@pytest.mark.parametrize(
    ("model", "efforts"),
    [
        ("gpt-6.1-sol", ("none", *LOW, "xhigh", "max")),
        ("gpt-5.6-terra", ("none", *LOW, "xhigh", "max")),
        ("gpt-5.5-2026-04-23", ("none", *LOW, "xhigh")),
        ("gpt-5.2", ("none", *LOW, "xhigh")),
        ("gpt-5.2-pro", ("medium", "high", "xhigh")),
        ("gpt-5.1-2025-11-13", ("none", *LOW)),
        ("gpt-5.1-codex-max", (*LOW, "xhigh")),
        ("gpt-5.1-chat-latest", ("medium",)),
        ("gpt-5-mini", ("minimal", *LOW)),
        ("gpt-5-pro", ("high",)),
        ("gpt-5-codex", LOW),
        ("o3", LOW),
        ("openai/o4-mini", LOW),
        ("o1-mini", ()),
        ("gpt-5-chat-latest", ()),
        ("gpt-4.1-nano", ()),
        ("ft:gpt-4o-mini:acme::x1", ()),
        ("gpt-3.5-turbo", ()),
        ("gpt-9", ("none", *LOW, "xhigh", "max")),
    ],
)
def test_efforts_by_family(model: str, efforts: tuple[str, ...]) -> None:
    """Each family has its own rungs; those that do not think have none."""
    assert can(model).efforts == efforts


@pytest.mark.parametrize(
    ("model", "sampling"),
    [
        ("gpt-5.4", "unless_thinking"),
        ("gpt-5", "default"),
        ("o3", "default"),
        ("gpt-5-chat-latest", "any"),
        ("gpt-4o", "any"),
        ("somebodys-own", "any"),
    ],
)
def test_who_may_be_told_how_to_draw(model: str, sampling: str) -> None:
    """Models that think refuse it, the newer ones only while they do."""
    assert can(model).sampling == sampling


def test_what_they_see_and_hear() -> None:
    """Pictures, sound and free-text tools."""
    assert [name for name in ("gpt-5", "o3", "gpt-4o", "gpt-4-turbo", "o3-mini", "gpt-4") if can(name).images] == [
        "gpt-5",
        "o3",
        "gpt-4o",
        "gpt-4-turbo",
    ]
    assert [name for name in ("gpt-5", "gpt-4o", "gpt-4o-audio-preview", "gpt-audio") if can(name).audio] == [
        "gpt-4o-audio-preview",
        "gpt-audio",
    ]
    assert [name for name in ("gpt-5", "o3", "gpt-4.1") if can(name).custom_tools] == ["gpt-5"]
    assert [name for name in ("gpt-6-sol", "gpt-5.6-sol", "gpt-5.5") if can(name).cache_marks] == [
        "gpt-6-sol",
        "gpt-5.6-sol",
    ]


def _named(alias: Any) -> list[str]:
    return [name for each in get_args(alias) for name in ([each] if isinstance(each, str) else _named(each))]


def test_every_model_that_the_sdk_names_has_a_family() -> None:
    """A new one in a new SDK is noticed here, if it is called neither GPT nor o-something."""
    assert len(_named(ChatModel)) > 50
    unknown = {name for name in _named(ChatModel) + _named(AllModels) if can(name) == Capabilities()}
    assert unknown == set()


def test_no_pattern_is_hidden_by_one_before_it() -> None:
    """Each family is the answer for some name, so that no row is dead."""
    names = [*_named(ChatModel), *_named(AllModels), "gpt-5.3-codex", "gpt-4.5-preview"]
    first = {next(pattern for pattern, _ in OPENAI_FAMILIES if fnmatchcase(name, pattern)) for name in names}
    assert [pattern for pattern, _ in OPENAI_FAMILIES if pattern not in first] == []


def encoded(model: str, protocol: str, *, overrides: Any = None, **fields: Any) -> tuple[dict[str, Any], set[str]]:
    """What one of OpenAI's models is sent of a request from elsewhere, and what was lost."""
    kind = provider_class("openai")
    config = kind.Config(type="openai", api_key=["k"], protocol=[protocol])
    route = Target(kind("up", config), model, overrides=overrides).route("anthropic-messages")
    message = Message(role="user", parts=(Text(text="hi"),))
    request = Request(protocol="anthropic-messages", model="m", messages=(message,), **fields)
    upstream_request = route.outbound.encode(request, route.upstream)
    return msgspec.json.decode(upstream_request.body), set(upstream_request.warnings)


EVERYTHING = {
    "sampling": Sampling(temperature=0.5, top_p=0.5, frequency_penalty=1, logit_bias={"1": 1.0}, logprobs=2),
    "output": OutputFormat(verbosity="low"),
    "stop": ("END",),
}
DRAWN = {"temperature", "top_p", "frequency_penalty", "logit_bias", "logprobs"}


def test_chat_gets_what_the_model_takes() -> None:
    """gpt-4.1 accepts sampling and no efforts; o3 reasons and accepts none; gpt-5.2 does without reasoning."""
    effort = ReasoningOptions(effort="max")
    body, lost = encoded("gpt-4.1", "openai-chat", reasoning=effort, **EVERYTHING)
    assert set(body) >= DRAWN
    assert body["stop"] == ["END"]
    assert lost == {"dropped:verbosity", "dropped:reasoning_effort"}
    body, lost = encoded("o3", "openai-chat", reasoning=effort, max_output_tokens=99, **EVERYTHING)
    assert set(body) == {"model", "messages", "reasoning_effort", "max_completion_tokens"}
    assert body["reasoning_effort"] == "high"
    dropped = {f"dropped:{name}" for name in (*DRAWN, "verbosity")}
    assert lost == {*dropped, "emulated:stop", "clamped:reasoning_effort"}
    body, lost = encoded("gpt-5.2", "openai-chat", reasoning=ReasoningOptions(effort="none"), **EVERYTHING)
    assert {*DRAWN, "verbosity"} <= set(body)
    assert lost == {"emulated:stop"}
    assert encoded("gpt-5.2", "openai-chat", **EVERYTHING)[1] == {
        *(f"dropped:{name}" for name in DRAWN),
        "emulated:stop",
    }


def test_responses_gets_what_the_model_takes() -> None:
    """The same models by the other protocol."""
    body, lost = encoded("gpt-4.1", "openai-responses", **EVERYTHING)
    assert (body["temperature"], body["top_logprobs"]) == (0.5, 2)
    assert "dropped:verbosity" in lost
    body, lost = encoded("o3", "openai-responses", **EVERYTHING)
    assert {"temperature", "top_p", "top_logprobs", "include", "text"}.isdisjoint(body)
    assert {"dropped:temperature", "dropped:logprobs", "dropped:verbosity"} <= lost
    body, lost = encoded("gpt-5.2", "openai-responses", reasoning=ReasoningOptions(effort="none"), **EVERYTHING)
    assert (body["temperature"], body["text"]) == (0.5, {"verbosity": "low"})


def test_the_operator_knows_better() -> None:
    """What the configuration says of a model counts more than its name."""
    overrides = {"sampling": "any", "stops": True, "verbosity": False, "efforts": ["low"]}
    body, lost = encoded(
        "o3", "openai-chat", overrides=overrides, reasoning=ReasoningOptions(effort="high"), **EVERYTHING
    )
    assert {*DRAWN, "stop"} <= set(body)
    assert body["reasoning_effort"] == "low"
    assert lost == {"dropped:verbosity", "clamped:reasoning_effort"}


def test_the_page_names_every_capability_and_every_family() -> None:
    """docs/models.md is complete."""
    page = PAGE.read_text(encoding="utf-8")
    words = set(re.findall(r"`([^`\n]+)`", page))
    assert set(Capabilities.__struct_fields__) <= words
    assert {pattern for pattern, _ in OPENAI_FAMILIES} <= words
