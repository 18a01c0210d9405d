"""Tools and the choice among them.

Free-text tools have no word here: they go as functions with one string property, their grammar in the description, and
are unwrapped in the answer. A set of allowed tools is expressed by leaving the others out.
"""

import re
from collections.abc import Sequence

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import EMPTY, JSONObject, Request, Tool, ToolChoice
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages import client_tools, server_tools
from llmproxy_asgi.translators.anthropic_messages.message_encoder import cache_control
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.custom_tools import emulated_description, emulated_parameters
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.names import Renamer
from llmproxy_asgi.translators.strict_schemas import ANTHROPIC, NotStrict, strict_form
from llmproxy_asgi.translators.tool_choices import chosen, plain_choice
from llmproxy_asgi.translators.tool_schemas import object_root, refuse_unseen

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
TOOL_NAME_LIMIT = 128


class Tools:
    """Writes the tools of one request."""

    def __init__(self, request: Request, capabilities: Capabilities, names: Renamer, warnings: Losses) -> None:
        self._request = request
        self._capabilities = capabilities
        self._names = names
        self._warnings = warnings
        self.marked: list[JSONObject] = []
        self.emulated: set[str] = set()

    def name_all(self) -> None:
        """Give out all names first, so that none depends on history or on which tools are left out."""
        for tool in self._request.tools:
            if tool.kind != "server":
                self._names.outward(tool.name, tool.namespace)

    def write(self, *, thinking: bool) -> JSONObject:
        """The fields `tools` and `tool_choice`, as far as there are any.

        Raises:
            Unsupported: A tool that this upstream cannot run or take.
        """
        if not self._request.tools:
            return {}
        if not self._capabilities.tools:
            raise refusals.no_tools(self._request.model)
        choice = plain_choice(self._request)
        forced = self._can_force(choice, thinking=thinking)
        offered = self._offered(choice, forced=forced)
        fields: JSONObject = {"tools": [self._tool(tool) for tool in offered]}
        word = self._choice(choice, forced=forced)
        if word:
            fields["tool_choice"] = word
        return fields

    def _can_force(self, choice: ToolChoice, *, thinking: bool) -> bool:
        able = self._capabilities
        forced = able.forced_tool_choice and (able.forced_tool_choice_with_thinking or not thinking)
        if choice.mode == "required" and not forced:
            self._warnings.add("downgraded:tool_choice")
        return forced

    def _offered(self, choice: ToolChoice, *, forced: bool) -> Sequence[Tool]:
        """The tools that are declared: fewer where that is the only way to limit the choice."""
        tools = self._request.tools
        if not choice.only or (choice.mode == "required" and len(choice.only) == 1 and forced):
            return tools
        names = frozenset(tool.name for tool in chosen(self._request, choice.only))
        allowed = [tool for tool in tools if tool.name in names]
        if len(allowed) < len(tools):
            self._warnings.add("downgraded:tool_choice")
        return allowed

    def _choice(self, choice: ToolChoice, *, forced: bool) -> JSONObject | None:
        single = choice.parallel is False
        if choice.mode == "none":
            return {"type": "none"}
        if choice.mode == "required" and forced:
            if len(choice.only) == 1:
                word: JSONObject = {"type": "tool", "name": self._chosen(choice.only[0])}
            else:
                word = {"type": "any"}
        elif choice.given or single:
            word = {"type": "auto"}
        else:
            return None
        return {**word, "disable_parallel_tool_use": True} if single else word

    def _chosen(self, name: str) -> str:
        [tool] = chosen(self._request, [name])
        if tool.kind == "server":
            native = server_tools.encode_declared(tool) or EMPTY
            return str(native.get("name", name))
        return self._names.outward(tool.name, tool.namespace)

    def _tool(self, tool: Tool) -> JSONObject:
        if tool.kind == "server":
            native = self._server(tool)
        else:
            native = self._custom(tool) if tool.kind == "custom" else self._function(tool)
        if tool.cache_mark and self._capabilities.cache_marks:
            native["cache_control"] = cache_control(tool.cache_mark)
            self.marked.append(native)
        return native

    def _function(self, tool: Tool) -> JSONObject:
        native = client_tools.native_of(tool)
        if native is not None:
            return dict(native)
        refuse_unseen(tool, self._request.model, self._capabilities)
        schema, strict = self._schema(tool)
        own = tool.extras.get(PROTOCOL, {})
        return {
            "name": self._names.outward(tool.name, tool.namespace),
            **({"description": tool.description} if tool.description else {}),
            "input_schema": schema,
            **({"strict": True} if strict else {}),
            **({"defer_loading": True} if tool.deferred and self._request.protocol == PROTOCOL else {}),
            **own,
        }

    def _schema(self, tool: Tool) -> tuple[JSONObject, bool]:
        """The parameters, and whether the model may be held to them."""
        native = self._request.protocol == PROTOCOL  # written for this vendor, who judges it itself
        schema = (tool.parameters if native else None) or object_root(tool, self._warnings)
        if not tool.strict or native:
            strict = bool(tool.strict) and self._capabilities.strict_tools
        elif strict := self._capabilities.strict_tools:
            try:
                form = strict_form(schema, ANTHROPIC)
            except NotStrict:
                strict = False
            else:
                schema = form.schema
                self._warnings.add(*(f"dropped:schema.{key}" for key in form.told))
        if tool.strict and not strict:
            self._warnings.add("dropped:strict")
        return schema, strict

    def _custom(self, tool: Tool) -> JSONObject:
        self._warnings.add("emulated:custom_tool")
        name = self._names.outward(tool.name, tool.namespace)
        self.emulated.add(name)
        about = emulated_description(tool)
        return {
            "name": name,
            **({"description": about} if about else {}),
            "input_schema": emulated_parameters(),
        }

    def _server(self, tool: Tool) -> JSONObject:
        native = server_tools.encode_declared(tool)
        if native is None:
            raise refusals.server_tool_unavailable(tool)
        if PROTOCOL not in tool.extras:
            self._warnings.add(*(f"dropped:{key}" for key in server_tools.unknown_settings(tool)))
        return native
