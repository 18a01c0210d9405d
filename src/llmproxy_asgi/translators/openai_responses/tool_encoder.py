"""Encode the tools and the tool choice of a Responses request.

`strict` is always sent, because without it servers try strict mode and then fill optional parameters.
"""

from collections.abc import Mapping

from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.openai.tool_encoder import OpenAIToolEncoder
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, WEB_SEARCH

_SHOWS_SOURCES = frozenset({"anthropic-messages"})
"""Protocols that show the results of a search."""
_ABOUT_NAMESPACE = "namespace_description"


class ResponsesToolEncoder(OpenAIToolEncoder):
    """The encoder of one request's tools."""

    protocol = PROTOCOL
    _unspecified = False
    shows_sources = False
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

    @override
    def _tool(self, tool: ir.Tool) -> JSONObject:
        if tool.kind == "server":
            return self._server(tool)
        own = {key: value for key, value in tool.extras.get(PROTOCOL, ir.EMPTY).items() if key != _ABOUT_NAMESPACE}
        declared = super()._tool(tool)
        if tool.deferred and self._request.protocol == PROTOCOL:
            declared["defer_loading"] = True
        return {**declared, **own}

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

    @override
    def _entry(self, kind: str, fields: JSONObject) -> JSONObject:
        return {"type": kind, **fields}

    @override
    def _outward(self, tool: ir.Tool) -> str:
        return self._names.outward(tool.name)

    @override
    def _named(self, tool: ir.Tool) -> JSONObject:
        if tool.kind == "server":
            return {"type": tool.extras.get(PROTOCOL, ir.EMPTY).get("type", WEB_SEARCH)}
        custom = tool.kind == "custom" and self._can.custom_tools
        space = {"namespace": tool.namespace} if tool.namespace is not None else {}
        return {"type": "custom" if custom else "function", "name": self._outward(tool), **space}

    @override
    def _declared(self, entry: JSONObject) -> str:
        return str(entry.get("name", entry["type"]))
