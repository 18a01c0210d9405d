"""Records in the memory of this process: bounded, and lost when it ends.

There is no task and no timer: each write removes a few expired records. No method waits, so on one event loop they
never interleave. Nothing is shared between processes.
"""

import heapq
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import Bounds

OVERHEAD = 480
"""Bytes that a record costs in addition to its key and value: measured, including its entry in the expiry queue."""
OWNER_OVERHEAD = 430
"""Bytes that an owner costs in addition to the records."""
_MAX_SWEPT_PER_WRITE = 32
_SLACK = 64


class _Record:
    """A stored value, its expiry time, and the number of its entry in the expiry queue."""

    __slots__ = ("expires", "number", "size", "value")

    def __init__(self, value: bytes, *, size: int, expires: float, number: int) -> None:
        self.value = value
        self.size = size
        self.expires = expires
        self.number = number


class _OwnerRecords:
    """One owner's records, the least recently used first."""

    __slots__ = ("records", "size")

    def __init__(self) -> None:
        self.records: OrderedDict[str, _Record] = OrderedDict()
        self.size = OWNER_OVERHEAD


class MemoryStore:
    """A `RecordStore` in memory.

    An owner over its bound loses its own least recently used records. If the whole store is full, an owner that writes
    and holds more than an even share loses its own as well; otherwise the least recently active owner does.

    Args:
        bounds: The store's capacity.
        clock: Measures lifetimes.
    """

    def __init__(self, bounds: Bounds | None = None, *, clock: Clock = SYSTEM) -> None:
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._max_record = min(self._bounds.owner_bytes, self._bounds.total_bytes) - OWNER_OVERHEAD
        self._owners: OrderedDict[Owner, _OwnerRecords] = OrderedDict()  # the least recently active owner first
        self._expiries: list[tuple[float, int, Owner, str]] = []
        self._last_number = 0
        self._lock = threading.Lock()  # hosts may make calls on event loops of several threads
        self._count = 0
        self._size = 0

    @property
    def size(self) -> int:
        """The bytes in use, as the bounds count them."""
        return self._size

    @property
    def count(self) -> int:
        """The number of records, including expired ones that were not removed yet."""
        return self._count

    async def get(self, owner: Owner, key: str) -> bytes | None:
        """Return a record; None if there is none or it has expired."""
        with self._lock:
            record = self._find(owner, key)
            return None if record is None else record.value

    async def get_many(self, owner: Owner, keys: Collection[str]) -> Mapping[str, bytes]:
        """Return the records that exist."""
        with self._lock:
            if owner not in self._owners:
                return {}
            found = ((key, self._find(owner, key)) for key in keys)
            return {key: record.value for key, record in found if record is not None}

    async def put(self, owner: Owner, key: str, value: bytes, *, ttl: float, replacing: bool = False) -> bool:
        """Store a record; return whether it was stored. If not, there is no record under this key any more."""
        with self._lock:
            self._sweep()
            existed = self._find(owner, key) is not None
            if existed:
                self._drop(owner, key)
            size = len(key.encode("utf-8", "surrogatepass")) + len(value) + OVERHEAD
            if (replacing and not existed) or ttl <= 0 or size > self._max_record:
                return False
            self._add(owner, key, value, size=size, expires=self._clock.monotonic() + ttl)
            self._evict(owner)
            return True

    async def delete(self, owner: Owner, key: str) -> bool:
        """Delete a record; return whether it existed."""
        with self._lock:
            existed = self._find(owner, key) is not None
            if existed:
                self._drop(owner, key)
            return existed

    async def touch(self, owner: Owner, keys: Collection[str], *, ttl: float) -> None:
        """Make the records that exist expire after this many seconds from now."""
        with self._lock:
            expires = self._clock.monotonic() + ttl
            for key in keys:
                record = self._find(owner, key)
                if record is not None:
                    record.expires = expires  # its entry in the queue moves when it is reached

    async def erase(self, owner: Owner) -> int:
        """Delete all records of an owner; return how many had not expired."""
        with self._lock:
            owned = self._owners.get(owner)
            if owned is None:
                return 0
            now = self._clock.monotonic()
            existed = sum(record.expires > now for record in owned.records.values())
            for key in tuple(owned.records):
                self._drop(owner, key)
            self._compact()
            return existed

    async def keys(self, owner: Owner, *, after: str = "", limit: int = 100) -> tuple[str, ...]:
        """Return the owner's keys after `after`, sorted, at most `limit`."""
        with self._lock:
            owned = self._owners.get(owner)
            if owned is None:
                return ()
            now = self._clock.monotonic()
            alive = (key for key, record in owned.records.items() if key > after and record.expires > now)
            return tuple(heapq.nsmallest(limit, alive))

    async def aclose(self) -> None:
        """Do nothing: there are no resources to close. The store can be used again."""

    def _find(self, owner: Owner, key: str) -> _Record | None:
        """Return a record and mark it as used; delete it and return None if it has expired."""
        owned = self._owners.get(owner)
        record = None if owned is None else owned.records.get(key)
        if owned is None or record is None:
            return None
        if record.expires <= self._clock.monotonic():
            self._drop(owner, key)
            return None
        owned.records.move_to_end(key)
        self._owners.move_to_end(owner)
        return record

    def _add(self, owner: Owner, key: str, value: bytes, *, size: int, expires: float) -> None:
        self._last_number += 1
        owned = self._owners.get(owner)
        if owned is None:
            owned = self._owners[owner] = _OwnerRecords()
            self._size += owned.size
        owned.records[key] = _Record(value, size=size, expires=expires, number=self._last_number)
        owned.size += size
        self._size += size
        self._count += 1
        self._owners.move_to_end(owner)
        heapq.heappush(self._expiries, (expires, self._last_number, owner, key))

    def _drop(self, owner: Owner, key: str) -> None:
        owned = self._owners[owner]
        record = owned.records.pop(key)
        owned.size -= record.size
        self._size -= record.size
        self._count -= 1
        if not owned.records:
            del self._owners[owner]
            self._size -= owned.size

    def _evict(self, owner: Owner) -> None:
        """Delete records until the bounds hold. The record added last is the owner's last one, and stays."""
        bounds, owned = self._bounds, self._owners[owner]
        while owned.size > bounds.owner_bytes or len(owned.records) > max(1, bounds.owner_records):
            self._drop(owner, next(iter(owned.records)))
        while self._size > bounds.total_bytes:
            evicted = self._owner_to_evict(owner)
            self._drop(evicted, next(iter(self._owners[evicted].records)))
        self._compact()

    def _owner_to_evict(self, owner: Owner) -> Owner:
        """Return the owner that loses a record if the whole store is full after `owner` has added one."""
        owned = self._owners[owner]
        others = len(self._owners) > 1
        over_share = owned.size * len(self._owners) > self._bounds.total_bytes and len(owned.records) > 1
        return next(iter(self._owners)) if others and not over_share else owner

    def _sweep(self) -> None:
        """Delete a few expired records: more than a write adds, and few enough that it takes no noticeable time."""
        now = self._clock.monotonic()
        queue = self._expiries
        for _ in range(_MAX_SWEPT_PER_WRITE):
            if not queue or queue[0][0] > now:
                return
            _, number, owner, key = heapq.heappop(queue)
            record = self._record_of_entry(number, owner, key)
            if record is None:
                continue
            if record.expires > now:
                heapq.heappush(queue, (record.expires, number, owner, key))
            else:
                self._drop(owner, key)

    def _compact(self) -> None:
        """Remove entries of deleted records from the queue before they outnumber the others."""
        if len(self._expiries) <= 2 * self._count + _SLACK:
            return
        self._expiries = [entry for entry in self._expiries if self._record_of_entry(*entry[1:]) is not None]
        heapq.heapify(self._expiries)

    def _record_of_entry(self, number: int, owner: Owner, key: str) -> _Record | None:
        """Return the record of a queue entry; None if it was deleted or replaced."""
        owned = self._owners.get(owner)
        record = None if owned is None else owned.records.get(key)
        return record if record is not None and record.number == number else None
