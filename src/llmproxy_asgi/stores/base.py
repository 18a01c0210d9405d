"""What a store promises: bytes under a key, for one owner, for a while.

Every look and every change names the owner first, so that no caller can forget to; a key of one owner means nothing
to another. There is no way to ask for everybody's records. What the bytes say is their writer's affair.

A store holds as much as its bounds allow and lets go of the rest, an owner's own least used records first. Whoever
keeps something in one must be able to live without it.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from llmproxy_asgi.principal import Owner

MIB = 1024 * 1024


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a store holds. A record counts with its key and what it costs to keep it."""

    total_bytes: int = 64 * MIB
    owner_bytes: int = 8 * MIB
    owner_records: int = 10_000


class RecordStore(Protocol):
    """Records by owner and key.

    Every method but `aclose` raises `Unavailable` where the store cannot be reached, and no other error of a backend.
    """

    async def get(self, owner: Owner, key: str) -> bytes | None:
        """The record, if there is one that has not expired."""

    async def get_many(self, owner: Owner, keys: Collection[str]) -> Mapping[str, bytes]:
        """Those of the records that there are; one journey, however many keys."""

    async def put(self, owner: Owner, key: str, value: bytes, *, ttl: float, replacing: bool = False) -> bool:
        """Keep a record, in the place of any that is there.

        Args:
            owner: Whose.
            key: Unique for this owner.
            value: What.
            ttl: Seconds to live from now on.
            replacing: Only in the place of one that is there.

        Returns:
            Whether it is kept. If not (too large for the owner's bound, no time to live, nothing to replace), then
            there is nothing under this key any more.
        """

    async def delete(self, owner: Owner, key: str) -> bool:
        """Let go of a record; whether there was one."""

    async def touch(self, owner: Owner, keys: Collection[str], *, ttl: float) -> None:
        """Let those of the records that there are live this many seconds from now on."""

    async def erase(self, owner: Owner) -> int:
        """Delete every record of an owner; how many there were."""

    async def keys(self, owner: Owner, *, after: str = "", limit: int = 100) -> tuple[str, ...]:
        """The owner's keys beyond `after`, sorted, at most `limit`."""

    async def aclose(self) -> None:
        """Let go of what the store itself holds open. No record is lost by it, and the store can be used again."""
