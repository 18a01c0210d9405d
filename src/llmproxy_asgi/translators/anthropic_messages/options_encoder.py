"""Encode options by the model's capabilities: limits, thinking, sampling, stop sequences, tier and response format."""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities, Effort
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.efforts import effort_of_budget, nearest_effort
from llmproxy_asgi.translators.losses import Losses, refuse_missing_part
from llmproxy_asgi.translators.strict_schemas import ANTHROPIC, NotStrict, strict_form

DEFAULT_MAX_TOKENS = 32_000
MIN_BUDGET = 1024

_EFFORTS: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")
"""The efforts that Anthropic's API has."""
_BUDGETS: dict[Effort, int] = {
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_000,
    "max": 48_000,
}
_DISPLAYS = {"summary": "summarized", "full": "summarized", "updates": "summarized", "hidden": "omitted"}
_SHOWS_REASONING = frozenset({"openai-chat"})
"""Other protocols whose clients get readable reasoning without requesting it."""

_JSON_ONLY = "Answer with one JSON object and nothing else."


def max_tokens(request: ir.Request, capabilities: Capabilities, losses: Losses) -> int:
    """Return the limit that Anthropic requires: the caller's, else the model's."""
    ceiling = capabilities.max_output_tokens
    requested = request.max_output_tokens
    if requested is None:
        default = capabilities.default_max_output_tokens or ceiling or DEFAULT_MAX_TOKENS
        return min(default, ceiling) if ceiling else default
    if ceiling and requested > ceiling:
        losses.add("clamped:max_tokens")
        return ceiling
    return requested


class ThinkingOptions:
    """The encoded reasoning options of a request: an effort or a budget, never both."""

    def __init__(self, request: ir.Request, capabilities: Capabilities, limit: int, losses: Losses) -> None:
        self._options = request.reasoning
        self._capabilities = capabilities
        self._limit = limit
        self._losses = losses
        self._protocol = request.protocol
        self.thinking: JSONObject | None = None
        self.effort: str | None = None
        self._select()

    @property
    def on(self) -> bool:
        """Return whether thinking is requested."""
        return self.thinking is not None and self.thinking["type"] in {"adaptive", "enabled"}

    def drop_budget(self) -> None:
        """Drop a budget, because such models refuse a tool loop that has lost its thinking blocks."""
        if self.thinking is not None and self.thinking["type"] == "enabled":
            self.thinking = None
            self._losses.add("dropped:reasoning_effort")

    def _select(self) -> None:
        options, capabilities = self._options, self._capabilities
        effort = _requested_effort(options)
        if effort is None and options.budget_tokens is None and options.visible in {None, "hidden"}:
            return
        if not capabilities.efforts:
            if effort != "none":
                self._losses.add("dropped:reasoning_effort")
        elif effort == "none":
            self._off()
        elif capabilities.thinking == "budget" or (capabilities.thinking == "both" and _has_budget(options)):
            self._budget(effort)
        else:
            self._adaptive(effort)

    def _off(self) -> None:
        if self._capabilities.thinking_off:
            self.thinking = {"type": "disabled"}
            return
        self._losses.add("clamped:reasoning_effort")
        self.effort = _nearest("none", self._capabilities)

    def _adaptive(self, effort: Effort | None) -> None:
        self.thinking = {"type": "adaptive", **self._display()}
        if effort is None:
            return
        self.effort = _nearest(effort, self._capabilities)
        if self.effort != effort:
            self._losses.add("clamped:reasoning_effort")

    def _budget(self, effort: Effort | None) -> None:
        requested_budget = self._options.budget_tokens
        requested = (
            requested_budget if requested_budget is not None and requested_budget > 0 else _BUDGETS[effort or "medium"]
        )
        if effort is None:
            self._losses.add("emulated:reasoning_effort")  # these models can't choose a budget
        budget = max(requested, MIN_BUDGET)
        if self._capabilities.max_thinking_budget:
            budget = min(budget, self._capabilities.max_thinking_budget)
        budget = min(budget, self._limit - 1)
        if budget < MIN_BUDGET:
            self._losses.add("dropped:reasoning_effort")
            return
        if budget != requested:
            self._losses.add("clamped:reasoning_effort")
        self.thinking = {"type": "enabled", "budget_tokens": budget}

    def _display(self) -> JSONObject:
        visible = self._options.visible
        if visible is None:
            return {"display": "summarized"} if self._protocol in _SHOWS_REASONING else {}
        return {"display": _DISPLAYS[visible]}


def _has_budget(options: ir.ReasoningOptions) -> bool:
    return options.budget_tokens is not None and options.budget_tokens > 0 and options.effort is None


def _requested_effort(options: ir.ReasoningOptions) -> Effort | None:
    """Return the requested effort; None if the model decides, or if nothing is requested."""
    if options.effort is not None:
        return options.effort
    return None if options.budget_tokens is None else effort_of_budget(options.budget_tokens)


def _nearest(effort: Effort, capabilities: Capabilities) -> str:
    """Return the model's nearest lower effort, else its lowest."""
    offered = tuple(effort for effort in capabilities.efforts if effort in _EFFORTS)
    return nearest_effort(effort, offered or _EFFORTS) or effort


def sampling(request: ir.Request, capabilities: Capabilities, losses: Losses, *, thinking: bool) -> JSONObject:
    """Encode temperature, top_p and top_k, as far as the model supports them."""
    requested = request.sampling
    for field in ("seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs"):
        if getattr(requested, field) is not None:
            losses.add(f"dropped:{field}")
    fields: JSONObject = {
        key: value
        for key, value in (
            ("temperature", requested.temperature),
            ("top_p", requested.top_p),
            ("top_k", requested.top_k),
        )
        if value is not None
    }
    if capabilities.sampling != "any" or thinking:
        losses.add(*(f"dropped:{key}" for key in fields))
        return {}
    if "temperature" in fields and "top_p" in fields:
        del fields["top_p"]  # several models accept only one of the two
        losses.add("dropped:top_p")
    for key in ("temperature", "top_p"):
        if key in fields and not 0 <= fields[key] <= 1:
            fields[key] = min(max(fields[key], 0.0), 1.0)
            losses.add(f"clamped:{key}")
    return fields


def split_stop_sequences(request: ir.Request, capabilities: Capabilities) -> tuple[list[str], list[str]]:
    """Return the stop sequences that the upstream applies, and those that the gateway must apply."""
    if not capabilities.stops:
        return [], list(request.stop)
    # Anthropic refuses stop sequences of white space only.
    return [text for text in request.stop if text.strip()], [text for text in request.stop if not text.strip()]


_TIERS: dict[ir.ServiceTier, JSONObject] = {
    ir.ServiceTier.AUTO: {},
    ir.ServiceTier.STANDARD: {"service_tier": "standard_only"},
    ir.ServiceTier.PRIORITY: {"speed": "fast"},
    ir.ServiceTier.FAST: {"speed": "fast"},
}


def service_tier(request: ir.Request, losses: Losses) -> JSONObject:
    """Encode the service tier, in one of two fields."""
    if request.service_tier is None:
        return {}
    if request.service_tier not in _TIERS:
        losses.add("dropped:service_tier")
    return _TIERS.get(request.service_tier, {})


def refuse_unsupported(request: ir.Request) -> None:
    """Refuse options that can't be dropped without changing the response.

    Raises:
        Unsupported: The request has such an option; `param` names it.
    """
    refuse_missing_part(request, PROTOCOL)
    if request.candidates > 1:
        raise refusals.single_candidate(request.model)
    for modality in request.output.modalities:
        if modality != "text":
            raise refusals.unsupported_output(request.model, modality)
    if request.continues:
        raise refusals.no_stored_responses()


class OutputOptions:
    """The encoded response format: a schema in its own field, or an instruction in the system prompt."""

    def __init__(self, request: ir.Request, capabilities: Capabilities, losses: Losses) -> None:
        self.format: JSONObject | None = None
        self.instruction: str | None = None
        requested = request.output
        if requested.verbosity:
            losses.add("dropped:verbosity")
        if requested.kind == "json":
            self.instruction = _JSON_ONLY
            losses.add("emulated:response_format")
        elif requested.kind == "json_schema":
            self._schema(dict(requested.schema or ir.EMPTY), capabilities, losses, tools=bool(request.tools))

    def _schema(self, schema: JSONObject, capabilities: Capabilities, losses: Losses, *, tools: bool) -> None:
        if capabilities.structured_output and (capabilities.format_with_tools or not tools):
            try:
                form = strict_form(schema, ANTHROPIC)
            except NotStrict:
                pass
            else:
                self.format = {"type": "json_schema", "schema": form.schema}
                losses.add(*(f"dropped:response_format.{key}" for key in form.described))
                return
        self.instruction = _schema_instruction(schema)
        losses.add("emulated:response_format")


def _schema_instruction(schema: JSONObject) -> str:
    # An instruction, not a forced tool, so that the caller's own tools and thinking don't change.
    text = msgspec.json.encode(schema).decode()
    return f"{_JSON_ONLY} It must be valid against this JSON Schema:\n{text}"
