"""Records in this process's memory: gone when it ends, bounded while it runs.

No task and no timer: whoever writes clears a few expired records away. Every method is done in one go, without
waiting for anything, so that no two of them ever meet half way. Nothing here is shared between processes or threads.
"""

import heapq
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import Bounds

OVERHEAD = 480
"""Bytes that a record costs beside its key and value: measured, with what stands in the queue of expiries."""
OWNER_OVERHEAD = 430
"""Bytes that an owner costs beside the records."""
_SWEPT_PER_WRITE = 32
_SLACK = 64


class _Record:
    """What is kept, until when, and which entry of the queue is its own."""

    __slots__ = ("expires", "number", "size", "value")

    def __init__(self, value: bytes, *, size: int, expires: float, number: int) -> None:
        self.value = value
        self.size = size
        self.expires = expires
        self.number = number


class _Shelf:
    """One owner's records, the least used first."""

    __slots__ = ("records", "size")

    def __init__(self) -> None:
        self.records: OrderedDict[str, _Record] = OrderedDict()
        self.size = OWNER_OVERHEAD


class MemoryStore:
    """A `RecordStore` in memory.

    An owner over its bound loses its own least used records. Where the whole store is full, whoever holds more than an
    even share loses its own as well; else the owner who has been silent for longest does.

    Args:
        bounds: How much it holds.
        clock: What lifetimes are measured with.
    """

    def __init__(self, bounds: Bounds | None = None, *, clock: Clock = SYSTEM) -> None:
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._largest = min(self._bounds.owner_bytes, self._bounds.total_bytes) - OWNER_OVERHEAD
        self._shelves: OrderedDict[Owner, _Shelf] = OrderedDict()  # the owner who was silent for longest comes first
        self._expiries: list[tuple[float, int, Owner, str]] = []
        self._numbered = 0
        self._lock = threading.Lock()  # hosts may make calls on event loops of several threads
        self._count = 0
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes that it holds, as its bounds count them."""
        return self._size

    @property
    def count(self) -> int:
        """Records that it holds, those included that have expired and were not cleared away yet."""
        return self._count

    async def get(self, owner: Owner, key: str) -> bytes | None:
        """The record, if there is one that has not expired."""
        with self._lock:
            record = self._find(owner, key)
            return None if record is None else record.value

    async def get_many(self, owner: Owner, keys: Collection[str]) -> Mapping[str, bytes]:
        """Those of the records that there are."""
        with self._lock:
            if owner not in self._shelves:
                return {}
            found = ((key, self._find(owner, key)) for key in keys)
            return {key: record.value for key, record in found if record is not None}

    async def put(self, owner: Owner, key: str, value: bytes, *, ttl: float, replacing: bool = False) -> bool:
        """Keep a record; whether it is kept. If not, there is nothing under this key any more."""
        with self._lock:
            self._sweep()
            there = self._find(owner, key) is not None
            if there:
                self._drop(owner, key)
            size = len(key.encode("utf-8", "surrogatepass")) + len(value) + OVERHEAD
            if (replacing and not there) or ttl <= 0 or size > self._largest:
                return False
            self._add(owner, key, value, size=size, expires=self._clock.monotonic() + ttl)
            self._make_room(owner)
            return True

    async def delete(self, owner: Owner, key: str) -> bool:
        """Let go of a record; whether there was one."""
        with self._lock:
            there = self._find(owner, key) is not None
            if there:
                self._drop(owner, key)
            return there

    async def touch(self, owner: Owner, keys: Collection[str], *, ttl: float) -> None:
        """Let those of the records that there are live this many seconds from now on."""
        with self._lock:
            expires = self._clock.monotonic() + ttl
            for key in keys:
                record = self._find(owner, key)
                if record is not None:
                    record.expires = expires  # its entry in the queue moves when its turn comes

    async def erase(self, owner: Owner) -> int:
        """Delete every record of an owner; how many there were."""
        with self._lock:
            shelf = self._shelves.get(owner)
            if shelf is None:
                return 0
            now = self._clock.monotonic()
            there = sum(record.expires > now for record in shelf.records.values())
            for key in tuple(shelf.records):
                self._drop(owner, key)
            self._compact()
            return there

    async def keys(self, owner: Owner, *, after: str = "", limit: int = 100) -> tuple[str, ...]:
        """The owner's keys beyond `after`, sorted, at most `limit`."""
        with self._lock:
            shelf = self._shelves.get(owner)
            if shelf is None:
                return ()
            now = self._clock.monotonic()
            alive = (key for key, record in shelf.records.items() if key > after and record.expires > now)
            return tuple(heapq.nsmallest(limit, alive))

    async def aclose(self) -> None:
        """Nothing is held open. The records end with the store, which can be used again."""

    def _find(self, owner: Owner, key: str) -> _Record | None:
        """A record that has not expired, which counts as a use of it; one that has is dropped."""
        shelf = self._shelves.get(owner)
        record = None if shelf is None else shelf.records.get(key)
        if shelf is None or record is None:
            return None
        if record.expires <= self._clock.monotonic():
            self._drop(owner, key)
            return None
        shelf.records.move_to_end(key)
        self._shelves.move_to_end(owner)
        return record

    def _add(self, owner: Owner, key: str, value: bytes, *, size: int, expires: float) -> None:
        self._numbered += 1
        shelf = self._shelves.get(owner)
        if shelf is None:
            shelf = self._shelves[owner] = _Shelf()
            self._size += shelf.size
        shelf.records[key] = _Record(value, size=size, expires=expires, number=self._numbered)
        shelf.size += size
        self._size += size
        self._count += 1
        self._shelves.move_to_end(owner)
        heapq.heappush(self._expiries, (expires, self._numbered, owner, key))

    def _drop(self, owner: Owner, key: str) -> None:
        shelf = self._shelves[owner]
        record = shelf.records.pop(key)
        shelf.size -= record.size
        self._size -= record.size
        self._count -= 1
        if not shelf.records:
            del self._shelves[owner]
            self._size -= shelf.size

    def _make_room(self, owner: Owner) -> None:
        """Back within the bounds. The record that was added last is the last of its shelf, and stays."""
        bounds, shelf = self._bounds, self._shelves[owner]
        while shelf.size > bounds.owner_bytes or len(shelf.records) > max(1, bounds.owner_records):
            self._drop(owner, next(iter(shelf.records)))
        while self._size > bounds.total_bytes:
            loser = self._loser(owner)
            self._drop(loser, next(iter(self._shelves[loser].records)))
        self._compact()

    def _loser(self, owner: Owner) -> Owner:
        """Who gives a record where the whole store is full, as `owner` has just added one."""
        shelf = self._shelves[owner]
        others = len(self._shelves) > 1
        greedy = shelf.size * len(self._shelves) > self._bounds.total_bytes and len(shelf.records) > 1
        return next(iter(self._shelves)) if others and not greedy else owner

    def _sweep(self) -> None:
        """Clear a few expired records away: more than a write adds, and never so many that anybody waits."""
        now = self._clock.monotonic()
        queue = self._expiries
        for _ in range(_SWEPT_PER_WRITE):
            if not queue or queue[0][0] > now:
                return
            _, number, owner, key = heapq.heappop(queue)
            record = self._numbered_record(number, owner, key)
            if record is None:
                continue
            if record.expires > now:
                heapq.heappush(queue, (record.expires, number, owner, key))
            else:
                self._drop(owner, key)

    def _compact(self) -> None:
        """Entries whose records are gone leave the queue before they outnumber the others."""
        if len(self._expiries) <= 2 * self._count + _SLACK:
            return
        self._expiries = [entry for entry in self._expiries if self._numbered_record(*entry[1:]) is not None]
        heapq.heapify(self._expiries)

    def _numbered_record(self, number: int, owner: Owner, key: str) -> _Record | None:
        """The record that an entry of the queue was made for, if it is still there."""
        shelf = self._shelves.get(owner)
        record = None if shelf is None else shelf.records.get(key)
        return record if record is not None and record.number == number else None
