"""Encode requests for a Messages upstream."""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages.message_encoder import MessagesMessageEncoder, cache_control
from llmproxy_asgi.translators.anthropic_messages.options_encoder import (
    OutputOptions,
    ThinkingOptions,
    max_tokens,
    refuse_unsupported,
    sampling,
    service_tier,
    split_stop_sequences,
)
from llmproxy_asgi.translators.anthropic_messages.schema import FIRST_VERSION, PROTOCOL, VERSION
from llmproxy_asgi.translators.anthropic_messages.tool_encoder import TOOL_NAME, TOOL_NAME_LIMIT, MessagesToolEncoder
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.losses import Losses, unsaid_extras
from llmproxy_asgi.translators.names import CallIds, Renamer
from llmproxy_asgi.translators.stop_sequences import emulate_stops

_MAX_CACHE_MARKS = 4
_THINKING = frozenset({"thinking", "redacted_thinking"})


def encode_request(request: ir.Request, upstream: Upstream) -> UpstreamRequest:
    """Encode a request; each loss becomes a warning.

    Raises:
        Unsupported: The upstream doesn't support something that the response depends on.
        BadRequest: The conversation is invalid.
    """
    refuse_unsupported(request)
    capabilities = upstream.capabilities
    losses = Losses()
    names, ids = Renamer(TOOL_NAME, TOOL_NAME_LIMIT), CallIds()
    tool_encoder = MessagesToolEncoder(request, capabilities, names, losses)
    tool_encoder.name_all()
    message_encoder = MessagesMessageEncoder(request, upstream, names, ids, losses)
    message_encoder.write()
    limit = max_tokens(request, capabilities, losses)
    thinking = ThinkingOptions(request, capabilities, limit, losses)
    if thinking.on and _lacks_thinking(message_encoder.messages):
        thinking.drop_budget()
    output = OutputOptions(request, capabilities, losses)
    system = [*message_encoder.system, *([{"type": "text", "text": output.instruction}] if output.instruction else [])]
    sampling_fields = sampling(request, capabilities, losses, thinking=thinking.on)
    body: JSONObject = {"model": upstream.model, "max_tokens": limit}
    if system:
        body["system"] = system
    body["messages"] = message_encoder.messages
    body |= tool_encoder.write(thinking=thinking.on)
    body |= _options(thinking, output)
    body |= sampling_fields
    native_stops, emulated_stops = split_stop_sequences(request, capabilities)
    if native_stops:
        body["stop_sequences"] = native_stops
    stop = emulate_stops(emulated_stops, losses)
    body |= service_tier(request, losses)
    if request.end_user:
        body["metadata"] = {"user_id": request.end_user}
    _limit_marks(
        request, body, [*tool_encoder.marked, *message_encoder.marked], losses, enabled=capabilities.cache_marks
    )
    losses.add(*unsaid_extras(request, PROTOCOL))
    merge_extras(body, request.extras.get(PROTOCOL, {}))
    if request.stream:
        body["stream"] = True
    return UpstreamRequest(
        body=msgspec.json.encode(body),
        stream=request.stream,
        headers=_headers(request, first_version=bool(sampling_fields)),
        warnings=losses.words,
        names=dict(names.table),
        namespaces=dict(names.namespaces),
        call_ids=message_encoder.call_ids,
        emulated=frozenset(tool_encoder.emulated),
        stop=stop,
    )


def _options(thinking: ThinkingOptions, output: OutputOptions) -> JSONObject:
    fields: JSONObject = {}
    if thinking.thinking:
        fields["thinking"] = thinking.thinking
    config: JSONObject = {}
    if thinking.effort:
        config["effort"] = thinking.effort
    if output.format:
        config["format"] = output.format
    if config:
        fields["output_config"] = config
    return fields


def _headers(request: ir.Request, *, first_version: bool) -> tuple[tuple[str, str], ...]:
    """Return the headers; the version is the caller's, else the latest, or the first if sampling values are sent."""
    version = FIRST_VERSION if first_version else VERSION
    if request.protocol == PROTOCOL:
        version = request.version or FIRST_VERSION
    betas = (("anthropic-beta", ",".join(request.betas)),) if request.betas else ()
    return (("anthropic-version", version), *betas)


def _limit_marks(
    request: ir.Request, body: JSONObject, marked: list[JSONObject], losses: Losses, *, enabled: bool
) -> None:
    """Keep the last cache marks, at most four with the request's own: they cover the longest prefixes."""
    limit = _MAX_CACHE_MARKS
    if request.cache.automatic and enabled:
        body["cache_control"] = cache_control(ir.CacheMark(lifetime=request.cache.lifetime))
        limit -= 1
    if len(marked) <= limit:
        return
    losses.add("clamped:cache_breakpoints")
    for block in marked[: len(marked) - limit]:
        del block["cache_control"]


def _lacks_thinking(messages: list[JSONObject]) -> bool:
    """Return whether the conversation ends with tool results whose calls have no thinking block before them.

    Models with a thinking budget refuse to continue such a conversation while thinking is on.
    """
    if len(messages) < 2 or messages[-1]["role"] != "user":
        return False
    if not any(block["type"] == "tool_result" for block in messages[-1]["content"]):
        return False
    step = messages[-2]["content"]
    return messages[-2]["role"] == "assistant" and not any(block["type"] in _THINKING for block in step)
