"""Reasoning state of calls: cached when a response passes, and restored when its client lost it."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    Candidate,
    Failed,
    Finish,
    FinishReason,
    Message,
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    Request,
    Response,
    Seal,
    Text,
    TextDelta,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.conversation_state.reasoning import (
    LIFETIME,
    MAX_CALLS,
    NO_REASONING,
    CachedReasoning,
    ReasoningCache,
    ReasoningTap,
    extract_reasoning,
    missing,
    restore,
    withheld_reasoning,
)
from llmproxy_asgi.errors import Unavailable, UpstreamFailed
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.responses_api import store as stored_responses
from llmproxy_asgi.stores.base import Bounds
from llmproxy_asgi.stores.memory import MemoryStore
from llmproxy_asgi.translators.assemble import unfold
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.registry import translator
from support.clock import FakeClock
from support.conversations import event_rows, requests, responses
from support.stores import ALICE, BOB, OTHER_ALICE

CLAUDE = Upstream(provider="claude", model="opus", client_model="smart", issuer="anthropic")
GEMINI = Upstream(provider="google", model="pro", client_model="smart", issuer="gemini")


def seal(data: str = "AAAA", *, issuer: str = "anthropic", model: str | None = "opus") -> Seal:
    return Seal(issuer=issuer, kind="signature", data=data, model=model)


def thinking(text: str, **fields: Any) -> Reasoning:
    return Reasoning(text=text, seals=(seal(text.encode().hex(), **fields),))


def call(call_id: str = "call_1", arguments: str = '{"city": "Köln"}', *seals: Seal) -> ToolCall:
    return ToolCall(call_id=call_id, name="weather", arguments=arguments, seals=seals)


def answer(*parts: Part) -> Response:
    finish = Finish(reason=FinishReason.TOOL_CALLS)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Response(id="r", model="m", created_at=at, candidates=(Candidate(parts=parts, finish=finish),))


def asked(*turns: Sequence[Part]) -> Request:
    """Return a request that repeats these turns of the model; every call has a result."""
    messages = [Message(role="user", parts=(Text(text="hi"),))]
    for turn in turns:
        messages.append(Message(role="assistant", parts=tuple(turn)))
        results = tuple(ToolResult(call_id=part.call_id) for part in turn if isinstance(part, ToolCall))
        messages.append(Message(role="tool" if results else "user", parts=results or (Text(text="go on"),)))
    return Request(protocol="openai-chat", model="smart", messages=tuple(messages))


def stripped(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return a turn as a client without reasoning sends it back."""
    return tuple(
        msgspec.structs.replace(part, seals=()) if part.seals else part
        for part in parts
        if not isinstance(part, Reasoning)
    )


def again(*parts: Part, upstream: Upstream = CLAUDE, sent: Sequence[Part] | None = None) -> tuple[Part, ...]:
    """Return the turn that goes upstream after the client sent it back, stripped or as `sent`."""
    request = asked(stripped(parts) if sent is None else sent)
    return restore(request, dict(extract_reasoning(answer(*parts))), upstream).messages[1].parts


# ── back at its place ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "parts",
    [
        (thinking("a"), call()),
        (thinking("a"), Text(text="Let me see."), call()),
        (thinking("a"), thinking("b"), call("call_1"), call("call_2")),
        (thinking("a"), call("call_1"), thinking("b"), call("call_2")),
        (thinking("a"), Text(text="Let me see."), thinking("b"), call()),
        (thinking("a"), Text(text="x"), thinking("b"), call("call_1"), Text(text="y"), call("call_2")),
    ],
    ids=["before", "before-words", "several", "between-calls", "around-words", "between-words"],
)
def test_reasoning_is_restored_in_place(parts: tuple[Part, ...]) -> None:
    """Restore it before the text or the call that it led to, in order."""
    assert again(*parts) == parts


def test_state_of_a_call_is_restored_on_it() -> None:
    """Restore it on the call that it was made for, and on no other call of the step."""
    parts = (call("call_1", "{}", seal(issuer="gemini", model="pro")), call("call_2", "{}"))
    assert again(*parts, upstream=GEMINI) == parts


def test_text_without_state_is_replaced() -> None:
    """Replace reasoning text that a client sent without its state, so that it is not there twice."""
    parts = (thinking("a"), call())
    assert again(*parts, sent=(Reasoning(text="a"), call())) == parts


def test_text_without_state_stays_if_only_the_call_is_sealed() -> None:
    """Nothing replaces it."""
    parts = (call("call_1", "{}", seal(issuer="gemini", model="pro")),)
    sent = (Reasoning(text="a"), call("call_1", "{}"))
    assert again(*parts, upstream=GEMINI, sent=sent) == (sent[0], *parts)


def test_a_turn_in_several_messages_begins_with_its_reasoning() -> None:
    """Treat text and calls in separate messages as one turn; drop only a message of reasoning without state."""
    parts = (thinking("a"), Text(text="Let me see."), call("call_1"), call("call_2"))
    rows: list[tuple[Part, ...]] = [
        (Text(text="Let me see."),),
        (Reasoning(text="a"),),
        (call("call_1"),),
        (call("call_2"),),
    ]
    request = Request(
        protocol="openai-chat",
        model="smart",
        messages=tuple(Message(role="assistant", parts=row) for row in rows),
    )
    restored = restore(request, dict(extract_reasoning(answer(*parts))), CLAUDE)
    assert [message.parts for message in restored.messages] == [parts[:2], parts[2:3], parts[3:]]


def test_every_step_gets_its_own_state() -> None:
    """Restore three stripped steps of a loop."""
    steps = [(thinking(text), call(f"call_{text}1b2c3d4")) for text in "abc"]
    thoughts = {call_id: thought for step in steps for call_id, thought in extract_reasoning(answer(*step))}
    request = asked(*map(stripped, steps))
    assert missing(request) == ("call_a1b2c3d4", "call_b1b2c3d4", "call_c1b2c3d4")
    assert restore(request, thoughts, CLAUDE) == asked(*steps)


# ── and nowhere else ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "upstream",
    [GEMINI, msgspec.structs.replace(CLAUDE, model="haiku")],
    ids=["another issuer", "another model"],
)
def test_only_its_issuer_gets_it(upstream: Upstream) -> None:
    """Return the same request for other upstreams."""
    parts = (thinking("a"), call())
    request = asked(stripped(parts))
    assert restore(request, dict(extract_reasoning(answer(*parts))), upstream) is request


def test_each_issuer_gets_its_own_state() -> None:
    """Two issuers contributed to the turn."""
    parts = (thinking("a"), thinking("b", issuer="gemini", model=None), call())
    assert again(*parts) == (parts[0], parts[2])
    assert again(*parts, upstream=GEMINI) == parts[1:]
    both = Reasoning(text="a", seals=(seal("x"), seal("y", issuer="gemini")))
    assert again(both, call()) == (msgspec.structs.replace(both, seals=both.seals[:1]), call())


@pytest.mark.parametrize(
    "sent",
    [
        (thinking("z"), call()),
        (thinking("z", issuer="openai"), call()),
        (call("call_1", '{"city": "Köln"}', seal("own")),),
        (Text(text="x", seals=(seal("own"),)), call()),
    ],
    ids=["own reasoning", "foreign reasoning", "sealed call", "sealed words"],
)
def test_a_turn_with_state_is_unchanged(sent: tuple[Part, ...]) -> None:
    """Do not change a turn that its client sent with state."""
    request = asked(sent)
    assert missing(request) == ()
    assert restore(request, dict(extract_reasoning(answer(thinking("a"), call()))), CLAUDE) is request


@pytest.mark.parametrize(
    "other",
    [call("call_1", '{"city": "Bonn"}'), ToolCall(call_id="call_1", name="time", arguments='{"city": "Köln"}')],
    ids=["other arguments", "other tool"],
)
def test_another_call_with_the_same_id_is_different(other: ToolCall) -> None:
    """Upstreams that number their calls use the same ids in every conversation."""
    request = asked((other,))
    assert restore(request, dict(extract_reasoning(answer(thinking("a"), call()))), CLAUDE) is request


@pytest.mark.parametrize("spelled", ['{"city":"K\\u00f6ln"}', '{ "city" :\n"Köln" }'])
def test_a_call_is_recognized_in_any_format(spelled: str) -> None:
    """Clients decode arguments and encode them again."""
    parts = (thinking("a"), call())
    assert again(*parts, sent=(call("call_1", spelled),))[0] == parts[0]


@pytest.mark.parametrize("arguments", ["", "free text", '{"a":', "[" * 5_000, '{"n": 1e999}'])
def test_arguments_that_are_not_json_are_recognized(arguments: str) -> None:
    """Compare such arguments as text."""
    parts = (thinking("a"), call("call_1", arguments))
    assert again(*parts) == parts


def test_free_text_is_compared_exactly() -> None:
    """Texts of a custom tool may differ where JSON would not."""
    one = ToolCall(call_id="call_1", name="run", arguments="[1]", kind="custom")
    assert again(thinking("a"), one) == (thinking("a"), one)
    other = msgspec.structs.replace(one, arguments="[ 1 ]")
    assert again(thinking("a"), one, sent=(other,)) == (other,)


def test_user_messages_are_unchanged() -> None:
    """A call id in another owner's conversation has no effect."""
    request = Request(protocol="p", model="m", messages=(Message(role="user", parts=(call(),)),))
    assert missing(request) == ()
    assert restore(request, dict(extract_reasoning(answer(thinking("a"), call()))), CLAUDE) is request


# ── what is worth keeping ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "parts",
    [
        (Text(text="hi"),),
        (call(),),
        (Reasoning(text="a"), call()),
        (thinking("a"), Text(text="hi")),
        (call(), thinking("a")),
    ],
    ids=["words", "call", "unsealed", "no call", "after the call"],
)
def test_nothing_else_is_cached(parts: tuple[Part, ...]) -> None:
    """Cache neither reasoning without a call, nor a call without reasoning, nor unsealed text."""
    assert extract_reasoning(answer(*parts)) == ()
    assert ReasoningTap().feed(list(unfold(answer(*parts)))) == ()


@given(st.data())
def test_a_stream_caches_what_its_response_caches(data: st.DataObject) -> None:
    """For every kind of stream with overlapping parts, and every order of its events."""
    response = data.draw(responses())
    row = data.draw(event_rows(response))
    tap = ReasoningTap()
    kept: list[tuple[str, CachedReasoning]] = []
    while row:
        size = data.draw(st.integers(1, len(row)))
        kept += tap.feed(row[:size])
        row = row[size:]
    assert sorted(kept, key=repr) == sorted(extract_reasoning(response), key=repr)


def test_entries_are_returned_at_the_finish() -> None:
    """Clients continue after the finish; the end of the stream may come later."""
    row = list(unfold(answer(thinking("a"), call())))
    tap = ReasoningTap()
    kept = [bool(tap.feed([event])) for event in row]
    assert kept.index(True) == len(row) - 2
    assert kept.count(True) == 1


def test_a_broken_stream_caches_nothing() -> None:
    """Its calls were not complete."""
    tap = ReasoningTap()
    row = list(unfold(answer(thinking("a"), call())))
    assert tap.feed([*row[:-2], Failed(UpstreamFailed("It broke."))]) == ()


def test_deltas_are_skipped() -> None:
    """A tap stores nothing of a long text."""
    tap = ReasoningTap()
    deltas = [PartDelta(0, 0, TextDelta("x" * 100)) for _ in range(100)]
    tap.feed([PartStarted(0, 0, Text(text="")), *deltas, PartEnded(0, 0)])
    assert len(repr(tap._seen)) < 500


# ── kept meanwhile ───────────────────────────────────────────────────────────────────────────────────────────────────

KEPT = extract_reasoning(answer(thinking("a"), call()))


@pytest.mark.anyio
async def test_state_of_a_message_is_kept_as_long_as_its_response() -> None:
    """A conversation continued weeks later gets the state that its stream could not carry; each use extends it."""
    clock = FakeClock()
    kept = cache(clock)
    await kept.keep(ALICE, (*KEPT, *withheld_reasoning([("msg_1", [seal()])])))
    await kept.find(ALICE, ["msg_1", "call_1"])
    clock.at += stored_responses.LIFETIME - 1
    assert (await kept.find(ALICE, ["msg_1", "call_1"])).keys() == {"msg_1"}
    clock.at += stored_responses.LIFETIME
    assert await kept.find(ALICE, ["msg_1"]) == {}


def cache(clock: FakeClock, **bounds: int) -> ReasoningCache:
    return ReasoningCache(MemoryStore(Bounds(**bounds), clock=clock))


@pytest.mark.anyio
async def test_only_its_owner_finds_it() -> None:
    """Neither another user nor another tenant's user of that name finds it."""
    kept = cache(FakeClock())
    await kept.keep(ALICE, KEPT)
    assert await kept.find(ALICE, ["call_1", "call_2"]) == dict(KEPT)
    assert await kept.find(BOB, ["call_1"]) == {}
    assert await kept.find(OTHER_ALICE, ["call_1"]) == {}
    assert await kept.find(ALICE, []) is NO_REASONING


@pytest.mark.anyio
async def test_its_lifetime_begins_with_its_last_use() -> None:
    """It expires an hour after its last use, so that a long loop keeps its beginning."""
    clock = FakeClock()
    kept = cache(clock)
    await kept.keep(ALICE, KEPT)
    for _ in range(5):
        clock.at += LIFETIME - 1
        assert await kept.find(ALICE, ["call_1"])
    clock.at += LIFETIME
    assert not await kept.find(ALICE, ["call_1"])


@pytest.mark.anyio
async def test_an_owners_cache_is_bounded() -> None:
    """The reasoning of one owner never exceeds its bound."""
    kept = cache(FakeClock(), owner_bytes=20_000)
    for number in range(100):
        step = extract_reasoning(answer(thinking("x" * 500), call(f"call_{number}")))
        await kept.keep(ALICE, step)
    found = await kept.find(ALICE, [f"call_{number}" for number in range(100)])
    assert 3 < len(found) < 20
    assert "call_99" in found
    await kept.keep(ALICE, extract_reasoning(answer(thinking("x" * 50_000), call("call_large"))))
    assert not await kept.find(ALICE, ["call_large"])


class Away:
    """A store that cannot be reached."""

    async def get(self, owner: Owner, key: str) -> bytes | None:
        raise Unavailable("The store is away.")

    async def get_many(self, owner: Owner, keys: Collection[str]) -> Mapping[str, bytes]:
        raise Unavailable("The store is away.")

    async def put(self, owner: Owner, key: str, value: bytes, *, ttl: float, replacing: bool = False) -> bool:
        raise Unavailable("The store is away.")

    async def delete(self, owner: Owner, key: str) -> bool:
        raise Unavailable("The store is away.")

    async def touch(self, owner: Owner, keys: Collection[str], *, ttl: float) -> None:
        raise Unavailable("The store is away.")

    async def erase(self, owner: Owner) -> int:
        raise Unavailable("gone")

    async def keys(self, owner: Owner, *, after: str = "", limit: int = 100) -> tuple[str, ...]:
        raise Unavailable("The store is away.")

    async def aclose(self) -> None:
        return None


@pytest.mark.anyio
async def test_an_unavailable_store_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """Store and find nothing, and log it."""
    kept = ReasoningCache(Away())
    await kept.keep(ALICE, KEPT)
    assert await kept.find(ALICE, ["call_1"]) is NO_REASONING
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


@pytest.mark.anyio
@pytest.mark.parametrize("value", [b"", b"{", b'{"version":2,"call":"x"}', b'{"version":1}'])
async def test_an_unreadable_entry_is_missing(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Another version of the program may have written it."""
    store = MemoryStore()
    await store.put(ALICE, "call_1", value, ttl=10)
    assert await ReasoningCache(store).find(ALICE, ["call_1"]) == {}
    assert len(caplog.records) == 1


@pytest.mark.anyio
async def test_values_that_json_cannot_hold_fail_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """A provider written in Python can create any string."""
    kept = cache(FakeClock())
    await kept.keep(ALICE, (("call_1", CachedReasoning(call="x", first=(Reasoning(text="\ud800"),))),))
    assert await kept.find(ALICE, ["call_1"]) == {}
    assert len(caplog.records) == 1


@pytest.mark.anyio
async def test_an_entry_has_a_version() -> None:
    """Every entry has a version."""
    store = MemoryStore()
    await ReasoningCache(store).keep(ALICE, KEPT)
    value = await store.get(ALICE, "call_1")
    assert value is not None
    assert json.loads(value)["version"] == 1


def test_only_the_newest_calls_are_looked_up() -> None:
    """Look up the newest calls of a long history, each once."""
    steps = [(call(f"call_{number}_a1b2c3d4"),) for number in range(MAX_CALLS + 10)]
    request = asked(*steps, (call("call_9_a1b2c3d4"),))
    ids = missing(request)
    assert len(ids) == MAX_CALLS
    assert ids[-1] == f"call_{MAX_CALLS + 9}_a1b2c3d4"


@pytest.mark.anyio
@given(st.data())
async def test_cached_reasoning_is_found_again(data: st.DataObject) -> None:
    """Find the reasoning of any response unchanged."""
    kept = extract_reasoning(data.draw(responses(candidates=1)))
    keeper = cache(FakeClock())
    await keeper.keep(ALICE, kept)
    assert await keeper.find(ALICE, [call_id for call_id, _ in kept]) == dict(kept)


@given(requests())
def test_any_request_can_be_restored(request_: Request) -> None:
    """Only keys of its calls and texts are missing, and nothing changes without cached reasoning."""
    ids = missing(request_)
    asking = [part for message in request_.messages for part in message.parts if isinstance(part, ToolCall | Text)]
    assert len(ids) <= len(asking)
    assert restore(request_, NO_REASONING, CLAUDE) is request_
    thoughts = dict.fromkeys(ids, CachedReasoning(call="another"))
    assert restore(request_, thoughts, CLAUDE) is request_


# ── the whole way, with the wires of two protocols ───────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_a_chat_loop_over_messages_keeps_its_thinking() -> None:
    """Three steps of a Chat client that strips `reasoning_details`: thinking precedes each `tool_use`."""
    chat, claude = translator("openai-chat").inbound, translator("anthropic-messages").outbound
    kept = cache(FakeClock())
    history: list[dict[str, Any]] = [{"role": "user", "content": "Weather?"}]
    upstream = CLAUDE
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    sent: dict[str, Any] = {}
    for step in range(4):
        body = json.dumps({"model": "smart", "messages": history, "tools": tools, "reasoning_effort": "high"}).encode()
        inbound_request = chat.open(body, headers={})
        request = chat.decode(inbound_request)
        found = await kept.find(ALICE, missing(request))
        upstream_request = claude.encode(restore(request, found, upstream), upstream)
        sent = json.loads(upstream_request.body)
        reply = {
            "id": f"msg_{step}",
            "type": "message",
            "role": "assistant",
            "model": "opus",
            "content": [
                {"type": "thinking", "thinking": f"step {step}", "signature": f"c2ln{step}"},
                {"type": "tool_use", "id": f"toolu_{step}", "name": "weather", "input": {"day": step}},
            ],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        at = datetime(2026, 1, 1, tzinfo=UTC)
        response = claude.decode(json.dumps(reply).encode(), upstream_request, upstream, received_at=at)
        await kept.keep(ALICE, extract_reasoning(response, before=partial(getattr, request, "messages")))
        told = json.loads(chat.encode(response, inbound_request))["choices"][0]["message"]
        calls = [
            {"id": entry["id"], "type": "function", "function": dict(entry["function"])} for entry in told["tool_calls"]
        ]
        history.append({"role": "assistant", "content": None, "tool_calls": calls})
        history += [{"role": "tool", "tool_call_id": entry["id"], "content": "rain"} for entry in calls]
    turns = [message["content"] for message in sent["messages"] if message["role"] == "assistant"]
    assert [[block["type"] for block in turn] for turn in turns] == [["thinking", "tool_use"]] * 3
    assert [turn[0]["signature"] for turn in turns] == ["c2ln0", "c2ln1", "c2ln2"]
