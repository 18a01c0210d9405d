"""Stored responses: their owner's alone, and a conversation that can be gone on with."""

import json
import re
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.strategies import requests, responses
from llmproxy_asgi.conversation import (
    Candidate,
    Finish,
    FinishReason,
    Message,
    Part,
    Reasoning,
    Request,
    Response,
    Seal,
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.custody.responses import (
    LIFETIME,
    NEVER_TOLD,
    InputItem,
    ResponseCustody,
    StoredResponse,
    WireEvent,
    expand,
    new_id,
)
from llmproxy_asgi.errors import BadRequest, InternalError, NotFound
from llmproxy_asgi.stores.base import Bounds, Owner
from llmproxy_asgi.stores.memory import MemoryStore
from support_clock import HandClock
from support_stores import ALICE, BOB, OTHER_ALICE

pytestmark = pytest.mark.anyio

SYSTEM = Message(role="system", parts=(Text(text="Be brief."),), authority="system")
THOUGHT = Reasoning(text="hm", seals=(Seal(issuer="openai", kind="encrypted", data="AAAA", item_id="rs_1"),))
CALL = ToolCall(call_id="call_1", name="weather", arguments='{"city": "Köln"}')


def user(text: str) -> Message:
    return Message(role="user", parts=(Text(text=text),))


def asked(*messages: Message, continues: str | None = None) -> Request:
    return Request(protocol="openai-responses", model="smart", messages=messages, continues=continues)


def answered(*parts: Part) -> Response:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    finish = Finish(reason=FinishReason.STOP)
    return Response(id="r", model="m", created_at=at, candidates=(Candidate(parts=parts, finish=finish),))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(clock: HandClock) -> MemoryStore:
    return MemoryStore(Bounds(owner_bytes=1 << 20), clock=clock)


@pytest.fixture
def custody(store: MemoryStore, clock: HandClock) -> ResponseCustody:
    return ResponseCustody(store, clock=clock)


async def kept(
    custody: ResponseCustody, request: Request, *parts: Part, owner: Owner = ALICE, instructions: int = 0
) -> StoredResponse:
    """A response that has been asked for, given and kept."""
    record = custody.begin(owner, request, instructions=instructions).ended("completed", answered(*parts))
    assert await custody.save(owner, record)
    return record


# ── one response ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_are_not_guessed() -> None:
    """128 bits behind the prefix, never the same twice."""
    ids = {new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch(r"resp_[0-9a-f]{32}", found) for found in ids)


async def test_a_response_is_found_as_it_was_kept(custody: ResponseCustody, clock: HandClock) -> None:
    """With everything that its caller may ask for."""
    request = msgspec.structs.replace(asked(user("hi"), continues="resp_x"), metadata={"a": "b"})
    item = InputItem(id="msg_1", item=msgspec.Raw(b'{"role":"user","content":"hi"}'))
    record = custody.begin(ALICE, request, status="queued", input_items=[item])
    assert record.created_at == clock.now()
    assert record.expires_at == clock.now() + timedelta(days=30)
    assert await custody.save(ALICE, record)
    found = await custody.find(ALICE, record.id)
    assert found is not None
    assert (found.status, found.request, found.response, found.previous_id) == ("queued", request, None, "resp_x")
    assert found.metadata == {"a": "b"}
    assert bytes(found.told) == bytes(NEVER_TOLD) == b"null"
    assert [bytes(each.item) for each in found.input_items] == [bytes(item.item)]
    ended = record.ended("completed", answered(THOUGHT, Text(text="hello")), told=b'{"id": 1.10}')
    assert await custody.save(ALICE, ended, replacing=True)
    found = await custody.find(ALICE, record.id)
    assert found is not None
    assert (found.status, found.response) == ("completed", answered(THOUGHT, Text(text="hello")))
    assert bytes(found.told) == b'{"id": 1.10}'


async def test_others_find_nothing(custody: ResponseCustody, store: MemoryStore) -> None:
    """Not by any of the ways to ask, and they change nothing; not even a record that lies in the wrong place."""
    record = await kept(custody, asked(user("hi")), Text(text="hello"))
    await custody.save_events(ALICE, record, [WireEvent(number=0, name="e", data=msgspec.Raw(b"{}"))])
    value = await store.get(ALICE, record.id)
    events = await store.get(ALICE, record.id + "/events")
    assert value is not None
    assert events is not None
    await store.put(OTHER_ALICE, record.id, value, ttl=100)
    await store.put(OTHER_ALICE, record.id + "/events", events, ttl=100)
    for other in (BOB, OTHER_ALICE):
        assert await custody.find(other, record.id) is None
        assert await custody.input_items(other, record.id) is None
        assert await custody.events(other, record.id) is None
        with pytest.raises(NotFound):
            await custody.conversation(other, record.id)
        with pytest.raises(InternalError):
            await custody.save(other, record)
        with pytest.raises(InternalError):
            await custody.save_events(other, record, [])
    assert not await custody.delete(BOB, record.id)
    assert await custody.find(ALICE, record.id) is not None


@pytest.mark.parametrize("wrong", ["", "resp_", "resp_1", "msg_" + "0" * 32, "resp_" + "0" * 32 + "/events", "../x"])
async def test_what_is_no_id_is_not_found(
    custody: ResponseCustody, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And cannot reach anything else that lies in the store, not even to find that it is no response."""
    record = msgspec.structs.replace(custody.begin(ALICE, asked(user("hi"))), id="resp_" + "0" * 32)
    await custody.save_events(ALICE, record, [])
    assert await custody.find(ALICE, wrong) is None
    assert await custody.events(ALICE, wrong) is None
    assert not await custody.delete(ALICE, wrong)
    with pytest.raises(NotFound):
        await custody.conversation(ALICE, wrong)
    assert not caplog.records


async def test_deleted_stays_deleted(custody: ResponseCustody, store: MemoryStore) -> None:
    """Also where the answer of one that was still at work comes in later."""
    record = custody.begin(ALICE, asked(user("hi")))
    await custody.save(ALICE, record)
    await custody.save_events(ALICE, record, [])
    assert await custody.delete(ALICE, record.id)
    assert not await custody.delete(ALICE, record.id)
    assert not await custody.save(ALICE, record.ended("completed", answered()), replacing=True)
    assert await store.keys(ALICE) == ()


async def test_a_response_lives_for_its_time(custody: ResponseCustody, clock: HandClock, store: MemoryStore) -> None:
    """Counted from its beginning, whenever its answer came."""
    record = custody.begin(ALICE, asked(user("hi")))
    clock.at += LIFETIME - 10
    assert await custody.save(ALICE, record.ended("completed", answered(Text(text="x"))))
    clock.at += 9
    assert await custody.find(ALICE, record.id) is not None
    clock.at += 1
    assert await custody.find(ALICE, record.id) is None
    assert not await custody.save(ALICE, record)
    assert await store.keys(ALICE) == ()


async def test_what_is_too_large_is_not_kept(custody: ResponseCustody) -> None:
    """And says so, leaving no half of it behind."""
    record = custody.begin(ALICE, asked(user("hi")))
    assert await custody.save(ALICE, record)
    ended = record.ended("completed", answered(Text(text="x" * (1 << 20))))
    assert not await custody.save(ALICE, ended, replacing=True)
    assert await custody.find(ALICE, record.id) is None


@pytest.mark.parametrize("value", [b"", b"{}", b'{"version":2}', b'{"version":1}'])
async def test_what_cannot_be_read_is_not_there(
    custody: ResponseCustody, store: MemoryStore, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version of the program may have written it."""
    response_id = new_id()
    await store.put(ALICE, response_id, value, ttl=100)
    assert await custody.find(ALICE, response_id) is None
    with pytest.raises(NotFound):
        await custody.conversation(ALICE, response_id)
    assert len(caplog.records) == 2


async def test_what_is_kept_says_its_version(custody: ResponseCustody, store: MemoryStore) -> None:
    """From the first day."""
    record = await kept(custody, asked(user("hi")))
    await custody.save_events(ALICE, record, [])
    for key in await store.keys(ALICE):
        value = await store.get(ALICE, key)
        assert value is not None
        assert json.loads(value)["version"] == 1


@given(data=st.data())
async def test_anything_asked_and_answered_comes_back(data: st.DataObject) -> None:
    """Whatever the vocabulary holds survives being stored."""
    keeper = ResponseCustody(MemoryStore())
    request = msgspec.structs.replace(data.draw(requests()), metadata=MappingProxyType({"a": "b"}))
    response = data.draw(responses())
    record = keeper.begin(ALICE, request).ended("completed", response)
    assert await keeper.save(ALICE, record)
    found = await keeper.find(ALICE, record.id)
    assert found is not None
    assert found.request == request
    assert found.response == response
    said = response.candidates[0].parts
    expected = (Message(role="assistant", parts=said, phase=response.candidates[0].phase),) if said else ()
    assert await keeper.conversation(ALICE, record.id) == (*request.messages, *expected)


async def test_what_json_cannot_hold_is_not_kept(custody: ResponseCustody, store: MemoryStore) -> None:
    """Only a program can put it there, and is told."""
    request = msgspec.structs.replace(asked(user("hi")), extras={"made-up": {"x": object()}})
    with pytest.raises(TypeError, match="cannot hold a object"):
        await custody.save(ALICE, custody.begin(ALICE, request))
    assert await store.keys(ALICE) == ()


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_chain_of_three_is_one_conversation(custody: ResponseCustody) -> None:
    """With calls, results and reasoning, in order; instructions held for their own call alone."""
    first = await kept(custody, asked(SYSTEM, user("Weather?")), THOUGHT, CALL, instructions=1)
    result = Message(role="tool", parts=(ToolResult(call_id="call_1", content=(Text(text="12 °C"),)),))
    second = await kept(custody, asked(result, continues=first.id), Text(text="It is cold."))
    third = await kept(custody, asked(SYSTEM, user("And now?"), continues=second.id), Text(text="Still."))
    history = await custody.conversation(ALICE, third.id)
    assert history == (
        user("Weather?"),
        Message(role="assistant", parts=(THOUGHT, CALL)),
        result,
        Message(role="assistant", parts=(Text(text="It is cold."),)),
        SYSTEM,
        user("And now?"),
        Message(role="assistant", parts=(Text(text="Still."),)),
    )
    other = msgspec.structs.replace(SYSTEM, parts=(Text(text="Be long."),))
    going_on = expand(asked(other, user("Thanks."), continues=third.id), history, instructions=1)
    assert going_on.messages == (other, *history, user("Thanks."))
    assert going_on.continues is None


async def test_two_may_go_on_from_one(custody: ResponseCustody) -> None:
    """Neither sees the other's."""
    root = await kept(custody, asked(user("a")), Text(text="b"))
    left = await kept(custody, asked(user("left"), continues=root.id), Text(text="l"))
    right = await kept(custody, asked(user("right"), continues=root.id), Text(text="r"))
    assert user("left") not in await custody.conversation(ALICE, right.id)
    assert user("left") in await custody.conversation(ALICE, left.id)


async def test_an_empty_answer_adds_no_turn(custody: ResponseCustody) -> None:
    """A message of the model without any part is none."""
    record = await kept(custody, asked(user("a")))
    assert await custody.conversation(ALICE, record.id) == (user("a"),)


async def test_an_unknown_response_cannot_be_gone_on_from(custody: ResponseCustody) -> None:
    """404, in the words that the SDK's users look for."""
    with pytest.raises(NotFound) as refused:
        await custody.conversation(ALICE, new_id())
    assert (refused.value.status, refused.value.code) == (404, "previous_response_not_found")
    assert refused.value.param == "previous_response_id"


async def test_a_broken_chain_is_told_not_shortened(custody: ResponseCustody) -> None:
    """An answer made without the beginning of its conversation would be wrong."""
    first = await kept(custody, asked(user("a")), Text(text="b"))
    second = await kept(custody, asked(user("c"), continues=first.id), Text(text="d"))
    await custody.delete(ALICE, first.id)
    with pytest.raises(NotFound) as refused:
        await custody.conversation(ALICE, second.id)
    assert "not complete" in refused.value.message
    assert first.id not in refused.value.message


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled"])
async def test_without_an_answer_there_is_nothing_to_go_on_from(custody: ResponseCustody, status: str) -> None:
    """Neither while it is at work nor after it has failed."""
    record = custody.begin(ALICE, asked(user("a")))
    record = msgspec.structs.replace(record, status=status)
    await custody.save(ALICE, record)
    with pytest.raises(BadRequest) as refused:
        await custody.conversation(ALICE, record.id)
    assert refused.value.param == "previous_response_id"


async def test_a_circle_ends(custody: ResponseCustody) -> None:
    """However it came about, nobody walks it for ever."""
    one, other = new_id(), new_id()
    for response_id, before in ((one, other), (other, one)):
        record = custody.begin(ALICE, asked(user("a"), continues=before), response_id=response_id)
        await custody.save(ALICE, record.ended("completed", answered()))
    with pytest.raises(InternalError):
        await custody.conversation(ALICE, one)


@pytest.mark.parametrize("bound", [{"deepest": 3}, {"largest": 2_000}], ids=["deep", "large"])
async def test_a_conversation_is_bounded(store: MemoryStore, clock: HandClock, bound: dict[str, int]) -> None:
    """By its length and by its size; what is within is gone on with."""
    custody = ResponseCustody(store, clock=clock, **bound)
    chain: list[StoredResponse] = []
    for _ in range(10):
        continues = chain[-1].id if chain else None
        chain.append(await kept(custody, asked(user("x" * 100), continues=continues), Text(text="y")))
    assert len(await custody.conversation(ALICE, chain[2].id)) == 6
    with pytest.raises(BadRequest) as refused:
        await custody.conversation(ALICE, chain[-1].id)
    assert refused.value.param == "previous_response_id"


# ── input and events ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def with_items(custody: ResponseCustody) -> StoredResponse:
    items = [InputItem(id=f"msg_{n}", item=msgspec.Raw(b'{"n": %d}' % n)) for n in range(5)]
    record = custody.begin(ALICE, asked(user("a")), input_items=items)
    await custody.save(ALICE, record)
    return record


async def test_input_comes_page_by_page(custody: ResponseCustody, with_items: StoredResponse) -> None:
    """In either order, each item once, its bytes as they were given."""
    page = await custody.input_items(ALICE, with_items.id, limit=2, order="asc")
    assert page is not None
    assert [(item.id, bytes(item.item)) for item in page.items] == [("msg_0", b'{"n": 0}'), ("msg_1", b'{"n": 1}')]
    assert page.has_more
    page = await custody.input_items(ALICE, with_items.id, after="msg_1", order="asc", limit=3)
    assert page is not None
    assert [item.id for item in page.items] == ["msg_2", "msg_3", "msg_4"]
    assert not page.has_more
    page = await custody.input_items(ALICE, with_items.id, after="msg_3", limit=2)
    assert page is not None
    assert [item.id for item in page.items] == ["msg_2", "msg_1"]
    assert page.has_more


async def test_there_is_no_page_behind_nothing(custody: ResponseCustody, with_items: StoredResponse) -> None:
    """An item that is not there begins no page, and a response that is not there has none."""
    with pytest.raises(BadRequest):
        await custody.input_items(ALICE, with_items.id, after="msg_9")
    assert await custody.input_items(ALICE, new_id()) is None


async def test_events_are_told_again_from_any_place(custody: ResponseCustody, with_items: StoredResponse) -> None:
    """From the first, from the middle, from beyond the last; and growing while the response is at work."""
    assert await custody.events(ALICE, with_items.id) is None
    told = [WireEvent(number=n, name="e", data=msgspec.Raw(b'{"n": %d}' % n)) for n in range(4)]
    for upto in (2, 4):
        assert await custody.save_events(ALICE, with_items, told[:upto])
        events = await custody.events(ALICE, with_items.id)
        assert events is not None
        assert [bytes(event.data) for event in events] == [bytes(event.data) for event in told[:upto]]
    events = await custody.events(ALICE, with_items.id, after=2)
    assert events is not None
    assert [event.number for event in events] == [3]
    assert await custody.events(ALICE, with_items.id, after=3) == ()
