"""Every kind of store, ready to be put through one suite; a new kind adds its line here."""

from collections.abc import Callable
from typing import TypeAlias

from llmproxy_asgi.clock import Clock
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import Bounds, RecordStore
from llmproxy_asgi.stores.memory import MemoryStore

Backend: TypeAlias = Callable[[Bounds, Clock], RecordStore]

BACKENDS: dict[str, Backend] = {"memory": lambda bounds, clock: MemoryStore(bounds, clock=clock)}

ALICE = Owner("user", "acme", "alice")
BOB = Owner("user", "acme", "bob")
OTHER_ALICE = Owner("user", "globex", "alice")
"""Another tenant's user of the same name."""
