"""Parts of tool results that an upstream has no counterpart for, said in words: a result never arrives emptied."""

import msgspec

from llmproxy_asgi.conversation import Opaque, Text, ToolResult
from llmproxy_asgi.translators.losses import Losses

_NAMES = ("tool_name", "name", "title", "text", "url")
"""Members that say by themselves what a part is about."""
_UNREADABLE = frozenset({"type", "data", "encrypted_content", "signature", "cache_control"})
_LONGEST = 4_000
"""Characters of a part whose members are told as they are."""


def told_result(part: ToolResult, protocol: str, losses: Losses) -> ToolResult:
    """The result with every part of another protocol's own as words, each named as a loss; mostly itself."""
    for inner in part.content:
        if isinstance(inner, Opaque) and inner.protocol != protocol:
            break
    else:
        return part
    content = tuple(
        _told(inner, losses) if isinstance(inner, Opaque) and inner.protocol != protocol else inner
        for inner in part.content
    )
    return msgspec.structs.replace(part, content=content)


def _told(part: Opaque, losses: Losses) -> Text:
    losses.add(f"downgraded:{part.kind}")
    known = {key: value for key, value in part.data.items() if key not in _UNREADABLE and value is not None}
    words = [value for key in _NAMES if isinstance(value := known.get(key), str) and value]
    if not words or len(words) < len(known):
        words = [msgspec.json.encode(known).decode()[:_LONGEST]] if known else []
    return Text(text=f"[{part.kind}: {' '.join(words)}]" if words else f"[{part.kind}]", cache_mark=part.cache_mark)
