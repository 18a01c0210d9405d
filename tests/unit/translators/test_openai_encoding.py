"""Rules that requests to Chat Completions and to Responses share."""

from typing import Any

import msgspec
import pytest

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import CacheMark, Message, Request, Text, ToolCall, ToolResult
from llmproxy_asgi.errors import Unsupported
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.registry import translator

PROTOCOLS = ("openai-chat", "openai-responses")
ASKS = Message(role="user", parts=(Text(text="Hi"),))
SAYS = Message(role="assistant", parts=(Text(text="Well"),))


def encoded(protocol: str, *messages: Message, caller: str = "gemini", **can: Any) -> dict[str, Any]:
    request = Request(protocol=caller, model="m", messages=messages)
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p", capabilities=Capabilities(**can))
    body: dict[str, Any] = msgspec.json.decode(translator(protocol).outbound.encode(request, upstream).body)
    return body


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_error_loses_its_mark_where_there_are_too_many(protocol: str) -> None:
    """Five marks, the first of them on the text of a failed tool: the last four are sent."""
    marked = [Text(text=str(number), cache_mark=CacheMark()) for number in range(5)]
    failed = ToolResult(call_id="c", content=(marked[0],), is_error=True)
    body = encoded(
        protocol,
        ASKS,
        Message(role="assistant", parts=(ToolCall(call_id="c", name="f"),)),
        Message(role="tool", parts=(failed,)),
        Message(role="user", parts=tuple(marked[1:])),
    )
    sent = msgspec.json.encode(body).decode()
    assert "[tool error] 0" in sent
    assert sent.count("prompt_cache_breakpoint") == 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_trailing_assistant_message_is_sent_where_it_means_the_same(protocol: str) -> None:
    """A caller of the same protocol means what the vendor does with it, unless the model takes none."""
    assert encoded(protocol, ASKS, SAYS, caller=protocol)
    for refused in ({"caller": protocol, "prefill": False}, {"caller": "gemini"}):
        with pytest.raises(Unsupported, match="trailing assistant message"):
            encoded(protocol, ASKS, SAYS, **refused)
