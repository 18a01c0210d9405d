"""Simplify tool choices: an allowed list that names every tool restricts nothing."""

from collections.abc import Iterable

from llmproxy_asgi.conversation import Request, Tool, ToolChoice
from llmproxy_asgi.translators import refusals

_NAMES_FUNCTIONS_ONLY = frozenset({"gemini"})
"""Protocols whose lists can name only functions, so that such a list does not restrict hosted tools."""


def plain_choice(request: Request) -> ToolChoice:
    """Return a request's choice; a choice among all tools becomes its mode alone, which every upstream supports."""
    choice = request.tool_choice
    if not choice.only or (len(choice.only) == 1 and choice.mode == "required"):
        return choice
    named = frozenset(choice.only)
    functions_only = request.protocol in _NAMES_FUNCTIONS_ONLY
    counted = [tool for tool in request.tools if not (functions_only and tool.kind == "server")]
    if any(tool.name not in named for tool in counted) or not named <= {tool.name for tool in request.tools}:
        return choice
    return ToolChoice(mode=choice.mode, parallel=choice.parallel, given=True)


def chosen(request: Request, names: Iterable[str]) -> list[Tool]:
    """Return the declared tools that a choice names, each once.

    Raises:
        Unsupported: One of them is not declared.
    """
    declared: dict[str, Tool] = {}
    for tool in request.tools:
        declared.setdefault(tool.name, tool)
    found: list[Tool] = []
    for name in dict.fromkeys(names):
        if name not in declared:
            raise refusals.undeclared_choice(name)
        found.append(declared[name])
    return found
