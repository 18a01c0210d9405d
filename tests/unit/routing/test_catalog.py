"""The targets of a name, and the callers who may use it."""

from typing import Any

import pytest

from llmproxy_asgi.config.schema import Config
from llmproxy_asgi.errors import ModelNotFound
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.routing.catalog import Catalog, ResolvedModel, name_filter


def catalog(providers: dict[str, Any], models: dict[str, Any] | None = None, **more: Any) -> Catalog:
    blocks = {
        name: {"type": "openai-compatible", "base_url": "http://127.0.0.1:1/v1", **block}
        for name, block in providers.items()
    }
    config = Config.model_validate({"providers": blocks, "models": models or {}, **more})
    made = {n: provider_class(b.type)(n, b) for n, b in config.providers.items() if b.enabled}
    return Catalog(made, config.models, default_provider=config.default_provider)


def names(found: ResolvedModel) -> list[str]:
    return [target.name for target in found.targets]


def test_a_route_comes_before_everything_else() -> None:
    """A name under `models` hides what providers list under the same name."""
    made = catalog({"a": {"models": ["smart"]}, "b": {}}, {"smart": {"targets": ["b/x", "a/smart"]}})
    assert names(made.resolve("smart")) == ["b/x", "a/smart"]


def test_provider_and_model_are_taken_by_their_names() -> None:
    """`provider/model` reaches that provider alone; a model that it does not list is passed on."""
    made = catalog({"a": {"models": [{"name": "fast", "upstream": "gpt-mini"}]}, "b": {}})
    assert names(made.resolve("a/fast")) == ["a/gpt-mini"]
    assert names(made.resolve("a/unlisted/with/slashes")) == ["a/unlisted/with/slashes"]


def test_exact_names_come_before_patterns_and_those_before_providers_without_a_list() -> None:
    """Within each of the three, higher priority goes first."""
    made = catalog(
        {
            "any": {"priority": 99},
            "pattern": {"models": ["gpt-*"], "priority": 50},
            "low": {"models": ["gpt-5"]},
            "high": {"models": ["gpt-5"], "priority": 1},
        }
    )
    assert names(made.resolve("gpt-5")) == ["high/gpt-5", "low/gpt-5", "pattern/gpt-5", "any/gpt-5"]
    assert names(made.resolve("gpt-6")) == ["pattern/gpt-6", "any/gpt-6"]


def test_a_pattern_is_a_star_and_nothing_else() -> None:
    """Brackets and question marks in names are letters."""
    made = catalog({"a": {"models": ["o[1]?*"]}})
    assert names(made.resolve("o[1]?x")) == ["a/o[1]?x"]
    with pytest.raises(ModelNotFound):
        made.resolve("o1zx")


def test_disabled_models_and_providers_do_not_exist() -> None:
    """Neither by their name nor by `provider/model`."""
    made = catalog({"a": {"models": [{"name": "m", "enabled": False}]}, "b": {"enabled": False}})
    for name in ("m", "a/m", "b/m"):
        with pytest.raises(ModelNotFound):
            made.resolve(name)


def test_a_name_that_is_switched_off_is_not_brought_back_by_a_pattern() -> None:
    """Use the more specific setting, for both forms of the name."""
    made = catalog({"a": {"models": ["o*", {"name": "o1", "enabled": False}, {"name": "q*", "enabled": False}]}})
    assert names(made.resolve("o3")) == ["a/o3"]
    for name in ("o1", "a/o1", "q1", "a/q1"):
        with pytest.raises(ModelNotFound):
            made.resolve(name)


def test_what_is_said_of_a_pattern_holds_for_provider_and_model_too() -> None:
    """A name that matches is listed, so it is the same target in both ways."""
    entry = {"name": "o*", "max_output_tokens": 8000, "capabilities": {"tools": False}}
    made = catalog({"a": {"models": [entry, {"name": "o9", "upstream": "o9-preview"}]}}, {"r": {"targets": ["a/o3"]}})
    for name in ("o3", "a/o3", "r"):
        (target,) = made.resolve(name).targets
        capabilities = target.capabilities("openai-chat")
        assert (target.model, capabilities.max_output_tokens, capabilities.tools) == ("o3", 8000, False)
    assert names(made.resolve("a/o9")) == ["a/o9-preview"]
    assert made.resolve("a/gpt").targets[0].capabilities("openai-chat").tools


def test_no_name_asks_the_default_provider_for_its_default_model() -> None:
    """A request that names none is served by what the operator chose."""
    made = catalog({"a": {"default_model": "x"}, "b": {"default_model": "y"}}, default_provider="b")
    assert names(made.resolve("")) == ["b/y"]
    with pytest.raises(ModelNotFound):
        catalog({"a": {}}).resolve("")


def test_bypass_model_replaces_every_model() -> None:
    """Return the requested name to the caller."""
    (target,) = catalog({"a": {"default_model": "real", "bypass_model": True}}).resolve("wish").targets
    assert (target.model, target.client_model) == ("real", "wish")


def test_the_requested_name_is_kept() -> None:
    """Routes, prefixes and renamed models all keep the caller's own word."""
    made = catalog({"a": {"models": [{"name": "fast", "upstream": "u"}]}}, {"smart": {"targets": ["a/fast"]}})
    assert [made.resolve(name).targets[0].client_model for name in ("smart", "a/fast", "fast")] == [
        "smart",
        "a/fast",
        "fast",
    ]
    assert [made.resolve(name).targets[0].model for name in ("smart", "a/fast", "fast")] == ["u", "u", "u"]


def test_what_a_caller_may_not_use_does_not_exist_for_it() -> None:
    """Answer as for an unknown model."""
    made = catalog({"a": {"models": ["fast", "slow"]}})
    assert names(made.resolve("fast", name_filter(["f*"]))) == ["a/fast"]
    with pytest.raises(ModelNotFound) as refused:
        made.resolve("slow", name_filter(["f*"]))
    with pytest.raises(ModelNotFound) as unknown:
        made.resolve("nope", name_filter(["f*"]))
    assert refused.value.message.replace("slow", "nope") == unknown.value.message
    assert made.names(name_filter(["f*"])) == ["fast"]


def test_a_grant_on_a_name_does_not_open_another_way_to_it() -> None:
    """Treat `provider/model` as a separate name: a grant of `fast` doesn't include `a/fast`."""
    made = catalog({"a": {"models": ["fast"]}})
    with pytest.raises(ModelNotFound):
        made.resolve("a/fast", name_filter(["fast"]))


@pytest.mark.parametrize("name", ["x" * 513, "a\nb", "a\x00", "a\u2028b"])
def test_names_that_no_model_has_are_unknown(name: str) -> None:
    """Neither length nor control characters get past the catalog."""
    with pytest.raises(ModelNotFound):
        catalog({"a": {}}).resolve(name)


def test_what_is_remembered_of_callers_names_is_bounded() -> None:
    """A caller who invents names does not fill the memory."""
    made = catalog({"a": {}})
    for number in range(5000):
        made.resolve(f"model-{number}")
    assert len(made._cached) <= 1024


def test_the_configuration_has_the_last_word_on_capabilities() -> None:
    """Overrides of one model reach the translator; others keep what is known."""
    made = catalog({"a": {"models": [{"name": "m", "max_output_tokens": 99, "capabilities": {"images": False}}, "n"]}})
    changed = made.resolve("m").targets[0].capabilities("openai-chat")
    assert (changed.images, changed.max_output_tokens, changed.max_tokens_field) == (False, 99, "max_tokens")
    assert made.resolve("n").targets[0].capabilities("openai-chat").images


def test_a_request_without_a_model_is_told_what_to_send() -> None:
    """Where no default is configured the refusal speaks of a missing name, not of a model that is called nothing."""
    with pytest.raises(ModelNotFound) as refused:
        catalog({"a": {"models": ["m"]}}).resolve("")
    assert "names no model (model)" in refused.value.message
    assert "/v1/models" in refused.value.message
