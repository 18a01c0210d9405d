"""The protocol and address of a target, for callers of each protocol."""

from typing import Any

import pytest

from llmproxy_asgi.errors import ModelNotFound, Unsupported
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.providers.target import Target

CHAT, RESPONSES, MESSAGES = "openai-chat", "openai-responses", "anthropic-messages"
COMPLETIONS, EMBEDDINGS, GOOGLES = "openai-completions", "openai-embeddings", "gemini-embeddings"


def provider(kind: str, *protocol: str, **block: Any) -> Provider:
    made = provider_class(kind)
    fields = {"type": kind, "base_url": "http://127.0.0.1/v1", "api_key": ["k"], **block}
    return made("up", made.Config(**fields, **({"protocol": list(protocol)} if protocol else {})))


def target(kind: str, *protocol: str, model: str = "any-1") -> Target:
    return Target(provider(kind, *protocol), model, client_model="m")


def selected(to: Target, caller: str) -> str | None:
    """Return the protocol of a target's route; None: there is none."""
    if not to.supports(caller):
        with pytest.raises(Unsupported) as refused:
            to.route(caller)
        assert refused.value.param == "model"
        return None
    assert to.route(caller) is to.route(caller)
    return to.route(caller).outbound.protocol


@pytest.mark.parametrize(
    ("kind", "told", "caller", "expected"),
    [
        ("openai", (), CHAT, CHAT),
        ("openai", (), MESSAGES, RESPONSES),
        ("openai", (), COMPLETIONS, CHAT),
        ("openai", (), RESPONSES, RESPONSES),
        ("openai", (), "gemini", RESPONSES),
        ("openai", (CHAT,), MESSAGES, CHAT),
        ("openai", (), EMBEDDINGS, EMBEDDINGS),
        ("openai", (), GOOGLES, EMBEDDINGS),
        ("openai-compatible", (), COMPLETIONS, CHAT),
        ("openai-compatible", (), GOOGLES, EMBEDDINGS),
        ("openai-compatible", (CHAT, COMPLETIONS), COMPLETIONS, COMPLETIONS),
        ("openai-compatible", (COMPLETIONS, CHAT), MESSAGES, CHAT),
        ("openai-compatible", (EMBEDDINGS, CHAT), MESSAGES, CHAT),
        ("openai-compatible", (COMPLETIONS,), CHAT, None),
        ("openai-compatible", (COMPLETIONS,), COMPLETIONS, COMPLETIONS),
        ("openai-compatible", (CHAT,), EMBEDDINGS, None),
        ("openai-compatible", (EMBEDDINGS,), CHAT, None),
        ("openai-compatible", (EMBEDDINGS,), COMPLETIONS, None),
        ("anthropic", (), COMPLETIONS, MESSAGES),
        ("anthropic", (), EMBEDDINGS, None),
        ("anthropic", (), GOOGLES, None),
    ],
)
def test_protocols_replace_each_other_within_a_family(
    kind: str, told: tuple[str, ...], caller: str, expected: str | None
) -> None:
    """Never send a conversation as a prompt or an embedding, or the reverse."""
    assert selected(target(kind, *told), caller) == expected


@pytest.mark.parametrize(
    ("model", "native"),
    [
        ("davinci-002", True),
        ("babbage-002", True),
        ("gpt-3.5-turbo-instruct", True),
        ("gpt-3.5-turbo-instruct-0914", True),
        ("ft:davinci-002:org::abc", True),
        ("gpt-3.5-turbo", False),
        ("gpt-5", False),
        ("davinci-002x", False),
    ],
)
def test_openais_last_completion_models_are_known(model: str, native: bool) -> None:
    """Call the last models with legacy completions in that protocol only, unless the configuration names others."""
    found = target("openai", model=model)
    assert selected(found, COMPLETIONS) == (COMPLETIONS if native else CHAT)
    assert selected(found, CHAT) == (None if native else CHAT)
    assert selected(target("openai", CHAT, model=model), COMPLETIONS) == CHAT


@pytest.mark.parametrize(
    ("model", "caller", "expected"),
    [
        ("gpt-5-pro", CHAT, RESPONSES),
        ("gpt-5.1-codex", CHAT, RESPONSES),
        ("o3-pro-2025-06-10", COMPLETIONS, RESPONSES),
        ("o4-mini-deep-research", MESSAGES, RESPONSES),
        ("gpt-4o-audio-preview", RESPONSES, CHAT),
        ("gpt-audio-mini", MESSAGES, CHAT),
        ("gpt-4o-search-preview", "gemini", CHAT),
        ("gpt-5", CHAT, CHAT),
        ("o3", CHAT, CHAT),
    ],
)
def test_models_of_one_protocol_are_called_in_it(model: str, caller: str, expected: str) -> None:
    """Call models of one protocol in it, unless the configuration names others."""
    assert selected(target("openai", model=model), caller) == expected
    assert selected(target("openai", CHAT, RESPONSES, model=model), CHAT) == CHAT


@pytest.mark.parametrize(
    ("kind", "protocol", "path"),
    [
        ("openai", RESPONSES, b"/v1/responses/input_tokens"),
        ("openai", CHAT, b"/v1/responses/input_tokens"),
        ("anthropic", CHAT, b"/v1/messages/count_tokens"),
        ("gemini", MESSAGES, b"/v1/models/any-1:countTokens"),
        ("openai-compatible", CHAT, None),
        ("simulated", MESSAGES, None),
    ],
)
def test_counters_have_their_path(kind: str, protocol: str, path: bytes | None) -> None:
    """Count in a protocol of the provider that has a counter; some have none."""
    route = target(kind).counting_route(protocol)
    assert (route.counting_address.raw_path if route and route.counting_address else None) == path


def test_each_protocol_has_its_path() -> None:
    """Append the path of each protocol to the version, which is in the address once."""
    found = target("openai-compatible", CHAT, COMPLETIONS, EMBEDDINGS)
    paths = {caller: found.route(caller).address.raw_path for caller in (CHAT, COMPLETIONS, EMBEDDINGS)}
    expected = {CHAT: b"/v1/chat/completions", COMPLETIONS: b"/v1/completions", EMBEDDINGS: b"/v1/embeddings"}
    assert paths == expected


@pytest.mark.parametrize(
    "model",
    ["..", "../cachedContents/x", "models/../../v1/x", "tunedModels/../x", "a/../b", "a/./b", "a//b", "models/"],
)
def test_a_name_leads_to_a_model_or_nowhere(model: str) -> None:
    """Reject a name that would leave the path of models: there is no such model."""
    to = Target(provider("gemini"), model)
    with pytest.raises(ModelNotFound):
        to.route("gemini")
    with pytest.raises(ModelNotFound):
        to.route(CHAT)


def test_names_in_addresses_are_quoted() -> None:
    """Quote reserved characters of a name in the address, but not slashes."""
    route = Target(provider("gemini", base_url="https://a.example"), "tunedModels/x?y#z:w é").route("gemini")
    assert route.address.raw_path == b"/v1beta/tunedModels/x%3Fy%23z%3Aw%20%C3%A9:generateContent"


def test_a_refusal_says_what_is_missing() -> None:
    """Name the reason for each unsupported family."""
    reasons = {
        "does not support embeddings": (target("anthropic"), EMBEDDINGS),
        "legacy completions only": (target("openai-compatible", COMPLETIONS), CHAT),
        "supports embeddings only": (target("openai-compatible", EMBEDDINGS), CHAT),
    }
    for reason, (unfit, caller) in reasons.items():
        with pytest.raises(Unsupported, match=reason):
            unfit.route(caller)


def test_a_route_is_resolved_once_and_tells_whether_bytes_pass_through() -> None:
    """Return the same route on every look-up, and none for callers of a family that the upstream doesn't support."""
    to = target("openai-compatible", CHAT)
    assert to.find_route(CHAT) is to.route(CHAT)
    assert to.route(CHAT).passthrough
    assert to.find_route(MESSAGES) is to.route(MESSAGES)
    assert not to.route(MESSAGES).passthrough
    assert to.find_route(EMBEDDINGS) is None
