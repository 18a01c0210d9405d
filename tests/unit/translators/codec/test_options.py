"""Tables of options: one rule decodes a caller's option and encodes it for upstreams."""

from typing import Any

import msgspec
import pytest

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.translators.anthropic_messages.options import OPTIONS as MESSAGES
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.codec import options as codec
from llmproxy_asgi.translators.codec.options import Encoding, Rule, Table
from llmproxy_asgi.translators.gemini.options import OPTIONS as GEMINI
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.openai_chat.options import OPTIONS as CHAT
from llmproxy_asgi.translators.openai_completions.options import OPTIONS as COMPLETIONS
from llmproxy_asgi.translators.openai_responses.options import OPTIONS as RESPONSES
from llmproxy_asgi.translators.registry import translator

TABLES = {
    "openai-chat": CHAT,
    "openai-responses": RESPONSES,
    "openai-completions": COMPLETIONS,
    "anthropic-messages": MESSAGES,
    "gemini": GEMINI,
}
TABLE = Table(
    "made-up",
    [
        Rule("sampling.temperature", "temperature", codec.number(0, 2), needs="verbosity"),
        Rule("sampling.top_p", "inner.topP", codec.number(0, 1)),
        Rule("max_output_tokens", ("new", "old"), codec.integer(1)),
        Rule(
            "service_tier", "tier", codec.words({"plain": ir.ServiceTier.STANDARD, "default": ir.ServiceTier.STANDARD})
        ),
        Rule("end_user", "user", codec.TEXT),
        Rule("continues", refuse=codec.stored_response),
    ],
    beside=("model", "messages"),
    unwarned=("metadata",),
)


def decoded(**fields: Any) -> dict[str, Any]:
    return TABLE.decode(msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, msgspec.Raw]))


def encoded(can: Capabilities | None = None, **options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    losses = Losses()
    request = ir.Request(protocol="p", model="m", messages=(), **options)
    return TABLE.encode(Encoding(request, can or Capabilities(), losses)), losses.words


def test_a_request_costs_only_what_it_holds() -> None:
    """Decode each field by its rule, unknown ones as extras, and nothing of what is absent, null or read elsewhere."""
    assert decoded(model="m", messages=[], temperature=None, user="") == {}
    assert decoded(temperature=1, inner={"topP": 0.5, "topQ": 2, "topR": None}, tier="default", more=[1]) == {
        "sampling": ir.Sampling(temperature=1.0, top_p=0.5),
        "service_tier": ir.ServiceTier.STANDARD,
        "extras": {"made-up": {"inner": {"topQ": 2}, "more": [1]}},
    }


@pytest.mark.parametrize("body", [{"old": 1, "new": 2}, {"new": 2, "old": 1}, {"new": 2}, {"new": None, "old": 2}])
def test_the_first_of_several_fields_counts(body: dict[str, Any]) -> None:
    """An option with two fields has the first one's value, in whatever order they stand."""
    assert decoded(**body) == {"max_output_tokens": 2}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"inner": {"topP": -1}}, "inner.topP", "invalid_value"),
        ({"inner": 1}, "inner", "invalid_type"),
        ({"old": 0}, "old", "invalid_value"),
        ({"tier": "gold"}, "tier", "invalid_value"),
        ({"user": True}, "user", "invalid_type"),
    ],
)
def test_an_invalid_value_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    """What a rule does not accept is an error with its path."""
    with pytest.raises(BadRequest) as caught:
        decoded(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_an_upstream_gets_what_it_has() -> None:
    """Place, clamp and rename values; warn of those that the protocol or the model lacks."""
    options: dict[str, Any] = {
        "sampling": ir.Sampling(temperature=9, top_p=-1, seed=1),
        "max_output_tokens": 5,
        "service_tier": ir.ServiceTier.STANDARD,
        "metadata": {"a": "b"},
    }
    fields, warnings = encoded(**options)
    assert fields == {"temperature": 2.0, "inner": {"topP": 0.0}, "new": 5, "tier": "plain"}
    assert warnings == ("dropped:seed", "clamped:temperature", "clamped:top_p")
    assert encoded(Capabilities(verbosity=False), **options)[1][1] == "dropped:temperature"
    assert encoded(service_tier=ir.ServiceTier.FLEX) == ({}, ("dropped:service_tier",))
    assert encoded() == ({}, ())


def test_a_refusal_comes_before_anything_is_encoded() -> None:
    """Refuse what can't be dropped without changing the response."""
    with pytest.raises(Unsupported):
        TABLE.refuse(ir.Request(protocol="p", model="m", messages=(), continues="r"), Capabilities())


@pytest.mark.parametrize("name", TABLES)
def test_no_option_is_lost_without_a_warning(name: str) -> None:
    """Each option is encoded, refused, warned of, or named as one that is dropped in silence."""
    table = TABLES[name]
    values = dict.fromkeys(ir.Sampling.__struct_fields__, 0.5) | {"top_k": 3, "seed": 1, "logprobs": 2}
    options: dict[str, Any] = {**values, "logit_bias": {"1": 1}}
    for option, value in options.items():
        plain = ir.Request(protocol="elsewhere", model="m", messages=())
        asking = ir.Request(protocol="elsewhere", model="m", messages=(), sampling=ir.Sampling(**{option: value}))
        losses = Losses()
        sent, base = (table.encode(Encoding(each, Capabilities(), losses)) for each in (asking, plain))
        assert sent != base or losses.words, option


@pytest.mark.parametrize("kind", ["image", "video"])
def test_chat_refuses_output_that_it_lacks(kind: str) -> None:
    """Output that Chat can't express is refused and not left out."""
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p")
    request = ir.Request(
        protocol="gemini",
        model="m",
        messages=(ir.Message(role="user", parts=(ir.Text(text="Hi"),)),),
        output=ir.OutputFormat(modalities=("text", kind)),
    )
    with pytest.raises(Unsupported, match=f"does not support {kind} output"):
        translator("openai-chat").outbound.encode(request, upstream)
