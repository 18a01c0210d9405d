"""What the processes of a soak write down and tell each other."""

import msgspec

from soak.plan import Wire

OPS = "llmp_soak-ops-5a4b3c2d1e0f"
"""The key that may see the host's metrics."""


class Entry(msgspec.Struct, kw_only=True):
    """One request, as the upstream counts it."""

    number: int
    attempt: int
    wire: Wire
    fault: str
    """What was wrong with the answer."""
    input: int
    cached: int
    output: int
    """Tokens that a whole answer told."""


class Closing(msgspec.Struct, kw_only=True):
    """The upstream's last line."""

    open_connections: int
    errors: list[str]


class Fact(msgspec.Struct, kw_only=True):
    """How a call began or ended, as the host's observer was told."""

    kind: str
    request_id: str
    outcome: str = ""
    status: int = 0
    error: str = ""
    stream: bool = False
    began: bool = False
    """Whether anything of an answer came."""
    exactness: str = ""
    input: int = 0
    cached: int = 0
    output: int = 0
    attempts: int = 0
    queue_seconds: float = 0.0


class State(msgspec.Struct, kw_only=True):
    """What is alive in the host."""

    tasks: int
    threads: int
    files: int
    sockets: int
    objects: int
    """Those that the garbage collector tracks, after it has run."""
    types: dict[str, int]
    """Of these, how many there are of each of the most frequent types."""
    waiting: list[str]
    """What the tasks are."""
    memory: int
    places: int
    """Taken ones of `max_concurrency`, of callers and providers."""
    queued: int
    unsettled: int
    open_calls: int
    spans: int
    spans_open: int
    remembered: int
    """Conversations whose place is remembered."""
    complaints: int
    complained: list[str]
