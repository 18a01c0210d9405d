"""The options of Responses: what callers send and what upstreams get, by the model's capabilities."""

from typing import Literal

import llmproxy_asgi.conversation as ir
import llmproxy_asgi.translators.codec.options as codec
from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import Unsupported
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.codec.options import ELSEWHERE, Decoding, Encoding, Rule, Table
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai import options as shared
from llmproxy_asgi.translators.openai.mappings import MARK_LIFETIMES
from llmproxy_asgi.translators.openai_responses.mappings import LOGPROBS, PROTOCOL, STATE, TIER_IN
from llmproxy_asgi.translators.openai_responses.tool_decoder import decode_choice, native_choice

LEAST_OUTPUT = 16
"""The vendor's smallest limit, in tokens."""
_SUMMARIES = ("auto", "concise", "detailed", "none")
_SHOWS_REASONING = frozenset({"openai-chat"})
"""Other protocols whose clients show readable reasoning without a request for it."""
_SHOWN = frozenset({"summary", "full", "updates"})


def _refuse_stored(_: str, __: ir.Request, capabilities: Capabilities) -> Unsupported | None:
    return None if capabilities.stored else refusals.no_stored_responses()


def _encode_store(store: bool | None, encoding: Encoding) -> bool | None:
    """Encode whether the vendor stores the response: never, except where the operator allows it."""
    if encoding.capabilities.stored:
        return None if store is None and encoding.request.protocol == PROTOCOL else bool(store)
    if store:
        encoding.losses.add("dropped:store")
    return False


# ── reasoning, format and log probabilities ──────────────────────────────────────────────────────────────────────────


def _decode_summary(node: Node, decoding: Decoding) -> Literal["summary"] | None:
    shown = node.choice(_SUMMARIES) != "none"
    if node.value != "auto":
        decoding.keep("reasoning", {"summary": node.value})
    return "summary" if shown else None


def _encode_reasoning(options: ir.ReasoningOptions, encoding: Encoding) -> JSONObject | None:
    sent = shared.encode_effort(options, encoding)
    if not encoding.capabilities.efforts:
        return None
    fields: JSONObject = {"effort": sent} if sent is not None else {}
    implied = options.visible is None and encoding.request.protocol in _SHOWS_REASONING
    if options.visible in _SHOWN or (implied and sent not in {None, "none"}):
        fields["summary"] = "auto"
    return {**fields, **encoding.request.extras.get(PROTOCOL, ir.EMPTY).get("reasoning", ir.EMPTY)} or None


def _encode_format(kind: str, encoding: Encoding) -> JSONObject | None:
    form = shared.encode_format(kind, encoding, PROTOCOL)
    if form is not None and form["type"] == "json_schema" and encoding.request.protocol != PROTOCOL:
        form.setdefault("strict", False)  # otherwise the vendor tries strict mode
    return form


def _decode_logprobs(_: Node, decoding: Decoding) -> int | None:
    count, include = decoding.get("top_logprobs"), decoding.get("include")
    included = [entry.text() for entry in include.array()] if include else []
    if rest := [name for name in included if name not in {STATE, LOGPROBS}]:
        decoding.extras["include"] = rest
    top = count.integer(0, 20) if count else None
    return top or 0 if top or LOGPROBS in included else None


def _encode_logprobs(count: int, encoding: Encoding) -> list[str]:
    shared.encode_top_logprobs(count, encoding)
    return [LOGPROBS]


# ── fields without an option ─────────────────────────────────────────────────────────────────────────────────────────


def _decode_choice(_: Node, decoding: Decoding) -> ir.ToolChoice:
    native = native_choice(decoding.raw)
    if native is not None:
        decoding.extras["tool_choice"] = native
    return decode_choice(decoding.raw)


def _decode_truncation(node: Node, decoding: Decoding) -> None:
    if node.choice(("auto", "disabled")) == "auto":
        decoding.extras["truncation"] = "auto"


def _decode_background(node: Node, decoding: Decoding) -> None:
    if node.boolean():
        decoding.extras["background"] = True


OPTIONS = Table(
    PROTOCOL,
    [
        Rule("candidates", refuse=codec.several_candidates),
        Rule("output.modalities", refuse=codec.outputs("text")),
        Rule("tool_choice", ("tool_choice", "parallel_tool_calls"), decode=_decode_choice, encode=ELSEWHERE),
        Rule("output.kind", "text.format", decode=shared.decode_format, encode=_encode_format),
        Rule("output.verbosity", "text.verbosity", shared.VERBOSITY, needs="verbosity"),
        Rule("reasoning", "reasoning", encode=_encode_reasoning, always=True),
        Rule("reasoning.effort", "reasoning.effort", codec.EFFORT, encode=ELSEWHERE),
        Rule(
            "reasoning.visible",
            ("reasoning.summary", "reasoning.generate_summary"),
            decode=_decode_summary,
            encode=ELSEWHERE,
        ),
        shared.TEMPERATURE,
        shared.TOP_P,
        Rule(
            "sampling.logprobs",
            ("include", "top_logprobs"),
            needs=shared.takes_more,
            decode=_decode_logprobs,
            encode=_encode_logprobs,
        ),
        Rule(
            "max_output_tokens",
            "max_output_tokens",
            codec.integer(1),
            encode=lambda wanted, encoding: codec.limit(wanted, encoding, LEAST_OUTPUT),
            refuse=codec.no_tokens,
        ),
        shared.END_USER,
        Rule("metadata", "metadata", codec.METADATA),
        Rule("service_tier", "service_tier", codec.words(TIER_IN)),
        *shared.cache_rules(MARK_LIFETIMES),
        Rule("continues", "previous_response_id", codec.TEXT, refuse=_refuse_stored),
        Rule("store", "store", codec.BOOLEAN, encode=_encode_store, always=True),
        Rule("stop", encode=codec.stops(0)),
        Rule("extras", "truncation", decode=_decode_truncation, encode=ELSEWHERE),
        Rule("extras", "background", decode=_decode_background, encode=ELSEWHERE),
    ],
    beside=("model", "input", "instructions", "stream", "stream_options", "tools"),
    forgets=("text",),
)
