"""Find the tools in a Messages request that Anthropic runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from llmproxy_asgi.translators.hosted_tools import Hosted, HostedToolRequest, read_typed


def _read(values: Mapping[str, Any]) -> Iterable[HostedToolRequest]:
    """Yield tools by type, MCP servers with their addresses, and a container's skills."""
    yield from read_typed(values.get("tools"), "tools", _targets)
    servers = values.get("mcp_servers")
    for number, server in enumerate(servers if isinstance(servers, list) else ()):
        if isinstance(server, dict):
            yield HostedToolRequest(f"mcp_servers[{number}]", "mcp", str(server.get("url") or ""))
    container = values.get("container")
    if isinstance(container, dict) and container.get("skills"):
        yield HostedToolRequest("container.skills", "skills")


def _targets(tool: Mapping[str, Any]) -> tuple[str | None, ...]:
    # The tools of an MCP server, whose address is in `mcp_servers`.
    return () if str(tool.get("type")).startswith("mcp_toolset") else (None,)


MESSAGES = Hosted(
    members=("tools", "mcp_servers", "container"),
    tiers=("service_tier", "speed"),
    names=("type", "url", "skills"),
    read=_read,
)
