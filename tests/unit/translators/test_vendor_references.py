"""What a vendor keeps is refused by its path in every protocol, passed on where its operator says so."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.translators.vendor_references import may_hide_names
from llmproxy_asgi.wire.json_body import Bounds

GOOGLES = "https://generativelanguage.googleapis.com/v1beta/files/abc"


def said(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "see"}, *content]}]


def turn(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": [{"text": "see"}, *parts]}]


def passthrough_request(protocol: str, body: dict[str, Any], *, stored: bool = False) -> UpstreamRequest:
    return sent_as(protocol, body, bytes, stored=stored)


def sent_as(
    protocol: str, body: dict[str, Any], spelled: Callable[[bytes], bytes], *, stored: bool = False
) -> UpstreamRequest:
    known = {"max_tokens": 10} if protocol == "anthropic-messages" else {}
    path = {"model": "m", "method": "generateContent"} if protocol == "gemini" else {}
    named = {} if protocol == "gemini" else {"model": "m"}
    inbound_request = translator(protocol).inbound.open(
        spelled(msgspec.json.encode({**named, **known, **body})), headers={}, path=path
    )
    able = Capabilities(stored=stored)
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p", capabilities=able)
    return translator(protocol).outbound.passthrough_request(inbound_request, upstream)


@pytest.mark.parametrize(
    ("protocol", "body", "param"),
    [
        (
            "openai-chat",
            {"messages": said({"type": "file", "file": {"file_id": "file_1"}})},
            "messages[0].content[1].file.file_id",
        ),
        (
            "openai-chat",
            {"messages": [*said(), {"role": "assistant", "audio": {"id": "audio_1"}}]},
            "messages[1].audio.id",
        ),
        (
            "anthropic-messages",
            {"messages": said({"type": "image", "source": {"type": "file", "file_id": "file_1"}})},
            "messages[0].content[1].source.file_id",
        ),
        (
            "anthropic-messages",
            {"messages": said({"type": "container_upload", "file_id": "file_1"})},
            "messages[0].content[1].file_id",
        ),
        ("anthropic-messages", {"messages": said(), "container": "container_1"}, "container"),
        ("anthropic-messages", {"messages": said(), "thread": {"type": "create"}}, "thread"),
        (
            "anthropic-messages",
            {"messages": said(), "thread": {"type": "continue", "previous_message_id": "msg_1"}},
            "thread",
        ),
        ("anthropic-messages", {"messages": said(), "container": {"id": "container_1", "skills": []}}, "container"),
        (
            "anthropic-messages",
            {
                "messages": said(),
                "container": {
                    "skills": [{"type": "anthropic", "skill_id": "pdf"}, {"type": "custom", "skill_id": "skill_1"}]
                },
            },
            "container.skills[1].skill_id",
        ),
        ("gemini", {"contents": turn(), "cachedContent": "cachedContents/1"}, "cachedContent"),
        ("gemini", {"contents": turn(), "cached_content": "cachedContents/1"}, "cached_content"),
        ("gemini", {"contents": turn({"fileData": {"fileUri": GOOGLES}})}, "contents[0].parts[1].fileData.fileUri"),
        (
            "gemini",
            {"contents": turn({"file_data": {"file_uri": "gs://a"}})},
            "contents[0].parts[1].file_data.file_uri",
        ),
        (
            "gemini",
            {"contents": turn(), "tools": [{"fileSearch": {"fileSearchStoreNames": ["s"]}}]},
            "tools[0].fileSearch.fileSearchStoreNames",
        ),
        ("openai-responses", {"input": "x", "conversation": "conv_1"}, "conversation"),
        ("openai-responses", {"input": "x", "prompt": {"id": "pmpt_1"}}, "prompt"),
        ("openai-responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        (
            "openai-responses",
            {"input": "x", "tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}}]},
            "tools[0].container.file_ids",
        ),
        (
            "openai-responses",
            {"input": "x", "tools": [{"type": "shell", "environment": {"type": "container_auto", "file_ids": ["f"]}}]},
            "tools[0].environment.file_ids",
        ),
        (
            "openai-responses",
            {"input": "x", "tools": [{"type": "mcp", "server_label": "a", "tunnel_id": "t"}]},
            "tools[0].tunnel_id",
        ),
        (
            "openai-responses",
            {"input": "x", "tools": [{"type": "image_generation", "input_image_mask": {"file_id": "f"}}]},
            "tools[0].input_image_mask.file_id",
        ),
        (
            "openai-responses",
            {
                "input": "x",
                "tools": [
                    {
                        "type": "shell",
                        "environment": {
                            "type": "container_auto",
                            "skills": [{"type": "skill_reference", "skill_id": "s"}],
                        },
                    }
                ],
            },
            "tools[0].environment.skills[0].skill_id",
        ),
    ],
)
def test_what_the_vendor_keeps_is_refused(protocol: str, body: dict[str, Any], param: str) -> None:
    """Behind a credential that several share, by its path; and passes unchanged where the operator allows it."""
    with pytest.raises(Unsupported) as refused:
        passthrough_request(protocol, body)
    assert (refused.value.status, refused.value.param) == (400, param)
    sent = msgspec.json.decode(passthrough_request(protocol, body, stored=True).body)
    assert sent.items() >= body.items()


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        ("openai-chat", {"messages": said({"type": "file", "file": {"file_data": "data:,x", "filename": "a"}})}),
        ("openai-chat", {"messages": [{"role": "user", "content": 'the "file_id"'}], "store": False}),
        ("openai-chat", {"messages": said({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}})}),
        ("openai-chat", {"messages": [*said(), {"role": "assistant", "content": "a", "audio": None}]}),
        ("openai-chat", {"messages": said(), "modalities": ["audio"], "audio": {"voice": "alloy", "format": "wav"}}),
        ("anthropic-messages", {"messages": said({"type": "text", "text": '"file_id"'}), "container": None}),
        ("anthropic-messages", {"messages": said(), "thread": None}),
        ("anthropic-messages", {"messages": said(), "container": {"skills": [{"type": "anthropic", "skill_id": "x"}]}}),
        (
            "anthropic-messages",
            {
                "messages": [
                    {"role": "user", "content": "go on"},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "tool_use", "id": "t", "name": "n", "input": {"type": "file", "file_id": "mine"}}
                        ],
                    },
                ]
            },
        ),
        ("openai-responses", {"input": "x", "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
        (
            "openai-responses",
            {"input": "x", "tools": [{"type": "mcp", "server_label": "a", "server_url": "https://x"}]},
        ),
        (
            "openai-responses",
            {"input": "x", "tools": [{"type": "image_generation", "input_image_mask": {"image_url": "data:,x"}}]},
        ),
        ("gemini", {"contents": turn({"fileData": {"fileUri": "https://www.youtube.com/watch?v=1"}})}),
        ("gemini", {"contents": turn({"text": '"fileUri"'})}),
        ("gemini", {"contents": turn({"functionCall": {"name": "n", "args": {"fileUri": "gs://mine"}}})}),
        ("gemini", {"contents": turn({"functionCall": {"name": "n", "args": {"file_data": {"file_uri": "a.pdf"}}}})}),
        ("gemini", {"contents": turn({"functionCall": {"name": "n", "args": {"datastore": "orders"}}})}),
        (
            "gemini",
            {"contents": turn({"functionResponse": {"name": "n", "response": {"fileData": {"fileUri": "a.pdf"}}}})},
        ),
        (
            "gemini",
            {
                "contents": turn(),
                "tools": [{"functionDeclarations": [{"name": "n", "parameters": {"properties": {"datastore": {}}}}]}],
            },
        ),
        (
            "gemini",
            {
                "contents": turn(),
                "tools": [
                    {
                        "functionDeclarations": [
                            {"name": "n", "parameters": {"properties": {"ragCorpus": {"type": "STRING"}}}}
                        ]
                    }
                ],
            },
        ),
    ],
)
def test_nothing_else_is(protocol: str, body: dict[str, Any]) -> None:
    """Words about files, what is sent whole, public addresses and arguments of calls are no stored state."""
    assert msgspec.json.decode(passthrough_request(protocol, body).body).items() >= body.items()


def replaced(old: bytes, new: bytes, sent: bytes) -> bytes:
    return sent.replace(old, new)


NAMED: list[tuple[str, dict[str, Any], bytes]] = [
    ("openai-chat", {"messages": said({"type": "file", "file": {"file_id": "file_1"}}, "ODD")}, b"file_id"),
    ("anthropic-messages", {"messages": said({"type": "container_upload", "file_id": "file_1"}, "ODD")}, b"file_id"),
    ("gemini", {"contents": turn({"fileData": {"fileUri": "gs://a"}}, "ODD")}, b"fileUri"),
    ("openai-responses", {"input": [{"type": "item_reference", "id": "msg_1"}, "ODD"]}, b"item_reference"),
    ("openai-responses", {"input": [{"type": "input_file", "file_id": "file_1"}, "ODD"]}, b"file_id"),
]


@pytest.mark.parametrize(("protocol", "body", "word"), NAMED)
def test_a_name_in_another_spelling_is_refused(protocol: str, body: dict[str, Any], word: bytes) -> None:
    """JSON can spell each letter in another way, and means the same."""
    escaped = b"".join(b"\\u%04x" % letter for letter in word)
    for spelling in (escaped, word[:1] + b"\\u%04X" % word[1] + word[2:]):
        with pytest.raises(Unsupported):
            sent_as(protocol, body, partial(replaced, b'"%b"' % word, b'"%b"' % spelling))


@pytest.mark.parametrize(("protocol", "body"), [case[:2] for case in NAMED])
def test_a_name_beside_what_cannot_be_read_is_refused(protocol: str, body: dict[str, Any]) -> None:
    """Other readers are less strict about JSON than ours, and would find it."""
    with pytest.raises(BadRequest):
        sent_as(protocol, body, partial(replaced, b'"ODD"', b"1e999"))


def test_a_name_at_the_bottom_of_a_well_is_refused() -> None:
    """Where the operator lets bodies nest as deep as that, and in items that an upstream made."""
    deep = b"[" * 900 + b'{"type":"input_file","file_id":"file_1"}' + b"]" * 900
    inbound_request = translator("openai-responses").inbound.open(
        b'{"model":"m","input":[%b]}' % deep, headers={}, bounds=Bounds(json_depth=2_000)
    )
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p")
    with pytest.raises(BadRequest):
        translator("openai-responses").outbound.passthrough_request(inbound_request, upstream)


def test_a_file_with_unknown_fields_is_a_file() -> None:
    """Other members of a file do not matter."""
    with pytest.raises(Unsupported):
        passthrough_request(
            "openai-chat", {"messages": said({"type": "file", "file": {"file_id": "file_1", "more": 1}})}
        )


@pytest.mark.parametrize(
    "body",
    [
        {"contents": turn(), "cachedContent": "", "cached_content": "cachedContents/1"},
        {"contents": turn({"fileData": {"fileUri": "https://a.example/b"}, "file_data": {"file_uri": "files/abc"}})},
        {"contents": turn({"fileData": {"fileUri": "https://a.example/b", "file_uri": "files/abc"}})},
        {"contents": turn({"fileData": {"fileUri": "HTTPS://GenerativeLanguage.googleapis.com:443/v1beta/files/abc"}})},
        {"contents": turn({"fileData": {"fileUri": "http://generativelanguage.googleapis.com./v1beta/files/abc"}})},
        {"contents": turn({"fileData": {"fileUri": " GS://bucket/a"}})},
        {"contents": turn({"functionResponse": {"name": "f", "parts": [{"fileData": {"fileUri": "files/abc"}}]}})},
        {"contents": turn({"function_response": {"name": "f", "parts": [{"file_data": {"file_uri": "files/a"}}]}})},
        {
            "contents": turn(),
            "tools": [{"file_search": {"fileSearchStoreNames": [], "file_search_store_names": ["s"]}}],
        },
    ],
)
def test_every_spelling_of_googles_names_is_seen(body: dict[str, Any]) -> None:
    """Protobuf reads a key in two spellings and an address in any: none of them is a way around."""
    with pytest.raises(BadRequest):
        passthrough_request("gemini", body)


def test_chat_keeps_nothing() -> None:
    """Chat's `store` is dropped with a warning, unless one principal owns the credential."""
    body = {"messages": said(), "store": True}
    shared = passthrough_request("openai-chat", body)
    assert msgspec.json.decode(shared.body)["store"] is False
    assert shared.warnings == ("dropped:store",)
    assert msgspec.json.decode(passthrough_request("openai-chat", body, stored=True).body)["store"] is True


LOOSELY: list[tuple[str, dict[str, Any], bytes]] = [
    ("openai-chat", {"messages": said({"type": "file", "file": {"file_id": "file_1"}})}, b"file_id"),
    ("openai-chat", {"messages": said({"type": "file", "file": {"file_id": "file_1"}})}, b"file"),
    ("openai-chat", {"messages": [*said(), {"role": "assistant", "audio": {"id": "audio_1"}}]}, b"audio"),
    ("openai-chat", {"messages": [*said(), {"role": "assistant", "audio": {"id": "audio_1"}}]}, b"id"),
    ("anthropic-messages", {"messages": said({"type": "container_upload", "file_id": "file_1"})}, b"file_id"),
    ("openai-responses", {"input": said({"type": "input_file", "file_id": "file_1"})}, b"file_id"),
    (
        "openai-responses",
        {"input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        b"vector_store_ids",
    ),
    ("gemini", {"contents": turn({"fileData": {"fileUri": "files/abc"}})}, b"fileUri"),
    ("gemini", {"contents": turn({"fileData": {"fileUri": "files/abc"}})}, b"fileData"),
]


@pytest.mark.fault(57)
@pytest.mark.parametrize(("protocol", "body", "word"), LOOSELY)
def test_a_name_that_a_loose_reader_would_take_for_it_is_refused(
    protocol: str, body: dict[str, Any], word: bytes
) -> None:
    """Capitals, escapes and letters that fold are no way around, alone or beside an innocent one."""
    odd = [word.upper(), word.capitalize(), b"\\u00%02x" % ord(word[:1].upper()) + word[1:]]
    for plain, folding in (
        (b"s", b"\\u017f"),
        (b"i", b"\\u0131"),
        (b"s", "\u017f".encode()),
        (b"i", "\u0131".encode()),
    ):
        if plain in word:
            odd.append(word.replace(plain, folding, 1))
    for spelling in odd:
        with pytest.raises(Unsupported):
            sent_as(protocol, body, partial(replaced, b'"%b":' % word, b'"%b":' % spelling))
        beside = b'"%b":null,"%b":' % (word, spelling)
        with pytest.raises(Unsupported):
            sent_as(protocol, body, partial(replaced, b'"%b":' % word, beside))


@pytest.mark.fault(57)
def test_what_a_users_own_data_is_called_is_no_affair_of_ours() -> None:
    """Arguments of calls and plain texts may hold any word."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"Type": "file", "File_ID": "x"}}
    messages = [*said(), {"role": "assistant", "content": [call]}]
    passthrough_request("anthropic-messages", {"messages": messages})
    passthrough_request("openai-chat", {"messages": said({"type": "text", "text": 'a "File_Id": \u0131 \u017f'})})


@pytest.mark.fault(51, 57)
def test_a_search_for_folding_letters_costs_little_more_than_decoding() -> None:
    """No part of a text is searched again and again for the rest of a name."""
    data = json.dumps(["\u017f" * 100_000], ensure_ascii=False).encode()
    assert not may_hide_names(data)
    assert _seconds(lambda: may_hide_names(data)) < 20 * _seconds(data.decode)


def _seconds(work: Callable[[], object]) -> float:
    """The least time of this thread that it takes."""
    found = []
    for _ in range(5):
        began = time.thread_time()
        work()
        found.append(time.thread_time() - began)
    return min(found)
