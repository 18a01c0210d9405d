"""What several upstream answers cost together, where the caller reads them as one."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from llmproxy_asgi.conversation import EMPTY, Usage

_COUNTS = tuple(field.name for field in msgspec.structs.fields(Usage) if field.type is int)


def total(usages: Sequence[Usage]) -> Usage:
    """The counts of all. The vendors' own objects go: each speaks of one answer alone."""
    counts = {name: sum(getattr(usage, name) for usage in usages) for name in _COUNTS}
    tools: Counter[str] = Counter()
    for usage in usages:
        tools.update(usage.server_tool_calls)
    estimated = any(usage.estimated for usage in usages)
    return Usage(**counts, server_tool_calls=tools or EMPTY, estimated=estimated)
