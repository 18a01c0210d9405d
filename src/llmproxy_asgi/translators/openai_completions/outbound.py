"""Completions spoken to an upstream that has them: requests and answers in the bytes they came in.

The frame of an answer (id, model, choices with a finish reason, usage, `[DONE]`) is that of Chat Completions, and so is
all that is looked at in it. A conversation is never written this way: no prompt says faithfully who said what.
"""

from typing import ClassVar

from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import UpstreamError
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Headers, InboundRequest, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.openai.errors import decode_error
from llmproxy_asgi.translators.openai.fields import integer
from llmproxy_asgi.translators.openai_chat.outbound import ChatOutbound
from llmproxy_asgi.translators.openai_chat.passthrough import ChatScan
from llmproxy_asgi.translators.openai_completions.options import PROTOCOL
from llmproxy_asgi.translators.openai_completions.request_decoder import prompts_of
from llmproxy_asgi.translators.passthrough import PassthroughDecoder


class CompletionsOutbound(ChatOutbound):
    """The half that calls upstreams."""

    protocol = PROTOCOL
    carries_others: ClassVar[bool] = False

    @override
    def encode(self, request: ir.Request, upstream: Upstream) -> UpstreamRequest:
        raise refusals.refusal("This upstream supports legacy completions only", "messages", "send a prompt")

    @override
    def passthrough_stream(self, inbound_request: InboundRequest, upstream: Upstream) -> StreamDecoder:
        candidates = (integer(inbound_request.raw, "n") or 1) * len(prompts_of(inbound_request.raw))
        scan = ChatScan(upstream, keep_usage=inbound_request.include_usage, candidates=candidates)
        return PassthroughDecoder(scan, client_model=upstream.client_model, max_event=upstream.max_event)

    @override
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        return decode_error(status, headers, body, protocol=PROTOCOL)
