"""Encode a request as Chat Completions: the top level here, its messages in `message_encoder`.

The encoder follows the model's capabilities and reports every loss. It refuses options that would make the response
wrong, and drops options that only tune it. Equal requests have equal bytes.
"""

from collections.abc import Mapping, Sequence

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.custom_tools import emulated_description, emulated_parameters
from llmproxy_asgi.translators.efforts import effort_of_budget, nearest_effort
from llmproxy_asgi.translators.instructions import BETWEEN_TEXTS
from llmproxy_asgi.translators.losses import Losses, refuse_missing_part, unsaid_extras
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.json_schemas import answer_schema, function_parameters
from llmproxy_asgi.translators.openai.mappings import JSON_LINE, SCHEMA_LINE, TIER_OUT, mentions_json
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.message_encoder import ChatMessageEncoder, JSONObject
from llmproxy_asgi.translators.stop_sequences import emulate_stops
from llmproxy_asgi.translators.tool_choices import chosen, plain_choice

_MOST_STOPS = 4
_MOST_LOGPROBS = 20
_LONGEST_END_USER = 128


def encode_request(request: ir.Request, upstream: Upstream) -> UpstreamRequest:
    """Encode the request, with the renamed tools and ids that decoding its response needs."""
    return ChatRequestEncoder(request, upstream).encode()


class ChatRequestEncoder:
    """The encoder of one request."""

    def __init__(self, request: ir.Request, upstream: Upstream) -> None:
        self._request = request
        self._upstream = upstream
        self._can = upstream.capabilities
        self._losses = Losses()
        self._messages = ChatMessageEncoder(request, upstream, self._losses)
        self._names = self._messages.names
        self._body: JSONObject = {}
        self._stop: tuple[str, ...] = ()  # enforced by the gateway, as the model does not accept them

    def encode(self) -> UpstreamRequest:
        """Encode the request; raise `Unsupported` for options that the model cannot serve."""
        request = self._request
        if request.continues:
            raise refusals.no_stored_responses()
        refuse_missing_part(request, PROTOCOL)
        tools = self._tools()  # before the messages, so that declared names stay unchanged
        body = self._body
        body["model"] = self._upstream.model
        body["messages"] = self._messages.encode()
        if tools:
            body["tools"] = tools
        self._tool_choice(tools)
        self._output()
        self._reasoning()
        self._sampling()
        self._limits()
        self._service()
        self._extras()
        if request.stream:
            body["stream"] = True
            if self._can.stream_usage:
                body["stream_options"] = {"include_usage": True}
        return UpstreamRequest(
            body=msgspec.json.encode(body),
            stream=request.stream,
            warnings=self._losses.words,
            names=self._names.table,
            namespaces=self._names.namespaces,
            call_ids=self._messages.call_ids.table,
            emulated=frozenset(self._messages.emulated),
            stop=self._stop,
        )

    # ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tools(self) -> list[JSONObject]:
        tools: list[JSONObject] = []
        for tool in self._request.tools:
            if tool.kind == "server":
                self._server_tool(tool, tools)
            elif not self._can.tools:
                raise refusals.no_tools(self._request.model)
            else:
                tools.append(self._custom(tool) if tool.kind == "custom" else self._function(tool))
        return tools

    def _function(self, tool: ir.Tool) -> JSONObject:
        function: JSONObject = {"name": self._names.outward(tool.name, tool.namespace)}
        if tool.description is not None:
            function["description"] = tool.description
        parameters, strict = function_parameters(tool, self._request, self._can, self._losses)
        function["parameters"] = parameters
        if strict is not None and self._can.strict_tools:
            function["strict"] = strict
        return {"type": "function", "function": function}

    def _custom(self, tool: ir.Tool) -> JSONObject:
        name = self._names.outward(tool.name, tool.namespace)
        if not self._can.custom_tools:
            return self._emulated(tool, name)
        custom: JSONObject = {"name": name}
        if tool.description is not None:
            custom["description"] = tool.description
        if tool.grammar is not None:
            rules = {"syntax": tool.grammar.syntax, "definition": tool.grammar.definition}
            custom["format"] = {"type": "grammar", "grammar": rules}
        return {"type": "custom", "custom": custom}

    def _emulated(self, tool: ir.Tool, name: str) -> JSONObject:
        """Emulate a custom tool by a function with one string; the description contains the grammar, unenforced."""
        self._losses.add("emulated:custom_tool")
        self._messages.emulated.add(name)
        about = emulated_description(tool)
        function: JSONObject = {
            "name": name,
            **({"description": about} if about else {}),
            "parameters": {**emulated_parameters(), "additionalProperties": False},
        }
        return {"type": "function", "function": function}

    def _server_tool(self, tool: ir.Tool, tools: list[JSONObject]) -> None:
        native = tool.extras.get(PROTOCOL)
        if native:
            tools.append(native)
            return
        if tool.name != "web_search":
            raise refusals.server_tool_unavailable(tool)
        options: JSONObject = {}
        for key, value in (tool.settings or {}).items():
            if key == "search_context_size":
                options[key] = value
            elif key == "user_location" and isinstance(value, Mapping):
                place = {name: known for name, known in value.items() if name != "type"}
                options[key] = {"type": "approximate", "approximate": place}
            else:
                self._losses.add(f"dropped:{key}")
        self._body["web_search_options"] = options

    def _tool_choice(self, tools: list[JSONObject]) -> None:
        choice = plain_choice(self._request)
        if not tools:
            return
        if choice.parallel is not None:
            if self._can.parallel_tools:
                self._body["parallel_tool_calls"] = choice.parallel
            else:
                self._losses.add("dropped:parallel_tool_calls")
        if choice.mode == "required" and not self._can.forced_tool_choice:
            self._losses.add("downgraded:tool_choice")
            self._body["tool_choice"] = "auto"
            if choice.only:
                names = {self._outward(tool) for tool in chosen(self._request, choice.only)}
                self._body["tools"] = [tool for tool in tools if _declared(tool) in names] or tools
            return
        if not choice.given and not choice.only and choice.mode == "auto":
            return
        if not choice.only or choice.mode == "none":
            self._body["tool_choice"] = choice.mode
            return
        self._choose_among(chosen(self._request, choice.only), tools)

    def _choose_among(self, allowed: Sequence[ir.Tool], tools: list[JSONObject]) -> None:
        """Encode a choice among some tools: by name, by a list, or by declaring only these."""
        mode = self._request.tool_choice.mode
        named = [word for tool in allowed if (word := self._named(tool, tools)) is not None]
        if len(named) < len(allowed):
            self._losses.add("downgraded:tool_choice")
        if not named:  # web search is an option here, not a tool
            self._body["tool_choice"] = "none"
        elif mode == "required" and len(named) == 1 == len(allowed):
            self._body["tool_choice"] = named[0]
        elif self._can.allowed_tools:
            self._body["tool_choice"] = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
        else:
            self._losses.add("downgraded:tool_choice")
            names = {self._outward(tool) for tool in allowed}
            self._body["tools"] = [tool for tool in tools if _declared(tool) in names]
            self._body["tool_choice"] = mode

    def _outward(self, tool: ir.Tool) -> str:
        return self._names.outward(tool.name, tool.namespace)

    def _named(self, tool: ir.Tool, tools: Sequence[JSONObject]) -> JSONObject | None:
        """Return a tool's entry in a tool choice; None if it is not declared in `tools`."""
        if tool.kind == "server":
            native = tool.extras.get(PROTOCOL)
            return {"type": native["type"]} if native else None
        outward = self._outward(tool)
        custom = any(each["type"] == "custom" and _declared(each) == outward for each in tools)
        kind = "custom" if custom else "function"
        return {"type": kind, kind: {"name": outward}}

    # ── output format ────────────────────────────────────────────────────────────────────────────────────────────────

    def _output(self) -> None:
        output = self._request.output
        if output.verbosity and self._can.verbosity:
            self._body["verbosity"] = output.verbosity
        elif output.verbosity:
            self._losses.add("dropped:verbosity")
        if output.kind == "json":
            self._json_mode()
        elif output.kind == "json_schema":
            self._json_schema()
        modalities = set(output.modalities) - {"text"}
        if "image" in modalities:
            raise refusals.unsupported_output(self._request.model, "image")
        if "audio" in modalities:
            if not self._can.audio:
                raise refusals.unsupported_output(self._request.model, "audio")
            self._body["modalities"] = ["text", "audio"]
            if not self._request.extras.get(PROTOCOL, {}).get("audio"):
                self._losses.add("emulated:audio")  # other vendors' voices have no equivalents
                form = "pcm16" if self._request.stream else "wav"
                self._body["audio"] = {"voice": "alloy", "format": form}

    def _json_mode(self) -> None:
        if self._takes_json_mode():
            self._body["response_format"] = {"type": "json_object"}
            if self._request.protocol != PROTOCOL and not mentions_json(self._request):
                self._add_instruction(JSON_LINE)  # the vendor refuses JSON mode without a mention of JSON
        else:
            self._add_instruction(JSON_LINE)
            self._losses.add("emulated:response_format")

    def _takes_json_mode(self) -> bool:
        return self._can.json_mode and (self._can.format_with_tools or not self._request.tools)

    def _json_schema(self) -> None:
        output = self._request.output
        found = answer_schema(output, self._request, self._can, self._losses)
        if found is None:
            self._losses.add("emulated:response_format")
            schema = output.schema or {}
            if self._takes_json_mode() and schema.get("type", "object") == "object":
                self._body["response_format"] = {"type": "json_object"}
            self._add_instruction(SCHEMA_LINE + msgspec.json.encode(schema).decode())
            return
        form: JSONObject = {"name": output.name or "response"}
        if output.description is not None:
            form["description"] = output.description
        form["schema"] = found.schema
        if found.strict is not None:
            form["strict"] = found.strict
        self._body["response_format"] = {"type": "json_schema", "json_schema": form}

    def _add_instruction(self, line: str) -> None:
        """Add an instruction after the leading ones."""
        messages: list[JSONObject] = self._body["messages"]
        leading = ("system", "developer")
        if not self._can.several_system and messages and messages[0]["role"] in leading:
            content = messages[0]["content"]
            added = BETWEEN_TEXTS + line if isinstance(content, str) else [{"type": "text", "text": line}]
            messages[0]["content"] = content + added
            return
        index = next((n for n, each in enumerate(messages) if each["role"] not in leading), len(messages))
        role = "developer" if self._can.developer_role else "system"
        messages.insert(index, {"role": role, "content": line})

    def _reasoning(self) -> None:
        options = self._request.reasoning
        effort = options.effort
        if effort is None and options.budget_tokens is not None:
            effort = effort_of_budget(options.budget_tokens)
        if effort is None:
            return
        nearest = nearest_effort(effort, self._can.efforts)
        if nearest is None:
            self._losses.add("dropped:reasoning_effort")
            return
        if nearest != effort:
            self._losses.add("clamped:reasoning_effort")
        self._body["reasoning_effort"] = nearest

    # ── sampling and limits ──────────────────────────────────────────────────────────────────────────────────────────

    def _sampling(self) -> None:
        sampling = self._request.sampling
        reasons = self._body.get("reasoning_effort") != "none"
        free = self._can.sampling == "any" or (self._can.sampling == "unless_thinking" and not reasons)
        more = free or not self._can.developer_role  # compatible servers accept these even with reasoning
        self._number("temperature", sampling.temperature, 0.0, 2.0, taken=free)
        self._number("top_p", sampling.top_p, 0.0, 1.0, taken=free)
        self._number("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0, taken=more)
        self._number("presence_penalty", sampling.presence_penalty, -2.0, 2.0, taken=more)
        if sampling.top_k is not None and self._request.protocol == PROTOCOL:
            self._body["top_k"] = sampling.top_k  # callers of this protocol send it to servers that have it
        elif sampling.top_k is not None:
            self._losses.add("dropped:top_k")
        if sampling.seed is not None:
            self._body["seed"] = sampling.seed
        if sampling.logit_bias is not None and more:
            self._body["logit_bias"] = dict(sampling.logit_bias)
        elif sampling.logit_bias is not None:
            self._losses.add("dropped:logit_bias")
        if sampling.logprobs is not None and not more:
            self._losses.add("dropped:logprobs")
        elif sampling.logprobs is not None:
            self._body["logprobs"] = True
            if sampling.logprobs > _MOST_LOGPROBS:
                self._losses.add("clamped:top_logprobs")
            if sampling.logprobs:
                self._body["top_logprobs"] = min(sampling.logprobs, _MOST_LOGPROBS)

    def _number(self, name: str, value: float | None, low: float, high: float, *, taken: bool) -> None:
        if value is None:
            return
        if not taken:
            self._losses.add(f"dropped:{name}")
            return
        self._body[name] = min(max(value, low), high)
        if self._body[name] != value:
            self._losses.add(f"clamped:{name}")

    def _limits(self) -> None:
        request, can = self._request, self._can
        limit = request.max_output_tokens
        if limit is not None and limit < 1:
            raise refusals.empty_response(request.model)
        if limit is not None and can.max_output_tokens is not None and limit > can.max_output_tokens:
            limit = can.max_output_tokens
            self._losses.add("clamped:max_tokens")
        if limit is not None:
            self._body[can.max_tokens_field] = limit
        if request.stop:
            self._stops(request.stop)
        if request.candidates > 1:
            self._body["n"] = request.candidates

    def _stops(self, wanted: Sequence[str]) -> None:
        stops = list(dict.fromkeys(stop for stop in wanted if stop))
        taken = stops[:_MOST_STOPS] if self._can.stops else []
        if taken:
            self._body["stop"] = taken
        self._stop = emulate_stops(stops[len(taken) :], self._losses)

    # ── service options ──────────────────────────────────────────────────────────────────────────────────────────────

    def _service(self) -> None:
        request, body = self._request, self._body
        own = self._can.developer_role  # OpenAI's own; compatible servers refuse or ignore its newer fields
        if request.end_user:
            user = request.end_user
            if len(user) > _LONGEST_END_USER:
                user = derived("user_", user, size=64)
            body["safety_identifier" if own else "user"] = user
        if request.metadata:
            body["metadata"] = dict(request.metadata)
        if request.service_tier is not None:
            if request.service_tier in TIER_OUT:
                body["service_tier"] = TIER_OUT[request.service_tier]
            else:
                self._losses.add("dropped:service_tier")
        cache = request.cache
        if cache.key and (own or self._can.cache_marks):
            body["prompt_cache_key"] = cache.key
        if self._can.cache_marks and (cache.automatic is not None or cache.lifetime is not None):
            options = {"mode": "explicit" if cache.automatic is False else "implicit"}
            if cache.lifetime is not None:
                options["ttl"] = "30m"
            body["prompt_cache_options"] = options

    def _extras(self) -> None:
        if not self._request.extras:
            return
        own = self._request.extras.get(PROTOCOL, {})
        self._body.update({key: value for key, value in own.items() if key not in self._body})
        self._losses.add(*unsaid_extras(self._request, PROTOCOL))


def _declared(tool: JSONObject) -> str | None:
    inner = tool.get(tool["type"])
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None
