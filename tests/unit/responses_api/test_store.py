"""Stored responses: their owner's alone, and a conversation that can be gone on with."""

import json
import re
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.errors import BadRequest, CallerError, InternalError, NotFound
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.responses_api.store import (
    LIFETIME,
    NO_RESPONSE,
    Item,
    ResponseStore,
    StoredResponse,
    WireEvent,
    new_id,
)
from llmproxy_asgi.stores.base import Bounds
from llmproxy_asgi.stores.memory import MemoryStore
from llmproxy_asgi.wire.json_body import Bounds as RequestBounds
from support.clock import FakeClock
from support.stores import ALICE, BOB, OTHER_ALICE

pytestmark = pytest.mark.anyio

THOUGHT = '{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"AAAA"}'
CALL = '{"type":"function_call","call_id":"call_1","name":"weather","arguments":"{\\"city\\": \\"Köln\\"}"}'
RESULT = '{"type": "function_call_output", "call_id": "call_1", "output": "12 °C"}'


def user(text: str) -> str:
    return json.dumps({"role": "user", "content": text})


def said(text: str) -> str:
    return json.dumps({"type": "message", "role": "assistant", "content": text})


def items(*found: str) -> list[Item]:
    return [Item(id=f"item_{n}", item=msgspec.Raw(each.encode())) for n, each in enumerate(found)]


def told(found: tuple[msgspec.Raw, ...]) -> list[str]:
    return [bytes(each).decode() for each in found]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(Bounds(owner_bytes=1 << 20), clock=clock)


@pytest.fixture
def responses(store: MemoryStore, clock: FakeClock) -> ResponseStore:
    return ResponseStore(store, clock=clock)


async def kept(
    responses: ResponseStore, given: str, *answered: str, owner: Owner = ALICE, previous_id: str | None = None
) -> StoredResponse:
    """A response that has been asked for, given and kept."""
    record = responses.begin(owner, previous_id=previous_id, input_items=items(given))
    record = record.ended("completed", items(*answered))
    assert await responses.save(owner, record)
    return record


# ── one response ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_are_not_guessed() -> None:
    """128 bits behind the prefix, never the same twice."""
    ids = {new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch(r"resp_[0-9a-f]{32}", found) for found in ids)


async def test_a_response_is_found_as_it_was_kept(responses: ResponseStore, clock: FakeClock) -> None:
    """With everything that its caller may ask for."""
    (given,) = items(user("hi"))
    record = responses.begin(ALICE, status="queued", previous_id="resp_x", input_items=[given], background=True)
    assert record.created_at == clock.now()
    assert record.expires_at == clock.now() + timedelta(days=30)
    assert await responses.save(ALICE, record)
    found = await responses.find(ALICE, record.id)
    assert found is not None
    assert (found.status, found.output, found.previous_id) == ("queued", None, "resp_x")
    assert (found.background, found.shows_state) == (True, False)
    assert bytes(found.response) == bytes(NO_RESPONSE) == b"null"
    assert [bytes(each.item) for each in found.input_items] == [bytes(given.item)]
    assert await responses.is_stored(ALICE, record.id)
    ended = record.ended("completed", items(THOUGHT, said("hello")), response=b'{"id": 1.10}')
    assert await responses.save(ALICE, ended, replacing=True)
    found = await responses.find(ALICE, record.id)
    assert found is not None
    assert found.status == "completed"
    assert [bytes(each.item).decode() for each in found.output or ()] == [THOUGHT, said("hello")]
    assert bytes(found.response) == b'{"id": 1.10}'


async def test_others_find_nothing(responses: ResponseStore, store: MemoryStore) -> None:
    """Not by any of the ways to ask, and they change nothing; not even a record that lies in the wrong place."""
    record = await kept(responses, user("hi"), said("hello"))
    await responses.save_events(ALICE, record, [WireEvent(number=0, name="e", data=msgspec.Raw(b"{}"))])
    value = await store.get(ALICE, record.id)
    events = await store.get(ALICE, record.id + "/events")
    assert value is not None
    assert events is not None
    await store.put(OTHER_ALICE, record.id, value, ttl=100)
    await store.put(OTHER_ALICE, record.id + "/events", events, ttl=100)
    for other in (BOB, OTHER_ALICE):
        assert await responses.find(other, record.id) is None
        assert await responses.input_items(other, record.id) is None
        assert not await responses.is_stored(BOB, record.id)
        assert not await responses.items(BOB, ["item_0"])
        assert await responses.events(other, record.id) is None
        with pytest.raises(NotFound):
            await responses.conversation(other, record.id)
        with pytest.raises(InternalError):
            await responses.save(other, record)
        with pytest.raises(InternalError):
            await responses.save_events(other, record, [])
    assert not await responses.delete(BOB, record.id)
    assert await responses.find(ALICE, record.id) is not None


@pytest.mark.parametrize(
    "wrong", ["", "resp_", "resp_1/events", "resp_a b", "resp_" + "é", "msg_" + "0" * 32, "resp_" + "0" * 129, "../x"]
)
async def test_what_is_no_id_is_not_found(
    responses: ResponseStore, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And cannot reach anything else that lies in the store, not even to find that it is no response."""
    record = responses.begin(ALICE, response_id="resp_1", input_items=items(user("hi")))
    await responses.save_events(ALICE, record, [])
    assert await responses.find(ALICE, wrong) is None
    assert await responses.events(ALICE, wrong) is None
    assert not await responses.is_stored(ALICE, wrong)
    assert not await responses.save(ALICE, msgspec.structs.replace(record, id=wrong))
    assert not await responses.delete(ALICE, wrong)
    with pytest.raises(NotFound):
        await responses.conversation(ALICE, wrong)
    assert not caplog.records


async def test_deleted_stays_deleted(responses: ResponseStore, store: MemoryStore) -> None:
    """Also where the answer of one that was still at work comes in later."""
    record = responses.begin(ALICE, input_items=items(user("hi")))
    await responses.save(ALICE, record)
    await responses.save_events(ALICE, record, [])
    assert await responses.delete(ALICE, record.id)
    assert not await responses.delete(ALICE, record.id)
    assert not await responses.save(ALICE, record.ended("completed", items()), replacing=True)
    assert await store.keys(ALICE) == ()


async def test_a_response_lives_for_its_time(responses: ResponseStore, clock: FakeClock, store: MemoryStore) -> None:
    """Counted from its beginning, whenever its answer came."""
    record = responses.begin(ALICE, input_items=items(user("hi")))
    clock.at += LIFETIME - 10
    assert await responses.save(ALICE, record.ended("completed", items(said("x"))))
    clock.at += 9
    assert await responses.find(ALICE, record.id) is not None
    assert await responses.items(ALICE, ["item_0"])
    clock.at += 1
    assert await responses.find(ALICE, record.id) is None
    assert not await responses.items(ALICE, ["item_0"])
    assert not await responses.save(ALICE, record)
    assert await store.keys(ALICE) == ()


async def test_what_is_too_large_is_not_kept(responses: ResponseStore) -> None:
    """And says so, leaving no half of it behind."""
    record = responses.begin(ALICE, input_items=items(user("hi")))
    assert await responses.save(ALICE, record)
    ended = record.ended("completed", items(said("x" * (1 << 20))))
    assert not await responses.save(ALICE, ended, replacing=True)
    assert await responses.find(ALICE, record.id) is None


@pytest.mark.parametrize("value", [b"", b"{}", b'{"version":2}', b'{"version":1}'])
async def test_what_cannot_be_read_is_not_there(
    responses: ResponseStore, store: MemoryStore, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version of the program may have written it."""
    response_id = new_id()
    await store.put(ALICE, response_id, value, ttl=100)
    assert await responses.find(ALICE, response_id) is None
    with pytest.raises(NotFound):
        await responses.conversation(ALICE, response_id)
    assert len(caplog.records) == 2


async def test_what_is_stored_says_its_version(responses: ResponseStore, store: MemoryStore) -> None:
    """From the first day."""
    record = await kept(responses, user("hi"))
    await responses.save_events(ALICE, record, [])
    for key in await store.keys(ALICE):
        value = await store.get(ALICE, key)
        assert value is not None
        assert json.loads(value)["version"] == 1


_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(given=st.lists(_json, max_size=3), answered=st.lists(_json, max_size=3))
async def test_anything_asked_and_answered_comes_back(given: list[object], answered: list[object]) -> None:
    """Whatever JSON holds survives being stored, letter by letter, however it is spelled."""
    keeper = ResponseStore(MemoryStore())
    spelled = [[json.dumps(each, indent=1) for each in row] for row in (given, answered)]
    record = keeper.begin(ALICE, input_items=items(*spelled[0])).ended("completed", items(*spelled[1]))
    assert await keeper.save(ALICE, record)
    assert await keeper.find(ALICE, record.id) == record
    assert told(await keeper.conversation(ALICE, record.id)) == [*spelled[0], *spelled[1]]


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_chain_of_three_is_one_conversation(responses: ResponseStore) -> None:
    """With calls, results and reasoning, in order and as they were."""
    first = await kept(responses, user("Weather?"), THOUGHT, CALL)
    second = await kept(responses, RESULT, said("It is cold."), previous_id=first.id)
    third = await kept(responses, user("And now?"), said("Still."), previous_id=second.id)
    expected = [user("Weather?"), THOUGHT, CALL, RESULT, said("It is cold."), user("And now?"), said("Still.")]
    assert told(await responses.conversation(ALICE, third.id)) == expected


async def test_two_may_go_on_from_one(responses: ResponseStore) -> None:
    """Neither sees the other's."""
    root = await kept(responses, user("a"), said("b"))
    left = await kept(responses, user("left"), said("l"), previous_id=root.id)
    right = await kept(responses, user("right"), said("r"), previous_id=root.id)
    assert user("left") not in told(await responses.conversation(ALICE, right.id))
    assert user("left") in told(await responses.conversation(ALICE, left.id))


async def test_items_are_found_by_their_ids(responses: ResponseStore) -> None:
    """Those that a kept answer holds, and of the last one that holds an id; until it is let go of."""
    record = responses.begin(ALICE, input_items=items(user("a")))
    output = [Item(id=found, item=msgspec.Raw(b'"%b"' % found.encode())) for found in ("rs_1", "msg_1", "", "odd/id")]
    assert await responses.save(ALICE, record.ended("completed", output))
    found = await responses.items(ALICE, ["msg_1", "rs_1", "rs_2", "", "odd/id"])
    assert {key: bytes(value) for key, value in found.items()} == {"msg_1": b'"msg_1"', "rs_1": b'"rs_1"'}
    assert await responses.delete(ALICE, record.id)
    assert not await responses.items(ALICE, ["msg_1"])


async def test_an_empty_answer_adds_no_turn(responses: ResponseStore) -> None:
    """There is nothing to add."""
    record = await kept(responses, user("a"))
    assert told(await responses.conversation(ALICE, record.id)) == [user("a")]


async def test_an_unknown_response_cannot_be_gone_on_from(responses: ResponseStore) -> None:
    """404, in the words that the SDK's users look for."""
    with pytest.raises(NotFound) as refused:
        await responses.conversation(ALICE, new_id())
    assert (refused.value.status, refused.value.code) == (404, "previous_response_not_found")
    assert refused.value.param == "previous_response_id"


async def test_a_broken_chain_is_told_not_shortened(responses: ResponseStore) -> None:
    """An answer made without the beginning of its conversation would be wrong."""
    first = await kept(responses, user("a"), said("b"))
    second = await kept(responses, user("c"), said("d"), previous_id=first.id)
    await responses.delete(ALICE, first.id)
    with pytest.raises(NotFound) as refused:
        await responses.conversation(ALICE, second.id)
    assert "is incomplete" in refused.value.message
    assert first.id not in refused.value.message


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled"])
async def test_without_an_answer_there_is_nothing_to_go_on_from(responses: ResponseStore, status: str) -> None:
    """Neither while it is at work nor after it has failed."""
    record = responses.begin(ALICE, input_items=items(user("a")))
    record = msgspec.structs.replace(record, status=status)
    await responses.save(ALICE, record)
    with pytest.raises(BadRequest) as refused:
        await responses.conversation(ALICE, record.id)
    assert refused.value.param == "previous_response_id"


async def test_a_circle_ends(responses: ResponseStore) -> None:
    """However a cycle came about, following it ends."""
    one, other = new_id(), new_id()
    for response_id, before in ((one, other), (other, one)):
        record = responses.begin(ALICE, response_id=response_id, previous_id=before)
        await responses.save(ALICE, record.ended("completed", items()))
    with pytest.raises(InternalError):
        await responses.conversation(ALICE, one)


@pytest.mark.parametrize(
    "bound",
    [{"max_responses": 3}, {"largest": 1_100}, {"bounds": RequestBounds(messages=6)}],
    ids=["deep", "large", "messages"],
)
async def test_a_conversation_is_bounded(store: MemoryStore, clock: FakeClock, bound: dict[str, Any]) -> None:
    """By its length, its size and its items; what is within is gone on with."""
    responses = ResponseStore(store, clock=clock, **bound)
    chain: list[StoredResponse] = []
    for _ in range(10):
        previous_id = chain[-1].id if chain else None
        chain.append(await kept(responses, user("x" * 100), said("y"), previous_id=previous_id))
    assert len(await responses.conversation(ALICE, chain[2].id)) == 6
    with pytest.raises(CallerError) as refused:
        await responses.conversation(ALICE, chain[-1].id)
    assert refused.value.status == (413 if "largest" in bound else 400)
    assert refused.value.param == "previous_response_id"


# ── input and events ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def with_items(responses: ResponseStore) -> StoredResponse:
    given = [Item(id=f"msg_{n}", item=msgspec.Raw(b'{"n": %d}' % n)) for n in range(5)]
    record = responses.begin(ALICE, input_items=given)
    await responses.save(ALICE, record)
    return record


async def test_input_comes_page_by_page(responses: ResponseStore, with_items: StoredResponse) -> None:
    """In either order, each item once, its bytes as they were given."""
    page = await responses.input_items(ALICE, with_items.id, limit=2, order="asc")
    assert page is not None
    assert [(item.id, bytes(item.item)) for item in page.items] == [("msg_0", b'{"n": 0}'), ("msg_1", b'{"n": 1}')]
    assert page.has_more
    page = await responses.input_items(ALICE, with_items.id, after="msg_1", order="asc", limit=3)
    assert page is not None
    assert [item.id for item in page.items] == ["msg_2", "msg_3", "msg_4"]
    assert not page.has_more
    page = await responses.input_items(ALICE, with_items.id, after="msg_3", limit=2)
    assert page is not None
    assert [item.id for item in page.items] == ["msg_2", "msg_1"]
    assert page.has_more


async def test_there_is_no_page_behind_nothing(responses: ResponseStore, with_items: StoredResponse) -> None:
    """An item that is not there begins no page, and a response that is not there has none."""
    with pytest.raises(BadRequest):
        await responses.input_items(ALICE, with_items.id, after="msg_9")
    assert await responses.input_items(ALICE, new_id()) is None


async def test_events_are_told_again_from_any_place(responses: ResponseStore, with_items: StoredResponse) -> None:
    """From the first, from the middle, from beyond the last; and growing while the response is at work."""
    assert await responses.events(ALICE, with_items.id) is None
    events_told = [WireEvent(number=n, name="e", data=msgspec.Raw(b'{"n": %d}' % n)) for n in range(4)]
    for upto in (2, 4):
        assert await responses.save_events(ALICE, with_items, events_told[:upto])
        events = await responses.events(ALICE, with_items.id)
        assert events is not None
        assert [bytes(event.data) for event in events] == [bytes(event.data) for event in events_told[:upto]]
    events = await responses.events(ALICE, with_items.id, after=2)
    assert events is not None
    assert [event.number for event in events] == [3]
    assert await responses.events(ALICE, with_items.id, after=3) == ()
