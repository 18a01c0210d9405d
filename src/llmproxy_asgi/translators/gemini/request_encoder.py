"""A request that came in another protocol, written for an upstream that speaks generateContent."""

import msgspec

from llmproxy_asgi.conversation import JSONObject, Request
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Outgoing, Upstream
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.gemini.mappings import TIERS_OUT
from llmproxy_asgi.translators.gemini.message_encoder import Contents
from llmproxy_asgi.translators.gemini.options_encoder import generation_config, stops, takes_format
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.gemini.tool_encoder import TOOL_NAME, TOOL_NAME_LIMIT, Tools
from llmproxy_asgi.translators.losses import Losses, refuse_missing_part, unsaid_extras
from llmproxy_asgi.translators.names import Renamer
from llmproxy_asgi.translators.stops import emulated

_SHOWS_SEARCHES = frozenset({"anthropic-messages"})
"""Protocols in which a search is a part of the answer."""
_JSON_LINE = "Answer with one JSON object and nothing else."
_SCHEMA_LINE = "Answer with one JSON value and nothing else. It must satisfy this JSON Schema:\n"


def encode_request(request: Request, upstream: Upstream) -> Outgoing:
    """Write a request; each loss is a warning.

    Raises:
        Unsupported: The answer would be wrong without what this upstream cannot take.
        BadRequest: The conversation is broken.
    """
    if request.continues:
        raise refusals.no_stored_responses()
    refuse_missing_part(request, PROTOCOL)
    losses = Losses()
    names = Renamer(TOOL_NAME, TOOL_NAME_LIMIT)
    tools = Tools(request, upstream, names, losses)
    tools.name_all()
    contents = Contents(request, upstream, names, losses)
    contents.write()
    body: JSONObject = {}
    system = [*contents.system, *_instruction(request, upstream, losses)]
    if system:
        body["systemInstruction"] = {"parts": system}
    body["contents"] = contents.contents
    body |= tools.write()
    config = generation_config(request, upstream, losses)
    _, rest = stops(request, upstream.capabilities)
    cut = emulated(rest, losses)
    if config:
        body["generationConfig"] = config
    body |= _tier(request, losses)
    merge_extras(body, request.extras.get(PROTOCOL, {}))
    losses.add(*unsaid_extras(request, PROTOCOL))
    return Outgoing(
        body=msgspec.json.encode(body),
        stream=request.stream,
        warnings=losses.words,
        names=dict(names.table),
        namespaces=dict(names.namespaces),
        emulated=frozenset(tools.emulated | contents.emulated),
        shows_searches=request.protocol in _SHOWS_SEARCHES and any(tool.name == "web_search" for tool in request.tools),
        stop=cut,
    )


def _instruction(request: Request, upstream: Upstream, losses: Losses) -> list[JSONObject]:
    """The answer's format in words, for models that take none, or none beside tools."""
    output, can = request.output, upstream.capabilities
    asked = takes_format(request, can)
    if output.kind == "text" or (asked and (output.kind == "json" or can.structured_output)):
        return []
    losses.add("emulated:response_format")
    if output.kind == "json":
        return [{"text": _JSON_LINE}]
    return [{"text": _SCHEMA_LINE + msgspec.json.encode(output.schema or {}).decode()}]


def _tier(request: Request, losses: Losses) -> JSONObject:
    tier = request.service_tier
    if tier is None:
        return {}
    if tier not in TIERS_OUT:
        losses.add("dropped:service_tier")
    word = TIERS_OUT.get(tier)
    return {"serviceTier": word} if word else {}
