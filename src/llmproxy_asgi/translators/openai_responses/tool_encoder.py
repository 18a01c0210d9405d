"""Encode the tools and the tool choice of a Responses request.

`strict` is always sent, because without it servers try strict mode and then fill optional parameters.
"""

from collections.abc import Mapping
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.custom_tools import emulated_description, emulated_parameters
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.openai.json_schemas import function_parameters
from llmproxy_asgi.translators.openai_responses.item_encoder import ResponsesItemEncoder
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, WEB_SEARCH
from llmproxy_asgi.translators.tool_choices import chosen, plain_choice

_SHOWS_SOURCES = frozenset({"anthropic-messages"})
"""Protocols that show the results of a search."""
_ABOUT_NAMESPACE = "namespace_description"


class ResponsesToolEncoder:
    """The encoder of one request's tools."""

    def __init__(self, request: ir.Request, upstream: Upstream, items: ResponsesItemEncoder, losses: Losses) -> None:
        self._request = request
        self._can = upstream.capabilities
        self._names = items.names
        self._emulated = items.emulated
        self._losses = losses
        self._choice = plain_choice(request)
        self.shows_sources = False
        """Whether the response shows search results as a part."""

    def encode(self) -> list[JSONObject]:
        """Encode the declarations; tools of one namespace are grouped at the position of the first one.

        Raises:
            Unsupported: The upstream does not support a tool.
        """
        declared: list[JSONObject] = []
        spaces: dict[str, list[JSONObject]] = {}
        for tool in self._request.tools:
            entry = self._tool(tool)
            if tool.namespace is None:
                declared.append(entry)
            elif tool.namespace in spaces:
                spaces[tool.namespace].append(entry)
            else:
                inner = spaces[tool.namespace] = [entry]
                about = tool.extras.get(PROTOCOL, ir.EMPTY).get(_ABOUT_NAMESPACE, tool.namespace)
                declared.append({"type": "namespace", "name": tool.namespace, "description": about, "tools": inner})
        return declared

    def _tool(self, tool: ir.Tool) -> JSONObject:
        if tool.kind == "server":
            return self._server(tool)
        if not self._can.tools:
            raise refusals.no_tools(self._request.model)
        own = {key: value for key, value in tool.extras.get(PROTOCOL, ir.EMPTY).items() if key != _ABOUT_NAMESPACE}
        declared = self._custom(tool) if tool.kind == "custom" else self._function(tool)
        if tool.deferred and self._request.protocol == PROTOCOL:
            declared["defer_loading"] = True
        return {**declared, **own}

    def _function(self, tool: ir.Tool) -> JSONObject:
        declared: JSONObject = {"type": "function", "name": self._names.outward(tool.name)}
        if tool.description is not None:
            declared["description"] = tool.description
        declared["parameters"], strict = function_parameters(tool, self._request, self._can, self._losses)
        unspecified = strict is None and self._request.protocol == PROTOCOL
        if self._can.strict_tools and not unspecified:
            declared["strict"] = bool(strict)
        return declared

    def _custom(self, tool: ir.Tool) -> JSONObject:
        name = self._names.outward(tool.name)
        if not self._can.custom_tools:
            self._losses.add("emulated:custom_tool")
            self._emulated.add(name)
            about = emulated_description(tool)
            described = {"description": about} if about else {}
            return {
                "type": "function",
                "name": name,
                **described,
                "parameters": emulated_parameters(),
                "strict": False,
            }
        declared: JSONObject = {"type": "custom", "name": name}
        if tool.description is not None:
            declared["description"] = tool.description
        if tool.grammar is not None:
            rules = {"syntax": tool.grammar.syntax, "definition": tool.grammar.definition}
            declared["format"] = {"type": "grammar", **rules}
        return declared

    def _server(self, tool: ir.Tool) -> JSONObject:
        native = tool.extras.get(PROTOCOL)
        if native:
            return native
        if tool.name != WEB_SEARCH:
            raise refusals.server_tool_unavailable(tool)
        declared: JSONObject = {"type": WEB_SEARCH}
        self.shows_sources |= self._request.protocol in _SHOWS_SOURCES
        for key, value in (tool.settings or ir.EMPTY).items():
            if key == "allowed_domains" and value:
                declared["filters"] = {"allowed_domains": value}
            elif key == "search_context_size":
                declared[key] = value
            elif key == "user_location" and isinstance(value, Mapping):
                declared[key] = {**value, "type": "approximate"}
            elif value:
                self._losses.add(f"dropped:{key}")
        return declared

    # ── the choice ───────────────────────────────────────────────────────────────────────────────────────────────────

    def choose(self, tools: list[JSONObject]) -> JSONObject:
        """Encode the tool choice; the fields contain `tools` if only fewer tools can express it."""
        choice = self._choice
        if not tools:
            return {}
        fields: JSONObject = {}
        if choice.parallel is not None:
            if self._can.parallel_tools:
                fields["parallel_tool_calls"] = choice.parallel
            else:
                self._losses.add("dropped:parallel_tool_calls")
        unforced = choice.mode == "required" and not self._can.forced_tool_choice
        listed = len(choice.only) > (choice.mode == "required") and not self._can.allowed_tools
        if unforced or (listed and choice.mode != "none"):
            self._losses.add("downgraded:tool_choice")
            if choice.only:
                names = {self._names.outward(tool.name) for tool in chosen(self._request, choice.only)}
                fields["tools"] = [tool for tool in tools if tool.get("name", tool["type"]) in names] or tools
            return {**fields, "tool_choice": "auto" if unforced else choice.mode}
        chosen_field = self._choice_field()
        return {**fields, "tool_choice": chosen_field} if chosen_field is not None else fields

    def _choice_field(self) -> Any:
        choice = self._choice
        native = self._request.extras.get(PROTOCOL, ir.EMPTY).get("tool_choice")
        if native is not None:
            return native
        if not choice.given and not choice.only and choice.mode == "auto":
            return None
        if not choice.only or choice.mode == "none":
            return choice.mode
        named = [self._named(tool) for tool in chosen(self._request, choice.only)]
        if choice.mode == "required" and len(named) == 1:
            return named[0]
        return {"type": "allowed_tools", "mode": choice.mode, "tools": named}

    def _named(self, tool: ir.Tool) -> JSONObject:
        if tool.kind == "server":
            return {"type": tool.extras.get(PROTOCOL, ir.EMPTY).get("type", WEB_SEARCH)}
        custom = tool.kind == "custom" and self._can.custom_tools
        space = {"namespace": tool.namespace} if tool.namespace is not None else {}
        return {"type": "custom" if custom else "function", "name": self._names.outward(tool.name), **space}
