"""Encode requests for a generateContent upstream."""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.gemini.mappings import TIERS_OUT
from llmproxy_asgi.translators.gemini.message_encoder import GeminiMessageEncoder
from llmproxy_asgi.translators.gemini.options_encoder import generation_config, split_stop_sequences, supports_format
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.gemini.tool_encoder import TOOL_NAME, TOOL_NAME_LIMIT, GeminiToolEncoder
from llmproxy_asgi.translators.losses import Losses, refuse_missing_part, unsaid_extras
from llmproxy_asgi.translators.names import Renamer
from llmproxy_asgi.translators.stop_sequences import emulate_stops

_SHOWS_SEARCHES = frozenset({"anthropic-messages"})
"""Protocols in which a search is a part of the response."""
_JSON_LINE = "Answer with one JSON object and nothing else."
_SCHEMA_LINE = "Answer with one JSON value and nothing else. It must satisfy this JSON Schema:\n"


def encode_request(request: ir.Request, upstream: Upstream) -> UpstreamRequest:
    """Encode a request; each loss becomes a warning.

    Raises:
        Unsupported: The upstream doesn't support something that the response depends on.
        BadRequest: The conversation is invalid.
    """
    if request.continues:
        raise refusals.no_stored_responses()
    refuse_missing_part(request, PROTOCOL)
    losses = Losses()
    names = Renamer(TOOL_NAME, TOOL_NAME_LIMIT)
    tool_encoder = GeminiToolEncoder(request, upstream, names, losses)
    tool_encoder.name_all()
    message_encoder = GeminiMessageEncoder(request, upstream, names, losses)
    message_encoder.write()
    body: JSONObject = {}
    system = [*message_encoder.system, *_instruction(request, upstream, losses)]
    if system:
        body["systemInstruction"] = {"parts": system}
    body["contents"] = message_encoder.contents
    body |= tool_encoder.write()
    config = generation_config(request, upstream, losses)
    _, emulated_stops = split_stop_sequences(request, upstream.capabilities)
    stop = emulate_stops(emulated_stops, losses)
    if config:
        body["generationConfig"] = config
    body |= _tier(request, losses)
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
        stop=stop,
    )


def _instruction(request: ir.Request, upstream: Upstream, losses: Losses) -> list[JSONObject]:
    """Describe the response format in the system instruction, for models that don't support it, or not with tools."""
    output, capabilities = request.output, upstream.capabilities
    native = supports_format(request, capabilities)
    if output.kind == "text" or (native and (output.kind == "json" or capabilities.structured_output)):
        return []
    losses.add("emulated:response_format")
    if output.kind == "json":
        return [{"text": _JSON_LINE}]
    return [{"text": _SCHEMA_LINE + msgspec.json.encode(output.schema or {}).decode()}]


def _tier(request: ir.Request, losses: Losses) -> JSONObject:
    tier = request.service_tier
    if tier is None:
        return {}
    if tier not in TIERS_OUT:
        losses.add("dropped:service_tier")
    value = TIERS_OUT.get(tier)
    return {"serviceTier": value} if value else {}
