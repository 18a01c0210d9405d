"""Options: how much to think, how to sample, what the answer must look like. All by the model's capabilities."""

import msgspec

from llmproxy_asgi.capabilities import Capabilities, Effort
from llmproxy_asgi.conversation import EMPTY, JSONObject, ReasoningOptions, Request, ServiceTier
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.efforts import effort_of_budget, nearest_effort
from llmproxy_asgi.translators.losses import Losses, refuse_missing_part
from llmproxy_asgi.translators.strict_schemas import ANTHROPIC, NotStrict, strict_form

DEFAULT_MAX_TOKENS = 32_000
LEAST_BUDGET = 1024

_WORDS: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")
"""The rungs of the ladder that Anthropic has words for."""
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
"""Other protocols whose clients see readable reasoning without asking for it."""

_JSON_ONLY = "Answer with one JSON object and nothing else."


def max_tokens(request: Request, capabilities: Capabilities, warnings: Losses) -> int:
    """The limit that Anthropic demands: the caller's, else the model's own."""
    ceiling = capabilities.max_output_tokens
    wanted = request.max_output_tokens
    if wanted is None:
        default = capabilities.default_max_output_tokens or ceiling or DEFAULT_MAX_TOKENS
        return min(default, ceiling) if ceiling else default
    if ceiling and wanted > ceiling:
        warnings.add("clamped:max_tokens")
        return ceiling
    return wanted


class Thinking:
    """How a request's wish to think is said: an effort or a budget, never both."""

    def __init__(self, request: Request, capabilities: Capabilities, limit: int, warnings: Losses) -> None:
        self._options = request.reasoning
        self._capabilities = capabilities
        self._limit = limit
        self._warnings = warnings
        self._protocol = request.protocol
        self.thinking: JSONObject | None = None
        self.effort: str | None = None
        self._choose()

    @property
    def on(self) -> bool:
        """Whether thinking is asked for."""
        return self.thinking is not None and self.thinking["type"] in {"adaptive", "enabled"}

    def give_up(self) -> None:
        """Leave out a budget: the turn under way has lost its thinking, and such models would refuse it."""
        if self.thinking is not None and self.thinking["type"] == "enabled":
            self.thinking = None
            self._warnings.add("dropped:reasoning_effort")

    def _choose(self) -> None:
        options, able = self._options, self._capabilities
        effort = _wanted_effort(options)
        if effort is None and options.budget_tokens is None and options.visible in {None, "hidden"}:
            return
        if not able.efforts:
            if effort != "none":
                self._warnings.add("dropped:reasoning_effort")
        elif effort == "none":
            self._off()
        elif able.thinking == "budget" or (able.thinking == "both" and _has_budget(options)):
            self._budget(effort)
        else:
            self._adaptive(effort)

    def _off(self) -> None:
        if self._capabilities.thinking_off:
            self.thinking = {"type": "disabled"}
            return
        self._warnings.add("clamped:reasoning_effort")
        self.effort = _nearest("none", self._capabilities)

    def _adaptive(self, effort: Effort | None) -> None:
        self.thinking = {"type": "adaptive", **self._display()}
        if effort is None:
            return
        self.effort = _nearest(effort, self._capabilities)
        if self.effort != effort:
            self._warnings.add("clamped:reasoning_effort")

    def _budget(self, effort: Effort | None) -> None:
        named = self._options.budget_tokens
        wanted = named if named is not None and named > 0 else _BUDGETS[effort or "medium"]
        if effort is None:
            self._warnings.add("emulated:reasoning_effort")  # these models do not decide by themselves
        budget = max(wanted, LEAST_BUDGET)
        if self._capabilities.max_thinking_budget:
            budget = min(budget, self._capabilities.max_thinking_budget)
        budget = min(budget, self._limit - 1)
        if budget < LEAST_BUDGET:
            self._warnings.add("dropped:reasoning_effort")
            return
        if budget != wanted:
            self._warnings.add("clamped:reasoning_effort")
        self.thinking = {"type": "enabled", "budget_tokens": budget}

    def _display(self) -> JSONObject:
        visible = self._options.visible
        if visible is None:
            return {"display": "summarized"} if self._protocol in _SHOWS_REASONING else {}
        return {"display": _DISPLAYS[visible]}


def _has_budget(options: ReasoningOptions) -> bool:
    return options.budget_tokens is not None and options.budget_tokens > 0 and options.effort is None


def _wanted_effort(options: ReasoningOptions) -> Effort | None:
    """The rung that the caller means; None: the model shall decide, or the caller said nothing."""
    if options.effort is not None:
        return options.effort
    return None if options.budget_tokens is None else effort_of_budget(options.budget_tokens)


def _nearest(effort: Effort, capabilities: Capabilities) -> str:
    """The model's own rung: the nearest lower one, else its lowest."""
    offered = tuple(rung for rung in capabilities.efforts if rung in _WORDS)
    return nearest_effort(effort, offered or _WORDS) or effort


def sampling(request: Request, capabilities: Capabilities, warnings: Losses, *, thinking: bool) -> JSONObject:
    """Temperature and its like, as far as the model takes them."""
    asked = request.sampling
    for field in ("seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs"):
        if getattr(asked, field) is not None:
            warnings.add(f"dropped:{field}")
    fields: JSONObject = {
        key: value
        for key, value in (("temperature", asked.temperature), ("top_p", asked.top_p), ("top_k", asked.top_k))
        if value is not None
    }
    if capabilities.sampling != "any" or thinking:
        warnings.add(*(f"dropped:{key}" for key in fields))
        return {}
    if "temperature" in fields and "top_p" in fields:
        del fields["top_p"]  # several models take only one of the two
        warnings.add("dropped:top_p")
    for key in ("temperature", "top_p"):
        if key in fields and not 0 <= fields[key] <= 1:
            fields[key] = min(max(fields[key], 0.0), 1.0)
            warnings.add(f"clamped:{key}")
    return fields


def stops(request: Request, capabilities: Capabilities) -> tuple[list[str], list[str]]:
    """The stop sequences that the model looks for itself, and those that it does not."""
    if not capabilities.stops:
        return [], list(request.stop)
    # Anthropic refuses those that are white space alone.
    return [text for text in request.stop if text.strip()], [text for text in request.stop if not text.strip()]


_TIERS: dict[ServiceTier, JSONObject] = {
    ServiceTier.AUTO: {},
    ServiceTier.STANDARD: {"service_tier": "standard_only"},
    ServiceTier.PRIORITY: {"speed": "fast"},
    ServiceTier.FAST: {"speed": "fast"},
}


def service_tier(request: Request, warnings: Losses) -> JSONObject:
    """The tier, in one of two fields."""
    if request.service_tier is None:
        return {}
    if request.service_tier not in _TIERS:
        warnings.add("dropped:service_tier")
    return _TIERS.get(request.service_tier, {})


def refuse_impossible(request: Request) -> None:
    """What would make the answer another one if it were left out.

    Raises:
        Unsupported: Always names the field.
    """
    refuse_missing_part(request, PROTOCOL)
    if request.candidates > 1:
        raise refusals.single_candidate(request.model)
    for modality in request.output.modalities:
        if modality != "text":
            raise refusals.unsupported_output(request.model, modality)
    if request.continues:
        raise refusals.no_stored_responses()


class Output:
    """What the answer must look like: a schema in its own field, or words in the instructions."""

    def __init__(self, request: Request, capabilities: Capabilities, warnings: Losses) -> None:
        self.format: JSONObject | None = None
        self.instruction: str | None = None
        wanted = request.output
        if wanted.verbosity:
            warnings.add("dropped:verbosity")
        if wanted.kind == "json":
            self.instruction = _JSON_ONLY
            warnings.add("emulated:response_format")
        elif wanted.kind == "json_schema":
            self._schema(dict(wanted.schema or EMPTY), capabilities, warnings, tools=bool(request.tools))

    def _schema(self, schema: JSONObject, capabilities: Capabilities, warnings: Losses, *, tools: bool) -> None:
        if capabilities.structured_output and (capabilities.format_with_tools or not tools):
            try:
                form = strict_form(schema, ANTHROPIC)
            except NotStrict:
                pass
            else:
                self.format = {"type": "json_schema", "schema": form.schema}
                warnings.add(*(f"dropped:response_format.{key}" for key in form.told))
                return
        self.instruction = _by_words(schema)
        warnings.add("emulated:response_format")


def _by_words(schema: JSONObject) -> str:
    # By words rather than by a forced tool: the caller's own tools and thinking stay as they are.
    text = msgspec.json.encode(schema).decode()
    return f"{_JSON_ONLY} It must be valid against this JSON Schema:\n{text}"
