"""Server tools in the input of a passed-through request: only the entries that may hold tools are decoded."""

from typing import Any

import msgspec
import pytest

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.hosted_tools import refuse_in_passthrough
from llmproxy_asgi.translators.openai.hosted_tools import RESPONSES
from llmproxy_asgi.wire.json_body import decode

LIMITED = Capabilities(server_tools=("web_search",))
MCP = b'{"type":"mcp","server_url":"https://evil.example/"}'


def check(given: bytes) -> None:
    refuse_in_passthrough({"input": msgspec.Raw(given)}, LIMITED, RESPONSES)


@pytest.mark.parametrize(
    "given",
    [
        b'[{"role":"user","content":"x"},{"type":"additional_tools","tools":[%b]}]',
        rb'[1,{"t\u0079pe":"additional\u005ftools","tools":[%b]}]',
        b'[null,{"TYPE":"additional_tools","Tools":[%b]}]',
    ],
)
def test_tools_of_an_input_item_are_refused_in_every_spelling(given: bytes) -> None:
    """The path counts the entries that are not decoded."""
    with pytest.raises(GatewayError, match=r"not allowed") as caught:
        check(given % MCP)
    assert caught.value.param == "input[1].tools[0]"


def test_other_input_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long conversation costs a search, also beside an item with tools and where it mentions their name."""
    decoded: list[int] = []

    def counted(value: msgspec.Raw) -> Any:
        decoded.append(len(memoryview(value)))
        return decode(value)

    monkeypatch.setattr("llmproxy_asgi.translators.hosted_tools.decode", counted)
    text = b'{"role":"user","content":"%b"}' % (b'additional_tools and \\"additional_tools\\" ' * 1000)
    check(b'"additional_tools"')
    check(b'["additional_tools"]'.replace(b"a", b"b"))
    check(b"[" + text + b"]")
    assert decoded == []
    check(b"[" + text + b',{"type":"additional_tools","tools":[{"type":"web_search"}]}]')
    assert sum(decoded) < 100
