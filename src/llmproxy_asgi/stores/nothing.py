"""A store that keeps nothing, for gateways that must not store anything of their callers."""

from collections.abc import Collection, Mapping

from llmproxy_asgi.principal import Owner


class NothingStore:
    """A `RecordStore` that stores nothing."""

    async def get(self, owner: Owner, key: str) -> bytes | None:
        """Return None."""
        return None

    async def get_many(self, owner: Owner, keys: Collection[str]) -> Mapping[str, bytes]:
        """Return nothing."""
        return {}

    async def put(
        self,
        owner: Owner,
        key: str,
        value: bytes,
        *,
        ttl: float,
        replacing: bool = False,
    ) -> bool:
        """Return False: nothing was stored."""
        return False

    async def delete(self, owner: Owner, key: str) -> bool:
        """Return False: nothing was deleted."""
        return False

    async def touch(self, owner: Owner, keys: Collection[str], *, ttl: float) -> None:
        """Do nothing."""

    async def erase(self, owner: Owner) -> int:
        """Return 0."""
        return 0

    async def keys(self, owner: Owner, *, after: str = "", limit: int = 100) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    async def aclose(self) -> None:
        """Do nothing."""
