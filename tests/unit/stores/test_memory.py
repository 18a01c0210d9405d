"""Claims about the store in memory alone: its bounds, and that no caller waits for it."""

import random
import tracemalloc

import pytest

from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import Bounds
from llmproxy_asgi.stores.memory import OVERHEAD, OWNER_OVERHEAD, MemoryStore
from support.clock import FakeClock
from support.stores import ALICE, BOB

pytestmark = pytest.mark.anyio


def owner(number: int) -> Owner:
    return Owner("user", "acme", f"user{number}")


async def test_the_whole_is_bounded() -> None:
    """However many owners there are, the store as a whole never holds more than it may."""
    store = MemoryStore(Bounds(total_bytes=50_000, owner_bytes=20_000), clock=FakeClock())
    draw = random.Random(1)
    for number in range(2_000):
        await store.put(owner(draw.randrange(30)), f"k{number}", bytes(draw.randrange(3_000)), ttl=1e6)
        assert store.size <= 50_000
    assert store.size > 40_000


async def test_the_owner_with_most_records_loses_first() -> None:
    """In a full store, evict records of the owner that holds most, not those of a new one."""
    store = MemoryStore(Bounds(total_bytes=20_000, owner_bytes=20_000), clock=FakeClock())
    await store.put(BOB, "b", bytes(1_000), ttl=1e6)
    for number in range(40):
        await store.put(ALICE, f"a{number:02}", bytes(1_000), ttl=1e6)
    assert await store.get(BOB, "b") is not None
    newcomer = owner(1)
    for number in range(3):
        await store.put(newcomer, f"n{number}", bytes(1_000), ttl=1e6)
    assert len(await store.keys(newcomer)) == 3


async def test_the_longest_idle_owner_loses_next() -> None:
    """Evict the longest idle owner's records where all hold equally many."""
    store = MemoryStore(
        Bounds(total_bytes=10 * (OWNER_OVERHEAD + OVERHEAD + 1_001), owner_bytes=20_000), clock=FakeClock()
    )
    for number in range(10):
        await store.put(owner(number), "k", bytes(1_000), ttl=1e6)
    await store.get(owner(0), "k")
    await store.put(owner(10), "k", bytes(1_000), ttl=1e6)
    assert await store.get(owner(0), "k") is not None
    assert await store.get(owner(1), "k") is None


async def test_the_expired_go_without_being_asked_for() -> None:
    """Writing clears them away, so that nothing is held for those who never come back."""
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    for number in range(1_000):
        await store.put(owner(number), "k", b"x", ttl=10)
    clock.at += 11
    for number in range(100):
        await store.put(ALICE, f"k{number}", b"x", ttl=10)
    assert store.count == 100


async def test_a_touched_record_outlives_its_first_time() -> None:
    """Also where the clearing away comes by at that time, and it goes at its new one."""
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    await store.put(ALICE, "k", b"x", ttl=10)
    await store.touch(ALICE, ["k"], ttl=100)
    clock.at += 50
    await store.put(BOB, "k", b"x", ttl=10)
    assert await store.get(ALICE, "k") == b"x"
    clock.at += 51
    await store.put(BOB, "k", b"x", ttl=10)
    assert store.count == 1


async def test_coming_and_going_leaves_nothing_behind() -> None:
    """Records that are put, replaced and deleted over and over cost no more than those that are there."""
    store = MemoryStore(clock=FakeClock())

    async def turns(count: int) -> None:
        for number in range(count):
            await store.put(ALICE, f"k{number % 7}", b"x" * 50, ttl=1e9)
            await store.put(BOB, f"k{number}", b"x" * 50, ttl=1e9)
            await store.delete(BOB, f"k{number}")

    await turns(500)
    tracemalloc.start()
    await turns(500)
    before, _ = tracemalloc.get_traced_memory()
    await turns(5_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.count == 7
    assert after - before < 100_000


async def test_what_had_to_make_room_leaves_nothing_behind() -> None:
    """Neither do records that were pushed out long before their time."""
    store = MemoryStore(Bounds(owner_records=10), clock=FakeClock())
    for number in range(2_000):
        await store.put(ALICE, f"k{number}", b"x", ttl=1e9)
    assert store.count == 10
    assert len(store._expiries) < 100


async def test_the_bound_is_honest() -> None:
    """What the store says it holds is not less than what it takes."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    store = MemoryStore(Bounds(total_bytes=1 << 30, owner_bytes=1 << 30, owner_records=1 << 30))
    for number in range(20_000):
        await store.put(owner(number % 5_000), f"call_{number:024}", b"x" * (number % 200), ttl=1e6)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.count == 20_000
    assert after - before < 1.15 * store.size


async def test_closing_loses_nothing() -> None:
    """And the store can be used again."""
    store = MemoryStore()
    await store.put(ALICE, "k", b"x", ttl=10)
    await store.aclose()
    assert await store.get(ALICE, "k") == b"x"
    assert await store.put(ALICE, "k", b"y", ttl=10)


async def test_nothing_kept_is_nothing_counted() -> None:
    """What comes and goes, in whatever way, leaves the count of bytes where it was."""
    clock = FakeClock()
    store = MemoryStore(Bounds(owner_bytes=6_000), clock=clock)
    for number in range(20):
        await store.put(ALICE, f"k{number}", bytes(number * 100), ttl=10)
    for key in await store.keys(ALICE):
        await store.delete(ALICE, key)
    await store.put(BOB, "k", b"x", ttl=10)
    await store.put(BOB, "k", bytes(10_000), ttl=10)
    await store.put(BOB, "k", b"x", ttl=10)
    clock.at += 11
    assert await store.get(BOB, "k") is None
    assert store.size == 0
    assert store.count == 0
