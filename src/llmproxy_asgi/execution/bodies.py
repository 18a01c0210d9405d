"""A bound on the memory of all request bodies in a process.

Bytes are counted as they arrive, so an announced length reserves nothing. Three quarters are first come, first served;
the last quarter is for owners who hold little, so that the unfinished uploads of one do not exclude the others.
"""

import threading
from collections.abc import Hashable

from llmproxy_asgi.errors import Unavailable

_SHARE = 8
"""An owner who holds less than the bound divided by this holds little."""
_WAIT = 1.0
"""Seconds to wait that are suggested to rejected callers; a guess."""


class Bodies:
    """Counts the bytes of request bodies. They may be read in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[HeldBody] = set()  # summed by owner only when memory is scarce
        self.total = 0
        """Bytes held now."""

    def hold(self, owner: Hashable, limit: int) -> "HeldBody":
        """Return the counter of one body.

        Args:
            owner: The owner of the body.
            limit: The maximum size of all bodies together, in bytes.
        """
        return HeldBody(self, owner, limit)

    def try_add(self, body: "HeldBody", size: int) -> bool:
        """Count more bytes of a body, if memory is available."""
        with self._lock:
            total, limit = self.total + size, body.limit
            if 4 * total > 3 * limit and (total > limit or _SHARE * (self._held_by(body.owner) + size) > limit):
                return False
            self._held.add(body)
            self.total = total
            body.size += size
            return True

    def remove(self, body: "HeldBody") -> None:
        """Stop counting a body."""
        with self._lock:
            self._held.discard(body)
            self.total -= body.size
            body.size = 0

    def _held_by(self, owner: Hashable) -> int:
        return sum(body.size for body in self._held if body.owner == owner)


class HeldBody:
    """The counter of one body.

    Attributes:
        size: Bytes that are held of it.
    """

    __slots__ = ("_bodies", "limit", "owner", "size")

    def __init__(self, bodies: Bodies, owner: Hashable, limit: int) -> None:
        self._bodies = bodies
        self.owner = owner
        self.limit = limit
        self.size = 0

    def add(self, size: int) -> None:
        """Count bytes that arrived.

        Raises:
            Unavailable: The bodies of all requests would exceed the limit.
        """
        if not self._bodies.try_add(self, size):
            raise Unavailable(
                f"Too many request bodies are in memory (limits.bodies, {self.limit} bytes): try again in a moment.",
                retry_after=_WAIT,
            )

    def release(self) -> None:
        """Stop counting the body. May be called more than once."""
        if self.size:
            self._bodies.remove(self)
