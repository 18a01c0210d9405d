"""Encode tools and the tool choice as both of OpenAI's protocols do; they differ in how entries nest."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.custom_tools import emulated_description, emulated_parameters
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.names import Renamer
from llmproxy_asgi.translators.openai.json_schemas import function_parameters
from llmproxy_asgi.translators.tool_choices import chosen, plain_choice


class OpenAIToolEncoder(ABC):
    """The encoder of one request's tools.

    Args:
        request: The request.
        capabilities: What its model supports.
        names: The names of tools.
        emulated: Receives the names of custom tools that are sent as functions.
        losses: Receives the warnings.
    """

    protocol: ClassVar[str]
    _unspecified: ClassVar[bool | None] = None
    """What `strict` is where a caller of another protocol left it out, because the vendor's default differs."""

    def __init__(
        self, request: ir.Request, capabilities: Capabilities, names: Renamer, emulated: set[str], losses: Losses
    ) -> None:
        self._request = request
        self._can = capabilities
        self._names = names
        self._emulated = emulated
        self._losses = losses

    @abstractmethod
    def _entry(self, kind: str, fields: JSONObject) -> JSONObject:
        """Return an entry of a type with its fields: beside the type, or in an object named like it."""

    @abstractmethod
    def _outward(self, tool: ir.Tool) -> str:
        """Return a tool's name for the upstream."""

    @abstractmethod
    def _named(self, tool: ir.Tool) -> JSONObject | None:
        """Return a tool's entry in a tool choice; None if it is not in `tools`."""

    @abstractmethod
    def _declared(self, entry: JSONObject) -> str | None:
        """Return the name that a choice uses for a declared tool."""

    def _tool(self, tool: ir.Tool) -> JSONObject:
        """Encode a function or a custom tool.

        Raises:
            Unsupported: The model does not support it.
        """
        if not self._can.tools:
            raise refusals.no_tools(self._request.model)
        fields: JSONObject = {"name": self._outward(tool)}
        if tool.kind == "custom":
            return self._custom(tool, fields)
        if tool.description is not None:
            fields["description"] = tool.description
        fields["parameters"], strict = function_parameters(tool, self._request, self._can, self._losses)
        if strict is None and self._request.protocol != self.protocol:
            strict = self._unspecified
        if strict is not None and self._can.strict_tools:
            fields["strict"] = strict
        return self._entry("function", fields)

    def _custom(self, tool: ir.Tool, fields: JSONObject) -> JSONObject:
        """Encode a custom tool, or a function of one string in its place, whose description has the grammar."""
        about = tool.description if self._can.custom_tools else emulated_description(tool)
        if about is not None:
            fields["description"] = about
        if not self._can.custom_tools:
            self._losses.add("emulated:custom_tool")
            self._emulated.add(fields["name"])
            strict = {} if self._unspecified is None else {"strict": self._unspecified}
            return self._entry("function", {**fields, "parameters": emulated_parameters(), **strict})
        if tool.grammar is not None:
            rules = {"syntax": tool.grammar.syntax, "definition": tool.grammar.definition}
            fields["format"] = self._entry("grammar", rules)
        return self._entry("custom", fields)

    def choose(self, tools: Sequence[JSONObject]) -> JSONObject:
        """Encode the tool choice; the fields contain `tools` if only fewer tools can express it."""
        choice, can = plain_choice(self._request), self._can
        if not tools:
            return {}
        fields: JSONObject = {}
        if choice.parallel is not None and can.parallel_tools:
            fields["parallel_tool_calls"] = choice.parallel
        elif choice.parallel is not None:
            self._losses.add("dropped:parallel_tool_calls")
        unforced = choice.mode == "required" and not can.forced_tool_choice
        listed = len(choice.only) > (choice.mode == "required") and choice.mode != "none" and not can.allowed_tools
        if unforced or listed:
            self._losses.add("downgraded:tool_choice")
            if choice.only:
                names = {self._outward(tool) for tool in chosen(self._request, choice.only)}
                fields["tools"] = [tool for tool in tools if self._declared(tool) in names] or tools
            return {**fields, "tool_choice": "auto" if unforced else choice.mode}
        chosen_field = self._choice(choice)
        return fields if chosen_field is None else {**fields, "tool_choice": chosen_field}

    def _choice(self, choice: ir.ToolChoice) -> Any:
        native = self._request.extras.get(self.protocol, ir.EMPTY).get("tool_choice")
        if native is not None:
            return native
        if not choice.only or choice.mode == "none":
            return choice.mode if choice.given or choice.only or choice.mode != "auto" else None
        allowed = chosen(self._request, choice.only)
        named = [entry for tool in allowed if (entry := self._named(tool)) is not None]
        if len(named) < len(allowed):
            self._losses.add("downgraded:tool_choice")
        if not named:
            return "none"
        if choice.mode == "required" and len(named) == 1 == len(allowed):
            return named[0]
        return self._entry("allowed_tools", {"mode": choice.mode, "tools": named})
