"""The options that OpenAI's protocols share: rules for their tables, and fields that are read by name."""

from collections.abc import Mapping
from typing import Any

import llmproxy_asgi.conversation as ir
import llmproxy_asgi.translators.codec.options as codec
from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.codec.options import Decoding, Encoding, Rule
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.json_schemas import answer_schema
from llmproxy_asgi.translators.openai.mappings import mentions_json

_MOST_LOGPROBS = 20
_LONGEST_END_USER = 128
_LIFETIMES = ("5m", "30m", "1h", "12h", "24h")

# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def takes_sampling(encoding: Encoding) -> bool:
    """Return whether the model accepts sampling values; some do if they don't reason."""
    sampling = encoding.capabilities.sampling
    if sampling != "unless_thinking":
        return sampling == "any"
    fields = encoding.fields
    return "none" in {fields.get("reasoning_effort"), fields.get("reasoning", ir.EMPTY).get("effort")}


def takes_more(encoding: Encoding) -> bool:
    """Return whether the model accepts penalties and log probabilities; compatible servers always do."""
    return takes_sampling(encoding) or not encoding.capabilities.developer_role


def encode_top_logprobs(count: int, encoding: Encoding) -> None:
    """Encode the number of alternatives for each token."""
    if count > _MOST_LOGPROBS:
        encoding.losses.add("clamped:top_logprobs")
    if count:
        encoding.fields["top_logprobs"] = min(count, _MOST_LOGPROBS)


def _decode_stop(node: Node, _: Decoding) -> tuple[str, ...]:
    return (node.value,) if type(node.value) is str else tuple(entry.text() for entry in node.array())


TEMPERATURE = Rule("sampling.temperature", "temperature", codec.number(0, 2), needs=takes_sampling)
TOP_P = Rule("sampling.top_p", "top_p", codec.number(0, 1), needs=takes_sampling)
FREQUENCY_PENALTY = Rule("sampling.frequency_penalty", "frequency_penalty", codec.number(-2, 2), needs=takes_more)
PRESENCE_PENALTY = Rule("sampling.presence_penalty", "presence_penalty", codec.number(-2, 2), needs=takes_more)
SEED = Rule("sampling.seed", "seed", codec.integer())
LOGIT_BIAS = Rule(
    "sampling.logit_bias",
    "logit_bias",
    codec.Form(lambda node, _: {key: value.number(-100, 100) for key, value in node.items()}, dict),
    needs=takes_more,
)
STOP = codec.Form(_decode_stop, list)
VERBOSITY = codec.words({word: word for word in ("low", "medium", "high")})


# ── output and reasoning ─────────────────────────────────────────────────────────────────────────────────────────────


def decode_format(node: Node, decoding: Decoding, *, nested: bool = False) -> str:
    """Decode a response format.

    Args:
        node: The format.
        decoding: Gets the parts of a schema.
        nested: Whether a schema is in an object of its own; some clients nest it where it need not be.
    """
    kind = node.need("type").choice(("text", "json_object", "json_schema"))
    if kind != "json_schema":
        return "json" if kind == "json_object" else "text"
    form = node.need("json_schema") if nested else node.get("json_schema") or node
    description, schema, strict = form.get("description"), form.get("schema"), form.get("strict")
    decoding.values["output.name"] = form.need("name").text()
    decoding.values["output.description"] = description.text() if description else None
    decoding.values["output.schema"] = schema.object() if schema else {}
    decoding.values["output.strict"] = strict.boolean() if strict else None
    return kind


def encode_format(kind: str, encoding: Encoding, protocol: str) -> JSONObject | None:
    """Encode a response format with the members of its schema beside its type."""
    request, capabilities = encoding.request, encoding.capabilities
    json_mode: JSONObject | None = None
    if capabilities.json_mode and encoding.supports_format:
        json_mode = {"type": "json_object"}
    if kind == "json":
        if json_mode is None:
            codec.describe_format(encoding)
        elif request.protocol != protocol and not mentions_json(request):
            encoding.instruction = codec.JSON_LINE  # the vendor refuses JSON mode without a mention of JSON
        return json_mode
    output = request.output
    found = answer_schema(output, request, capabilities, encoding.losses)
    if found is None:
        codec.describe_format(encoding)
        return json_mode if (output.schema or ir.EMPTY).get("type", "object") == "object" else None
    form: JSONObject = {"type": "json_schema", "name": output.name or "response", "schema": found.schema}
    if output.description is not None:
        form["description"] = output.description
    if found.strict is not None:
        form["strict"] = found.strict
    return form


def encode_effort(options: ir.ReasoningOptions, encoding: Encoding) -> Effort | None:
    """Encode the effort, also that of a budget."""
    wanted = codec.requested_effort(options)
    if wanted is None:
        return None
    if not encoding.capabilities.efforts:
        encoding.losses.add("dropped:reasoning_effort")
        return None
    return codec.effort(wanted, encoding)


# ── service ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encode_end_user(user: str, encoding: Encoding) -> None:
    # Compatible servers have only the older field.
    field = "safety_identifier" if encoding.capabilities.developer_role else "user"
    encoding.fields[field] = user if len(user) <= _LONGEST_END_USER else derived("user_", user, size=59)


END_USER = Rule("end_user", ("safety_identifier", "user"), codec.TEXT, encode=_encode_end_user)


def _decode_cache(_: Node, decoding: Decoding) -> None:
    options, retention = decoding.get("prompt_cache_options"), decoding.get("prompt_cache_retention")
    mode, ttl = (options.get("mode"), options.get("ttl")) if options else (None, None)
    if mode:
        decoding.values["cache.automatic"] = mode.choice(("implicit", "explicit")) == "implicit"
    if ttl:
        decoding.values["cache.lifetime"] = ttl.choice(_LIFETIMES)
    elif retention and retention.text() == "24h":
        decoding.values["cache.lifetime"] = "24h"


def cache_rules(lifetimes: Mapping[Any, Any], encode_key: codec.Encode | None = None) -> tuple[Rule, Rule]:
    """Return the rules of prompt caching.

    Args:
        lifetimes: The vendor's lifetimes by those of the conversation.
        encode_key: Encodes the cache key; None: as it is.
    """

    def encode(cache: ir.CacheOptions, encoding: Encoding) -> JSONObject | None:
        if not encoding.capabilities.cache_marks or (cache.automatic is None and cache.lifetime is None):
            return None
        options = {"mode": "explicit" if cache.automatic is False else "implicit"}
        return options if cache.lifetime is None else {**options, "ttl": lifetimes[cache.lifetime]}

    return (
        Rule("cache.key", "prompt_cache_key", codec.TEXT, encode=encode_key),
        Rule("cache", ("prompt_cache_options", "prompt_cache_retention"), decode=_decode_cache, encode=encode),
    )
