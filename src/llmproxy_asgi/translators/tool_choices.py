"""The choice among tools, without what says nothing: an allowed list that names every tool is no list."""

from collections.abc import Iterable

from llmproxy_asgi.conversation import Request, Tool, ToolChoice
from llmproxy_asgi.translators import refusals

_NAMES_FUNCTIONS_ONLY = frozenset({"gemini"})
"""Protocols whose lists can name functions alone, so that such a list says nothing of tools that the vendor runs."""


def plain_choice(request: Request) -> ToolChoice:
    """A request's choice; one among all tools is its bare mode, which every upstream knows."""
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
    """The declared tools that a choice names, each once.

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
