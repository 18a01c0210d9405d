"""Encode tools and the tool choice."""

import re
from collections.abc import Sequence

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.custom_tools import emulated_description, emulated_parameters
from llmproxy_asgi.translators.gemini.json_schemas import UnsupportedSchema, to_gemini_parameters
from llmproxy_asgi.translators.gemini.mappings import SERVER_TOOLS_OUT
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.names import Renamer
from llmproxy_asgi.translators.tool_choices import chosen, plain_choice, tool_choice
from llmproxy_asgi.translators.tool_schemas import refuse_unseen

TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
TOOL_NAME_LIMIT = 128


class GeminiToolEncoder:
    """The tool encoder of one request."""

    def __init__(self, request: ir.Request, upstream: Upstream, names: Renamer, losses: Losses) -> None:
        self._request = request
        self._upstream = upstream
        self._capabilities = upstream.capabilities
        self._names = names
        self._losses = losses
        self.emulated: set[str] = set()

    def name_all(self) -> None:
        """Assign all names first, so that none depends on the history."""
        for tool in self._request.tools:
            if tool.kind != "server":
                self._names.outward(tool.name, tool.namespace)

    def write(self) -> JSONObject:
        """Encode the fields `tools` and `toolConfig`; empty without tools.

        Raises:
            Unsupported: The upstream doesn't support a tool.
        """
        if not self._request.tools:
            return {}
        if not self._capabilities.tools:
            raise refusals.no_tools(self._request.model)
        tools = self._offered_tools()
        functions = [self._function(tool) for tool in tools if tool.kind != "server"]
        server_tools = [self._server_tool(tool) for tool in tools if tool.kind == "server"]
        if functions and server_tools and not self._capabilities.mixed_tools:
            raise refusals.mixed_tools(self._request.model)
        fields: JSONObject = {"tools": [*([{"functionDeclarations": functions}] if functions else []), *server_tools]}
        config: JSONObject = {}
        if functions:
            config = self._choice()
            if server_tools and not self._upstream.issuer.endswith("vertex"):
                config["includeServerSideToolInvocations"] = True
        if config:
            fields["toolConfig"] = config
        return fields

    def _offered_tools(self) -> Sequence[ir.Tool]:
        """Return the tools to declare: only the allowed ones if `allowedFunctionNames` can't name them."""
        tools, choice = self._request.tools, plain_choice(self._request)
        if not choice.only or choice.mode == "none":
            return tools
        named = chosen(self._request, choice.only)
        if any(tool.kind != "server" for tool in named):
            return tools
        self._losses.add("downgraded:tool_choice")  # a tool that Google runs can be offered but not forced
        return [tool for tool in tools if tool in named]

    def _choice(self) -> JSONObject:
        choice = tool_choice(self._request, self._losses, can_force=self._capabilities.forced_tool_choice)
        if choice.parallel is False:
            self._losses.add("dropped:parallel_tool_calls")
        mode = {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice.mode]
        only = self._allowed(choice.only) if choice.mode != "none" else []
        if only and mode == "AUTO":
            mode = "VALIDATED"
        if not (choice.given or only or choice.mode != "auto"):
            return {}
        calling: JSONObject = {"mode": mode, **({"allowedFunctionNames": only} if only else {})}
        return {"functionCallingConfig": calling}

    def _allowed(self, names: Sequence[str]) -> list[str]:
        found = [tool for tool in chosen(self._request, names) if tool.kind != "server"]
        if len(found) < len(names):
            self._losses.add("downgraded:tool_choice")
        return [self._names.outward(tool.name, tool.namespace) for tool in found]

    def _function(self, tool: ir.Tool) -> JSONObject:
        refuse_unseen(tool, self._request.model, self._capabilities)
        name = self._names.outward(tool.name, tool.namespace)
        description, schema = tool.description, tool.parameters
        if tool.kind == "custom":
            self._losses.add("emulated:custom_tool")
            self.emulated.add(name)
            description, schema = emulated_description(tool), emulated_parameters()
        try:
            parameters = to_gemini_parameters(schema, self._losses)
        except UnsupportedSchema as why:
            raise refusals.tool_schema(tool, str(why)) from None
        return {
            "name": name,
            **({"description": description} if description else {}),
            **({"parametersJsonSchema": parameters} if parameters else {}),
            **tool.extras.get(PROTOCOL, {}),
        }

    def _server_tool(self, tool: ir.Tool) -> JSONObject:
        native = tool.extras.get(PROTOCOL)
        if native:
            return dict(native)
        key = SERVER_TOOLS_OUT.get(tool.name)
        if key is None:
            raise refusals.server_tool_unavailable(tool)
        self._losses.add(*(f"dropped:{setting}" for setting, value in (tool.settings or ir.EMPTY).items() if value))
        return {key: {}}
