"""Find the server tools in requests of OpenAI's protocols."""

from collections.abc import Iterable, Mapping
from typing import Any

from llmproxy_asgi.translators.hosted_tools import Hosted, HostedToolRequest, read_typed

_NAMES = frozenset({"type", "id", "tools", "server_url", "connector_id", "tunnel_id", "model"})
_TIERS = ("service_tier",)
_ADDED_TOOLS = "additional_tools"


def _read_chat(values: Mapping[str, Any]) -> Iterable[HostedToolRequest]:
    """Find server tools in Chat: search options, plugins of routers, and tools that are neither function nor custom."""
    yield from read_typed(values.get("tools"), "tools", _targets)
    if values.get("web_search_options") is not None:
        yield HostedToolRequest("web_search_options", "web_search")
    plugins = values.get("plugins")
    for number, plugin in enumerate(plugins if isinstance(plugins, list) else ()):
        if isinstance(plugin, dict):
            yield HostedToolRequest(f"plugins[{number}]", str(plugin.get("id")))


def _read_responses(values: Mapping[str, Any]) -> Iterable[HostedToolRequest]:
    """Find server tools in Responses: in `tools`, and in input items that add tools."""
    yield from read_typed(values.get("tools"), "tools", _targets)
    items = values.get("input")
    for number, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") == _ADDED_TOOLS:
            yield from read_typed(item.get("tools"), f"input[{number}].tools", _targets)


def _targets(tool: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Return a tool's targets: the server or connector of `mcp`, or the model that generates images."""
    if tool.get("type") == "mcp":
        named = (tool.get(key) for key in ("server_url", "connector_id", "tunnel_id"))
        return tuple(str(each) for each in named if each) or ("",)
    model = tool.get("model") if tool.get("type") == "image_generation" else None
    return (str(model),) if model else (None,)


CHAT = Hosted(members=("tools", "web_search_options", "plugins"), tiers=_TIERS, names=_NAMES, read=_read_chat)
RESPONSES = Hosted(
    members=("tools", "input"),
    tiers=_TIERS,
    names=_NAMES,
    read=_read_responses,
    entries={"input": _ADDED_TOOLS},
)
