"""Encode `generationConfig`: sampling, limits, response format and thinking."""

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities, Effort
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.efforts import effort_of_budget, nearest_effort
from llmproxy_asgi.translators.gemini.json_schemas import UnsupportedSchema, to_gemini_schema
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.losses import Losses

_MAX_STOP_SEQUENCES = 5
_MAX_LOGPROBS = 20
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
"""Other protocols whose clients get readable reasoning if they request thinking."""


def generation_config(request: ir.Request, upstream: Upstream, losses: Losses) -> JSONObject:
    """Encode all options; empty without any.

    Raises:
        Unsupported: An option can't be dropped without changing the response.
    """
    options = _OptionsEncoder(request, upstream, losses)
    return {**options.sampling(), **options.limits(), **options.output(), **options.thinking()}


def split_stop_sequences(request: ir.Request, capabilities: Capabilities) -> tuple[list[str], list[str]]:
    """Return the stop sequences that the upstream applies, and those that the gateway must apply."""
    sequences = list(dict.fromkeys(stop for stop in request.stop if stop))
    limit = _MAX_STOP_SEQUENCES if capabilities.stops else 0
    return sequences[:limit], sequences[limit:]


def supports_format(request: ir.Request, capabilities: Capabilities) -> bool:
    """Return whether the options may request JSON: some models refuse that with tools."""
    return capabilities.format_with_tools or not request.tools


class _OptionsEncoder:
    def __init__(self, request: ir.Request, upstream: Upstream, losses: Losses) -> None:
        self._request = request
        self._capabilities = upstream.capabilities
        self._losses = losses

    def sampling(self) -> JSONObject:
        """Encode the sampling options."""
        requested = self._request.sampling
        configurable = self._capabilities.sampling == "any"
        fields: JSONObject = {}
        for wire_name, name, value, low, high in (
            ("temperature", "temperature", requested.temperature, 0.0, 2.0),
            ("topP", "top_p", requested.top_p, 0.0, 1.0),
            ("presencePenalty", "presence_penalty", requested.presence_penalty, -2.0, 2.0),
            ("frequencyPenalty", "frequency_penalty", requested.frequency_penalty, -2.0, 2.0),
        ):
            if value is None:
                continue
            if not configurable and name in {"temperature", "top_p"}:
                self._losses.add(f"dropped:{name}")
                continue
            fields[wire_name] = min(max(value, low), high)
            if fields[wire_name] != value:
                self._losses.add(f"clamped:{name}")
        if requested.top_k is not None:
            fields |= {"topK": requested.top_k} if configurable else {}
            self._losses.add(*(() if configurable else ("dropped:top_k",)))
        if requested.logit_bias is not None:
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
        if count > _MAX_LOGPROBS:
            self._losses.add("clamped:top_logprobs")
        return {"responseLogprobs": True, **({"logprobs": min(count, _MAX_LOGPROBS)} if count else {})}

    def limits(self) -> JSONObject:
        """Encode the limits: output tokens, stop sequences and candidates."""
        request, capabilities = self._request, self._capabilities
        fields: JSONObject = {}
        limit = request.max_output_tokens
        if limit is not None and limit < 1:
            raise refusals.empty_response(request.model)
        if limit is not None and capabilities.max_output_tokens is not None and limit > capabilities.max_output_tokens:
            self._losses.add("clamped:max_tokens")
            limit = capabilities.max_output_tokens
        if limit is not None:
            fields["maxOutputTokens"] = limit
        native, _ = split_stop_sequences(request, capabilities)
        if native:
            fields["stopSequences"] = native
        if request.candidates > 1:
            fields["candidateCount"] = request.candidates
        return fields

    def output(self) -> JSONObject:
        """Encode the response format and modalities."""
        requested = self._request.output
        if requested.verbosity:
            self._losses.add("dropped:verbosity")
        fields: JSONObject = {}
        as_json = requested.kind != "text" and supports_format(self._request, self._capabilities)
        if as_json:
            fields["responseMimeType"] = "application/json"
        if as_json and requested.kind == "json_schema" and self._capabilities.structured_output:
            fields["responseJsonSchema"] = self._schema(requested.schema or {})
        if requested.modalities and set(requested.modalities) != {"text"}:
            unknown = set(requested.modalities) - _MODALITIES
            if "audio" in requested.modalities and not self._capabilities.audio:
                unknown.add("audio")
            if unknown:
                raise refusals.unsupported_output(self._request.model, min(unknown))
            # Google returns either audio or text; other protocols request audio with its transcript.
            audio_only = "audio" in requested.modalities and self._request.protocol != PROTOCOL
            fields["responseModalities"] = (
                ["AUDIO"] if audio_only else [modality.upper() for modality in requested.modalities]
            )
        return fields

    def _schema(self, schema: JSONObject) -> JSONObject:
        try:
            return to_gemini_schema(schema, self._losses)
        except UnsupportedSchema as why:
            raise refusals.response_schema(self._request.model, str(why)) from None

    # ── thinking ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def thinking(self) -> JSONObject:
        """Encode thinking: a level or a budget, never both, and whether to include thoughts."""
        options, capabilities = self._request.reasoning, self._capabilities
        effort, budget = options.effort, options.budget_tokens
        if effort is None and budget is None and options.visible is None:
            return {}
        if not capabilities.efforts:
            if effort not in {None, "none"} or budget not in {None, 0}:
                self._losses.add("dropped:reasoning_effort")
            return {}
        config: JSONObject = {}
        if capabilities.thinking == "budget" or (capabilities.thinking == "both" and effort is None):
            config |= self._budget(effort, budget)
        else:
            config |= self._level(effort if effort is not None or budget is None else effort_of_budget(budget))
        if self._includes_thoughts(off=config.get("thinkingBudget") == 0):
            config["includeThoughts"] = True
        elif options.visible == "hidden" and self._request.protocol == PROTOCOL:
            config["includeThoughts"] = False
        return {"thinkingConfig": config} if config else {}

    def _includes_thoughts(self, *, off: bool) -> bool:
        visible = self._request.reasoning.visible
        if off or self._request.reasoning.effort == "none":
            return False
        if visible is None:
            return self._request.protocol in _SHOWS_REASONING
        return visible != "hidden"

    def _level(self, effort: Effort | None) -> JSONObject:
        if effort is None:
            return {}
        offered = tuple(level for level in _LEVELS if level in self._capabilities.efforts)
        level = nearest_effort(effort, offered or _LEVELS)
        if level != effort:
            self._losses.add("clamped:reasoning_effort")
        return {"thinkingLevel": str(level).upper()}

    def _budget(self, effort: Effort | None, requested_budget: int | None) -> JSONObject:
        capabilities = self._capabilities
        if effort is None and requested_budget is None:
            return {}
        if effort is None and requested_budget is not None and requested_budget < 0:
            return {"thinkingBudget": -1}
        requested = 0 if effort == "none" else (_BUDGETS[effort] if effort else requested_budget or 0)
        budget = requested
        if not requested and capabilities.thinking_off:
            return {"thinkingBudget": 0}
        if capabilities.max_thinking_budget is not None:
            budget = min(budget, capabilities.max_thinking_budget)
        budget = max(budget, capabilities.min_thinking_budget or 1)
        if budget != requested and not (effort in {"xhigh", "max"} and budget < requested):
            self._losses.add("clamped:reasoning_effort")
        return {"thinkingBudget": budget}
