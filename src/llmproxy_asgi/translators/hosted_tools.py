"""Check hosted tools and service tiers of a request against what the upstream's operator allows.

A tool that the vendor runs costs extra, and some reach beyond the model: the vendor calls a connector or an MCP server
with a client's address and token, an image generator may name a different model. Each protocol extracts what its
requests ask for (`HostedToolRequest`); this module checks it against `Capabilities.server_tools` and
`Capabilities.service_tiers`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import ANY, Capabilities
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.vendor_references import ReferencePattern
from llmproxy_asgi.wire.json_body import decode, elements

_KINDS: Mapping[str, str] = {
    "google_search": "web_search",
    "google_search_retrieval": "web_search",
    "enterprise_web_search": "web_search",
    "web": "web_search",
    "url_context": "web_fetch",
    "url_fetch": "web_fetch",
    "code_interpreter": "code_execution",
    "programmatic_tool_calling": "code_execution",
    "retrieval": "file_search",
    "computer_use_preview": "computer_use",
    "computer": "computer_use",
    "computer_toolset": "computer_use",
    "browser_toolset": "computer_use",
    "google_maps": "maps",
    "mcp_servers": "mcp",
    "mcp_toolset": "mcp",
}
"""By vendor's tool name: the name that configurations use."""
_CALLER_RUN = frozenset(
    {"function", "custom", "namespace", "local_shell", "apply_patch", "bash", "text_editor", "memory", "computer_use"}
)
"""Tools that the client runs, even if a vendor defined them."""
_VERSION = re.compile(r"_(?:\d{8}|preview_\d{4}_\d{2}_\d{2}|preview)$")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PLAIN_TIERS = frozenset({"auto", "default", "standard", "standard_only", "unspecified"})
"""The tiers of a request that asks for none."""


class HostedToolRequest(msgspec.Struct, frozen=True):
    """A hosted tool in a request."""

    path: str
    """The path of the field in the request."""
    kind: str
    """The vendor's name of the tool."""
    target: str | None = None
    """What the client points it at: a URL, a connector, a model; None: nothing of the client's."""

    @property
    def name(self) -> str:
        """Return its name in configurations."""
        kind = tool_kind(self.kind)
        return kind if self.target is None else f"{kind}/{self.target}"


Reader = Callable[[Mapping[str, Any]], Iterable[HostedToolRequest]]
"""Finds the hosted tools in a body of one protocol."""


def tool_kind(name: str) -> str:
    """Return a vendor's tool kind: its name without version, as configurations spell it."""
    plain = _VERSION.sub("", _HUMP.sub("_", name).lower())
    return _KINDS.get(plain, plain)


class Hosted:
    """Where requests of one protocol name hosted tools and tiers.

    Args:
        members: The top-level fields that may name tools.
        tiers: The fields that name a tier.
        names: Every nested member that `read` inspects, for servers that match names loosely.
        read: See `Reader`.
        entries: By field whose list is long but rarely names tools: a word that every entry with tools has as a value,
            as a regular expression. `read` gets None for the other entries, which are not decoded.
    """

    def __init__(
        self,
        *,
        members: Collection[str],
        tiers: Collection[str],
        names: Iterable[str],
        read: Reader,
        entries: Mapping[str, str] = ir.EMPTY,
    ) -> None:
        self.members = members
        self.tiers = tiers
        self.read = read
        self.entries = {key: ReferencePattern(hint, (), lambda _: None) for key, hint in entries.items()}
        self.loose = ReferencePattern("type", names, lambda _: None)


def refuse_in_passthrough(values: Mapping[str, msgspec.Raw], can: Capabilities, hosted: Hosted) -> None:
    """Refuse a passthrough request that asks for what its upstream's operator does not allow.

    Args:
        values: The request's top level.
        can: The upstream's capabilities.
        hosted: The protocol's fields.

    Raises:
        Unsupported: Names what is not allowed, and its path, in any spelling.
        BadRequest: A relevant member cannot be read here, but perhaps by the upstream.
    """
    if ANY not in can.server_tools:
        found = {
            key: _decoded(values[key], key) if key not in hosted.entries else _decoded_entries(values[key], key, hosted)
            for key in hosted.members
            if key in values
        }
        if found:
            _refuse(hosted.read(found), can.server_tools)
            loosely = hosted.loose.as_loosely_read(found)
            if loosely is not found:
                _refuse(hosted.read(loosely), can.server_tools)
    if ANY not in can.service_tiers:
        for key in hosted.tiers:
            word = _decoded(values[key], key) if key in values else None
            _refuse_tier(word, key, can.service_tiers)


def refuse_in_translation(request: ir.Request, can: Capabilities, hosted: Hosted, *, protocol: str) -> None:
    """Refuse a translated request that asks for what its upstream's operator does not allow.

    Args:
        request: The decoded request.
        can: The upstream's capabilities.
        hosted: The fields of the upstream's protocol.
        protocol: The upstream's protocol.

    Raises:
        Unsupported: Names what is not allowed.
    """
    if ANY not in can.server_tools:
        served = [tool for tool in request.tools if tool.kind == "server"]
        natives = [tool.extras[protocol] for tool in served if protocol in tool.extras]
        _refuse(hosted.read({**request.extras.get(protocol, ir.EMPTY), "tools": natives}), can.server_tools)
        others = (tool.name for tool in served if protocol not in tool.extras)
        _refuse((HostedToolRequest("tools", name) for name in others), can.server_tools)
    tier = request.service_tier
    if ANY not in can.service_tiers and tier not in {None, ir.ServiceTier.AUTO, ir.ServiceTier.STANDARD}:
        _refuse_tier(str(tier), "service_tier", can.service_tiers)


def read_typed(
    tools: Any, path: str, targets: Callable[[Mapping[str, Any]], Iterable[str | None]]
) -> Iterable[HostedToolRequest]:
    """Yield the tools of a list in which each has a type, as OpenAI's and Anthropic's do."""
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, dict):
            continue
        kind = tool.get("type")
        if kind == "namespace":
            yield from read_typed(tool.get("tools"), f"{path}[{number}].tools", targets)
        if kind is not None and tool_kind(str(kind)) not in _CALLER_RUN:
            yield from (HostedToolRequest(f"{path}[{number}]", str(kind), target) for target in targets(tool))


def _refuse(requested: Iterable[HostedToolRequest], allowed: Collection[str]) -> None:
    for each in requested:
        if not any(fnmatchcase(each.name, pattern) for pattern in allowed):
            shown = each.name[:200]
            raise refusals.not_allowed(f"server tool {shown!r}", each.path, "server_tools")


def _refuse_tier(word: Any, path: str, allowed: Collection[str]) -> None:
    if not isinstance(word, str):
        return
    plain = word.lower().removeprefix("service_tier_")
    if plain not in _PLAIN_TIERS and plain not in allowed:
        raise refusals.not_allowed(f"service tier {word[:64]!r}", path, "service_tiers")


def _decoded(value: msgspec.Raw, key: str) -> Any:
    try:
        return decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{key} cannot be read: {error}.", param=key, code="invalid_value") from None


def _decoded_entries(value: msgspec.Raw, key: str, hosted: Hosted) -> list[Any]:
    pattern = hosted.entries[key]
    if not pattern.may_match(value):
        return []
    try:
        entries = elements(value)
    except msgspec.MsgspecError:
        return []
    return [_decoded(entry, f"{key}[{n}]") if pattern.may_match(entry) else None for n, entry in enumerate(entries)]
