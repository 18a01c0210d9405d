"""A request that came in another protocol, written for an upstream that speaks Messages."""

import msgspec

from llmproxy_asgi.conversation import CacheMark, JSONObject, Request
from llmproxy_asgi.translators.anthropic_messages.message_encoder import Turns, cache_control
from llmproxy_asgi.translators.anthropic_messages.options_encoder import (
    Output,
    Thinking,
    max_tokens,
    refuse_impossible,
    sampling,
    service_tier,
    stops,
)
from llmproxy_asgi.translators.anthropic_messages.schema import FIRST_VERSION, PROTOCOL, VERSION
from llmproxy_asgi.translators.anthropic_messages.tool_encoder import TOOL_NAME, TOOL_NAME_LIMIT, Tools
from llmproxy_asgi.translators.base import Outgoing, Upstream
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.losses import Losses, unsaid_extras
from llmproxy_asgi.translators.names import CallIds, Renamer
from llmproxy_asgi.translators.stops import emulated

_MOST_MARKS = 4
_THINKING = frozenset({"thinking", "redacted_thinking"})


def encode_request(request: Request, upstream: Upstream) -> Outgoing:
    """Write a request; each loss is a warning.

    Raises:
        Unsupported: The answer would be wrong without what this upstream cannot take.
        BadRequest: The conversation is broken.
    """
    refuse_impossible(request)
    capabilities = upstream.capabilities
    warnings = Losses()
    names, ids = Renamer(TOOL_NAME, TOOL_NAME_LIMIT), CallIds()
    tools = Tools(request, capabilities, names, warnings)
    tools.name_all()
    turns = Turns(request, upstream, names, ids, warnings)
    turns.write()
    limit = max_tokens(request, capabilities, warnings)
    thinking = Thinking(request, capabilities, limit, warnings)
    if thinking.on and _lost_its_thinking(turns.messages):
        thinking.give_up()
    output = Output(request, capabilities, warnings)
    system = [*turns.system, *([{"type": "text", "text": output.instruction}] if output.instruction else [])]
    taken = sampling(request, capabilities, warnings, thinking=thinking.on)
    body: JSONObject = {"model": upstream.model, "max_tokens": limit}
    if system:
        body["system"] = system
    body["messages"] = turns.messages
    body |= tools.write(thinking=thinking.on)
    body |= _options(thinking, output)
    body |= taken
    taken_stops, other_stops = stops(request, capabilities)
    if taken_stops:
        body["stop_sequences"] = taken_stops
    cut = emulated(other_stops, warnings)
    body |= service_tier(request, warnings)
    if request.end_user:
        body["metadata"] = {"user_id": request.end_user}
    _limit_marks(request, body, [*tools.marked, *turns.marked], warnings, able=capabilities.cache_marks)
    warnings.add(*unsaid_extras(request, PROTOCOL))
    merge_extras(body, request.extras.get(PROTOCOL, {}))
    if request.stream:
        body["stream"] = True
    return Outgoing(
        body=msgspec.json.encode(body),
        stream=request.stream,
        headers=_headers(request, old=bool(taken)),
        warnings=warnings.words,
        names=dict(names.table),
        namespaces=dict(names.namespaces),
        call_ids=turns.call_ids,
        emulated=frozenset(tools.emulated),
        stop=cut,
    )


def _options(thinking: Thinking, output: Output) -> JSONObject:
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


def _headers(request: Request, *, old: bool) -> tuple[tuple[str, str], ...]:
    """The version: the caller's own, else the newest, but the old one where sampling values are sent."""
    version = FIRST_VERSION if old else VERSION
    if request.protocol == PROTOCOL:
        version = request.version or FIRST_VERSION
    betas = (("anthropic-beta", ",".join(request.betas)),) if request.betas else ()
    return (("anthropic-version", version), *betas)


def _limit_marks(request: Request, body: JSONObject, marked: list[JSONObject], warnings: Losses, *, able: bool) -> None:
    """At most four marks, the one for the whole request included; the last ones cover the longest prefixes."""
    room = _MOST_MARKS
    if request.cache.automatic and able:
        body["cache_control"] = cache_control(CacheMark(lifetime=request.cache.lifetime))
        room -= 1
    if len(marked) <= room:
        return
    warnings.add("clamped:cache_breakpoints")
    for block in marked[: len(marked) - room]:
        del block["cache_control"]


def _lost_its_thinking(messages: list[JSONObject]) -> bool:
    """Whether a tool loop is under way whose calls came without the thinking that led to them.

    Models that think within a budget refuse to go on with such a turn while thinking is on.
    """
    if len(messages) < 2 or messages[-1]["role"] != "user":
        return False
    if not any(block["type"] == "tool_result" for block in messages[-1]["content"]):
        return False
    step = messages[-2]["content"]
    return messages[-2]["role"] == "assistant" and not any(block["type"] in _THINKING for block in step)
