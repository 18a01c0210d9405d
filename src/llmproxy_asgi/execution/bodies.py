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
        self._held: dict[Hashable, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes that are held now."""
        return self._total

    def hold(self, owner: Hashable, most: int) -> "HeldBody":
        """Begin to count one body.

        Args:
            owner: Whose it is.
            most: Bytes of all bodies together.
        """
        return HeldBody(self, owner, most)

    def take(self, owner: Hashable, size: int, most: int) -> bool:
        """Count more bytes of an owner, if there is room."""
        with self._lock:
            held, total = self._held.get(owner, 0) + size, self._total + size
            if total > most or (4 * total > 3 * most and _SHARE * held > most):
                return False
            self._held[owner], self._total = held, total
            return True

    def give_back(self, owner: Hashable, size: int) -> None:
        """Count them no more."""
        with self._lock:
            self._total -= size
            held = self._held.pop(owner, 0) - size
            if held > 0:
                self._held[owner] = held


class HeldBody:
    """What is held of one body."""

    __slots__ = ("_bodies", "_most", "_owner", "_size")

    def __init__(self, bodies: Bodies, owner: Hashable, most: int) -> None:
        self._bodies = bodies
        self._owner = owner
        self._most = most
        self._size = 0

    def add(self, size: int) -> None:
        """More of it has arrived.

        Raises:
            Unavailable: There is no room for it.
        """
        if not self._bodies.take(self._owner, size, self._most):
            raise Unavailable(
                f"The gateway holds as many request bodies as it may, {self._most} bytes in all (limits.bodies): "
                "try again in a moment.",
                retry_after=_WAIT,
            )
        self._size += size

    def release(self) -> None:
        """It is not held any more. May be called more than once."""
        size, self._size = self._size, 0
        if size:
            self._bodies.give_back(self._owner, size)
