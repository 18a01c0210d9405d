"""The store that an address names, and what is said of an address that names none.

A backend is imported when it is first asked for. No message shows an address, because it may hold a password.
"""

from collections.abc import Callable

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import ConfigError
from llmproxy_asgi.stores.base import Bounds, RecordStore


def open_store(url: str, *, kind: str, bounds: Bounds | None = None, clock: Clock = SYSTEM) -> RecordStore:
    """A store for one kind of records. Whoever opens it closes it.

    Args:
        url: `memory`, or of the form `scheme://...`.
        kind: What the records are (`responses`, `reasoning`); two kinds at one address know nothing of each other.
        bounds: How much it holds.
        clock: What lifetimes are measured with.

    Raises:
        ConfigError: There is no such scheme, or the address says more than its scheme understands.
    """
    wrong = problem(url)
    if wrong:
        raise ConfigError([f"database: {wrong}"])
    return _BACKENDS[_scheme(url)](url, kind, bounds or Bounds(), clock)


def problem(url: str) -> str:
    """What keeps an address from naming a store; empty if nothing does."""
    if url == "memory":
        return ""
    scheme = _scheme(url)
    if scheme.partition("+")[0] in _LATER:
        return f"{scheme} is not available in this version; memory is"
    return "must be memory, with nothing behind it"


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _memory(_url: str, _kind: str, bounds: Bounds, clock: Clock) -> RecordStore:
    from llmproxy_asgi.stores.memory import MemoryStore

    return MemoryStore(bounds, clock=clock)  # each has its own memory, so no kind meets another


_BACKENDS: dict[str, Callable[[str, str, Bounds, Clock], RecordStore]] = {"memory": _memory}
_LATER = frozenset({"sqlite", "postgresql", "postgres", "mysql", "redis", "rediss"})
