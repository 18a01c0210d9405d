"""The caller side of the Responses protocol.

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
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_responses.options import OPTIONS
from llmproxy_asgi.translators.openai_responses.request_decoder import decode_request
from llmproxy_asgi.translators.openai_responses.state import decode_state
from llmproxy_asgi.translators.openai_responses.stream_encoder import ResponsesStreamEncoder, encode_answer
from llmproxy_asgi.translators.outline import Counted, Outline
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds

_OUTSIDES: Mapping[str, Outside] = {
    "model": STRING,
    "input": (b'"[', "a string or an array"),
    "instructions": STRING,
    "previous_response_id": STRING,
    "stream": BOOLEAN,
    "store": BOOLEAN,
    "background": BOOLEAN,
    "parallel_tool_calls": BOOLEAN,
    "tools": ARRAY,
    "include": ARRAY,
    "text": OBJECT,
    "reasoning": OBJECT,
    "metadata": OBJECT,
    "stream_options": OBJECT,
    "temperature": NUMBER,
    "top_p": NUMBER,
}
"""The allowed first bytes of values; checked for passthrough requests as well."""
OUTLINE = Outline(
    CONVERSATION_NAMES | OPTIONS.known, Counted("input", "messages"), Counted("tools", "tools", within=("tools",))
)
_OTHER = "openai-chat"
_NULL = ord("n")
_TRUE = ord("t")
_SUPPLIERS = ("previous_response_id", "prompt", "conversation")
"""Fields that may replace the input."""
_COUNTING = "input_tokens"

SPELLING = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
    "cache_breakpoints": "prompt_cache_key",
}
"""The neutral names of fields, with this protocol's names."""


class ResponsesInbound(OpenAIInbound):
    """The Responses codec for callers."""

    protocol = PROTOCOL
    keepalive = b": keep-alive\n\n"
    spelling = SPELLING
    output_limits = ("max_output_tokens",)

    @override
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = ir.EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        raw, values = OUTLINE.open(body, bounds)
        check_outsides(raw, _OUTSIDES)
        if "messages" in raw and "input" not in raw:
            return reopen(body, written_in=_OTHER, served_in=PROTOCOL, headers=headers, path=path, bounds=bounds)
        if path.get("operation") != _COUNTING:
            _check_input(raw)
        limit = Node.of(raw, "max_output_tokens") if "max_output_tokens" in raw else None
        if limit is not None:
            limit.integer(1)
        model = Node.of(raw, "model")
        return InboundRequest(
            protocol=PROTOCOL,
            model=model.text() if model else "",
            stream="stream" in raw and memoryview(raw["stream"])[0] == _TRUE,
            raw=raw,
            size=len(body),
            values=values,
            path=path,
            state=decode_state(raw, counting=path.get("operation") == _COUNTING),
        )

    @override
    def decode(self, inbound_request: InboundRequest) -> ir.Request:
        return decode_request(inbound_request)

    @override
    def encode(self, response: ir.Response, inbound_request: InboundRequest) -> bytes:
        return encode_answer(response, inbound_request)

    @override
    def encoder(self, inbound_request: InboundRequest) -> StreamEncoder:
        return ResponsesStreamEncoder(inbound_request)

    @override
    def encode_count(self, tokens: int) -> bytes:
        return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": tokens})


def _check_input(raw: Mapping[str, msgspec.Raw]) -> None:
    given = raw.get("input")
    supplied = any(key in raw and memoryview(raw[key])[0] != _NULL for key in _SUPPLIERS)
    if supplied:
        return
    if given is None or memoryview(given)[0] == _NULL:
        raise missing("input")
    small = Node.of(raw, "input") if len(given) < len('[{"id":""}]') else None
    if small is not None and not small.value:
        raise BadRequest("The input is empty (input): send at least one item.", param="input", code="empty_array")
