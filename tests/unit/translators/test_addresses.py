"""Addresses of media: which are given to an upstream, and which are refused, wherever a request may hold one."""

import json
from typing import Any

import pytest

from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.translators.addresses import is_private, refuse_addresses
from llmproxy_asgi.translators.base import InboundRequest, Upstream
from llmproxy_asgi.translators.registry import translator

PLACES: dict[str, tuple[str, Any, str]] = {
    "chat": (
        "openai-chat",
        lambda url: {"messages": said({"type": "image_url", "image_url": {"url": url}})},
        "messages[0].content[0].image_url.url",
    ),
    "chat-flat": (
        "openai-chat",
        lambda url: {"messages": said({"type": "image_url", "image_url": url})},
        "messages[0].content[0].image_url",
    ),
    "chat-video": (
        "openai-chat",
        lambda url: {"messages": said({"type": "video_url", "video_url": {"url": url}})},
        "messages[0].content[0].video_url.url",
    ),
    "chat-file": (
        "openai-chat",
        lambda url: {"messages": said({"type": "file", "file": {"file_data": url}})},
        "messages[0].content[0].file.file_data",
    ),
    "responses": (
        "openai-responses",
        lambda url: {"input": said({"type": "input_image", "image_url": url})},
        "input[0].content[0].image_url",
    ),
    "responses-file": (
        "openai-responses",
        lambda url: {"input": said({"type": "input_file", "file_url": url})},
        "input[0].content[0].file_url",
    ),
    "responses-result": (
        "openai-responses",
        lambda url: {
            "input": [
                {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": url}]}
            ]
        },
        "input[0].output[0].image_url",
    ),
    "messages": (
        "anthropic-messages",
        lambda url: {"messages": said({"type": "image", "source": {"type": "url", "url": url}}), "max_tokens": 9},
        "messages[0].content[0].source.url",
    ),
    "messages-result": (
        "anthropic-messages",
        lambda url: {
            "messages": said(
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "document", "source": {"type": "url", "url": url}}],
                }
            ),
            "max_tokens": 9,
        },
        "messages[0].content[0].content[0].source.url",
    ),
    "gemini": (
        "gemini",
        lambda url: {"contents": [{"parts": [{"fileData": {"fileUri": url}}]}]},
        "contents[0].parts[0].fileData.fileUri",
    ),
    "gemini-snake": (
        "gemini",
        lambda url: {"contents": [{"parts": [{"file_data": {"file_uri": url}}]}]},
        "contents[0].parts[0].file_data.file_uri",
    ),
    "gemini-result": (
        "gemini",
        lambda url: {
            "contents": [
                {
                    "parts": [
                        {"functionResponse": {"name": "f", "response": {}, "parts": [{"fileData": {"fileUri": url}}]}}
                    ]
                }
            ]
        },
        "contents[0].parts[0].functionResponse.parts[0].fileData.fileUri",
    ),
    "embeddings": (
        "openai-embeddings",
        lambda url: {"input": [{"type": "image_url", "image_url": {"url": url}}]},
        "input[0].image_url.url",
    ),
    "embeddings-plain": ("openai-embeddings", lambda url: {"input": [{"image": url}]}, "input[0].image"),
    "embeddings-conversation": (
        "openai-embeddings",
        lambda url: {"input": "x", "messages": said({"type": "image_url", "image_url": {"url": url}})},
        "messages[0].content[0].image_url.url",
    ),
}
each_place = pytest.mark.parametrize(("protocol", "body", "path"), PLACES.values(), ids=PLACES)


def said(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def opened(protocol: str, body: Any) -> InboundRequest:
    data = body if isinstance(body, bytes) else json.dumps({"model": "m", **body}).encode()
    return translator(protocol).inbound.open(data, headers={}, path={"model": "m", "method": "generateContent"})


def upstream(**more: Any) -> Upstream:
    return Upstream(provider="p", model="m", client_model="m", issuer="p", **more)


@each_place
@pytest.mark.parametrize("scheme", ["file:///etc/passwd", "gopher://a.example/x", "ftp://a.example/x", "FILE:///x"])
def test_other_schemes_are_refused_wherever_they_stand(protocol: str, body: Any, path: str, scheme: str) -> None:
    """A file of the upstream's machine and the like is a 400 that names the field, whatever the provider allows."""
    for able in (False, True):
        with pytest.raises(BadRequest) as caught:
            refuse_addresses(opened(protocol, body(scheme)), upstream(private_media=able))
        assert (caught.value.param, caught.value.code) == (path, "invalid_value")


@each_place
def test_private_hosts_pass_only_where_the_provider_says_so(protocol: str, body: Any, path: str) -> None:
    """The cloud's metadata is a 400 that another target may not repeat; with the setting it passes."""
    inbound_request = opened(protocol, body("http://169.254.169.254/latest/meta-data"))
    with pytest.raises(Unsupported) as caught:
        refuse_addresses(inbound_request, upstream())
    assert caught.value.param == path
    refuse_addresses(inbound_request, upstream(private_media=True))


@each_place
@pytest.mark.parametrize(
    "address", ["https://example.com/a b.png", "http://93.184.216.34/a", "data:image/png;base64,iVBO"]
)
def test_public_addresses_and_the_bytes_themselves_pass(protocol: str, body: Any, path: str, address: str) -> None:
    """What callers ordinarily send is not touched."""
    refuse_addresses(opened(protocol, body(address)), upstream())
    assert path


@pytest.mark.fault(57)
@pytest.mark.parametrize(
    ("protocol", "part"),
    [
        ("openai-chat", {"image_url": {"URL": "file:///x"}}),
        ("openai-chat", {"Image_uRL": "file:///x"}),
        ("openai-chat", {"file": {"File_Data": "file:///x"}}),
        ("openai-chat", {"f\u0131le_data": "file:///x"}),
        ("anthropic-messages", {"source": {"type": "url", "Url": "file:///x"}}),
        ("anthropic-messages", {"Source": {"Type": "url", "url": "file:///x"}}),
        ("anthropic-messages", {"\u017fource": {"url": "file:///x"}}),
        ("gemini", {"fileData": {"fileuri": "file:///x"}}),
        ("gemini", {"file_data": {"File_Uri": "file:///x"}}),
        ("openai-embeddings", {"Image": "file:///x"}),
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_second_spellings_of_members_hide_no_address(protocol: str, part: Any, escaped: bool) -> None:
    """Servers that match names loosely would fetch it."""
    members = {"gemini": "contents", "openai-embeddings": "input"}
    inner = {"gemini": "parts"}.get(protocol, "content")
    body = {"model": "m", "max_tokens": 9, members.get(protocol, "messages"): [{"role": "user", inner: [part]}]}
    with pytest.raises(BadRequest):
        refuse_addresses(opened(protocol, json.dumps(body, ensure_ascii=escaped).encode()), upstream())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0",
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255",
        "127.0.0.999", "4294967296", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1",
        "::ffff:7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "localhost", "a.localhost", "vllm",
        "metadata.google.internal", "printer.local", "redis.default.svc", "x.home.arpa",
        "64:ff9b:1::1", "fec0::1", "192.0.0.192",
    ],
)  # fmt: skip
def test_private_hosts_in_any_spelling(host: str) -> None:
    """Numbers of one to four parts, decimal, octal and hexadecimal, IPv6 with IPv4 inside, and names of networks."""
    assert is_private(host)


@pytest.mark.parametrize("host", ["example.com", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "internal.a.com"])
def test_public_hosts(host: str) -> None:
    """The public internet is not private."""
    assert not is_private(host)


@pytest.mark.parametrize(
    "address",
    [
        "http://a.example@127.0.0.1/", "http://127.0.0.1:80/", "http://LOCALHOST./", "http://[::1]/",
        "http://\u2460\u2461\u2466.0.0.1/", "http://127%2e0%2e0%2e1/", "hTTp://0x7f000001/",
        "http://127.0.0\u00ad.1/", "http://127.0.0\u200b.1/",
    ],
)  # fmt: skip
def test_addresses_are_read_as_a_server_reads_them(address: str) -> None:
    """Credentials, ports, letters, dots and escapes do not hide a private host."""
    with pytest.raises(Unsupported):
        refuse_addresses(opened("openai-chat", PLACES["chat"][1](address)), upstream())


@pytest.mark.parametrize(
    "address",
    [
        "", "/etc/passwd", "//127.0.0.1/x", "picture.png", "http://", "http:///x", "http://a.example\\@127.0.0.1/",
        " file:///x", "\tfile:///x", "http://127.0.0.1\t.example/", "http://[::1/",
    ],
)  # fmt: skip
def test_what_servers_would_read_differently_is_refused(address: str) -> None:
    """A path, an address without a host and one that readers disagree about are a 400."""
    with pytest.raises(BadRequest):
        refuse_addresses(opened("openai-chat", PLACES["chat"][1](address)), upstream())


def test_storage_of_googles_is_for_google() -> None:
    """`gs:` passes where the upstream reads it, and nowhere else."""
    inbound_request = opened("gemini", PLACES["gemini"][1]("gs://bucket/a.png"))
    refuse_addresses(inbound_request, upstream(google_storage=True))
    with pytest.raises(BadRequest):
        refuse_addresses(inbound_request, upstream())


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        ("anthropic-messages", {"messages": said({"type": "text", "text": '{"url": "file:///x"}'}), "max_tokens": 9}),
        (
            "anthropic-messages",
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "input": {"source": {"type": "url", "url": "file:x"}}}],
                    }
                ],
                "max_tokens": 9,
            },
        ),
        ("gemini", {"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"fileUri": "file:x"}}}]}]}),
        ("openai-chat", {"messages": said({"type": "image_url", "image_url": {"url": "/9j/" + "A" * 200}})}),
    ],
)
def test_what_is_no_address_is_left_alone(protocol: str, body: Any) -> None:
    """Words, arguments of tools and bare base64 are not given to anybody to fetch."""
    refuse_addresses(opened(protocol, body), upstream())


def test_an_escaped_member_hides_nothing() -> None:
    """A member that is spelled with escapes is found as well."""
    part = b'{"type":"image_url","image\\u005furl":{"url":"file:x"}}'
    body = b'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % part
    with pytest.raises(BadRequest):
        refuse_addresses(opened("openai-chat", body), upstream())
