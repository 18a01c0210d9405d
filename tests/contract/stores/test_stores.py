"""The contract of every kind of store, including that no owner reads a record of another."""

import random
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import pytest

from llmproxy_asgi.principal import Owner, OwnerKind
from llmproxy_asgi.stores.base import Bounds, RecordStore
from support.clock import FakeClock
from support.stores import ALICE, BACKENDS, BOB, OTHER_ALICE, Backend

pytestmark = pytest.mark.anyio

Opened: TypeAlias = Callable[..., RecordStore]

OPERATIONS = 10_000
MANY_OPERATIONS = 100_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


@pytest.fixture
async def opened(backend: Backend, clock: FakeClock) -> AsyncIterator[Opened]:
    """Opens stores with bounds of the test's choice, and closes them."""
    stores: list[RecordStore] = []

    def open_one(**bounds: int) -> RecordStore:
        stores.append(backend(Bounds(**bounds), clock))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.aclose()


@pytest.fixture
def store(opened: Opened) -> RecordStore:
    return opened()


async def test_what_was_put_is_there(store: RecordStore) -> None:
    """A record comes back byte for byte, whatever bytes and whatever key."""
    value = bytes(range(256))
    assert await store.put(ALICE, "a/ö %\x00'", value, ttl=10)
    assert await store.get(ALICE, "a/ö %\x00'") == value
    assert await store.put(ALICE, "empty", b"", ttl=10)
    assert await store.get(ALICE, "empty") == b""
    assert await store.get(ALICE, "other") is None


async def test_the_last_word_counts(store: RecordStore) -> None:
    """Putting under a key that is taken replaces what was there."""
    await store.put(ALICE, "k", b"old", ttl=10)
    await store.put(ALICE, "k", b"new", ttl=10)
    assert await store.get(ALICE, "k") == b"new"
    assert await store.keys(ALICE) == ("k",)


async def test_replacing_needs_something_to_replace(store: RecordStore, clock: FakeClock) -> None:
    """What was deleted or has expired does not come back by a replacement."""
    assert not await store.put(ALICE, "k", b"1", ttl=10, replacing=True)
    assert await store.get(ALICE, "k") is None
    await store.put(ALICE, "k", b"1", ttl=10)
    assert await store.put(ALICE, "k", b"2", ttl=10, replacing=True)
    assert await store.get(ALICE, "k") == b"2"
    await store.delete(ALICE, "k")
    assert not await store.put(ALICE, "k", b"3", ttl=10, replacing=True)
    await store.put(ALICE, "k", b"4", ttl=10)
    clock.at += 11
    assert not await store.put(ALICE, "k", b"5", ttl=10, replacing=True)
    assert await store.get(ALICE, "k") is None


async def test_deleted_is_gone(store: RecordStore) -> None:
    """And deleting says whether there was anything."""
    await store.put(ALICE, "k", b"1", ttl=10)
    assert await store.delete(ALICE, "k")
    assert not await store.delete(ALICE, "k")
    assert await store.get(ALICE, "k") is None


async def test_a_record_lives_as_long_as_was_said(store: RecordStore, clock: FakeClock) -> None:
    """Up to the last moment, and in none of the ways to look afterwards."""
    await store.put(ALICE, "k", b"1", ttl=10)
    clock.at += 9.5
    assert await store.get(ALICE, "k") == b"1"
    clock.at += 0.5
    assert await store.keys(ALICE) == ()
    assert await store.get_many(ALICE, ["k"]) == {}
    assert await store.get(ALICE, "k") is None
    assert not await store.delete(ALICE, "k")


async def test_touching_gives_time(store: RecordStore, clock: FakeClock) -> None:
    """From now on, to those that there are; looking alone gives none."""
    await store.put(ALICE, "a", b"1", ttl=10)
    await store.put(ALICE, "b", b"1", ttl=10)
    clock.at += 6
    await store.get(ALICE, "b")
    await store.touch(ALICE, ["a", "missing"], ttl=10)
    clock.at += 6
    assert await store.get_many(ALICE, ["a", "b", "missing"]) == {"a": b"1"}
    clock.at += 4
    await store.touch(ALICE, ["a"], ttl=10)
    assert await store.get(ALICE, "a") is None


async def test_replacing_a_record_renews_its_time(store: RecordStore, clock: FakeClock) -> None:
    """It lives as long as the last word said, be that longer or shorter."""
    await store.put(ALICE, "longer", b"1", ttl=10)
    await store.put(ALICE, "shorter", b"1", ttl=100)
    await store.put(ALICE, "longer", b"2", ttl=100)
    await store.put(ALICE, "shorter", b"2", ttl=10)
    clock.at += 50
    await store.put(ALICE, "another", b"", ttl=1)
    assert await store.get(ALICE, "longer") == b"2"
    assert await store.get(ALICE, "shorter") is None


@pytest.mark.parametrize("ttl", [0.0, -5.0])
async def test_no_time_to_live_is_not_kept(store: RecordStore, ttl: float) -> None:
    """Neither is what it was to replace."""
    await store.put(ALICE, "k", b"1", ttl=10)
    assert not await store.put(ALICE, "k", b"2", ttl=ttl)
    assert await store.get(ALICE, "k") is None


async def test_keys_come_page_by_page(store: RecordStore) -> None:
    """Sorted, each once, from behind the one named."""
    for key in ("c", "a", "d", "b"):
        await store.put(ALICE, key, b"", ttl=10)
    assert await store.keys(ALICE, limit=3) == ("a", "b", "c")
    assert await store.keys(ALICE, after="c", limit=3) == ("d",)
    assert await store.keys(ALICE, after="d") == ()
    assert await store.keys(BOB) == ()


async def test_too_large_is_not_kept(opened: Opened) -> None:
    """A record larger than the owner's whole bound is refused, evicts no other record, and leaves nothing behind."""
    store = opened(total_bytes=100_000, owner_bytes=10_000)
    await store.put(ALICE, "small", b"x", ttl=10)
    await store.put(ALICE, "k", b"old", ttl=10)
    assert not await store.put(ALICE, "k", bytes(10_001), ttl=10)
    assert await store.get(ALICE, "k") is None
    assert await store.get(ALICE, "small") == b"x"


async def test_an_owner_over_its_bound_loses_its_own(opened: Opened) -> None:
    """The least used first, and never anybody else's."""
    store = opened(total_bytes=1_000_000, owner_bytes=10_000)
    await store.put(BOB, "k", bytes(2_000), ttl=10)
    for key in "abc":
        await store.put(ALICE, key, bytes(2_500), ttl=10)
    await store.get(ALICE, "a")
    await store.put(ALICE, "d", bytes(2_500), ttl=10)
    assert await store.keys(ALICE) == ("a", "c", "d")
    assert await store.keys(BOB) == ("k",)


async def test_the_number_of_records_is_bounded(opened: Opened) -> None:
    """However small they are."""
    store = opened(owner_records=3)
    for key in "abcde":
        await store.put(ALICE, key, b"", ttl=10)
    assert await store.keys(ALICE) == ("c", "d", "e")


async def test_one_name_in_two_tenants_is_two_owners(store: RecordStore) -> None:
    """Tenant and id together say whose a record is; neither borrows letters of the other."""
    await store.put(ALICE, "k", b"acme", ttl=10)
    assert await store.get(OTHER_ALICE, "k") is None
    await store.put(Owner("user", "a", "bc"), "k", b"1", ttl=10)
    assert await store.get(Owner("user", "ab", "c"), "k") is None
    assert await store.get(Owner("user", "", "abc"), "k") is None
    assert not await store.delete(Owner("user", "ab", "c"), "k")


async def test_one_name_of_two_kinds_is_two_owners(store: RecordStore) -> None:
    """A host's user, a machine key, anonymous callers and the host itself share no record, whatever they are called."""
    kinds: tuple[OwnerKind, ...] = ("user", "key", "open", "local")
    owners = [Owner(kind, "acme", "alice") for kind in kinds]
    for number, owner in enumerate(owners):
        await store.put(owner, "k", b"%d" % number, ttl=10)
    assert [await store.get(owner, "k") for owner in owners] == [b"0", b"1", b"2", b"3"]
    assert await store.delete(owners[1], "k")
    assert [await store.get(owner, "k") for owner in owners] == [b"0", None, b"2", b"3"]


async def test_erasing_deletes_all_records_of_one_owner(store: RecordStore, clock: FakeClock) -> None:
    """It says how many there were, expired ones not among them, and touches no other owner's."""
    await store.put(ALICE, "old", b"1", ttl=1)
    clock.turn(2)
    for key in ("a", "b", "c"):
        await store.put(ALICE, key, b"1", ttl=10)
        await store.put(BOB, key, b"2", ttl=10)
    assert await store.erase(ALICE) == 3
    assert await store.erase(ALICE) == 0
    assert await store.keys(ALICE) == ()
    assert await store.keys(BOB) == ("a", "b", "c")
    assert await store.put(ALICE, "a", b"3", ttl=10)
    assert await store.get(ALICE, "a") == b"3"


class Traffic:
    """Random operations of three owners on the same few keys; each must see its own last word, or nothing."""

    def __init__(self, store: RecordStore, clock: FakeClock, *, seed: int) -> None:
        self.store = store
        self.clock = clock
        self.draw = random.Random(seed)
        self.said: dict[tuple[Owner, str], tuple[bytes, float]] = {}
        self.hits = 0

    async def run(self, operations: int) -> int:
        """How many records were found."""
        ways = [self.put, self.put, self.put, self.get, self.get_many, self.delete, self.touch, self.keys]
        for _ in range(operations):
            await self.draw.choice(ways)(self.draw.choice((ALICE, BOB, OTHER_ALICE)))
            self.clock.at += self.draw.random()
        return self.hits

    def key(self) -> str:
        return f"k{self.draw.randrange(40)}"

    def seen(self, owner: Owner, key: str, value: bytes) -> None:
        said, expires = self.said[owner, key]
        assert value == said
        assert self.clock.at < expires
        self.hits += 1

    async def put(self, owner: Owner) -> None:
        key, ttl, replacing = self.key(), self.draw.choice([1.0, 20.0, 400.0]), self.draw.random() < 0.3
        value = f"{owner} {key} {self.draw.random()}".encode() + bytes(self.draw.randrange(300))
        if await self.store.put(owner, key, value, ttl=ttl, replacing=replacing):
            assert not replacing or (owner, key) in self.said
            self.said[owner, key] = (value, self.clock.at + ttl)
        else:
            self.said.pop((owner, key), None)

    async def get(self, owner: Owner) -> None:
        key = self.key()
        value = await self.store.get(owner, key)
        if value is not None:
            self.seen(owner, key, value)

    async def get_many(self, owner: Owner) -> None:
        for key, value in (await self.store.get_many(owner, [self.key() for _ in range(4)])).items():
            self.seen(owner, key, value)

    async def delete(self, owner: Owner) -> None:
        key = self.key()
        assert not await self.store.delete(owner, key) or (owner, key) in self.said
        self.said.pop((owner, key), None)

    async def touch(self, owner: Owner) -> None:
        key = self.key()
        await self.store.touch(owner, [key], ttl=20.0)
        said, expires = self.said.get((owner, key), (b"", 0.0))
        if self.clock.at < expires:
            self.said[owner, key] = (said, self.clock.at + 20.0)

    async def keys(self, owner: Owner) -> None:
        for key in await self.store.keys(owner):
            assert self.clock.at < self.said[owner, key][1]


@pytest.mark.parametrize("owner_bytes", [1 << 20, 4_000], ids=["roomy", "tight"])
async def test_nobody_sees_what_is_not_their_own(opened: Opened, clock: FakeClock, owner_bytes: int) -> None:
    """Ten thousand random operations of three owners on the same keys: each reads its own last word, or nothing."""
    store = opened(total_bytes=2 * owner_bytes, owner_bytes=owner_bytes)
    assert await Traffic(store, clock, seed=4).run(OPERATIONS) > 100


@pytest.mark.verify
async def test_nobody_sees_what_is_not_their_own_for_long(opened: Opened, clock: FakeClock) -> None:
    """The same with a hundred thousand operations."""
    store = opened(total_bytes=8_000, owner_bytes=4_000)
    assert await Traffic(store, clock, seed=5).run(MANY_OPERATIONS) > 1000
