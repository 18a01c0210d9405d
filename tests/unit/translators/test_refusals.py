"""Refusals read alike, whichever protocol the upstream uses, and name the field as the caller's protocol does."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import pytest

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import (
    InlineData,
    Link,
    Media,
    Message,
    Opaque,
    OutputFormat,
    Part,
    Request,
    StoredFile,
    Text,
    Tool,
    ToolChoice,
)
from llmproxy_asgi.errors import Unsupported
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.registry import translator

CHAT, RESPONSES, MESSAGES, GEMINI = "openai-chat", "openai-responses", "anthropic-messages", "gemini"
ALL = (CHAT, RESPONSES, MESSAGES, GEMINI)
DATA = InlineData(data="AAAA")
FOREIGN = StoredFile(protocol="elsewhere", id="file-1")
LOOK = Tool(name="look", parameters={"type": "object", "properties": {}})


class Refused(NamedTuple):
    """What is asked for, and how those protocols that cannot express it refuse it."""

    message: str
    request: Mapping[str, Any]
    can: Mapping[str, Any]
    by: tuple[str, ...] = ALL


def asking(*parts: Part) -> dict[str, Any]:
    return {"messages": (Message(role="user", parts=parts),)}


def media(kind: Any, source: Any = DATA) -> dict[str, Any]:
    return asking(Media(kind=kind, source=source))


REFUSALS: Mapping[str, Refused] = {
    "video": Refused(
        "Model 'm' does not support video input (messages): leave it out.",
        media("video"),
        {},
        (CHAT, RESPONSES, MESSAGES),
    ),
    "image": Refused(
        "Model 'm' does not support image input (messages): leave it out.", media("image"), {"images": False}
    ),
    "audio": Refused(
        "Model 'm' does not support audio input (messages): leave it out.", media("audio"), {"audio": False}
    ),
    "document": Refused(
        "Model 'm' does not support document input (messages): leave it out.", media("document"), {"documents": False}
    ),
    "document by URL": Refused(
        "Model 'm' does not support document input by this URL (messages): send the data itself.",
        media("document", Link(url="https://example.com/a.pdf")),
        {},
        (CHAT, GEMINI),
    ),
    "stored image": Refused(
        "This upstream cannot read files or objects of another vendor (messages): send the content itself.",
        media("image", FOREIGN),
        {},
    ),
    "stored document": Refused(
        "This upstream cannot read files or objects of another vendor (messages): send the content itself.",
        media("document", FOREIGN),
        {},
    ),
    "stored conversation": Refused(
        "This upstream cannot read files or objects of another vendor (conversation): send the content itself.",
        {"extras": {"elsewhere": {"conversation": "conv_1"}}},
        {},
    ),
    "part of another vendor": Refused(
        "This upstream does not support parts of type 'thing' (messages): leave it out.",
        asking(Opaque(protocol=RESPONSES, kind="thing", data={"type": "thing"})),
        {},
        (CHAT, MESSAGES, GEMINI),
    ),
    "trailing assistant message": Refused(
        "Model 'm' does not continue a trailing assistant message (messages): end with a user message.",
        {
            "messages": (
                Message(role="user", parts=(Text(text="Hi"),)),
                Message(role="assistant", parts=(Text(text="Well"),)),
            )
        },
        {"prefill": False},
    ),
    "image output": Refused(
        "Model 'm' does not support image output (modalities): ask for text.",
        {"output": OutputFormat(modalities=("text", "image"))},
        {},
        (CHAT, RESPONSES, MESSAGES),
    ),
    "audio output": Refused(
        "Model 'm' does not support audio output (modalities): ask for text.",
        {"output": OutputFormat(modalities=("text", "audio"))},
        {"audio": False},
    ),
    "no tokens": Refused(
        "Model 'm' does not support a response without tokens (max_tokens): send at least 1.",
        {"max_output_tokens": 0},
        {},
        (CHAT, RESPONSES, GEMINI),
    ),
    "candidates": Refused(
        "Model 'm' does not support several candidates (n): send 1.", {"candidates": 2}, {}, (RESPONSES, MESSAGES)
    ),
    "stored response": Refused(
        "This upstream stores no responses between calls (previous_response_id): send the whole conversation.",
        {"continues": "resp_1"},
        {},
    ),
    "tools": Refused("Model 'm' does not support tools (tools): leave them out.", {"tools": (LOOK,)}, {"tools": False}),
    "server tool": Refused(
        "This upstream does not have the server tool 'dig' (tools): leave it out.",
        {"tools": (Tool(name="dig", kind="server"),)},
        {},
    ),
    "undeclared choice": Refused(
        "The tool 'dig' is chosen but not declared (tool_choice): name one of the tools.",
        {
            "tools": (LOOK, Tool(name="listen", parameters={"type": "object", "properties": {}})),
            "tool_choice": ToolChoice(mode="required", only=("look", "dig"), given=True),
        },
        {},
    ),
    "tool with images": Refused(
        "Model 'm' does not support image input, and the tool 'look' returns images (tools): leave it out.",
        {"tools": (msgspec.structs.replace(LOOK, shows_images=True),)},
        {"images": False},
    ),
    "programmatic tool": Refused(
        "This upstream does not support programmatic calls, and the tool 'look' allows no others (allowed_callers): "
        "allow 'direct'.",
        {"tools": (msgspec.structs.replace(LOOK, extras={"elsewhere": {"allowed_callers": ["code"]}}),)},
        {},
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_has_the_same_wording_for_every_upstream(name: str) -> None:
    """Every protocol that cannot express a request refuses it with the very same message, which names its field."""
    case = REFUSALS[name]
    request = Request(protocol="elsewhere", model="m", **{**asking(Text(text="Hi")), **case.request})
    upstream = Upstream(provider="p", model="own", client_model="m", issuer="p", capabilities=Capabilities(**case.can))
    refused: dict[str, tuple[str, str | None]] = {}
    for protocol in ALL:
        try:
            translator(protocol).outbound.encode(request, upstream)
        except Unsupported as error:
            refused[protocol] = (error.message, error.param)
    [field] = re.findall(r"\((\w+)\): ", case.message)
    assert refused == dict.fromkeys(case.by, (case.message, field))


@pytest.mark.parametrize(
    ("protocol", "field"), [(CHAT, "messages"), (RESPONSES, "input"), (MESSAGES, "messages"), (GEMINI, "contents")]
)
def test_a_refusal_names_the_field_as_the_caller_does(protocol: str, field: str) -> None:
    """`param` and the message name the same field, that of the caller's protocol."""
    spelling = translator(protocol).inbound.spelling
    error = refusals.in_callers_terms(refusals.unsupported_input("m", "video"), spelling)
    assert error.param == field
    assert error.message == str(error) == f"Model 'm' does not support video input ({field}): leave it out."
