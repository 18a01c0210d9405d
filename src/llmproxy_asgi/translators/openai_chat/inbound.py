"""The caller side of Chat Completions.

`open` reads only the top level of a request; `decode_request` decodes the rest when it is needed, for example for
translation.
"""

from collections.abc import Mapping

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.base import Headers, InboundRequest, StreamEncoder
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.openai.fields import ARRAY, BOOLEAN, NUMBER, OBJECT, STRING, Outside, check_outsides
from llmproxy_asgi.translators.openai.foreign_bodies import reopen
from llmproxy_asgi.translators.openai.inbound import OpenAIInbound
from llmproxy_asgi.translators.openai.outline import CONVERSATION_NAMES
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.options import OPTIONS
from llmproxy_asgi.translators.openai_chat.request_decoder import decode_request
from llmproxy_asgi.translators.openai_chat.response_encoder import encode_answer
from llmproxy_asgi.translators.openai_chat.stream_encoder import ChatStreamEncoder
from llmproxy_asgi.translators.outline import Counted, Outline
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds

_OUTSIDES: Mapping[str, Outside] = {
    "model": STRING,
    "messages": ARRAY,
    "stream": BOOLEAN,
    "stream_options": OBJECT,
    "tools": ARRAY,
    "functions": ARRAY,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "parallel_tool_calls": BOOLEAN,
    "response_format": OBJECT,
    "metadata": OBJECT,
    "logprobs": BOOLEAN,
}
"""The allowed first bytes of values; checked for passthrough requests as well."""
OUTLINE = Outline(
    CONVERSATION_NAMES | OPTIONS.known,
    Counted("messages", "messages"),
    Counted("input", "messages"),
    Counted("tools", "tools", within=("tools",)),
    Counted("functions", "tools"),
)
_OTHER = "openai-responses"
_NULL = ord("n")
_TRUE = ord("t")
_SMALLEST = len('[{"role":""}]')
"""In bytes; a shorter value may be an empty array."""
_COUNTS = ("max_tokens", "max_completion_tokens", "n")


class ChatInbound(OpenAIInbound):
    """The Chat Completions codec for callers."""

    protocol = PROTOCOL
    keepalive = b": keep-alive\n\n"
    output_limits = ("max_completion_tokens", "max_tokens")
    fields = OPTIONS.known | {"audio", "moderation", "prediction"}

    @override
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = ir.EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        raw, values = OUTLINE.open(body, bounds)
        check_outsides(raw, _OUTSIDES)
        messages = raw.get("messages")
        if messages is None or memoryview(messages)[0] == _NULL:
            if "input" not in raw:
                raise missing("messages")
            return reopen(body, written_in=_OTHER, served_in=PROTOCOL, headers=headers, path=path, bounds=bounds)
        small = Node.of(raw, "messages") if len(messages) < _SMALLEST else None
        if small is not None and not small.value:
            raise BadRequest(
                "The conversation is empty (messages): send at least one message.", param="messages", code="empty_array"
            )
        for key in _COUNTS:
            if key in raw:
                count = Node.of(raw, key)
                if count is not None:
                    count.integer(1)
        model = Node.of(raw, "model")
        return InboundRequest(
            protocol=PROTOCOL,
            model=model.text() if model else "",
            stream="stream" in raw and memoryview(raw["stream"])[0] == _TRUE,
            include_usage=_asks_usage(raw),
            raw=raw,
            size=len(body),
            values=values,
            path=path,
        )

    @override
    def decode(self, inbound_request: InboundRequest) -> ir.Request:
        return decode_request(inbound_request)

    @override
    def encode(self, response: ir.Response, inbound_request: InboundRequest) -> bytes:
        return encode_answer(response, inbound_request)

    @override
    def encoder(self, inbound_request: InboundRequest) -> StreamEncoder:
        return ChatStreamEncoder(inbound_request)


def _asks_usage(raw: Mapping[str, msgspec.Raw]) -> bool:
    options = Node.of(raw, "stream_options") if "stream_options" in raw else None
    asked = options.get("include_usage") if options else None
    return asked.boolean() if asked else False
