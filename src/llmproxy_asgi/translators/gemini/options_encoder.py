"""`generationConfig`: how to draw, how long, how much to think, what the answer must look like."""

from llmproxy_asgi.capabilities import Capabilities, Effort
from llmproxy_asgi.conversation import JSONObject, Request
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.efforts import effort_of_budget, nearest_effort
from llmproxy_asgi.translators.gemini.json_schemas import Unexpressed, lowered
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.losses import Losses

_MOST_STOPS = 5
_MOST_LOGPROBS = 20
_LEVELS: tuple[Effort, ...] = ("minimal", "low", "medium", "high", "xhigh")
_BUDGETS: dict[Effort, int] = {
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 32_768,
}
_MODALITIES = frozenset({"text", "image", "audio", "video"})
_SHOWS_REASONING = frozenset({"openai-chat", "openai-responses", "anthropic-messages"})
"""Other protocols whose clients see readable reasoning once they asked for thinking."""


def generation_config(request: Request, upstream: Upstream, losses: Losses) -> JSONObject:
    """All options, as far as there are any.

    Raises:
        Unsupported: What would make the answer another one if it were left out.
    """
    options = _Options(request, upstream, losses)
    return {**options.sampling(), **options.limits(), **options.output(), **options.thinking()}


def stops(request: Request, capabilities: Capabilities) -> tuple[list[str], list[str]]:
    """The stop sequences that the model looks for itself, and those that it does not."""
    named = list(dict.fromkeys(stop for stop in request.stop if stop))
    most = _MOST_STOPS if capabilities.stops else 0
    return named[:most], named[most:]


def takes_format(request: Request, capabilities: Capabilities) -> bool:
    """Whether JSON may be asked for in the options: some models refuse that beside tools."""
    return capabilities.format_with_tools or not request.tools


class _Options:
    def __init__(self, request: Request, upstream: Upstream, losses: Losses) -> None:
        self._request = request
        self._can = upstream.capabilities
        self._losses = losses

    def sampling(self) -> JSONObject:
        """What is drawn."""
        asked = self._request.sampling
        free = self._can.sampling == "any"
        fields: JSONObject = {}
        for name, ours, value, low, high in (
            ("temperature", "temperature", asked.temperature, 0.0, 2.0),
            ("topP", "top_p", asked.top_p, 0.0, 1.0),
            ("presencePenalty", "presence_penalty", asked.presence_penalty, -2.0, 2.0),
            ("frequencyPenalty", "frequency_penalty", asked.frequency_penalty, -2.0, 2.0),
        ):
            if value is None:
                continue
            if not free and ours in {"temperature", "top_p"}:
                self._losses.add(f"dropped:{ours}")
                continue
            fields[name] = min(max(value, low), high)
            if fields[name] != value:
                self._losses.add(f"clamped:{ours}")
        if asked.top_k is not None:
            fields |= {"topK": asked.top_k} if free else {}
            self._losses.add(*(() if free else ("dropped:top_k",)))
        if asked.logit_bias is not None:
            self._losses.add("dropped:logit_bias")
        return {**fields, **self._seed(), **self._logprobs()}

    def _seed(self) -> JSONObject:
        seed = self._request.sampling.seed
        if seed is None:
            return {}
        if not -(2**31) <= seed < 2**31:
            self._losses.add("clamped:seed")
            seed %= 2**31
        return {"seed": seed}

    def _logprobs(self) -> JSONObject:
        count = self._request.sampling.logprobs
        if count is None:
            return {}
        if count > _MOST_LOGPROBS:
            self._losses.add("clamped:top_logprobs")
        return {"responseLogprobs": True, **({"logprobs": min(count, _MOST_LOGPROBS)} if count else {})}

    def limits(self) -> JSONObject:
        """Where it ends."""
        request, can = self._request, self._can
        fields: JSONObject = {}
        limit = request.max_output_tokens
        if limit is not None and limit < 1:
            raise refusals.empty_response(request.model)
        if limit is not None and can.max_output_tokens is not None and limit > can.max_output_tokens:
            self._losses.add("clamped:max_tokens")
            limit = can.max_output_tokens
        if limit is not None:
            fields["maxOutputTokens"] = limit
        taken, _ = stops(request, can)
        if taken:
            fields["stopSequences"] = taken
        if request.candidates > 1:
            fields["candidateCount"] = request.candidates
        return fields

    def output(self) -> JSONObject:
        """What it must look like."""
        wanted = self._request.output
        if wanted.verbosity:
            self._losses.add("dropped:verbosity")
        fields: JSONObject = {}
        asked = wanted.kind != "text" and takes_format(self._request, self._can)
        if asked:
            fields["responseMimeType"] = "application/json"
        if asked and wanted.kind == "json_schema" and self._can.structured_output:
            fields["responseJsonSchema"] = self._schema(wanted.schema or {})
        if wanted.modalities and set(wanted.modalities) != {"text"}:
            unknown = set(wanted.modalities) - _MODALITIES
            if "audio" in wanted.modalities and not self._can.audio:
                unknown.add("audio")
            if unknown:
                raise refusals.unsupported_output(self._request.model, min(unknown))
            # Google speaks or writes; other protocols ask for the sound with its words.
            spoken = "audio" in wanted.modalities and self._request.protocol != PROTOCOL
            fields["responseModalities"] = ["AUDIO"] if spoken else [word.upper() for word in wanted.modalities]
        return fields

    def _schema(self, schema: JSONObject) -> JSONObject:
        try:
            return lowered(schema, self._losses)
        except Unexpressed as why:
            raise refusals.response_schema(self._request.model, str(why)) from None

    # ── thinking ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def thinking(self) -> JSONObject:
        """A level or a budget, never both, and whether thoughts are shown."""
        options, can = self._request.reasoning, self._can
        effort, budget = options.effort, options.budget_tokens
        if effort is None and budget is None and options.visible is None:
            return {}
        if not can.efforts:
            if effort not in {None, "none"} or budget not in {None, 0}:
                self._losses.add("dropped:reasoning_effort")
            return {}
        config: JSONObject = {}
        if can.thinking == "budget" or (can.thinking == "both" and effort is None):
            config |= self._budget(effort, budget)
        else:
            config |= self._level(effort if effort is not None or budget is None else effort_of_budget(budget))
        if self._shown(off=config.get("thinkingBudget") == 0):
            config["includeThoughts"] = True
        elif options.visible == "hidden" and self._request.protocol == PROTOCOL:
            config["includeThoughts"] = False
        return {"thinkingConfig": config} if config else {}

    def _shown(self, *, off: bool) -> bool:
        visible = self._request.reasoning.visible
        if off or self._request.reasoning.effort == "none":
            return False
        if visible is None:
            return self._request.protocol in _SHOWS_REASONING
        return visible != "hidden"

    def _level(self, effort: Effort | None) -> JSONObject:
        if effort is None:
            return {}
        offered = tuple(level for level in _LEVELS if level in self._can.efforts)
        level = nearest_effort(effort, offered or _LEVELS)
        if level != effort:
            self._losses.add("clamped:reasoning_effort")
        return {"thinkingLevel": str(level).upper()}

    def _budget(self, effort: Effort | None, named: int | None) -> JSONObject:
        can = self._can
        if effort is None and named is None:
            return {}
        if effort is None and named is not None and named < 0:
            return {"thinkingBudget": -1}
        wanted = 0 if effort == "none" else (_BUDGETS[effort] if effort else named or 0)
        budget = wanted
        if not wanted and can.thinking_off:
            return {"thinkingBudget": 0}
        if can.max_thinking_budget is not None:
            budget = min(budget, can.max_thinking_budget)
        budget = max(budget, can.min_thinking_budget or 1)
        if budget != wanted and not (effort in {"xhigh", "max"} and budget < wanted):
            self._losses.add("clamped:reasoning_effort")
        return {"thinkingBudget": budget}
