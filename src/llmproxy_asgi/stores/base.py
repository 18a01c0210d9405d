"""The interface of a store: bytes under a key, for one owner, for a limited time.

Every read and every write takes the owner first, so that no caller can forget it; keys of different owners are
independent. There is no way to list the records of all owners. A store does not interpret the bytes.

A store holds as much as its bounds allow and evicts the rest, an owner's own least recently used records first. Code
that stores a record must work without it.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from llmproxy_asgi.principal import Owner

MIB = 1024 * 1024


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The capacity of a store. The size of a record includes its key and the store's own overhead."""

    total_bytes: int = 64 * MIB
    owner_bytes: int = 8 * MIB
    owner_records: int = 10_000


class RecordStore(Protocol):
    """Records by owner and key.

    Every method but `aclose` raises `Unavailable` if the store cannot be reached, and no other error of a backend.
    """

    async def get(self, owner: Owner, key: str) -> bytes | None:
        """Return a record; None if there is none or it has expired."""

    async def get_many(self, owner: Owner, keys: Collection[str]) -> Mapping[str, bytes]:
        """Return the records that exist; one round trip, however many keys."""

    async def put(self, owner: Owner, key: str, value: bytes, *, ttl: float, replacing: bool = False) -> bool:
        """Store a record; replace an existing one.

        Args:
            owner: The owner of the record.
            key: Unique for this owner.
            value: The record.
            ttl: Seconds until it expires.
            replacing: Store it only if there is a record to replace.

        Returns:
            Whether it was stored. If not (too large for the owner's bound, no time to live, nothing to replace), then
            there is no record under this key any more.
        """

    async def delete(self, owner: Owner, key: str) -> bool:
        """Delete a record; return whether it existed."""

    async def touch(self, owner: Owner, keys: Collection[str], *, ttl: float) -> None:
        """Make the records that exist expire after this many seconds from now."""

    async def erase(self, owner: Owner) -> int:
        """Delete all records of an owner; return their number."""

    async def keys(self, owner: Owner, *, after: str = "", limit: int = 100) -> tuple[str, ...]:
        """Return the owner's keys after `after`, sorted, at most `limit`."""

    async def aclose(self) -> None:
        """Close the store's own resources. No record is lost, and the store can be used again."""
