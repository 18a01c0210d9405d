"""Tools that Anthropic runs by itself. Searching the web and reading an address are ours too; the rest stays as it is.

What such a tool found can be sent back to Anthropic only as it came (it holds encrypted content), so its own shape is
kept in `extras`, and a result without it is not written. A caller is shown what another vendor's search found in the
same shapes, under ids that tell them apart: those never go to Anthropic.
"""

from collections.abc import Mapping
from typing import Any

from llmproxy_asgi.conversation import (
    EMPTY,
    JSONObject,
    Opaque,
    SearchHit,
    ServerToolCall,
    ServerToolResult,
    Tool,
)
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.seals import WRAPPED

_CANONICAL = {"web_search": "web_search", "web_fetch": "url_fetch"}
_VENDOR = {ours: theirs for theirs, ours in _CANONICAL.items()}
_TYPES = {"web_search": "web_search_20250305", "url_fetch": "web_fetch_20250910"}
_SETTINGS = ("allowed_domains", "blocked_domains", "max_uses", "user_location")
_RESULT = "_tool_result"
SHOWN = WRAPPED.decode()
"""Marks what only looks like Anthropic's: in the ids of searches, and in the place of encrypted content."""
_SHOWN_ID = f"srvtoolu_{SHOWN}"
_SHOWN_TOOLS = frozenset({"web_search"})
"""Tools of other vendors whose calls and results have Anthropic's shape."""


def canonical(name: str) -> str:
    """Our name of a tool of Anthropic's."""
    return _CANONICAL.get(name, name)


def declared(native: JSONObject) -> Tool:
    """A tool that is declared by its type alone, or that we do not know."""
    kind = str(native.get("type") or "")
    name = native.get("name")
    family = next((ours for theirs, ours in _CANONICAL.items() if kind.startswith(theirs + "_")), None)
    settings = {key: native[key] for key in _SETTINGS if native.get(key) is not None}
    return Tool(
        name=family or (name if isinstance(name, str) and name else kind or "tool"),
        kind="server",
        settings=settings if family else None,
        extras={PROTOCOL: native},
    )


def encode_declared(tool: Tool) -> JSONObject | None:
    """A declaration for Anthropic; None where it has no such tool."""
    native = tool.extras.get(PROTOCOL)
    if native:
        return dict(native)
    if tool.name not in _TYPES:
        return None
    settings = tool.settings or EMPTY
    known = {key: settings[key] for key in _SETTINGS if settings.get(key)}
    return {"type": _TYPES[tool.name], "name": _VENDOR[tool.name], **known}


def unknown_settings(tool: Tool) -> list[str]:
    """The settings of a mapped tool that Anthropic has no word for."""
    return [key for key, value in (tool.settings or EMPTY).items() if value and key not in _SETTINGS]


def is_result(kind: str) -> bool:
    """Whether a block of this type is what a server tool found."""
    return kind.endswith(_RESULT) and kind not in {"tool_result", "mcp_tool_result"}


def decode_result(native: Mapping[str, Any]) -> ServerToolResult:
    """What a server tool found."""
    kind = str(native.get("type"))
    content = native.get("content")
    hits = tuple(_hit(entry) for entry in content if _is_hit(entry)) if isinstance(content, list) else ()
    failed = isinstance(content, dict) and str(content.get("type")).endswith("_error")
    rest = (Opaque(protocol=PROTOCOL, kind=kind, data=dict(content)),) if isinstance(content, dict) else ()
    return ServerToolResult(
        call_id=str(native.get("tool_use_id") or ""),
        tool=canonical(kind.removesuffix(_RESULT)),
        hits=hits,
        content=rest,
        is_error=failed,
        extras={PROTOCOL: dict(native)},
    )


def shown_call(part: ServerToolCall, arguments: JSONObject) -> JSONObject | None:
    """A call for a caller: as Anthropic made it, or in that shape; None where it has none."""
    if PROTOCOL in part.extras:
        return encode_call(part, arguments)
    if part.tool not in _SHOWN_TOOLS:
        return None
    return {"type": "server_tool_use", "id": _shown_id(part.call_id), "name": _VENDOR[part.tool], "input": arguments}


def shown_result(part: ServerToolResult) -> JSONObject | None:
    """A result for a caller: as Anthropic gave it, or in that shape; None where it has none."""
    if PROTOCOL in part.extras or part.tool not in _SHOWN_TOOLS:
        return encode_result(part)
    found = [
        {
            "type": "web_search_result",
            "url": hit.url,
            "title": hit.title or hit.url,
            "encrypted_content": SHOWN,
            "page_age": None,
        }
        for hit in part.hits
    ]
    return {"type": "web_search_tool_result", "tool_use_id": _shown_id(part.call_id), "content": found}


def is_shown(block: object) -> bool:
    """Whether a block that a caller sends back is the search of another vendor's that it was shown."""
    if not isinstance(block, dict):
        return False
    found = block.get("tool_use_id") if "tool_use_id" in block else block.get("id")
    return is_shown_id(found)


def is_shown_id(call_id: object) -> bool:
    """Whether an id is that of such a search."""
    return isinstance(call_id, str) and call_id.startswith(_SHOWN_ID)


def _shown_id(call_id: str) -> str:
    return derived(_SHOWN_ID, call_id)


def encode_call(part: ServerToolCall, arguments: JSONObject) -> JSONObject:
    """A call that Anthropic made."""
    native = part.extras.get(PROTOCOL, EMPTY)
    name = _VENDOR.get(part.tool, part.tool)
    return {"type": "server_tool_use", "id": part.call_id, "name": name, "input": arguments, **native}


def encode_result(part: ServerToolResult) -> JSONObject | None:
    """A result, as it came; None where it came from somebody else."""
    native = part.extras.get(PROTOCOL)
    return dict(native) if native else None


def _is_hit(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("url"), str)


def _hit(entry: Mapping[str, Any]) -> SearchHit:
    title = entry.get("title")
    return SearchHit(url=entry["url"], title=title if isinstance(title, str) else None)
