"""The store that an address names. A backend is imported when it is first asked for."""

from collections.abc import Callable
from urllib.parse import urlsplit

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import ConfigError
from llmproxy_asgi.stores.base import Bounds, RecordStore


def open_store(url: str, *, kind: str, bounds: Bounds | None = None, clock: Clock = SYSTEM) -> RecordStore:
    """A store for one kind of records. Whoever opens it closes it.

    Args:
        url: Of the form `scheme://...`; it may hold a password and is never shown.
        kind: What the records are (`responses`, `reasoning`); two kinds at one address know nothing of each other.
        bounds: How much it holds.
        clock: What lifetimes are measured with.

    Raises:
        ConfigError: There is no such scheme, or the address says more than its scheme understands.
    """
    backend = _BACKENDS.get(urlsplit(url).scheme)
    if backend is None:
        known = ", ".join(f"{scheme}://" for scheme in _BACKENDS)
        raise ConfigError([f"state: this kind of store is not known; known: {known}"])
    return backend(url, kind, bounds or Bounds(), clock)


def _memory(url: str, _kind: str, bounds: Bounds, clock: Clock) -> RecordStore:
    from llmproxy_asgi.stores.memory import MemoryStore

    if url != "memory://":
        raise ConfigError(["state: memory:// takes nothing behind it"])
    return MemoryStore(bounds, clock=clock)  # each has its own memory, so no kind meets another


_BACKENDS: dict[str, Callable[[str, str, Bounds, Clock], RecordStore]] = {"memory": _memory}
