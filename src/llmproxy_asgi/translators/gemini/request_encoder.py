"""Encode requests for a generateContent upstream."""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.options import Encoding
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.gemini.message_encoder import GeminiMessageEncoder
from llmproxy_asgi.translators.gemini.options import OPTIONS
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.gemini.tool_encoder import TOOL_NAME, TOOL_NAME_LIMIT, GeminiToolEncoder
from llmproxy_asgi.translators.losses import Losses, unsaid_extras
from llmproxy_asgi.translators.names import Renamer

_SHOWS_SEARCHES = frozenset({"anthropic-messages"})
"""Protocols in which a search is a part of the response."""


def encode_request(request: ir.Request, upstream: Upstream) -> UpstreamRequest:
    """Encode a request; each loss becomes a warning.

    Raises:
        Unsupported: The upstream doesn't support something that the response depends on.
        BadRequest: The conversation is invalid.
    """
    OPTIONS.refuse(request, upstream.capabilities)
    losses = Losses()
    names = Renamer(TOOL_NAME, TOOL_NAME_LIMIT)
    tool_encoder = GeminiToolEncoder(request, upstream, names, losses)
    tool_encoder.name_all()
    message_encoder = GeminiMessageEncoder(request, upstream, names, losses)
    message_encoder.write()
    encoding = Encoding(request, upstream.capabilities, losses)
    options = OPTIONS.encode(encoding)
    body: JSONObject = {}
    if system := [*message_encoder.system, *([{"text": encoding.instruction}] if encoding.instruction else [])]:
        body["systemInstruction"] = {"parts": system}
    body["contents"] = message_encoder.contents
    body |= tool_encoder.write()
    body |= options
    if request.extras:
        merge_extras(body, request.extras.get(PROTOCOL, {}))
        losses.add(*unsaid_extras(request, PROTOCOL))
    return UpstreamRequest(
        body=msgspec.json.encode(body),
        stream=request.stream,
        warnings=losses.words,
        names=dict(names.table),
        namespaces=dict(names.namespaces),
        emulated=frozenset(tool_encoder.emulated | message_encoder.emulated),
        shows_searches=request.protocol in _SHOWS_SEARCHES and any(tool.name == "web_search" for tool in request.tools),
        stop=encoding.stop,
    )
