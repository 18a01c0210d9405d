"""A bound on the bodies of all requests that a process holds at once.

Bytes are counted as they arrive, so that an announced length reserves nothing. Three quarters are first come, first
served; the last quarter is kept for callers who hold little, so that the unfinished uploads of one do not shut out
the others.
"""

import threading
from collections.abc import Hashable

from llmproxy_asgi.errors import Unavailable

_SHARE = 8
"""A caller who holds less than the bound divided by this holds little."""
_WAIT = 1.0
"""Seconds after which another try is suggested: as good as a guess can be."""


class Bodies:
    """Counts the bytes that are held. Bodies may be read in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[HeldBody] = set()  # added up by owner only where room is short
        self.total = 0
        """Bytes that are held now."""

    def hold(self, owner: Hashable, most: int) -> "HeldBody":
        """Begin to count one body.

        Args:
            owner: Whose it is.
            most: Bytes of all bodies together.
        """
        return HeldBody(self, owner, most)

    def take(self, body: "HeldBody", size: int) -> bool:
        """Count more bytes of a body, if there is room."""
        with self._lock:
            total, most = self.total + size, body.most
            if 4 * total > 3 * most and (total > most or _SHARE * (self._held_by(body.owner) + size) > most):
                return False
            self._held.add(body)
            self.total = total
            body.size += size
            return True

    def give_back(self, body: "HeldBody") -> None:
        """Count a body no more."""
        with self._lock:
            self._held.discard(body)
            self.total -= body.size
            body.size = 0

    def _held_by(self, owner: Hashable) -> int:
        return sum(body.size for body in self._held if body.owner == owner)


class HeldBody:
    """What is held of one body.

    Attributes:
        size: Bytes.
    """

    __slots__ = ("_bodies", "most", "owner", "size")

    def __init__(self, bodies: Bodies, owner: Hashable, most: int) -> None:
        self._bodies = bodies
        self.owner = owner
        self.most = most
        self.size = 0

    def add(self, size: int) -> None:
        """More of it has arrived.

        Raises:
            Unavailable: There is no room for it.
        """
        if not self._bodies.take(self, size):
            raise Unavailable(
                f"Too many request bodies are in memory (limits.bodies, {self.most} bytes): try again in a moment.",
                retry_after=_WAIT,
            )

    def release(self) -> None:
        """It is not held any more. May be called more than once."""
        if self.size:
            self._bodies.give_back(self)
