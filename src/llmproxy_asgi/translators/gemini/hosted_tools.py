"""Find the tools in a generateContent request that Google runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from llmproxy_asgi.translators.gemini.outline import both_spellings
from llmproxy_asgi.translators.gemini.proto import camel, find_items
from llmproxy_asgi.translators.hosted_tools import Hosted, HostedToolRequest


def _read(values: Mapping[str, Any]) -> Iterable[HostedToolRequest]:
    """Yield the tools other than functions; MCP servers with their addresses."""
    tools = values.get("tools")
    for number, entry in enumerate(tools if isinstance(tools, list) else [tools]):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if camel(key) == "functionDeclarations" or value is None:
                continue
            path = f"tools[{number}].{key}"
            if camel(key) == "mcpServers":
                yield from (HostedToolRequest(path, "mcp", address) for address in _addresses(value))
            else:
                yield HostedToolRequest(path, camel(key))


def _addresses(servers: Any) -> Iterable[str]:
    for server in servers if isinstance(servers, list) else [servers]:
        found = find_items(server, "streamableHttpTransport") if isinstance(server, dict) else ()
        urls = [str(each.get("url") or "") for _, each in found if isinstance(each, dict)]
        yield from urls or [""]


GEMINI = Hosted(
    members=("tools",),
    tiers=("serviceTier", "service_tier"),
    names=both_spellings("functionDeclarations", "mcpServers", "streamableHttpTransport", "url"),
    read=_read,
)
