"""Encode a request as Responses: the top level here, its input in `item_encoder`.

The encoder follows the model's capabilities and reports every loss. It refuses options that would make the response
wrong, and drops options that only tune it. Nothing is stored at the vendor: each request contains the complete
conversation. Equal requests have equal bytes.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.efforts import effort_of_budget, nearest_effort
from llmproxy_asgi.translators.instructions import BETWEEN_TEXTS
from llmproxy_asgi.translators.losses import Losses, refuse_missing_part, unsaid_extras
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.json_schemas import answer_schema
from llmproxy_asgi.translators.openai.mappings import JSON_LINE, SCHEMA_LINE, mentions_json
from llmproxy_asgi.translators.openai_responses.item_encoder import ResponsesItemEncoder
from llmproxy_asgi.translators.openai_responses.mappings import LOGPROBS, PROTOCOL, SOURCES, STATE, TIER_OUT
from llmproxy_asgi.translators.openai_responses.tool_encoder import ResponsesToolEncoder
from llmproxy_asgi.translators.stop_sequences import emulate_stops

LEAST_OUTPUT = 16
"""The vendor's smallest limit, in tokens."""
_MOST_LOGPROBS = 20
_LONGEST_END_USER = 128
_SHOWS_REASONING = frozenset({"openai-chat"})
"""Other protocols whose clients show readable reasoning without a request for it."""
_SHOWN = frozenset({"summary", "full", "updates"})
_MERGED = frozenset({"tool_choice", "reasoning", "include"})
"""Native fields that are merged into encoded fields instead of added."""


def encode_request(request: ir.Request, upstream: Upstream) -> UpstreamRequest:
    """Encode the request, with the renamed tools and ids that decoding its response needs."""
    return ResponsesRequestEncoder(request, upstream).encode()


class ResponsesRequestEncoder:
    """The encoder of one request."""

    def __init__(self, request: ir.Request, upstream: Upstream) -> None:
        self._request = request
        self._upstream = upstream
        self._can = upstream.capabilities
        self._losses = Losses()
        self._items = ResponsesItemEncoder(request, upstream, self._losses)
        self._tools = ResponsesToolEncoder(request, upstream, self._items, self._losses)
        self._own: Mapping[str, Any] = request.extras.get(PROTOCOL, {})
        self._include: list[str] = []
        self._body: JSONObject = {}

    def encode(self) -> UpstreamRequest:
        """Encode the request; raise `Unsupported` for options that the model cannot serve."""
        request, body = self._request, self._body
        self._refuse_impossible()
        tools = self._tools.encode()  # before the items, so that declared names stay unchanged
        items = self._items.encode()
        body["model"] = self._upstream.model
        if self._items.instructions is not None:
            body["instructions"] = self._items.instructions
        body["input"] = items
        if tools:
            body["tools"] = tools
        body |= self._tools.choose(tools)
        self._output(items)
        self._reasoning()
        self._sampling()
        self._limit()
        self._service()
        self._store()
        self._extras()
        if self._include:
            body["include"] = list(dict.fromkeys(self._include))
        if request.stream:
            body["stream"] = True
        stop = emulate_stops(request.stop, self._losses)
        return UpstreamRequest(
            body=msgspec.json.encode(body),
            stream=request.stream,
            warnings=self._losses.words,
            names=self._items.names.table,
            call_ids=self._items.call_ids.table,
            emulated=frozenset(self._items.emulated),
            stop=stop,
        )

    def _refuse_impossible(self) -> None:
        request = self._request
        refuse_missing_part(request, PROTOCOL)
        if request.continues and not self._can.stored:
            raise refusals.no_stored_responses()
        if request.candidates > 1:
            raise refusals.single_candidate(request.model)
        for modality in request.output.modalities:
            if modality != "text":
                raise refusals.unsupported_output(request.model, modality)
        for key in () if self._can.stored else ("conversation", "prompt", "background"):
            if self._own.get(key):
                raise refusals.no_stored_responses(key)

    # ── output format ────────────────────────────────────────────────────────────────────────────────────────────────

    def _output(self, items: list[JSONObject]) -> None:
        output = self._request.output
        text: JSONObject = {}
        if output.kind == "json":
            if self._takes_json_mode():
                text["format"] = {"type": "json_object"}
                if self._request.protocol != PROTOCOL and not mentions_json(self._request):
                    self._add_instruction(JSON_LINE, items)  # the vendor refuses JSON mode without a mention of JSON
            else:
                self._add_instruction(JSON_LINE, items)
                self._losses.add("emulated:response_format")
        elif output.kind == "json_schema":
            form = self._json_schema(items)
            if form:
                text["format"] = form
        if output.verbosity and self._can.verbosity:
            text["verbosity"] = output.verbosity
        elif output.verbosity:
            self._losses.add("dropped:verbosity")
        if text:
            self._body["text"] = text

    def _json_schema(self, items: list[JSONObject]) -> JSONObject | None:
        output = self._request.output
        found = answer_schema(output, self._request, self._can, self._losses)
        if found is None:
            self._losses.add("emulated:response_format")
            schema = output.schema or {}
            self._add_instruction(SCHEMA_LINE + msgspec.json.encode(schema).decode(), items)
            json_mode = self._takes_json_mode() and schema.get("type", "object") == "object"
            return {"type": "json_object"} if json_mode else None
        strict = found.strict
        if strict is None and self._request.protocol != PROTOCOL:
            strict = False
        form: JSONObject = {"type": "json_schema", "name": output.name or "response", "schema": found.schema}
        if output.description is not None:
            form["description"] = output.description
        if strict is not None:
            form["strict"] = strict
        return form

    def _takes_json_mode(self) -> bool:
        return self._can.json_mode and (self._can.format_with_tools or not self._request.tools)

    def _add_instruction(self, line: str, items: list[JSONObject]) -> None:
        """Add an instruction after the leading ones."""
        leading = ("system", "developer")
        if not self._can.several_system:
            self._body["instructions"] = BETWEEN_TEXTS.join(filter(None, (self._items.instructions, line)))
            return
        index = next((n for n, each in enumerate(items) if each.get("role") not in leading), len(items))
        role = "developer" if self._can.developer_role else "system"
        instruction = {"type": "message", "role": role, "content": [{"type": "input_text", "text": line}]}
        items.insert(index, instruction)

    def _reasoning(self) -> None:
        options = self._request.reasoning
        effort = options.effort
        if effort is None and options.budget_tokens is not None:
            effort = effort_of_budget(options.budget_tokens)
        fields: JSONObject = {}
        if effort is not None:
            nearest = nearest_effort(effort, self._can.efforts)
            if nearest is None:
                self._losses.add("dropped:reasoning_effort")
            else:
                if nearest != effort:
                    self._losses.add("clamped:reasoning_effort")
                fields["effort"] = nearest
        reasons = fields.get("effort", "none") != "none"
        requested = options.visible in _SHOWN
        shown = requested or (options.visible is None and reasons and self._request.protocol in _SHOWS_REASONING)
        if shown and self._can.efforts:
            fields["summary"] = "auto"
        own = self._own.get("reasoning", {})
        if self._can.efforts:
            fields |= own
        if fields:
            self._body["reasoning"] = fields
        if reasons or "summary" in fields or self._items.replays:
            self._include.append(STATE)

    # ── sampling and limits ──────────────────────────────────────────────────────────────────────────────────────────

    def _sampling(self) -> None:
        sampling = self._request.sampling
        reasons = self._body.get("reasoning", {}).get("effort") != "none"
        free = self._can.sampling == "any" or (self._can.sampling == "unless_thinking" and not reasons)
        self._number("temperature", sampling.temperature, 2.0, taken=free)
        self._number("top_p", sampling.top_p, 1.0, taken=free)
        for name in ("top_k", "seed", "frequency_penalty", "presence_penalty", "logit_bias"):
            if getattr(sampling, name) is not None:
                self._losses.add(f"dropped:{name}")
        if sampling.logprobs is not None and not free and self._can.developer_role:
            self._losses.add("dropped:logprobs")
        elif sampling.logprobs is not None:
            self._include.append(LOGPROBS)
            if sampling.logprobs > _MOST_LOGPROBS:
                self._losses.add("clamped:top_logprobs")
            if sampling.logprobs:
                self._body["top_logprobs"] = min(sampling.logprobs, _MOST_LOGPROBS)

    def _number(self, name: str, value: float | None, high: float, *, taken: bool) -> None:
        if value is None:
            return
        if not taken:
            self._losses.add(f"dropped:{name}")
            return
        self._body[name] = min(max(value, 0.0), high)
        if self._body[name] != value:
            self._losses.add(f"clamped:{name}")

    def _limit(self) -> None:
        asked, ceiling = self._request.max_output_tokens, self._can.max_output_tokens
        if asked is None:
            return
        if asked < 1:
            raise refusals.empty_response(self._request.model)
        limit = max(asked, LEAST_OUTPUT)
        if ceiling is not None:
            limit = min(limit, ceiling)
        if limit != asked:
            self._losses.add("clamped:max_tokens")
        self._body["max_output_tokens"] = limit

    # ── service options ──────────────────────────────────────────────────────────────────────────────────────────────

    def _service(self) -> None:
        request, body = self._request, self._body
        if request.end_user:
            user = request.end_user
            if len(user) > _LONGEST_END_USER:
                user = derived("user_", user, size=59)
            body["safety_identifier" if self._can.developer_role else "user"] = user
        if request.metadata:
            body["metadata"] = dict(request.metadata)
        if request.service_tier is not None:
            body["service_tier"] = TIER_OUT[request.service_tier]
        cache = request.cache
        if cache.key:
            body["prompt_cache_key"] = cache.key
        if self._can.cache_marks and (cache.automatic is not None or cache.lifetime is not None):
            options = {"mode": "explicit" if cache.automatic is False else "implicit"}
            if cache.lifetime is not None:
                options["ttl"] = "30m" if cache.lifetime in {"5m", "30m"} else "12h"
            body["prompt_cache_options"] = options

    def _store(self) -> None:
        request = self._request
        if self._can.stored:
            if request.continues:
                self._body["previous_response_id"] = request.continues
            if request.store is not None or request.protocol != PROTOCOL:
                self._body["store"] = bool(request.store)
            return
        self._body["store"] = False
        if request.store:
            self._losses.add("dropped:store")

    def _extras(self) -> None:
        self._losses.add(*unsaid_extras(self._request, PROTOCOL))
        if self._tools.shows_sources:
            self._include.append(SOURCES)
        self._include += self._own.get("include", ())
        self._body |= {key: value for key, value in self._own.items() if key not in _MERGED and key not in self._body}
