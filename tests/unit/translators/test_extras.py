"""A caller's own fields beside what was decoded, at every depth."""

from typing import Any

import msgspec
import pytest

from llmproxy_asgi.conversation import Message, OutputFormat, ReasoningOptions, Request, Text
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.registry import translator

SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("protocol", "path"),
    [
        ("anthropic-messages", ("output_config", "format")),
        ("gemini", ("generationConfig", "thinkingConfig")),
    ],
)
def test_a_field_two_objects_deep_leaves_what_stands_beside_it(protocol: str, path: tuple[str, str]) -> None:
    """An unknown field within a known object within a known object replaces neither of them."""
    outer, inner = path
    request = Request(
        protocol=protocol,
        model="m",
        messages=(Message(role="user", parts=(Text(text="Hi"),)),),
        output=OutputFormat(kind="json_schema", schema=SCHEMA),
        reasoning=ReasoningOptions(effort="high"),
        max_output_tokens=99,
    )
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p")

    def encoded(asked: Request) -> dict[str, Any]:
        body: dict[str, Any] = msgspec.json.decode(translator(protocol).outbound.encode(asked, upstream).body)
        return body

    known = encoded(request)[outer][inner]
    assert known
    extras = {protocol: {outer: {inner: {"newer": 1}}}}
    assert encoded(msgspec.structs.replace(request, extras=extras))[outer][inner] == {**known, "newer": 1}
