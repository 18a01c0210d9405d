"""Simplify tool choices to what the model supports: an allowed list that names every tool restricts nothing."""

from collections.abc import Iterable

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.losses import Losses

_NAMES_FUNCTIONS_ONLY = frozenset({"gemini"})
"""Protocols whose lists can name only functions, so that such a list does not restrict hosted tools."""


def plain_choice(request: ir.Request) -> ir.ToolChoice:
    """Return a request's choice; a choice among all tools becomes its mode alone, which every upstream supports."""
    choice = request.tool_choice
    if not choice.only or (len(choice.only) == 1 and choice.mode == "required"):
        return choice
    named = frozenset(choice.only)
    functions_only = request.protocol in _NAMES_FUNCTIONS_ONLY
    counted = [tool for tool in request.tools if not (functions_only and tool.kind == "server")]
    if any(tool.name not in named for tool in counted) or not named <= {tool.name for tool in request.tools}:
        return choice
    return ir.ToolChoice(mode=choice.mode, parallel=choice.parallel, given=True)


def tool_choice(request: ir.Request, losses: Losses, *, can_force: bool) -> ir.ToolChoice:
    """Return the tool choice as the model supports it.

    Args:
        request: The request.
        losses: Receives the warning.
        can_force: Whether the model can be forced to call a tool.
    """
    choice = plain_choice(request)
    if choice.mode != "required" or can_force:
        return choice
    losses.add("downgraded:tool_choice")
    return msgspec.structs.replace(choice, mode="auto", given=True)


def chosen(request: ir.Request, names: Iterable[str]) -> list[ir.Tool]:
    """Return the declared tools that a choice names, each once.

    Raises:
        Unsupported: One of them is not declared.
    """
    declared: dict[str, ir.Tool] = {}
    for tool in request.tools:
        declared.setdefault(tool.name, tool)
    found: list[ir.Tool] = []
    for name in dict.fromkeys(names):
        if name not in declared:
            raise refusals.undeclared_choice(name)
        found.append(declared[name])
    return found
