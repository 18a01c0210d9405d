"""What is noted, and what cannot be done without."""

import msgspec
import pytest

from llmproxy_asgi.conversation import Message, Opaque, Request, Text
from llmproxy_asgi.errors import Unsupported
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.losses import Losses, unread
from llmproxy_asgi.translators.registry import translator


def test_each_loss_is_noted_once_in_order() -> None:
    """Saying it again changes nothing."""
    losses = Losses()
    losses.add("b", "a")
    losses.add("a", "c")
    assert losses.words == ("b", "a", "c")


def test_losses_fit_into_a_header() -> None:
    """Names are callers' text: very many of them are told in part, and a long one by its beginning."""
    losses = Losses()
    losses.add("dropped:" + "x" * 10_000)
    losses.add(*(f"dropped:k{number}" for number in range(10_000)))
    losses.add("dropped:k0")
    assert losses.words[0] == "dropped:" + "x" * 92
    assert losses.words[-2:] == ("dropped:k62", "dropped:others")


@pytest.mark.parametrize("to", ["openai-chat", "openai-responses", "anthropic-messages"])
@pytest.mark.parametrize(
    ("protocol", "field"),
    [
        ("openai-responses", "conversation"),
        ("openai-responses", "prompt"),
        ("gemini", "cachedContent"),
        ("gemini", "continuationToken"),
        ("other", "thread"),
    ],
)
def test_a_part_of_the_conversation_that_another_vendor_holds_is_refused(protocol: str, field: str, to: str) -> None:
    """An answer to half of what was said would be wrong, so no upstream of another kind is asked."""
    request = Request(
        protocol=protocol,
        model="m",
        messages=(Message(role="user", parts=(Text(text="Hi"),)),),
        extras={protocol: {field: "x_1"}},
    )
    with pytest.raises(Unsupported) as caught:
        translator(to).outbound.encode(request, Upstream(provider="p", model="m", client_model="m", issuer="p"))
    assert caught.value.param == field


@pytest.mark.parametrize("to", ["openai-chat", "openai-responses", "anthropic-messages", "gemini"])
def test_fields_that_only_another_protocol_has_are_named(to: str) -> None:
    """Whatever upstream it is, what it has no word for is named; its own fields go on, and safety is silent."""
    request = Request(
        protocol="made-up",
        model="m",
        messages=(Message(role="user", parts=(Text(text="Hi"),)),),
        extras={"made-up": {"truncation": "auto", "safetySettings": [], "seen": 1}, to: {"own": True}},
    )
    upstream_request = translator(to).outbound.encode(
        request, Upstream(provider="p", model="m", client_model="m", issuer="p")
    )
    assert upstream_request.warnings == ("dropped:truncation", "dropped:seen")
    assert msgspec.json.decode(upstream_request.body)["own"] is True


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
@pytest.mark.parametrize("to", ["openai-chat", "openai-responses", "gemini"])
def test_a_thread_is_refused_where_it_is_not_passed_on_even_if_it_only_begins(to: str, thread: dict[str, str]) -> None:
    """A client that may begin a thread sends only what is new in the next turn, so that it has to be told at once."""
    inbound = translator("anthropic-messages").inbound
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "thread": thread}
    request = inbound.decode(inbound.open(msgspec.json.encode(body), headers={}))
    with pytest.raises(Unsupported) as caught:
        translator(to).outbound.encode(request, Upstream(provider="p", model="m", client_model="m", issuer="p"))
    assert caught.value.param == "thread"
    details = msgspec.json.decode(inbound.problem(caught.value).body)["error"]["details"]
    assert details == {"error_code": "thread_unsupported_request", "unsupported": ["gateway"]}


@pytest.mark.parametrize("to", ["openai-chat", "openai-responses"])
def test_a_refused_tool_has_the_callers_own_name(to: str) -> None:
    """The common name of a tool that vendors run is never told: the caller knows it by its vendor's."""
    inbound = translator("anthropic-messages").inbound
    tool = {"type": "web_fetch_20250910", "name": "web_fetch"}
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}
    request = inbound.decode(inbound.open(msgspec.json.encode(body), headers={}))
    with pytest.raises(Unsupported, match="'web_fetch'") as caught:
        translator(to).outbound.encode(request, Upstream(provider="p", model="m", client_model="m", issuer="p"))
    assert "url_fetch" not in caught.value.message


@pytest.mark.parametrize("to", ["openai-chat", "openai-responses", "gemini"])
def test_a_lost_page_has_a_name_that_callers_know(to: str) -> None:
    """The warning of a call that Anthropic ran before does not show the gateway's own name of the tool."""
    inbound = translator("anthropic-messages").inbound
    ran = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_fetch", "input": {"url": "https://a.example"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [ran, {"type": "text", "text": "Read."}]},
        {"role": "user", "content": "Go on."},
    ]
    request = inbound.decode(
        inbound.open(msgspec.json.encode({"model": "m", "max_tokens": 99, "messages": messages}), headers={})
    )
    upstream_request = translator(to).outbound.encode(
        request, Upstream(provider="p", model="m", client_model="m", issuer="p")
    )
    assert upstream_request.warnings == ("dropped:web_fetch" if to == "gemini" else "dropped:server_tool_call",)


@pytest.mark.parametrize("kind", ["compaction_trigger", "context_compaction"])
def test_what_asks_for_compaction_is_refused_in_its_own_words(kind: str) -> None:
    """A trigger brings no compacted conversation; state of one does, whatever it is called."""
    part = Opaque(protocol="openai-responses", kind=kind, data={"type": kind})
    with pytest.raises(Unsupported, match="compaction_trigger" if kind.endswith("trigger") else "compacted"):
        unread(part, "user")
