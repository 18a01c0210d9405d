"""Encode tools and the tool choice.

Anthropic has no free-text tools: they become functions with one string property and their grammar in the description,
and calls of them are unwrapped in the response. A set of allowed tools is expressed by omitting the others.
"""

import re
from collections.abc import Sequence

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages import client_tools, server_tools
from llmproxy_asgi.translators.anthropic_messages.message_encoder import cache_control
from llmproxy_asgi.translators.anthropic_messages.options import thinks
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.codec.options import Encoding
from llmproxy_asgi.translators.custom_tools import emulated_description, emulated_parameters
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.names import Renamer
from llmproxy_asgi.translators.strict_schemas import ANTHROPIC, NotStrict, strict_form
from llmproxy_asgi.translators.tool_choices import chosen, tool_choice
from llmproxy_asgi.translators.tool_schemas import object_root, refuse_unseen

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
TOOL_NAME_LIMIT = 128


class MessagesToolEncoder:
    """The tool encoder of one request."""

    def __init__(self, request: ir.Request, capabilities: Capabilities, names: Renamer, losses: Losses) -> None:
        self._request = request
        self._capabilities = capabilities
        self._names = names
        self._losses = losses
        self.marked: list[JSONObject] = []
        self.emulated: set[str] = set()

    def name_all(self) -> None:
        """Assign all names first, so that none depends on the history or on omitted tools."""
        for tool in self._request.tools:
            if tool.kind != "server":
                self._names.outward(tool.name, tool.namespace)

    def write(self, encoding: Encoding) -> JSONObject:
        """Encode the fields `tools` and `tool_choice`; empty without tools.

        Args:
            encoding: The encoded options.

        Raises:
            Unsupported: The upstream doesn't support a tool.
        """
        if not self._request.tools:
            return {}
        if not self._capabilities.tools:
            raise refusals.no_tools(self._request.model)
        capabilities = self._capabilities
        can_force = capabilities.forced_tool_choice and (
            capabilities.forced_tool_choice_with_thinking or not thinks(encoding)
        )
        choice = tool_choice(self._request, self._losses, can_force=can_force)
        fields: JSONObject = {"tools": [self._tool(tool) for tool in self._offered(choice)]}
        native = self._choice(choice)
        if native:
            fields["tool_choice"] = native
        return fields

    def _offered(self, choice: ir.ToolChoice) -> Sequence[ir.Tool]:
        """Return the tools to declare: only the allowed ones if nothing else limits the choice."""
        tools = self._request.tools
        if not choice.only or (choice.mode == "required" and len(choice.only) == 1):
            return tools
        names = frozenset(tool.name for tool in chosen(self._request, choice.only))
        allowed = [tool for tool in tools if tool.name in names]
        if len(allowed) < len(tools):
            self._losses.add("downgraded:tool_choice")
        return allowed

    def _choice(self, choice: ir.ToolChoice) -> JSONObject | None:
        single = choice.parallel is False
        if choice.mode == "none":
            return {"type": "none"}
        if choice.mode == "required":
            named = len(choice.only) == 1
            native = {"type": "tool", "name": self._tool_name(choice.only[0])} if named else {"type": "any"}
        elif choice.given or single:
            native = {"type": "auto"}
        else:
            return None
        return {**native, "disable_parallel_tool_use": True} if single else native

    def _tool_name(self, name: str) -> str:
        [tool] = chosen(self._request, [name])
        if tool.kind == "server":
            native = server_tools.encode_tool(tool) or ir.EMPTY
            return str(native.get("name", name))
        return self._names.outward(tool.name, tool.namespace)

    def _tool(self, tool: ir.Tool) -> JSONObject:
        if tool.kind == "server":
            native = self._server_tool(tool)
        else:
            native = self._custom(tool) if tool.kind == "custom" else self._function(tool)
        if tool.cache_mark and self._capabilities.cache_marks:
            native["cache_control"] = cache_control(tool.cache_mark)
            self.marked.append(native)
        return native

    def _function(self, tool: ir.Tool) -> JSONObject:
        native = client_tools.native_declaration(tool)
        if native is not None:
            return dict(native)
        refuse_unseen(tool, self._request.model, self._capabilities)
        schema, strict = self._schema(tool)
        extras = tool.extras.get(PROTOCOL, {})
        return {
            "name": self._names.outward(tool.name, tool.namespace),
            **({"description": tool.description} if tool.description else {}),
            "input_schema": schema,
            **({"strict": True} if strict else {}),
            **({"defer_loading": True} if tool.deferred and self._request.protocol == PROTOCOL else {}),
            **extras,
        }

    def _schema(self, tool: ir.Tool) -> tuple[JSONObject, bool]:
        """Return the parameters, and whether to send `strict`."""
        native = self._request.protocol == PROTOCOL  # already in this vendor's form, which the vendor validates
        schema = (tool.parameters if native else None) or object_root(tool, self._losses)
        if not tool.strict or native:
            strict = bool(tool.strict) and self._capabilities.strict_tools
        elif strict := self._capabilities.strict_tools:
            try:
                form = strict_form(schema, ANTHROPIC)
            except NotStrict:
                strict = False
            else:
                schema = form.schema
                self._losses.add(*(f"dropped:schema.{key}" for key in form.described))
        if tool.strict and not strict:
            self._losses.add("dropped:strict")
        return schema, strict

    def _custom(self, tool: ir.Tool) -> JSONObject:
        self._losses.add("emulated:custom_tool")
        name = self._names.outward(tool.name, tool.namespace)
        self.emulated.add(name)
        description = emulated_description(tool)
        return {
            "name": name,
            **({"description": description} if description else {}),
            "input_schema": emulated_parameters(),
        }

    def _server_tool(self, tool: ir.Tool) -> JSONObject:
        native = server_tools.encode_tool(tool)
        if native is None:
            raise refusals.server_tool_unavailable(tool)
        if PROTOCOL not in tool.extras:
            self._losses.add(*(f"dropped:{key}" for key in server_tools.unsupported_settings(tool)))
        return native
