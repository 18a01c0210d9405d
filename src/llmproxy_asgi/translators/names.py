"""Tool names and call ids, rewritten for one call where the upstream would refuse them, and found again in its answer.

What is legal stays as it is. The rest is derived from the original alone, by hash, so that history reads the same in
every turn. A rewriting lives as long as one call; nothing is remembered between calls.
"""

import re


class Renamer:
    """Tool names for one call.

    Args:
        pattern: What the upstream takes; a name must match it as a whole.
        limit: The longest name it takes, in characters.
    """

    def __init__(self, pattern: re.Pattern[str], limit: int) -> None:
        self.table: dict[str, str] = {}
        """Upstream name to the caller's; only those that differ."""
        self.namespaces: dict[str, str] = {}
        """Upstream name to the namespace it was flattened from."""

    def outward(self, name: str, namespace: str | None = None) -> str:
        """The name for the upstream, the same each time it is asked for; never one given to another name."""
        raise NotImplementedError

    def inward(self, name: str) -> str:
        """The caller's name for an upstream name."""
        return self.table.get(name, name)


CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The form of call ids that every large vendor takes."""


class CallIds:
    """Call ids for one call.

    Args:
        pattern: What the upstream takes; an id must match it as a whole.
        prefix: What a derived id begins with.
        size: How many letters and digits follow the prefix.
    """

    def __init__(self, pattern: re.Pattern[str] = CALL_ID, *, prefix: str = "call_", size: int = 24) -> None:
        self.table: dict[str, str] = {}
        """Upstream id to the caller's; only those that differ."""

    def outward(self, call_id: str) -> str:
        """The id for the upstream, the same each time it is asked for; never one given to another id."""
        raise NotImplementedError

    def inward(self, call_id: str) -> str:
        """The caller's id for an upstream id."""
        return self.table.get(call_id, call_id)
