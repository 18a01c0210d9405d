"""Every kind of store, ready to be put through one suite; a new kind adds its line here."""

from collections.abc import Callable
from typing import TypeAlias

from llmproxy_asgi.clock import Clock
from llmproxy_asgi.stores.base import Bounds, Owner, RecordStore
from llmproxy_asgi.stores.memory import MemoryStore

Backend: TypeAlias = Callable[[Bounds, Clock], RecordStore]

BACKENDS: dict[str, Backend] = {"memory": lambda bounds, clock: MemoryStore(bounds, clock=clock)}

ALICE = Owner("acme", "alice")
BOB = Owner("acme", "bob")
OTHER_ALICE = Owner("globex", "alice")
"""Another tenant's user of the same name."""
