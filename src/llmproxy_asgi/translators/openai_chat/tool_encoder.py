"""Encode the tools and the tool choice of Chat Completions."""

from collections.abc import Mapping

from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.openai.tool_encoder import OpenAIToolEncoder
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL


class ChatToolEncoder(OpenAIToolEncoder):
    """The encoder of one request's tools; web search is an option here."""

    protocol = PROTOCOL

    def encode(self) -> JSONObject:
        """Encode the fields `tools` and `web_search_options`.

        Raises:
            Unsupported: The upstream does not support a tool.
        """
        fields: JSONObject = {}
        for tool in self._request.tools:
            native = tool.extras.get(PROTOCOL) if tool.kind == "server" else self._tool(tool)
            if native:
                fields.setdefault("tools", []).append(native)
            elif tool.name == "web_search":
                fields["web_search_options"] = self._search(tool)
            else:
                raise refusals.server_tool_unavailable(tool)
        return fields

    def _search(self, tool: ir.Tool) -> JSONObject:
        options: JSONObject = {}
        for key, value in (tool.settings or ir.EMPTY).items():
            if key == "search_context_size":
                options[key] = value
            elif key == "user_location" and isinstance(value, Mapping):
                place = {name: known for name, known in value.items() if name != "type"}
                options[key] = {"type": "approximate", "approximate": place}
            else:
                self._losses.add(f"dropped:{key}")
        return options

    @override
    def _entry(self, kind: str, fields: JSONObject) -> JSONObject:
        return {"type": kind, kind: fields}

    @override
    def _outward(self, tool: ir.Tool) -> str:
        return self._names.outward(tool.name, tool.namespace)

    @override
    def _named(self, tool: ir.Tool) -> JSONObject | None:
        if tool.kind == "server":
            native = tool.extras.get(PROTOCOL)
            return {"type": native["type"]} if native else None
        custom = tool.kind == "custom" and self._can.custom_tools
        return self._entry("custom" if custom else "function", {"name": self._outward(tool)})

    @override
    def _declared(self, entry: JSONObject) -> str | None:
        inner = entry.get(entry["type"])
        name = inner.get("name") if isinstance(inner, dict) else None
        return name if isinstance(name, str) else None
