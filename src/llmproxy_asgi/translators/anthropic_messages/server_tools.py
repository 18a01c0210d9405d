"""Tools that Anthropic runs. Web search and web fetch have canonical names; the others are carried unchanged.

Results of such a tool can be sent back to Anthropic only unchanged (they hold encrypted content), so the native object
is kept in `extras`, and a result without it is not encoded. Callers get searches of another vendor in the same format,
with ids that mark them as foreign: those are never sent to Anthropic.
"""

from collections.abc import Mapping
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.seals import WRAPPED

_CANONICAL = {"web_search": "web_search", "web_fetch": "url_fetch"}
_VENDOR = {canonical: vendor for vendor, canonical in _CANONICAL.items()}
_TYPES = {"web_search": "web_search_20250305", "url_fetch": "web_fetch_20250910"}
_SETTINGS = ("allowed_domains", "blocked_domains", "max_uses", "user_location")
_RESULT = "_tool_result"
FOREIGN_MARK = WRAPPED.decode()
"""The mark of another vendor's searches, in their ids and in place of encrypted content."""
_FOREIGN_ID_PREFIX = f"srvtoolu_{FOREIGN_MARK}"
_FOREIGN_TOOLS = frozenset({"web_search"})
"""Tools of other vendors whose calls and results are encoded in Anthropic's format."""


def canonical_name(name: str) -> str:
    """Return the canonical name of one of Anthropic's tools."""
    return _CANONICAL.get(name, name)


def decode_tool(native: JSONObject) -> ir.Tool:
    """Decode a tool that is declared by its type only, or is unknown."""
    kind = str(native.get("type") or "")
    name = native.get("name")
    family = next((canonical for vendor, canonical in _CANONICAL.items() if kind.startswith(vendor + "_")), None)
    settings = {key: native[key] for key in _SETTINGS if native.get(key) is not None}
    return ir.Tool(
        name=family or (name if isinstance(name, str) and name else kind or "tool"),
        kind="server",
        settings=settings if family else None,
        extras={PROTOCOL: native},
    )


def encode_tool(tool: ir.Tool) -> JSONObject | None:
    """Encode a declaration for Anthropic; None if Anthropic has no such tool."""
    native = tool.extras.get(PROTOCOL)
    if native:
        return dict(native)
    if tool.name not in _TYPES:
        return None
    settings = tool.settings or ir.EMPTY
    known = {key: settings[key] for key in _SETTINGS if settings.get(key)}
    return {"type": _TYPES[tool.name], "name": _VENDOR[tool.name], **known}


def unsupported_settings(tool: ir.Tool) -> list[str]:
    """Return the settings of a tool that Anthropic doesn't support."""
    return [key for key, value in (tool.settings or ir.EMPTY).items() if value and key not in _SETTINGS]


def is_result(kind: str) -> bool:
    """Return whether a block of this type is a server tool's result."""
    return kind.endswith(_RESULT) and kind not in {"tool_result", "mcp_tool_result"}


def decode_result(native: Mapping[str, Any]) -> ir.ServerToolResult:
    """Decode a server tool's result."""
    kind = str(native.get("type"))
    content = native.get("content")
    hits = tuple(_hit(entry) for entry in content if _is_hit(entry)) if isinstance(content, list) else ()
    failed = isinstance(content, dict) and str(content.get("type")).endswith("_error")
    rest = (ir.Opaque(protocol=PROTOCOL, kind=kind, data=dict(content)),) if isinstance(content, dict) else ()
    return ir.ServerToolResult(
        call_id=str(native.get("tool_use_id") or ""),
        tool=canonical_name(kind.removesuffix(_RESULT)),
        hits=hits,
        content=rest,
        is_error=failed,
        extras={PROTOCOL: dict(native)},
    )


def encode_call_for_client(part: ir.ServerToolCall, arguments: JSONObject) -> JSONObject | None:
    """Encode a call for a client, in Anthropic's format; None if that can't express it."""
    if PROTOCOL in part.extras:
        return encode_call(part, arguments)
    if part.tool not in _FOREIGN_TOOLS:
        return None
    return {"type": "server_tool_use", "id": _foreign_id(part.call_id), "name": _VENDOR[part.tool], "input": arguments}


def encode_result_for_client(part: ir.ServerToolResult) -> JSONObject | None:
    """Encode a result for a client, in Anthropic's format; None if that can't express it."""
    if PROTOCOL in part.extras or part.tool not in _FOREIGN_TOOLS:
        return encode_result(part)
    found = [
        {
            "type": "web_search_result",
            "url": hit.url,
            "title": hit.title or hit.url,
            "encrypted_content": FOREIGN_MARK,
            "page_age": None,
        }
        for hit in part.hits
    ]
    return {"type": "web_search_tool_result", "tool_use_id": _foreign_id(part.call_id), "content": found}


def is_foreign(block: object) -> bool:
    """Return whether a block in a caller's request is another vendor's search."""
    if not isinstance(block, dict):
        return False
    found = block.get("tool_use_id") if "tool_use_id" in block else block.get("id")
    return is_foreign_id(found)


def is_foreign_id(call_id: object) -> bool:
    """Return whether a call's id marks another vendor's search."""
    return isinstance(call_id, str) and call_id.startswith(_FOREIGN_ID_PREFIX)


def _foreign_id(call_id: str) -> str:
    return derived(_FOREIGN_ID_PREFIX, call_id)


def encode_call(part: ir.ServerToolCall, arguments: JSONObject) -> JSONObject:
    """Encode a call for Anthropic."""
    native = part.extras.get(PROTOCOL, ir.EMPTY)
    name = _VENDOR.get(part.tool, part.tool)
    return {"type": "server_tool_use", "id": part.call_id, "name": name, "input": arguments, **native}


def encode_result(part: ir.ServerToolResult) -> JSONObject | None:
    """Encode a result for Anthropic, unchanged; None if it is not Anthropic's."""
    native = part.extras.get(PROTOCOL)
    return dict(native) if native else None


def _is_hit(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("url"), str)


def _hit(entry: Mapping[str, Any]) -> ir.SearchHit:
    title = entry.get("title")
    return ir.SearchHit(url=entry["url"], title=title if isinstance(title, str) else None)
