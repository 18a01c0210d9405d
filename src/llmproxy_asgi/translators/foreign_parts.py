"""Tool result parts of another protocol, described as text: a result never arrives empty."""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.losses import Losses

_NAMES = ("tool_name", "name", "title", "text", "url")
"""Members that describe a part on their own."""
_UNREADABLE = frozenset({"type", "data", "encrypted_content", "signature", "cache_control"})
_MAX_LENGTH = 4_000
"""Maximum characters of the JSON that describes a part."""


def describe_foreign_parts(part: ir.ToolResult, protocol: str, losses: Losses) -> ir.ToolResult:
    """Replace every part that only another protocol can express by text, and record each as a loss.

    A result without such parts is returned unchanged.
    """
    for inner in part.content:
        if isinstance(inner, ir.Opaque) and inner.protocol != protocol:
            break
    else:
        return part
    content = tuple(
        _described(inner, losses) if isinstance(inner, ir.Opaque) and inner.protocol != protocol else inner
        for inner in part.content
    )
    return msgspec.structs.replace(part, content=content)


def _described(part: ir.Opaque, losses: Losses) -> ir.Text:
    losses.add(f"downgraded:{part.kind}")
    known = {key: value for key, value in part.data.items() if key not in _UNREADABLE and value is not None}
    words = [value for key in _NAMES if isinstance(value := known.get(key), str) and value]
    if not words or len(words) < len(known):
        words = [msgspec.json.encode(known).decode()[:_MAX_LENGTH]] if known else []
    return ir.Text(text=f"[{part.kind}: {' '.join(words)}]" if words else f"[{part.kind}]", cache_mark=part.cache_mark)
