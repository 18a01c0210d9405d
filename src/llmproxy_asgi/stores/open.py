"""Open the store at an address, and describe what is issue with an address.

A backend is imported when it is first used. No message shows an address, because it may hold a password.
"""

from collections.abc import Callable

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import ConfigError
from llmproxy_asgi.stores.base import Bounds, RecordStore


def open_store(url: str, *, kind: str, bounds: Bounds | None = None, clock: Clock = SYSTEM) -> RecordStore:
    """Open a store for one kind of records; the caller closes it.

    Args:
        url: `memory`, or of the form `scheme://...`.
        kind: The kind of the records (`responses`, `reasoning`); different kinds at one address are independent.
        bounds: The store's capacity.
        clock: Measures lifetimes.

    Raises:
        ConfigError: The scheme is unknown, or the address has parts that its scheme does not allow.
    """
    issue = problem(url)
    if issue:
        raise ConfigError([f"database: {issue}"])
    return _BACKENDS[_scheme(url)](url, kind, bounds or Bounds(), clock)


def problem(url: str) -> str:
    """Return what is wrong with a store's address; empty if it is valid."""
    if url == "memory":
        return ""
    scheme = _scheme(url)
    if scheme.partition("+")[0] in _RESERVED_SCHEMES:
        return f"{scheme} is not available in this version; memory is"
    return "must be memory, with nothing behind it"


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _memory(_url: str, _kind: str, bounds: Bounds, clock: Clock) -> RecordStore:
    from llmproxy_asgi.stores.memory import MemoryStore

    return MemoryStore(bounds, clock=clock)  # each has its own memory, so the kinds are separate


_BACKENDS: dict[str, Callable[[str, str, Bounds, Clock], RecordStore]] = {"memory": _memory}
_RESERVED_SCHEMES = frozenset({"sqlite", "postgresql", "postgres", "mysql", "redis", "rediss"})
