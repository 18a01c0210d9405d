"""Completions served to our callers."""

from collections.abc import Mapping, Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Headers, InboundRequest, StreamEncoder
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai.fields import boolean, integer, number
from llmproxy_asgi.translators.openai.inbound import OpenAIInbound
from llmproxy_asgi.translators.openai.outline import COMPLETIONS_NAMES
from llmproxy_asgi.translators.openai_completions.options import OPTIONS, PROTOCOL
from llmproxy_asgi.translators.openai_completions.request_decoder import decode_each, prompts_of
from llmproxy_asgi.translators.openai_completions.response_encoder import CompletionsStreamEncoder, encode_answer
from llmproxy_asgi.translators.outline import Counted, Outline
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds

OUTLINE = Outline(COMPLETIONS_NAMES | OPTIONS.known, Counted("prompt", "messages"))


class CompletionsInbound(OpenAIInbound):
    """The half that serves callers."""

    protocol = PROTOCOL
    keepalive = b": keep-alive\n\n"
    output_limits = ("max_tokens",)

    @override
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = ir.EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        raw, values = OUTLINE.open(body, bounds)
        prompts = prompts_of(raw)
        integer(raw, "n", low=1)
        integer(raw, "max_tokens", low=0)
        number(raw, "temperature", 0, 2)
        number(raw, "top_p", 0, 1)
        model = Node.of(raw, "model")
        return InboundRequest(
            protocol=PROTOCOL,
            model=model.text() if model else "",
            stream=boolean(raw, "stream") or False,
            include_usage=_asks_usage(raw),
            raw=raw,
            size=len(body),
            values=values,
            path=path,
            is_batch=len(prompts) > 1,
        )

    @override
    def decode(self, inbound_request: InboundRequest) -> ir.Request:
        first, *others = decode_each(inbound_request)
        if others:
            raise refusals.single_prompt()
        return first

    @override
    def decode_each(self, inbound_request: InboundRequest) -> Sequence[ir.Request]:
        return decode_each(inbound_request)

    @override
    def encode(self, response: ir.Response, inbound_request: InboundRequest) -> bytes:
        return encode_answer(response, inbound_request)

    @override
    def encoder(self, inbound_request: InboundRequest) -> StreamEncoder:
        return CompletionsStreamEncoder(inbound_request)


def _asks_usage(raw: Mapping[str, msgspec.Raw]) -> bool:
    options = Node.of(raw, "stream_options")
    asked = options.get("include_usage") if options else None
    return asked.boolean() if asked else False
