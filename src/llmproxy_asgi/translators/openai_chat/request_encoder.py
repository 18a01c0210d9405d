"""Encode a request as Chat Completions: the top level here, its messages in `message_encoder`.

The encoder follows the model's capabilities and reports every loss. It refuses options that would make the response
wrong, and drops options that only tune it. Equal requests have equal bytes.
"""

from collections.abc import Mapping, Sequence

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.options import Encoding
from llmproxy_asgi.translators.custom_tools import emulated_description, emulated_parameters
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.instructions import BETWEEN_TEXTS
from llmproxy_asgi.translators.losses import Losses, unsaid_extras
from llmproxy_asgi.translators.openai.json_schemas import function_parameters
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.message_encoder import ChatMessageEncoder, JSONObject
from llmproxy_asgi.translators.openai_chat.options import OPTIONS
from llmproxy_asgi.translators.tool_choices import chosen, plain_choice


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

    def encode(self) -> UpstreamRequest:
        """Encode the request; raise `Unsupported` for options that the model cannot serve."""
        request, can = self._request, self._can
        OPTIONS.refuse(request, can)
        tools = self._tools()  # before the messages, so that declared names stay unchanged
        body = self._body
        messages = self._messages.encode()
        body |= {"model": self._upstream.model, "messages": messages}
        if tools:
            body["tools"] = tools
        self._tool_choice(tools)
        encoding = Encoding(request, can, self._losses)
        body |= OPTIONS.encode(encoding)
        if encoding.instruction:
            self._add_instruction(encoding.instruction, messages)
        if request.extras:
            merge_extras(body, request.extras.get(PROTOCOL, ir.EMPTY))
            self._losses.add(*unsaid_extras(request, PROTOCOL))
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
            stop=encoding.stop,
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

    def _add_instruction(self, line: str, messages: list[JSONObject]) -> None:
        """Add an instruction after the leading ones."""
        leading = ("system", "developer")
        if not self._can.several_system and messages and messages[0]["role"] in leading:
            content = messages[0]["content"]
            added = BETWEEN_TEXTS + line if isinstance(content, str) else [{"type": "text", "text": line}]
            messages[0]["content"] = content + added
            return
        index = next((n for n, each in enumerate(messages) if each["role"] not in leading), len(messages))
        role = "developer" if self._can.developer_role else "system"
        messages.insert(index, {"role": role, "content": line})


def _declared(tool: JSONObject) -> str | None:
    inner = tool.get(tool["type"])
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else None
