"""Encode requests for a Messages upstream."""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages.message_encoder import MessagesMessageEncoder
from llmproxy_asgi.translators.anthropic_messages.options import OPTIONS
from llmproxy_asgi.translators.anthropic_messages.schema import FIRST_VERSION, PROTOCOL, VERSION
from llmproxy_asgi.translators.anthropic_messages.tool_encoder import TOOL_NAME, TOOL_NAME_LIMIT, MessagesToolEncoder
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.options import Encoding
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.losses import Losses, unsaid_extras
from llmproxy_asgi.translators.names import CallIds, Renamer

_MAX_CACHE_MARKS = 4
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})


def encode_request(request: ir.Request, upstream: Upstream) -> UpstreamRequest:
    """Encode a request; each loss becomes a warning.

    Raises:
        Unsupported: The upstream doesn't support something that the response depends on.
        BadRequest: The conversation is invalid.
    """
    capabilities = upstream.capabilities
    OPTIONS.refuse(request, capabilities)
    losses = Losses()
    names, ids = Renamer(TOOL_NAME, TOOL_NAME_LIMIT), CallIds()
    tool_encoder = MessagesToolEncoder(request, capabilities, names, losses)
    tool_encoder.name_all()
    message_encoder = MessagesMessageEncoder(request, upstream, names, ids, losses)
    message_encoder.write()
    encoding = Encoding(request, capabilities, losses, message_encoder.messages)
    options = OPTIONS.encode(encoding)
    body: JSONObject = {"model": upstream.model, "max_tokens": options["max_tokens"]}
    instruction = [{"type": "text", "text": encoding.instruction}] if encoding.instruction else []
    if system := [*message_encoder.system, *instruction]:
        body["system"] = system
    body["messages"] = message_encoder.messages
    body |= tool_encoder.write(encoding)
    body |= options
    _limit_marks(body, [*tool_encoder.marked, *message_encoder.marked], losses)
    if request.extras:
        losses.add(*unsaid_extras(request, PROTOCOL))
        merge_extras(body, request.extras.get(PROTOCOL, {}))
    if request.stream:
        body["stream"] = True
    return UpstreamRequest(
        body=msgspec.json.encode(body),
        stream=request.stream,
        headers=_headers(request, first_version=not _SAMPLING.isdisjoint(options)),
        warnings=losses.words,
        names=dict(names.table),
        namespaces=dict(names.namespaces),
        call_ids=message_encoder.call_ids,
        emulated=frozenset(tool_encoder.emulated),
        stop=encoding.stop,
    )


def _headers(request: ir.Request, *, first_version: bool) -> tuple[tuple[str, str], ...]:
    """Return the headers; the version is the caller's, else the latest, or the first if sampling values are sent."""
    version = FIRST_VERSION if first_version else VERSION
    if request.protocol == PROTOCOL:
        version = request.version or FIRST_VERSION
    betas = (("anthropic-beta", ",".join(request.betas)),) if request.betas else ()
    return (("anthropic-version", version), *betas)


def _limit_marks(body: JSONObject, marked: list[JSONObject], losses: Losses) -> None:
    """Keep the last cache marks, at most four with the request's own: they cover the longest prefixes."""
    superfluous = len(marked) + ("cache_control" in body) - _MAX_CACHE_MARKS
    if superfluous > 0:
        losses.add("clamped:cache_breakpoints")
    for block in marked[: max(superfluous, 0)]:
        del block["cache_control"]
