"""Stored responses: found by their owner only, and continued as conversations."""

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


def texts(found: tuple[msgspec.Raw, ...]) -> list[str]:
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


async def stored(
    responses: ResponseStore, given: str, *answered: str, owner: Owner = ALICE, previous_id: str | None = None
) -> StoredResponse:
    """A stored response with its input and output."""
    record = responses.begin(owner, previous_id=previous_id, input_items=items(given))
    record = record.ended("completed", items(*answered))
    assert await responses.save(owner, record)
    return record


# ── one response ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_cannot_be_guessed() -> None:
    """An id has 128 random bits after its prefix, and is never repeated."""
    ids = {new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch(r"resp_[0-9a-f]{32}", found) for found in ids)


async def test_a_response_is_found_as_it_was_stored(responses: ResponseStore, clock: FakeClock) -> None:
    """Return everything that a caller may request."""
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
    """Other owners neither find nor change a response, not even a record under a wrong owner."""
    record = await stored(responses, user("hi"), said("hello"))
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
async def test_an_invalid_id_is_not_found(
    responses: ResponseStore, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid id reaches no other record in the store."""
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
    """A deleted response stays deleted when its output arrives later."""
    record = responses.begin(ALICE, input_items=items(user("hi")))
    await responses.save(ALICE, record)
    await responses.save_events(ALICE, record, [])
    assert await responses.delete(ALICE, record.id)
    assert not await responses.delete(ALICE, record.id)
    assert not await responses.save(ALICE, record.ended("completed", items()), replacing=True)
    assert await store.keys(ALICE) == ()


async def test_a_response_expires_after_its_lifetime(
    responses: ResponseStore, clock: FakeClock, store: MemoryStore
) -> None:
    """The lifetime begins with the response, whenever its output arrives."""
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


async def test_a_response_that_is_too_large_is_not_stored(responses: ResponseStore) -> None:
    """Report it, and leave no part of it behind."""
    record = responses.begin(ALICE, input_items=items(user("hi")))
    assert await responses.save(ALICE, record)
    ended = record.ended("completed", items(said("x" * (1 << 20))))
    assert not await responses.save(ALICE, ended, replacing=True)
    assert await responses.find(ALICE, record.id) is None


@pytest.mark.parametrize("value", [b"", b"{}", b'{"version":2}', b'{"version":1}'])
async def test_an_unreadable_record_is_missing(
    responses: ResponseStore, store: MemoryStore, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Treat a record of another version as missing."""
    response_id = new_id()
    await store.put(ALICE, response_id, value, ttl=100)
    assert await responses.find(ALICE, response_id) is None
    with pytest.raises(NotFound):
        await responses.conversation(ALICE, response_id)
    assert len(caplog.records) == 2


async def test_a_record_has_a_version(responses: ResponseStore, store: MemoryStore) -> None:
    """Every record has a version."""
    record = await stored(responses, user("hi"))
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
async def test_items_keep_their_bytes(given: list[object], answered: list[object]) -> None:
    """Any JSON is stored and returned byte by byte, however it is spelled."""
    keeper = ResponseStore(MemoryStore())
    spelled = [[json.dumps(each, indent=1) for each in row] for row in (given, answered)]
    record = keeper.begin(ALICE, input_items=items(*spelled[0])).ended("completed", items(*spelled[1]))
    assert await keeper.save(ALICE, record)
    assert await keeper.find(ALICE, record.id) == record
    assert texts(await keeper.conversation(ALICE, record.id)) == [*spelled[0], *spelled[1]]


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_chain_of_three_is_one_conversation(responses: ResponseStore) -> None:
    """Return calls, results and reasoning in order and unchanged."""
    first = await stored(responses, user("Weather?"), THOUGHT, CALL)
    second = await stored(responses, RESULT, said("It is cold."), previous_id=first.id)
    third = await stored(responses, user("And now?"), said("Still."), previous_id=second.id)
    expected = [user("Weather?"), THOUGHT, CALL, RESULT, said("It is cold."), user("And now?"), said("Still.")]
    assert texts(await responses.conversation(ALICE, third.id)) == expected


async def test_two_responses_may_continue_one(responses: ResponseStore) -> None:
    """Neither sees the items of the other."""
    root = await stored(responses, user("a"), said("b"))
    left = await stored(responses, user("left"), said("l"), previous_id=root.id)
    right = await stored(responses, user("right"), said("r"), previous_id=root.id)
    assert user("left") not in texts(await responses.conversation(ALICE, right.id))
    assert user("left") in texts(await responses.conversation(ALICE, left.id))


async def test_items_are_found_by_their_ids(responses: ResponseStore) -> None:
    """Find items of stored responses, of the last response with an id, until it is deleted."""
    record = responses.begin(ALICE, input_items=items(user("a")))
    output = [Item(id=found, item=msgspec.Raw(b'"%b"' % found.encode())) for found in ("rs_1", "msg_1", "", "odd/id")]
    assert await responses.save(ALICE, record.ended("completed", output))
    found = await responses.items(ALICE, ["msg_1", "rs_1", "rs_2", "", "odd/id"])
    assert {key: bytes(value) for key, value in found.items()} == {"msg_1": b'"msg_1"', "rs_1": b'"rs_1"'}
    assert await responses.delete(ALICE, record.id)
    assert not await responses.items(ALICE, ["msg_1"])


async def test_an_empty_output_adds_no_turn(responses: ResponseStore) -> None:
    """An empty output adds no items."""
    record = await stored(responses, user("a"))
    assert texts(await responses.conversation(ALICE, record.id)) == [user("a")]


async def test_an_unknown_response_cannot_be_continued(responses: ResponseStore) -> None:
    """Respond with a 404 and the message that SDK users search for."""
    with pytest.raises(NotFound) as refused:
        await responses.conversation(ALICE, new_id())
    assert (refused.value.status, refused.value.code) == (404, "previous_response_not_found")
    assert refused.value.param == "previous_response_id"


async def test_a_broken_chain_is_an_error(responses: ResponseStore) -> None:
    """Refuse a conversation whose beginning is missing: its response would be wrong."""
    first = await stored(responses, user("a"), said("b"))
    second = await stored(responses, user("c"), said("d"), previous_id=first.id)
    await responses.delete(ALICE, first.id)
    with pytest.raises(NotFound) as refused:
        await responses.conversation(ALICE, second.id)
    assert "is incomplete" in refused.value.message
    assert first.id not in refused.value.message


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled"])
async def test_a_response_without_output_cannot_be_continued(responses: ResponseStore, status: str) -> None:
    """Continue neither from a response in progress nor from a failed one."""
    record = responses.begin(ALICE, input_items=items(user("a")))
    record = msgspec.structs.replace(record, status=status)
    await responses.save(ALICE, record)
    with pytest.raises(BadRequest) as refused:
        await responses.conversation(ALICE, record.id)
    assert refused.value.param == "previous_response_id"


async def test_a_circle_is_an_error(responses: ResponseStore) -> None:
    """Following records ends, even if they refer to each other."""
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
    """Bound the responses, bytes and items of a conversation, and continue one within the bounds."""
    responses = ResponseStore(store, clock=clock, **bound)
    chain: list[StoredResponse] = []
    for _ in range(10):
        previous_id = chain[-1].id if chain else None
        chain.append(await stored(responses, user("x" * 100), said("y"), previous_id=previous_id))
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


async def test_input_is_paged(responses: ResponseStore, with_items: StoredResponse) -> None:
    """Return each item once, in either order, with its original bytes."""
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


async def test_an_unknown_item_or_response_has_no_page(responses: ResponseStore, with_items: StoredResponse) -> None:
    """An unknown item begins no page, and an unknown response has none."""
    with pytest.raises(BadRequest):
        await responses.input_items(ALICE, with_items.id, after="msg_9")
    assert await responses.input_items(ALICE, new_id()) is None


async def test_events_are_read_from_any_number(responses: ResponseStore, with_items: StoredResponse) -> None:
    """Read events from the first, the middle and beyond the last one, while the response is in progress, too."""
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
