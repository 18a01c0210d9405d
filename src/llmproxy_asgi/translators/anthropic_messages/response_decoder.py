"""Decode complete responses of a Messages upstream."""

from datetime import datetime

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.anthropic_messages.errors import error_in, stream_error
from llmproxy_asgi.translators.anthropic_messages.schema import MESSAGE, PROTOCOL, Message
from llmproxy_asgi.translators.anthropic_messages.stream_decoder import MessagesStreamDecoder
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.stray_errors import read_loosely
from llmproxy_asgi.translators.surrogates import decode_replaced


def decode_response(
    body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, received_at: datetime
) -> ir.Response:
    """Decode a complete response.

    Raises:
        UpstreamError: The body is no response, or is an error.
    """
    message = decode_response_body(body)
    response = fold(MessagesStreamDecoder(upstream_request, upstream).decode_whole(message, received_at))
    if not message.container:
        return response
    return msgspec.structs.replace(response, extras={PROTOCOL: {"container": message.container}})


def decode_response_body(body: bytes) -> Message:
    """Decode and check the top level of a complete response; its blocks stay raw.

    Raises:
        UpstreamError: The body is no response, or is an error.
    """
    try:
        response = decode_replaced(MESSAGE, body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise error_in(body) or UpstreamProtocolError("The upstream's answer cannot be read.") from None
    if response.error is not None or response.type == "error":
        raise stream_error(read_loosely(body))
    if response.content is None and (error := error_in(body)) is not None:
        raise error
    if response.content is None:
        raise UpstreamProtocolError("The upstream's answer holds no content.")
    return response
